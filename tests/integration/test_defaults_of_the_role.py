# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Defaults that a role, a database or the server carries for every session: no step of ours goes by them."""

import contextlib

import pytest
import yaml

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _defaults
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from support import commands, playbooks
from support import move as moves

# Each of them cuts a move off, or has the server write or read a value in another way.
HARD = {
    "statement_timeout": "25ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "300ms",
    "idle_in_transaction_session_timeout": "50ms",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "exit_on_error": "on",
    "synchronous_commit": "off",
    "search_path": "public, pg_catalog",
}


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    """A Move whose database is dropped afterwards."""
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        yield found


def carry(move, settings: dict, where: str = "ROLE synapse IN DATABASE {}") -> None:
    """Have every session of Synapse's role begin with ``settings``."""
    for name, value in settings.items():
        move.cluster.rows(f"ALTER {where.format(move.name)} SET {name} = {value if ',' in value else repr(value)}")


@contextlib.contextmanager
def session(move, what="test", schema=_connection.MOVED):
    with _connection.session(move.login, autocommit=True, what=what, schema=schema) as connection:
        with connection.cursor() as cursor:
            yield cursor


@pytest.mark.parametrize("engine", ["copy", "synapse"])
def test_no_default_cuts_a_move_off_or_changes_what_it_carries(run, move, engine):
    carry(move, HARD)
    done = run("synapse_port", {**move.options, "engine": engine})
    assert done.get("finished"), done
    verified = run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login})
    assert verified.get("equal"), verified
    assert run("synapse_sequences", move.login).get("failed") is None
    found = run("synapse_database_info", move.login)
    assert (found["schema"], found["schemas"]) == ("public", ["public"]) and found["schema_version"], found


@pytest.mark.parametrize("where", ["ROLE synapse IN DATABASE {}", "DATABASE {}"])
def test_every_session_is_left_alone_wherever_the_default_was_set(move, where):
    carry(move, HARD, where)
    with session(move) as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", (list(_defaults._OF_OUR_SESSIONS),))
        assert {name: value for name, value in cursor.fetchall() if value != _defaults._OF_OUR_SESSIONS[name]} == {}
        assert cursor.connection.encoding == "UTF8"
        assert _defaults.neutral_options(cursor).count("-c ") == len({*HARD} - {"DateStyle", "search_path", "synchronous_commit"})


def test_a_session_that_is_ended_at_once_is_left_alone_as_well(move):
    carry(move, {"statement_timeout": "1ms", "idle_session_timeout": "1ms", "DateStyle": "German"})
    for _time in range(20):
        with session(move) as cursor:
            cursor.execute("SELECT pg_sleep(0.01)")


def test_what_synapse_will_meet_afterwards_is_told(run, move):
    carry(move, {"idle_session_timeout": "300ms"})
    found = run("synapse_port_info", {**move.called, "folder": str(move.folder)})
    assert found["movable"] and any("idle_session_timeout = 300ms" in note["found"] for note in found["notes"]), found


def test_a_default_that_the_role_may_not_leave_is_refused_and_the_remedy_helps(move):
    move.cluster.rows(f"ALTER ROLE synapse IN DATABASE {move.name} SET session_replication_role = replica")
    with pytest.raises(Refusal, match="session_replication_role = replica") as refused, session(move):
        pass
    commands.run(refused.value.remedy, move.cluster)
    with session(move):
        pass


def test_a_function_of_somebody_elses_is_never_called(run, move):
    theirs = "LANGUAGE plpgsql AS $$BEGIN RAISE 'theirs'; END$$"
    move.rows(f"CREATE FUNCTION public.pg_encoding_to_char(int) RETURNS name {theirs}")
    move.rows(f"CREATE FUNCTION public.to_regclass(text) RETURNS regclass {theirs}")
    carry(move, {"search_path": "public, pg_catalog"}, "DATABASE {}")
    for login in (move.login, {**move.cluster.login, "login_db": move.name}):
        for module in ("synapse_database_info", "synapse_sequences"):
            assert "theirs" not in run(module, login)["output"]


def test_a_schema_of_the_roles_own_is_looked_into_and_not_taken_for_an_empty_database(run, move):
    move.rows("CREATE SCHEMA own AUTHORIZATION synapse")
    move.rows("CREATE TABLE own.schema_version (version int); CREATE TABLE own.applied_schema_deltas (x int)")
    move.rows("INSERT INTO own.schema_version VALUES (92); GRANT SELECT ON ALL TABLES IN SCHEMA own TO synapse")
    carry(move, {"search_path": "own, public"})
    found = run("synapse_database_info", move.login)
    assert (found["schema"], found["schema_version"], found["schemas"]) == ("own", 92, ["own"]), found
    for refused in (
        run("synapse_port", move.options),
        run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login}),
    ):
        assert refused["failed"] and "works in the schema own" in refused["msg"], refused
    told = run("synapse_port_info", {**move.called, "folder": str(move.folder)})
    assert [problem["found"] for problem in told["problems"] if "works in the schema own" in problem["found"]], told
    assert not [note for note in told["notes"] if "stays behind" in note["found"]], told["notes"]
    assert "in the schema own" in run("synapse_sequences", move.login)["msg"]


def test_tables_that_are_missing_in_the_target_are_no_notes_and_never_equal(run, move):
    assert run("synapse_port", move.options)["finished"]
    move.rows("DROP TABLE devices, device_lists_stream, presence_stream CASCADE")
    told = run("synapse_port_info", {**move.called, "folder": str(move.folder)})
    assert any("is not whole" in problem["found"] for problem in told["problems"]), told
    assert not [note for note in told["notes"] if "stays behind" in note["found"]], told["notes"]
    refused = run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login})
    assert refused["failed"] and "is not whole" in refused["msg"], refused
    move.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION synapse")
    refused = run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login})
    assert refused["failed"] and "is not Synapse's" in refused["msg"], refused


def test_another_name_is_no_other_database_and_a_namesake_is_one(run, move, tmp_path):
    identities = [
        run("synapse_database_info", {**move.login, **other})["identity"] for other in ({}, {"login_host": "localhost"})
    ]
    assert identities[0] == identities[1]
    config = tmp_path / "other.yaml"
    socket = f'host: {move.cluster.folder}, port: {move.cluster.port}, user: admin, password: "{{}}"'
    password = _yaml(moves.clusters.ADMIN_PASSWORD)
    for database, same in ((move.name, True), ("postgres", False)):
        config.write_text(
            f"database: {{name: psycopg2, args: {{{socket.replace(chr(34) + '{}' + chr(34), password)}, dbname: {database}}}}}\n"
        )
        assert run("synapse_database_info", {**move.login, "config": str(config)})["same"] is same
    config.write_text("database: {name: psycopg2, args: {host: 127.0.0.1, port: 1, user: synapse, dbname: synapse}}\n")
    assert run("synapse_database_info", {**move.login, "config": str(config)})["same"] is None


def _yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_a_play_takes_another_name_for_no_other_database(tmp_path, homeserver, any_cluster):
    site = playbooks.Site(tmp_path, any_cluster, playbooks.copied(homeserver[0], tmp_path / "synapse"))
    site.variables["synapse_postgres_service_manager"] = "none"
    site.prepare()
    args = {"user": site.name, "password": site.variables["synapse_postgres_password"], "port": any_cluster.port}
    found = yaml.safe_load(site.server.config.read_text())
    try:
        for host, database, fails in (("127.0.0.1", "postgres", True), ("localhost", site.name, False)):
            found["database"] = {"name": "psycopg2", "args": {**args, "host": host, "dbname": database}}
            site.server.config.write_text(yaml.safe_dump(found))
            played = site.play("site", fails=fails)
            assert ("is empty: Synapse would start without its users" in " ".join(played.output.split())) is fails
        assert yaml.safe_load(site.server.config.read_text())["database"]["args"]["host"] == "127.0.0.1"
    finally:
        site.close()
