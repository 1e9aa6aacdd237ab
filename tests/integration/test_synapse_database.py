# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_database against real servers: the three steps at once, or none of them."""

import contextlib
import os
import time

import psycopg2
import pytest

HBA = "local all admin scram-sha-256\nhost all admin 127.0.0.1/32 scram-sha-256\n# the end\nhost all all all reject\n"
NAME, USER, PASSWORD = 'synapse "x"', "synapse 'y', z", "a password's %{ }\" #"


@pytest.fixture
def server(cluster):
    """The cluster, its file of rules without our line, and nothing of ours in it afterwards."""
    hba = cluster.data / "pg_hba.conf"
    before, owner = hba.read_bytes(), hba.stat()
    hba.write_text(
        "local all admin scram-sha-256\nhost all admin 127.0.0.1/32 scram-sha-256\n# the end\nhost all all all reject\n"
    )
    cluster.rows("SELECT pg_reload_conf()")
    yield cluster
    hba.write_bytes(before)
    os.chown(hba, owner.st_uid, owner.st_gid)
    cluster.rows("SELECT pg_reload_conf()")
    cluster.rows('DROP DATABASE IF EXISTS "synapse ""x"""')
    cluster.rows("DROP ROLE IF EXISTS \"synapse 'y', z\"")


def options(server, **others):
    return {**server.login, "name": NAME, "user": USER, "password": PASSWORD, "clients": ["127.0.0.1/32"], **others}


def state(server):
    """Everything that the module may change, as it is now."""
    return (
        server.rows("SELECT rolname, rolsuper, rolpassword, rolconnlimit FROM pg_authid ORDER BY 1"),
        server.rows("SELECT datname, datdba, datcollate FROM pg_database ORDER BY 1"),
        (server.data / "pg_hba.conf").read_bytes(),
    )


def test_synapse_logs_in_and_nothing_is_done_twice(run, server):
    foretold = run("synapse_database", options(server), check=True)
    assert foretold["changed"] and len(foretold["diff"]) == 3
    assert not server.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", USER)
    done = run("synapse_database", options(server))
    assert done["changed"] and "failed" not in done, done
    assert [done[key] for key in ("role", "database", "placed", "diff")] == [
        foretold[key] for key in ("role", "database", "placed", "diff")
    ]
    with contextlib.closing(server.connect(user=USER, password=PASSWORD, dbname=NAME)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SHOW lc_collate" if server.major < 16 else "SELECT datcollate FROM pg_database WHERE datname = %s", (NAME,)
            )
            assert cursor.fetchone() == ("C",)
    before = state(server)
    for check in (True, False):
        again = run("synapse_database", options(server), check=check)
        assert not again["changed"] and again["diff"] == []
    assert state(server) == before


def test_only_what_differs_is_done(run, server):
    run("synapse_database", options(server))
    done = run("synapse_database", options(server, password="another"))
    assert done["changed"] and len(done["diff"]) == 1
    server.connect(user=USER, password="another", dbname=NAME).close()
    done = run("synapse_database", options(server, password="another", clients=["127.0.0.1/32", "10.0.0.1/32"]))
    assert [item["action"] for item in done["placed"]] == ["present", "inserted"]


def test_without_clients_and_rules_the_file_is_left_alone(run, server):
    before = (server.data / "pg_hba.conf").read_bytes()
    done = run("synapse_database", options(server, clients=[]))
    assert done["changed"] and done["placed"] == []
    assert (server.data / "pg_hba.conf").read_bytes() == before
    with pytest.raises(psycopg2.OperationalError):
        server.connect(user=USER, password=PASSWORD, dbname=NAME)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"name": "x" * 64}, "64 bytes"),
        ({"user": "x" * 64}, "64 bytes"),
        ({"password": ""}, "is empty"),
        ({"user": "admin"}, "administers the server"),
        ({"name": "sorted_otherwise"}, "LC_COLLATE is C.UTF-8, not C"),
        ({"clients": ["not an address/99"]}, "not an address/99"),
        ({"rules": [{"type": "host"}]}, "address"),
        ({"login_port": 1}, "Start the server"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(run, server, others, words):
    server.rows("CREATE DATABASE sorted_otherwise LC_COLLATE 'C.UTF-8' LC_CTYPE 'C' TEMPLATE template0")
    try:
        before = state(server)
        for check in (True, False):
            refused = run("synapse_database", options(server, **others), check=check)
            assert refused.get("failed") and words in refused["msg"], refused
        assert state(server) == before
    finally:
        server.rows("DROP DATABASE sorted_otherwise")


def test_a_file_with_an_error_is_refused_before_anything_is_touched(run, server):
    with (server.data / "pg_hba.conf").open("a") as stream:
        stream.write("host all all nonsense\n")
    before = state(server)
    refused = run("synapse_database", options(server))
    assert refused["failed"] and "line 5" in refused["msg"], refused
    assert state(server) == before


def test_no_secret_in_the_servers_log(run, server):
    server.set("log_statement", "all")
    try:
        assert run("synapse_database", options(server))["changed"]
        verifier = server.rows("SELECT rolpassword FROM pg_authid WHERE rolname = %s", USER)[0][0]
        log = server.log()
        assert "pg_roles" in log, "log_statement=all was not in force, so this shows nothing"
        assert verifier not in log and PASSWORD not in log
    finally:
        server.set("log_statement", "")


def test_a_run_that_was_killed_before_the_reload_is_mended(run, server):
    run("synapse_database", options(server))
    hba = server.data / "pg_hba.conf"
    kept = hba.read_bytes()
    hba.write_text(HBA)
    server.rows("SELECT pg_reload_conf()")
    time.sleep(1.1)
    hba.write_bytes(kept)  # what the killed run left: the right file, which the server has not loaded
    with pytest.raises(psycopg2.OperationalError):
        server.connect(user=USER, password=PASSWORD, dbname=NAME)
    assert run("synapse_database", options(server))["changed"]
    server.connect(user=USER, password=PASSWORD, dbname=NAME).close()
    assert not run("synapse_database", options(server))["changed"]
