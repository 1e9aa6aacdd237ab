# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verifiers against RFC 7677's example, and SASLprep against RFC 4013's."""

import base64
import hashlib
import hmac

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import scram


def test_the_keys_prove_the_exchange_of_rfc_7677():
    # RFC 7677 section 3: user "user", password "pencil"; the server's signature is what ServerKey makes of the messages.
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    stored = scram.verifier("pencil", salt, 4096)
    server_key = base64.b64decode(stored.rsplit(":", 1)[1])
    messages = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.new(server_key, messages, hashlib.sha256).digest()
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 section 3: soft hyphen mapped to nothing
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0007", "\u0007"),  # forbidden: used as it is
        ("\u0627\u0031", "\u0627\u0031"),  # breaks the rule of direction: used as it is
        ("\u00ad", "\u00ad"),  # nothing would be left: used as it is
    ],
)
def test_saslprep(password, prepared):
    assert scram.saslprep(password) == prepared.encode()


def test_a_verifier_matches_its_password_only():
    stored = scram.verifier("right", b"0123456789abcdef", 5000)
    assert stored.startswith("SCRAM-SHA-256$5000:")
    assert scram.matches(stored, "right")
    assert not scram.matches(stored, "wrong")


@pytest.mark.parametrize("stored", ["", "md5" + "0" * 32, "plain", "SCRAM-SHA-256$4096:!!$a:b", "SCRAM-SHA-256$4096:abc$a=:b="])
def test_what_is_no_verifier_matches_nothing(stored):
    assert not scram.matches(stored, "plain")


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (None, "none"),
        ("", "none"),
        ("md5" + "0a" * 16, "md5"),
        ("md5 is old", "plain"),
        (scram.verifier("p", b"salt"), "scram-sha-256"),
    ],
)
def test_kind(stored, kind):
    assert scram.kind(stored) == kind
