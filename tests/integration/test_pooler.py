# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A real PgBouncer between the modules and the server."""

import contextlib

import psycopg2
import pytest

from support import needs, pooler

PASSWORD = "synapse's"


@pytest.fixture(scope="module")
def served(any_cluster):
    """A cluster with Synapse's role and database."""
    needs.need(pooler.PROGRAM is not None, "no pgbouncer on this machine")
    any_cluster.rows(f"CREATE ROLE pooled LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    any_cluster.rows("CREATE DATABASE pooled OWNER pooled TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    any_cluster.rows("CREATE TABLE schema_version (version int); ALTER TABLE schema_version OWNER TO pooled", dbname="pooled")
    any_cluster.rows("INSERT INTO schema_version VALUES (92)", dbname="pooled")
    yield any_cluster
    any_cluster.rows("DROP DATABASE pooled WITH (FORCE)")
    any_cluster.rows("DROP ROLE pooled")


@contextlib.contextmanager
def behind(served, *settings):
    """Yield (what Synapse has under ``args:``, the administrator's connection options) behind a PgBouncer."""
    with pooler.before(served, {"pooled": PASSWORD}, *settings) as port:
        args = {"host": "127.0.0.1", "port": str(port), "user": "pooled", "dbname": "pooled"}
        yield args, {**served.login, "login_port": port}


def as_synapse(args):
    return {"login_args": args, "login_secrets": {"password": PASSWORD}}


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_look_of_ours_leaves_nothing_behind_for_the_sessions_of_synapses(run, served, mode):
    with behind(served, f"pool_mode = {mode}") as (args, _login):
        with contextlib.closing(psycopg2.connect(**args, password=PASSWORD)) as synapse, synapse.cursor() as cursor:
            cursor.execute("SELECT * FROM schema_version")
            synapse.commit()
            found = run("synapse_database_info", as_synapse(args))
            assert (found["schema"], found["schema_version"], found["problems"]) == ("public", 92, [])
            cursor.execute("SELECT version FROM schema_version")
            assert cursor.fetchone() == (92,)
        with contextlib.closing(psycopg2.connect(**args, password=PASSWORD)) as synapse, synapse.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'synapse_postgres.%%'")
            tracked = {"client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"}
            assert {name for (name,) in cursor.fetchall()} <= tracked


@pytest.mark.parametrize("settings", [["pool_mode = transaction"], ["pool_mode = session", "server_reset_query ="]])
def test_work_of_many_transactions_is_refused_where_its_settings_would_stay(run, served, settings):
    with behind(served, *settings) as (_args, login):
        for module, options in (
            ("synapse_database", {"name": "pooled", "user": "pooled"}),
            ("synapse_sequences", {"login_db": "pooled"}),
            ("postgres_database", {"name": "pooled_too"}),
        ):
            found = run(module, {**login, **options})
            assert found["failed"] and "hands a session on as it was left" in found["msg"], found
    assert served.rows("SELECT 1 FROM pg_database WHERE datname = 'pooled_too'") == []


def test_a_pool_of_sessions_is_worked_through(run, served):
    with behind(served, "pool_mode = session") as (_args, login):
        made = {**login, "name": "pooled", "user": "pooled", "password": PASSWORD}
        assert "failed" not in run("synapse_database", made)
        assert run("synapse_database", made)["changed"] is False


def test_a_timeout_that_no_option_lifts_behind_a_pooler_is_told_and_not_the_options_refusal(run, served):
    served.rows("ALTER ROLE pooled SET idle_session_timeout = '1ms'")
    try:
        with behind(served, "pool_mode = session") as (args, _login):
            found = run("synapse_database_info", as_synapse(args))
    finally:
        served.rows("ALTER ROLE pooled RESET idle_session_timeout")
    assert found["failed"] and "unsupported startup parameter" not in found["msg"] and "timeout" in found["msg"], found
