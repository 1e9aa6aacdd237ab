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
