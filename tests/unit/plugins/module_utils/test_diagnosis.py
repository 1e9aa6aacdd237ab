# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a person is told about a server that there is no session on."""

import ctypes

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _diagnosis


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"host": "db.example.org", "port": 5433}, "db.example.org:5433"),
        ({"host": "/run/postgresql"}, "the Unix socket in /run/postgresql, port 5432"),
        ({}, "the Unix socket in the default folder, port 5432"),
    ],
)
def test_a_place_is_named_as_a_person_would(given, place):
    assert _diagnosis.place(given) == place


@pytest.mark.parametrize(
    ("words", "peer", "ours", "seen"),
    [
        ("keine Zeile für Host »10.0.0.5«, Benutzer »a«", "10.0.0.9", "192.168.1.2", "10.0.0.5"),
        ('to server at "db" (10.0.0.9), port 1 failed: no entry for host "fd00::5", user "a"', "10.0.0.9", "10.0.0.2", "fd00::5"),
        ('to server at "127.0.0.1", port 1 failed: no entry for host "127.0.0.1"', "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("entre 10.0.0.5 et 10.0.0.6", "10.0.0.9", "10.0.0.2", "10.0.0.2"),
        ("password authentication failed", "10.0.0.9", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.5", "", "", ""),
    ],
)
def test_the_address_that_the_server_sees_is_told_in_any_language(words, peer, ours, seen):
    tried = _attempt.Attempt(sqlstate="28000", peer=peer, host=peer, address=ours)
    facts = _diagnosis.no_connection({"host": "db"}, words, tried).facts
    assert facts == {"no_server": False, "denied": {"address": seen, "encryption": None}}


def test_where_nothing_is_known_the_words_are_told_and_nothing_is_made_of_them(monkeypatch):
    monkeypatch.setattr(_attempt, "_library", lambda: ctypes.CDLL("/nowhere"))
    words = "Connection refused: password authentication failed, no pg_hba.conf entry, does not exist"
    refusal = _diagnosis.no_connection({"host": "db"}, words, _attempt.attempt({"host": "db"}))
    assert words in str(refusal) and refusal.facts == {"no_server": False}
    assert refusal.remedy == "See the server's log for the circumstances."
