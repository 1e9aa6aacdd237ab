# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is decided by a refused log-in is decided alike whatever language the server speaks; and said in its own words."""

import contextlib
import os
import socket

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import role as roles
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from support import clusters, languages

# (role, password, database, SQLSTATE, whether who asks is not who may come in, what is said to do)
REFUSED = [
    ("synapse", "other", "postgres", "28P01", True, "Check login_user and login_password"),
    ("synapse", None, "postgres", None, True, "Give login_password"),
    ("nobody", "sesame", "postgres", "28P01", True, "Check login_user and login_password"),
    ("rejected", "sesame", "postgres", "28000", True, "pg_hba.conf has no line"),
    ("sleeper", "sesame", "postgres", "28000", True, 'ALTER ROLE "sleeper" LOGIN'),
    ("limited", "sesame", "postgres", "53300", False, "CONNECTION LIMIT"),
    ("synapse", "sesame", "nowhere", "3D000", False, "Check login_user and login_db"),
    ("synapse", "sesame", "closed", None, False, 'ALTER DATABASE "closed" ALLOW_CONNECTIONS true'),
    ("synapse", "sesame", "barred", "42501", False, 'GRANT CONNECT ON DATABASE "barred" TO "synapse"'),
    ("loader", "sesame", "postgres", "58P01", False, "session_preload_libraries"),
]


@pytest.fixture(scope="module", params=["en_US", "de_DE", "fr_FR"])
def server(request):
    """A cluster that speaks the language, with roles and databases that refuse a log-in each for a reason of its own."""
    installation = clusters.installations()[0]
    speaking = clusters.running(installation) if request.param == "en_US" else languages.speaking(installation, request.param)
    with speaking as cluster:
        for role, more in (
            ("synapse", "LOGIN"),
            ("rejected", "LOGIN"),
            ("trusted", "LOGIN"),
            ("sleeper", "NOLOGIN"),
            ("limited", "LOGIN CONNECTION LIMIT 0"),
            ("loader", "LOGIN"),
            ("manager", "LOGIN CREATEROLE"),
        ):
            cluster.rows(f"CREATE ROLE {role} {more} PASSWORD 'sesame'")
        cluster.rows("ALTER ROLE loader SET session_preload_libraries = 'not_there'")
        for database in ("closed", "barred"):
            cluster.rows(f"CREATE DATABASE {database}")
        cluster.rows("ALTER DATABASE closed ALLOW_CONNECTIONS false; REVOKE ALL ON DATABASE barred FROM PUBLIC")
        hba = cluster.data / "pg_hba.conf"
        hba.write_text(f"host all rejected all reject\nhost all trusted all trust\n{hba.read_text()}")
        cluster.reload()
        cluster.english = request.param == "en_US"
        yield cluster


def login(server, role: str, password: str | None, **other) -> dict:
    found = {**server.login, "login_user": role, "login_password": password, "login_db": "postgres", **other}
    return {option: value for option, value in found.items() if value is not None}


def refusal_of(server, role: str, password: str | None, **other) -> Refusal:
    """Return the Refusal of a log-in."""
    with pytest.raises(Refusal) as refused, _connection.session(login(server, role, password, **other)):
        pass
    return refused.value


@pytest.mark.parametrize(("role", "password", "database", "sqlstate", "denied", "remedy"), REFUSED)
def test_a_refused_log_in_is_understood(server, role, password, database, sqlstate, denied, remedy):
    refused = refusal_of(server, role, password, login_db=database)
    assert remedy in refused.remedy and "Start the server" not in refused.remedy
    expected = {"denied": {"address": "127.0.0.1", "encryption": "none"}} if denied else {}
    assert refused.facts == {"no_server": False, **expected}
    keywords = {"host": "127.0.0.1", "port": server.port, "user": role, "dbname": database}
    tried = _attempt.attempt({**keywords, **({"password": password} if password else {})})
    assert sqlstate in (None, tried.sqlstate) and not tried.let_in


def test_the_servers_own_words_are_told(server):
    assert ("too many connections" in refusal_of(server, "limited", "sesame").found) is server.english


@pytest.mark.parametrize(
    ("other", "no_server"),
    [({"login_port": 1}, True), ({"login_host": "/nowhere"}, True), ({"login_host": "no.such.host.invalid"}, False)],
)
def test_only_a_server_that_is_not_there_is_to_be_started(server, other, no_server):
    refused = refusal_of(server, "synapse", "sesame", **other)
    assert refused.facts == {"no_server": no_server} and ("Start the server" in refused.remedy) is no_server, refused


def test_somebody_else_at_the_port_is_not_told_to_be_no_server(server):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as somebody:
        somebody.settimeout(0)
        pid = os.fork()
        if not pid:
            somebody.settimeout(30)
            with contextlib.suppress(OSError):
                while True:
                    somebody.accept()[0].close()
            os._exit(0)
        try:
            refused = refusal_of(server, "synapse", "sesame", login_port=somebody.getsockname()[1])
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert refused.facts == {"no_server": False} and "Start the server" not in refused.remedy, refused


def set_password(server, name: str, password: str, check: bool = False) -> dict:
    """Return the result of postgres_role for somebody who may make roles, and not read pg_authid."""
    with connected(login(server, "manager", "sesame"), "postgres_role", autocommit=False) as administered:
        return roles.present(administered, roles.Desired(name, password, []), check)


@pytest.mark.parametrize("name", ["synapse", "sleeper", "limited"])
def test_a_new_password_is_set_where_pg_authid_may_not_be_read(server, name):
    try:
        assert not set_password(server, name, "sesame")["changed"]
        for check in (True, False):
            assert set_password(server, name, "abracadabra", check)["changes"] == ["password"]
        again = set_password(server, name, "abracadabra")
        assert not again["changed"] and not again["warnings"]
    finally:
        server.rows(f"ALTER ROLE {name} PASSWORD 'sesame'")


@pytest.mark.parametrize("name", ["rejected", "trusted"])
def test_a_log_in_that_does_not_tell_is_said_not_to(server, run, name):
    set_password(server, name, "abracadabra")
    again = run("postgres_role", {**login(server, "manager", "sesame"), "name": name, "password": "abracadabra"})
    assert again["changes"] == ["password"] and "does not tell" in again["output"], again


def test_a_role_without_login_is_told_to_be_one_by_who_knows(server, run):
    asked = {**server.login, "database": "postgres", "user": "sleeper", "address": "127.0.0.1"}
    found = run("postgres_hba_info", asked)
    assert found["password"] == "nologin" and "The role has no LOGIN. Let it log in" in found["explanation"], found
