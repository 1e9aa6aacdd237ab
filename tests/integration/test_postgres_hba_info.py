# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_hba_info against real servers: why somebody is not let in, and that what it says to do lets them in."""

import contextlib
import os
import time

import psycopg2
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection

ADMIN = "host all admin 127.0.0.1/32 scram-sha-256\n"
OURS = "host postgres synapse 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture
def load(cluster):
    """``load(text)`` has the server load it behind the administrator's line; a role ``synapse`` has the password secret."""
    path = cluster.data / "pg_hba.conf"
    before = path.read_bytes()
    cluster.rows("CREATE ROLE synapse LOGIN PASSWORD 'secret'")

    def write(text):
        path.write_bytes(ADMIN.encode() + (text if isinstance(text, bytes) else text.encode()))
        with contextlib.closing(cluster.connect()) as connection, connection.cursor() as cursor:
            assert _connection.reload(cursor)

    yield write
    write(before)
    cluster.rows("DROP ROLE synapse")


def login(cluster) -> str:
    try:
        cluster.connect(user="synapse", password="secret").close()
    except psycopg2.OperationalError as error:
        return str(error)
    return "in"


def options(cluster, **change) -> dict:
    wish = {"database": "postgres", "user": "synapse", "address": "127.0.0.1", "encryption": "none"}
    return {**cluster.login, **wish, **change}


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("", None),
        ("local all all trust\nhost all all 127.0.0.2/32 trust\n", None),
        ("# x\nhost all all samenet ident map=a\n", "ident"),
        ("host postgres +synapse 127.0.0.1/32 reject\n", "reject"),
    ],
)
def test_the_line_that_keeps_somebody_out_is_told_and_what_lets_them_in(cluster, load, run, text, method):
    load(text)
    assert login(cluster) != "in"
    told = run("postgres_hba_info", options(cluster))
    assert not told["changed"] and told["password"] == "scram-sha-256"
    assert (told["decides"] or {}).get("method") == method
    if method:
        line = told["decides"]
        assert (line["file"], line["sure"]) == (str(cluster.data / "pg_hba.conf"), True)
        assert f"Line {line['line']} of {line['file']} ({line['text']})" in told["explanation"]
        assert line["text"] == (ADMIN + text).splitlines()[line["line"] - 1]
    assert f"Put the rule '{OURS.strip()}'" in told["explanation"]
    load(OURS + text)
    assert login(cluster) == "in" and run("postgres_hba_info", options(cluster))["decides"]["line"] == 2


def test_a_password_that_is_stored_for_another_method(cluster, load, run):
    load(OURS)
    cluster.rows("SET password_encryption = md5; ALTER ROLE synapse PASSWORD 'secret'")
    assert "password authentication failed" in login(cluster)
    told = run("postgres_hba_info", options(cluster))
    assert told["password"] == "md5" and "stored for md5. Set the password" in told["explanation"]
    for change, word in (("PASSWORD NULL", "none"), ("PASSWORD 'x' VALID UNTIL '2001-01-01'", "expired")):
        cluster.rows(f"ALTER ROLE synapse {change}")
        assert run("postgres_hba_info", options(cluster))["password"] == word


def test_files_that_the_server_has_not_loaded(cluster, load, run):
    load("")
    path = cluster.data / "pg_hba.conf"
    path.write_text(path.read_text() + OURS)
    os.utime(path, (time.time() + 2,) * 2)  # the server tells whole seconds
    told = run("postgres_hba_info", options(cluster))
    assert told["decides"]["line"] == 2 and "reload it first" in told["explanation"]
    path.write_text(path.read_text() + "host all all 10.0.0.0/40 md5\n")
    assert "The server rejects line 3 of" in run("postgres_hba_info", options(cluster))["explanation"]


def test_an_included_file_and_a_list_of_names(cluster, load, run):
    for name, text in (("people", "ann\nsynapse\n"), ("more.conf", "# x\nhost all /^syn all reject\n")):
        (cluster.data / name).write_text(text)
    try:
        load("host all @people 127.0.0.1/32 ident\n")
        assert run("postgres_hba_info", options(cluster))["decides"]["line"] == 2
        if cluster.major >= 16:
            load("include more.conf\n")
            assert run("postgres_hba_info", options(cluster))["decides"]["file"] == str(cluster.data / "more.conf")
            assert "rejects" in login(cluster)
    finally:
        (cluster.data / "people").unlink()
        (cluster.data / "more.conf").unlink()


def test_what_cannot_be_told_is_refused(cluster, load, run):
    load(OURS)
    refused = run("postgres_hba_info", {**options(cluster), "login_user": "synapse", "login_password": "secret"})
    assert refused["failed"] and "may not read the server's files" in refused["msg"] and "superuser" in refused["msg"]
    refused = run("postgres_hba_info", options(cluster, address="db.example.org"))
    assert refused["failed"] and "is not the address of a client" in refused["msg"]
    assert run("postgres_hba_info", options(cluster, user="nobody"))["password"] is None
    assert run("postgres_hba_info", options(cluster, address=""), check=True)["decides"] is None
