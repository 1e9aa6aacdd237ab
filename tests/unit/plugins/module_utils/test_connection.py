# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What cannot be provoked with the servers there are: one older than Synapse accepts, and a Python without psycopg2."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
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
    ("words", "remedy", "no_server"),
    [
        ("connection to server failed: Connection refused", "Start the server", True),
        ('connection on socket "/x/.s.PGSQL.5432" failed: No such file or directory', "Start the server", True),
        ('FATAL: Ident authentication failed for user "synapse"', "before the ident line", False),
        ('FATAL: no pg_hba.conf entry for host "::1"', "Allow this user", False),
        ('FATAL: password authentication failed for user "synapse"', "Check login_user and login_password", False),
        ('FATAL: Peer authentication failed for user "postgres"', "become_user=postgres", False),
    ],
)
def test_the_common_causes_have_their_remedy(words, remedy, no_server):
    refusal = _connection._no_connection({"host": "db"}, words)
    assert words in str(refusal) and remedy in str(refusal) and refusal.facts["no_server"] is no_server


@pytest.mark.parametrize(
    ("libpq", "words", "denied"),
    [
        ({"host": "db"}, 'no pg_hba.conf entry for host "10.0.0.5", user "a", SSL encryption', ("10.0.0.5", "tls")),
        ({"host": "db"}, 'pg_hba.conf rejects connection for host "::1", user "a", no encryption', ("::1", "none")),
        (
            {"host": "db"},
            'connection to server at "db" (127.0.0.1), port 1 failed: password authentication failed',
            ("127.0.0.1", None),
        ),
        ({"host": "127.0.0.1", "sslmode": "disable"}, 'Ident authentication failed for user "a"', ("127.0.0.1", "none")),
        ({"host": "no.such.host.invalid"}, "fe_sendauth: no password supplied", ("", None)),
        ({"host": "/run/postgresql"}, 'Peer authentication failed for user "a"', ("", None)),
        ({}, "connection requires a valid client certificate", ("", None)),
        ({"host": "db"}, 'database "synapse" does not exist', None),
        ({"host": "db"}, "Connection refused", None),
    ],
)
def test_who_was_denied_is_known_to_who_asks_why(libpq, words, denied):
    facts = _connection._no_connection(libpq, words).facts
    assert facts.get("denied") == (denied and dict(zip(("address", "encryption"), denied)))
