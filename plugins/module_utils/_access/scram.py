# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SCRAM-SHA-256 verifiers as PostgreSQL stores them, so that a password never has to be sent to the server."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata

# PostgreSQL's SCRAM_SHA_256_DEFAULT_ITERATIONS and SCRAM_DEFAULT_SALT_LEN (src/include/common/scram-common.h).
ITERATIONS = 4096
SALT_BYTES = 16

_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")

_MD5 = re.compile("md5[0-9a-f]{32}")

# RFC 4013 section 2.3, on the tables of RFC 3454 that the standard library carries.
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def saslprep(password: str) -> bytes:
    """Return the bytes that PostgreSQL and libpq hash for ``password``.

    That is RFC 4013's SASLprep; where SASLprep forbids the password (an emoji, a control character), both sides use its
    UTF-8 bytes as they are (src/common/saslprep.c), and so do we.
    """
    mapped = "".join(" " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char))
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared or any(forbidden(char) for char in prepared for forbidden in _PROHIBITED):
        return password.encode("utf-8")
    if _breaks_direction(prepared):
        return password.encode("utf-8")
    return prepared.encode("utf-8")


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """Return ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`` (manual, pg_authid; RFC 5802 section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    stored_key = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    server_key = _hmac(salted, b"Server Key")
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"


def matches(stored: str, password: str) -> bool:
    """Tell whether the ``stored`` verifier was made from ``password``; False for anything that is not one of SCRAM."""
    parts = _VERIFIER.fullmatch(stored)
    if not parts:
        return False
    try:
        salt = base64.b64decode(parts[2], validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(verifier(password, salt, int(parts[1])), stored)


def kind(stored: str | None) -> str:
    """Return how PostgreSQL keeps a password, by the content of pg_authid.rolpassword: none, scram-sha-256, md5 or plain.

    The last is left of servers before 10, which an upgrade by pg_upgrade carries on (src/backend/libpq/crypt.c).
    """
    if not stored:
        return "none"
    if _VERIFIER.fullmatch(stored):
        return "scram-sha-256"
    return "md5" if _MD5.fullmatch(stored) else "plain"


def _breaks_direction(text: str) -> bool:
    """Tell whether ``text`` breaks RFC 3454 section 6: right-to-left text is all right-to-left, at both ends."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return False
    return any(stringprep.in_table_d2(char) for char in text) or not (
        stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    )


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
