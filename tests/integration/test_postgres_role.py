# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_role against real servers: what it makes, what it leaves alone, what it refuses, what it never tells."""

import contextlib
import uuid

import psycopg2
import pytest

PASSWORDS = ["plain", 'it\'s "quoted" \\ %s {{ x }} : @ #', "päss wörd", "\u00a0\u2168", "🐘🔑", "x" * 200, " * "]


@pytest.fixture
def name(cluster):
    """A role name nobody has, dropped afterwards."""
    fresh = f"role {uuid.uuid4().hex[:8]} 'x' \"y\""
    yield fresh
    quoted = fresh.replace('"', '""')
    cluster.rows(f'DROP ROLE IF EXISTS "{quoted}"')


def stored(cluster, name):
    return cluster.rows("SELECT rolpassword FROM pg_authid WHERE rolname = %s", name)[0][0]


@pytest.mark.parametrize("password", PASSWORDS)
def test_the_password_logs_in_and_is_not_set_again(cluster, run, name, password):
    options = {**cluster.login, "name": name, "password": password}
    first = run("postgres_role", options)
    assert first["changed"] and "failed" not in first, first
    verifier = stored(cluster, name)
    assert verifier.startswith("SCRAM-SHA-256$")
    cluster.connect(user=name, password=password).close()
    with pytest.raises(psycopg2.OperationalError):
        cluster.connect(user=name, password=password + "!")
    again = run("postgres_role", options)
    assert not again["changed"] and stored(cluster, name) == verifier


def test_check_mode_tells_what_the_run_does_and_does_nothing(cluster, run, name):
    options = {**cluster.login, "name": name, "password": "a password", "connection_limit": 7}
    foretold = run("postgres_role", options, check=True)
    assert foretold["changed"] and not cluster.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", name)
    done = run("postgres_role", options)
    assert (foretold["role"], foretold["diff"], foretold["changes"]) == (done["role"], done["diff"], done["changes"])
    assert not run("postgres_role", options, check=True)["changed"]


def test_an_md5_password_becomes_scram_once(cluster, run, name):
    with contextlib.closing(cluster.connect()) as connection, connection.cursor() as cursor:
        quoted = name.replace('"', '""')
        cursor.execute(f"SET password_encryption = md5; CREATE ROLE \"{quoted}\" LOGIN PASSWORD 'known'")
    options = {**cluster.login, "name": name, "password": "known"}
    assert run("postgres_role", options)["changes"] == ["password"]
    assert stored(cluster, name).startswith("SCRAM")
    assert not run("postgres_role", options)["changed"]


def test_a_password_kept_as_it_is_becomes_scram_once(cluster, run, name):
    run("postgres_role", {**cluster.login, "name": name})
    cluster.rows("UPDATE pg_authid SET rolpassword = 'known' WHERE rolname = %s", name)  # as pg_upgrade leaves it, from 9.6
    options = {**cluster.login, "name": name, "password": "known"}
    foretold = run("postgres_role", options, check=True)
    done = run("postgres_role", options)
    assert done["changes"] == ["password"] and done["diff"] == foretold["diff"] and done["diff"]["before"]["password"] == "plain"
    assert stored(cluster, name).startswith("SCRAM")
    assert not run("postgres_role", options)["changed"]


def test_attributes_not_named_are_left_alone(cluster, run, name):
    run("postgres_role", {**cluster.login, "name": name, "attributes": ["LOGIN", "CREATEDB"]})
    result = run("postgres_role", {**cluster.login, "name": name, "attributes": ["NOLOGIN"]})
    assert result["changes"] == ["LOGIN"]
    assert cluster.rows("SELECT rolcanlogin, rolcreatedb FROM pg_roles WHERE rolname = %s", name) == [(False, True)]


def test_no_secret_in_the_result_or_in_the_servers_log(cluster, run, name):
    secret = "s3cret-" + uuid.uuid4().hex
    cluster.set("log_statement", "all")
    try:
        for check in (True, False):
            result = run("postgres_role", {**cluster.login, "name": name, "password": secret}, check=check)
            assert secret not in result["output"]
        log = cluster.log()
        assert secret not in log and stored(cluster, name) not in log
        assert "pg_roles" in log, "log_statement=all was not in force, so this shows nothing"
    finally:
        cluster.set("log_statement", "")


def test_where_pg_authid_may_not_be_read_a_login_decides(cluster, run, name):
    cluster.rows("CREATE ROLE manager LOGIN CREATEROLE PASSWORD 'manager'")
    login = {**cluster.login, "login_user": "manager", "login_password": "manager"}
    try:
        options = {**login, "name": name, "password": "one"}
        assert run("postgres_role", options)["changed"]
        assert not run("postgres_role", options)["changed"]
        assert run("postgres_role", {**options, "password": "two"})["changes"] == ["password"]
        cluster.connect(user=name, password="two").close()
    finally:
        quoted = name.replace('"', '""')
        cluster.rows(f'DROP ROLE IF EXISTS "{quoted}"; DROP ROLE manager')


def test_absent_drops_once_but_not_an_owner(cluster, run, name):
    options = {**cluster.login, "name": name, "state": "absent"}
    assert not run("postgres_role", options)["changed"]
    run("postgres_role", {**cluster.login, "name": name})
    quoted = name.replace('"', '""')
    cluster.rows(f'CREATE TABLE owned_table (x int); ALTER TABLE owned_table OWNER TO "{quoted}"')
    refused = run("postgres_role", options)
    assert refused["failed"] and "owned_table" in refused["msg"]
    cluster.rows("DROP TABLE owned_table")
    assert run("postgres_role", options)["changed"]
    assert not run("postgres_role", options)["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "x" * 64, "password": "p"}, "64 bytes"),
        ({"name": "ü" * 32, "password": "p"}, "64 bytes"),
        ({"name": "", "password": "a password"}, "empty"),
        ({"name": "someone", "password": ""}, "empty"),
        ({"name": "admin", "attributes": ["NOSUPERUSER"]}, "administers the server"),
        ({"name": "admin", "state": "absent"}, "administers the server"),
        ({"name": "someone", "attributes": ["LOGIN", "NOLOGIN"]}, "both LOGIN and NOLOGIN"),
        ({"name": "someone", "login_password": "wrong"}, "Check login_user and login_password"),
        ({"name": "someone", "login_port": 1}, "Start the server"),
        ({"name": "someone", "login_db": "nowhere"}, "Check login_user and login_db"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(cluster, run, options, words):
    before = cluster.rows("SELECT rolname, rolsuper, rolcanlogin, rolpassword FROM pg_authid ORDER BY 1")
    for check in (True, False):
        refused = run("postgres_role", {**cluster.login, **options}, check=check)
        assert refused.get("failed") and words in refused["msg"], refused
    assert cluster.rows("SELECT rolname, rolsuper, rolcanlogin, rolpassword FROM pg_authid ORDER BY 1") == before
