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
        server.rows("SELECT datname, datdba, datcollate, datacl::text FROM pg_database ORDER BY 1"),
        (server.data / "pg_hba.conf").read_bytes(),
    )


def test_synapse_logs_in_and_nothing_is_done_twice(run, server):
    foretold = run("synapse_database", options(server), check=True)
    assert foretold["changed"] and len(foretold["diff"]) == 4
    assert not server.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", USER)
    done = run("synapse_database", options(server))
    assert done["changed"] and "failed" not in done, done
    told = ("role", "database", "rights", "placed", "diff")
    assert [done[key] for key in told] == [foretold[key] for key in told]
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


def may(server, name, role):
    """Return what a role may do: connect to the database, make temporary tables there, make tables in its schema public."""
    asked = "SELECT has_database_privilege(%s, %s, 'CONNECT'), has_database_privilege(%s, %s, 'TEMPORARY')"
    (database,) = server.rows(asked, role, name, role, name)
    return (*database, server.rows("SELECT has_schema_privilege(%s, 'public', 'CREATE')", role, dbname=name)[0][0])


@pytest.fixture
def others(server):
    """Roles of the server's: ``neighbour``, who has nothing to do with Synapse, and ``manager``, who may make roles."""
    server.rows("CREATE ROLE neighbour LOGIN; CREATE ROLE manager LOGIN CREATEROLE CREATEDB PASSWORD 'manager'")
    yield
    server.rows('DROP DATABASE IF EXISTS "synapse ""x"""')
    server.rows("DROP ROLE IF EXISTS neighbour, manager")


def test_the_database_is_its_owners_alone(run, server, others):
    assert run("synapse_database", options(server))["rights"]["everybody"] == []
    assert may(server, NAME, USER) == (True, True, True) and may(server, NAME, "neighbour") == (False, False, False)
    server.rows('GRANT CONNECT ON DATABASE "synapse ""x""" TO neighbour')
    assert not run("synapse_database", options(server))["changed"]
    assert may(server, NAME, "neighbour") == (True, False, False)


@pytest.mark.parametrize("everybody", [True, False])
def test_a_schema_as_before_postgresql_15_is_left_to_the_owner(run, server, others, everybody):
    run("synapse_database", options(server))
    server.rows("ALTER SCHEMA public OWNER TO admin; REVOKE ALL ON SCHEMA public FROM pg_database_owner", dbname=NAME)
    server.rows(f"GRANT USAGE{', CREATE' * everybody} ON SCHEMA public TO PUBLIC", dbname=NAME)
    assert may(server, NAME, "neighbour")[2] == may(server, NAME, USER)[2] == everybody
    foretold = run("synapse_database", options(server), check=True)
    done = run("synapse_database", options(server))
    assert done["changed"] and done["diff"] == foretold["diff"] and done["rights"] == foretold["rights"]
    assert (may(server, NAME, USER)[2], may(server, NAME, "neighbour")[2]) == (True, False)
    assert not run("synapse_database", options(server))["changed"]


def test_what_may_not_be_revoked_is_left_with_a_warning(run, server, others):
    run("synapse_database", options(server, clients=[]))
    server.rows('GRANT CONNECT ON DATABASE "synapse ""x""" TO PUBLIC')
    hba = server.data / "pg_hba.conf"
    hba.write_text(f'host all manager,"{USER}" 127.0.0.1/32 scram-sha-256\n{hba.read_text()}')
    server.rows("SELECT pg_reload_conf()")
    login = {"login_user": "manager", "login_password": "manager"}
    left = run("synapse_database", options(server, clients=[], **login))
    assert not left["changed"] and "failed" not in left, left
    assert "CONNECT in the database" in left["output"] and "revoke it from PUBLIC" in left["output"]
    assert left["rights"]["everybody"] == ["CONNECT"]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"connections": 20}, []),
        ({"connections": 98}, ["98 connections, and the server has 97", "Raise max_connections to 101"]),
        ({"connections": 20, "connection_limit": 19}, ["20 connections, and their role may have 19"]),
    ],
    ids=["enough", "server", "role"],
)
def test_pools_that_do_not_fit_are_told(run, server, others, words):
    for check in (True, False):
        done = run("synapse_database", options(server, **others), check=check)
        assert "failed" not in done and len(done.get("warnings", [])) == bool(words)
        assert all(word in done["output"] for word in words), done["output"]


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
        ({"password": None}, "The method scram-sha-256 needs a password"),
        ({"method": "peer", "system_users": ["someone"]}, "127.0.0.1/32 is an address"),
        ({"method": "peer", "clients": ["local"]}, "Give system_users"),
        ({"method": "peer", "clients": ["local"], "system_users": ["/.*"]}, "regular expression"),
        ({"method": "cert", "clients": ["local"]}, "Give addresses alone"),
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
        for check in (True, False):
            assert run("synapse_database", options(server), check=check)["changed"]
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
