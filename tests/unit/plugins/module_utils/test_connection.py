# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What cannot be provoked with the servers there are: one older than Synapse accepts, and a Python without psycopg2."""

import ctypes

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal


class OldServer:
    """A connection to PostgreSQL 13, which no test machine has."""

    server_version = 130014
    closed = False

    def close(self):
        self.closed = True

    def commit(self):
        raise AssertionError("something was committed on a server that is refused")


def test_a_server_older_than_synapse_accepts_is_refused_and_the_connection_closed(monkeypatch):
    server = OldServer()
    monkeypatch.setattr(_connection.psycopg2, "connect", lambda **keywords: server)
    with pytest.raises(Refusal, match=r"PostgreSQL 13; Synapse needs 14 or newer\. Upgrade the server"):
        with _connection.session({"login_host": "db.example.org", "login_port": 5432}):
            raise AssertionError("the step went on")
    assert server.closed


def test_without_psycopg2_the_refusal_says_what_to_install(monkeypatch):
    monkeypatch.setattr(_connection, "psycopg2", None)
    with pytest.raises(Refusal, match="has no psycopg2") as refused:
        with _connection.session({"login_host": "", "login_port": 5432}):
            raise AssertionError("the step went on")
    assert "apt-get install python3-psycopg2" in str(refused.value)
    assert refused.value.facts == {"missing": ["psycopg2"]}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"host": "db.example.org", "port": 5433}, "db.example.org:5433"),
        ({"host": "/run/postgresql"}, "the Unix socket in /run/postgresql, port 5432"),
        ({}, "the Unix socket in the default folder, port 5432"),
    ],
)
def test_a_place_is_named_as_a_person_would(given, place):
    assert _connection.place(given) == place


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
    facts = _connection._no_connection({"host": "db"}, words, tried).facts
    assert facts == {"no_server": False, "denied": {"address": seen, "encryption": None}}


def test_where_nothing_is_known_the_words_are_told_and_nothing_is_made_of_them(monkeypatch):
    monkeypatch.setattr(_attempt, "_library", lambda: ctypes.CDLL("/nowhere"))
    words = "Connection refused: password authentication failed, no pg_hba.conf entry, does not exist"
    refusal = _connection._no_connection({"host": "db"}, words, _attempt.attempt({"host": "db"}))
    assert words in str(refusal) and refusal.facts == {"no_server": False}
    assert refusal.remedy == "See the server's log for the circumstances."
