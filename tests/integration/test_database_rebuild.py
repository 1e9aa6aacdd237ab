# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_database_rebuild on a database that a real Synapse filled, in a locale that sorts otherwise than C."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair import resolution
from support import conversation, faults, modules
from support import move as moves


@pytest.fixture(scope="module")
def template(tmp_path_factory, homeserver, any_cluster):
    """A Move that the official routine made; its database is what every test's one is filled with."""
    with moves.prepared(tmp_path_factory.mktemp("rebuild"), homeserver[0], any_cluster) as found:
        found.routine()
        assert not modules.run("synapse_sequences", found.login).get("failed")
        yield found


def filled(move, template, properties: str, *options: str) -> None:
    """Make the database of ``move`` anew with ``properties``, words of CREATE DATABASE, and fill it from the ``template``."""
    move.cluster.rows(f"DROP DATABASE {move.name}")
    move.cluster.rows(f"CREATE DATABASE {move.name} OWNER {moves.USER} TEMPLATE template0 {properties}")
    move.cluster.fill(move.name, template.name, *options)


@pytest.fixture
def wrong(tmp_path, template):
    """A Move whose database sorts as English does; what a rebuild leaves beside it goes with it."""
    with moves.prepared(tmp_path, template.server, template.cluster) as found:
        filled(found, template, "ENCODING UTF8 LOCALE 'C.UTF-8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
        (tmp_path / "work").mkdir()
        yield found
        for suffix in ("before", "rebuilding", "given_back"):
            found.cluster.rows(f"DROP DATABASE IF EXISTS {found.name}_{suffix} WITH (FORCE)")


def options(move, **more) -> dict:
    return {**move.cluster.login, "name": move.name, "folder": str(move.folder / "work"), **more}


def rebuild(move, check=False, **more) -> dict:
    result = modules.run("synapse_database_rebuild", options(move, **more), check=check)
    assert not result.get("failed"), result["msg"]
    return result


def refused(move, **more) -> str:
    result = modules.run("synapse_database_rebuild", options(move, **more))
    assert result.get("failed") and not result.get("changed"), result
    return result["msg"]


def contents(move, name=None) -> dict:
    """Return every table's rows, in an order that no locale makes."""
    tables = move.cluster.rows(
        "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", dbname=name or move.name
    )
    query = 'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text COLLATE "C")), count(*) FROM public.{} t'
    return {table: move.cluster.rows(query.format(table), dbname=name or move.name) for (table,) in tables}


def databases(move) -> set[str]:
    found = move.cluster.rows("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", move.name)
    return {name.removeprefix(move.name) for (name,) in found}


def locale(move) -> list[tuple]:
    return move.cluster.rows(
        "SELECT datcollate, datctype, to_jsonb(d) ->> 'datlocprovider' FROM pg_database d WHERE datname = %s", move.name
    )


def test_a_database_in_a_wrong_locale_is_made_anew_with_all_that_it_has_and_is(wrong):
    name, cluster = wrong.name, wrong.cluster
    cluster.rows(f"CREATE ROLE {name}_reader")
    try:
        for statement in (
            f"COMMENT ON DATABASE {name} IS 'our''s %s'",
            f'ALTER DATABASE {name} SET search_path TO public, "odd name"',
            f"ALTER DATABASE {name} SET work_mem = '12MB'",
            f"ALTER ROLE synapse IN DATABASE {name} SET statement_timeout = '1h'",
            f"ALTER DATABASE {name} CONNECTION LIMIT 33",
            f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {name} TO {name}_reader WITH GRANT OPTION",
            "CREATE EXTENSION pg_trgm",
            f"GRANT SELECT ON events TO {name}_reader",
            'CREATE TABLE "odd %s; table" (a text, b int GENERATED ALWAYS AS (length(a)) STORED)',
            "INSERT INTO \"odd %s; table\" VALUES (E'tab\\t new\\n line \\\\')",
            "SELECT setval('receipts_sequence', 4711, false)",
        ):
            wrong.rows(statement)
        before, around = contents(wrong), described(wrong)
        foretold = rebuild(wrong, check=True)
        assert foretold["changed"] and foretold["rows"] == 0 and databases(wrong) == {""}
        result = rebuild(wrong)
        assert result["changed"] and result["reasons"] == foretold["reasons"] and "icu" in " ".join(result["reasons"])
        assert locale(wrong) == [("C", "C", "c")] and contents(wrong) == before and described(wrong) == around
        assert result["rows"] == sum(rows for [(_digest, rows)] in before.values()) and result["tables"] == len(before)
        assert databases(wrong) == {"", "_before"} and contents(wrong, result["kept"]) == before
        assert not rebuild(wrong)["changed"]
        with wrong.synapse() as url:
            conversation.wait_for(url)
        assert rebuild(wrong, state="old_removed")["changed"] and databases(wrong) == {""}
        assert not rebuild(wrong, state="old_removed")["changed"]
    finally:
        cluster.rows(f"DROP OWNED BY {name}_reader", dbname=name)
        cluster.rows(f"DROP OWNED BY {name}_reader")
        with contextlib.suppress(Exception):
            cluster.rows(f"DROP OWNED BY {name}_reader", dbname=f"{name}_before")
        cluster.rows(f"DROP ROLE {name}_reader")


def described(move) -> list:
    """Return what the catalogues say of the database and of what is in it, as psql's and pg_dump's own questions do."""
    queries = (
        'SELECT pg_get_userbyid(datdba), datconnlimit, array(SELECT a::text FROM unnest(datacl) a ORDER BY a::text COLLATE "C"),'
        " shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()",
        "SELECT setrole::regrole::text, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase"
        " WHERE datname = current_database() ORDER BY 1",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname COLLATE \"C\"",
        "SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        ' ORDER BY conname COLLATE "C", 3',
        "SELECT relname, relkind, relowner::regrole::text, relreplident, relacl::text FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') ORDER BY relname COLLATE \"C\"",
        'SELECT extname, extversion FROM pg_extension ORDER BY extname COLLATE "C"',
        "SELECT last_value, is_called FROM receipts_sequence",
    )
    return [move.rows(query) for query in queries]


def plant(move, table: str, index: str, *rows: str) -> None:
    """Put ``rows`` into a ``table`` whose unique ``index`` would keep them apart, and let the index be valid again."""
    state = "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = '{1}'::regclass"
    move.rows(state.format("false", index))
    for row in rows:
        move.rows(f"INSERT INTO {table} {row}")
    move.rows(state.format("true", index))


IPS = "(user_id, access_token, device_id, ip, user_agent, last_seen)"


def test_rows_that_a_broken_index_let_in_are_listed_and_left_out_when_told_to_and_kept(wrong):
    plant(wrong, "blocked_rooms", "blocked_rooms_idx", *["VALUES ('!twice:a', '@a:a')"] * 3)
    plant(
        wrong,
        "user_ips",
        "user_ips_user_token_ip_unique_index",
        f"{IPS} VALUES ('@a:a', 't', 'd', '::1', 'old', 1)",
        f"{IPS} VALUES ('@a:a', 't', 'd', '::1', 'new', 2)",
    )
    said = refused(wrong)
    assert "2 in public.blocked_rooms" in said and "1 in public.user_ips" in said and "resolve_duplicates" in said
    assert databases(wrong) == {""} and locale(wrong)[0][2] == "i"
    result = rebuild(wrong, resolve_duplicates=True)
    assert [(one["table"], one["rows"]) for one in result["removed"]] == [("public.blocked_rooms", 2), ("public.user_ips", 1)]
    assert wrong.rows("SELECT count(*) FROM blocked_rooms") == [(1,)]
    assert wrong.rows("SELECT user_agent FROM user_ips WHERE access_token = 't'") == [("new",)]
    with open(result["removed_file"], encoding="utf-8") as stream:
        kept = [json.loads(line)["row"] for line in stream]
    assert os.stat(result["removed_file"]).st_mode & 0o777 == 0o600
    assert [row["user_agent"] for row in kept if "user_agent" in row] == ["old"]
    looked = modules.run("synapse_database_info", wrong.login)
    assert looked["problems"] == [], looked
    in_database = [row for (row,) in wrong.rows("SELECT row FROM synapse_postgres.removed_rows")]
    shown = [sorted(json.dumps(row, sort_keys=True) for row in rows) for rows in (in_database, kept)]
    assert shown[0] == shown[1]


def test_the_tables_whose_newest_row_counts_are_synapses_and_have_what_tells_the_newest(template):
    for table, column in resolution.NEWEST.items():
        template.rows(f"SELECT {column} FROM {table} LIMIT 0")
        assert template.rows("SELECT 1 FROM pg_index WHERE indisunique AND indrelid = %s::regclass", table), table


def test_rows_of_which_nobody_knows_which_counts_are_refused_and_nothing_is_changed(wrong):
    plant(wrong, "blocked_rooms", "blocked_rooms_idx", "VALUES ('!twice:a', '@a:a')", "VALUES ('!twice:a', '@b:a')")
    before = contents(wrong)
    said = refused(wrong, resolve_duplicates=True)
    assert "1 values of room_id in public.blocked_rooms" in said and "!twice" not in said
    assert databases(wrong) == {""} and contents(wrong) == before


def test_a_database_that_somebody_uses_is_refused_and_named(wrong):
    with contextlib.closing(wrong.connect()):
        assert "in use by synapse" in refused(wrong)
    assert databases(wrong) == {""}


def test_what_would_not_come_along_is_refused(wrong):
    wrong.rows("CREATE MATERIALIZED VIEW seen AS SELECT 1")
    assert "the materialized view public.seen" in refused(wrong)
    wrong.rows("DROP MATERIALIZED VIEW seen")
    wrong.rows("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'events_ts'::regclass")
    assert "public.events_ts" in refused(wrong)
    assert databases(wrong) == {""}


def test_a_database_of_the_name_that_is_needed_is_nobodys_to_drop(wrong):
    wrong.cluster.rows(f"CREATE DATABASE {wrong.name}_rebuilding")
    wrong.cluster.rows("CREATE TABLE precious (a int)", dbname=f"{wrong.name}_rebuilding")
    assert "that no run of this made" in refused(wrong)
    wrong.cluster.rows("DROP TABLE precious", dbname=f"{wrong.name}_rebuilding")
    assert rebuild(wrong)["changed"]


def test_nobody_writes_while_it_is_made_and_who_comes_meanwhile_keeps_the_old_one(wrong):
    """A Synapse that is started half-way waits with its first row, and the names stay."""
    wrong.rows("CREATE TABLE slow AS SELECT repeat('x', 999) AS a FROM generate_series(1, 100000)")
    with modules.started("synapse_database_rebuild", options(wrong)) as process:
        while "_rebuilding" not in databases(wrong):
            time.sleep(0.01)
        with contextlib.closing(wrong.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
            with pytest.raises(Exception, match="lock timeout"):
                cursor.execute("INSERT INTO blocked_rooms VALUES ('!late:a', '@a:a')")
            cursor.execute("SET lock_timeout = 0")
            result = json.loads(process.communicate(timeout=120)[0])
            assert result["failed"] and "in use by synapse" in result["msg"], result
            cursor.execute("INSERT INTO blocked_rooms VALUES ('!late:a', '@a:a')")
    assert databases(wrong) == {""} and wrong.rows("SELECT room_id FROM blocked_rooms") == [("!late:a",)]
    assert rebuild(wrong)["changed"] and wrong.rows("SELECT room_id FROM blocked_rooms") == [("!late:a",)]


def test_the_old_database_is_given_back_and_the_new_one_kept(wrong):
    assert "Nothing has to be done" in refused(wrong, state="given_back")
    rebuild(wrong)
    wrong.rows("INSERT INTO blocked_rooms VALUES ('!since:a', '@a:a')")
    assert rebuild(wrong, check=True, state="given_back")["changed"] and databases(wrong) == {"", "_before"}
    result = rebuild(wrong, state="given_back")
    assert databases(wrong) == {"", "_given_back"} and locale(wrong)[0][2] == "i"
    assert wrong.cluster.rows("SELECT room_id FROM blocked_rooms", dbname=result["kept"]) == [("!since:a",)]
    assert wrong.cluster.rows("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", wrong.name) == [
        (None,)
    ]


def test_a_row_that_differs_ends_it_and_the_old_database_stays(wrong):
    """The proof has to see a row that the copy changed: here by a rule of the tables' own."""
    wrong.rows("CREATE FUNCTION moody() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT txid_current()::text$$")
    wrong.rows("CREATE TABLE spoilt (id int, twice text GENERATED ALWAYS AS (id::text || public.moody()) STORED)")
    wrong.rows("INSERT INTO spoilt VALUES (1)")
    assert "public.spoilt (1 rows, and 1 in the new database)" in refused(wrong)
    assert databases(wrong) == {""} and locale(wrong)[0][2] == "i"


def test_the_old_database_is_put_back_by_the_command_that_is_told_where_the_new_one_is_gone(wrong):
    rebuild(wrong)
    wrong.cluster.rows(f"DROP DATABASE {wrong.name}")
    for state in ("given_back", "old_removed"):
        [command] = re.findall("`([^`]+)`", refused(wrong, state=state))
    wrong.cluster.rows(command)
    assert databases(wrong) == {""} and locale(wrong)[0][2] == "i"


@pytest.mark.parametrize("moment", range(faults.TIMES))
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_and_the_next_run_ends_it(wrong, moment):
    before = contents(wrong)
    chance = random.Random()
    process = modules.started("synapse_database_rebuild", options(wrong))
    time.sleep(chance.uniform(0.2, 6))
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    assert wrong.name in {name for (name,) in wrong.cluster.rows("SELECT datname FROM pg_database")}
    assert contents(wrong) == before
    assert databases(wrong) <= {"", "_rebuilding", "_before"}
    rebuild(wrong)
    assert locale(wrong) == [("C", "C", "c")] and contents(wrong) == before and databases(wrong) == {"", "_before"}


def test_text_of_another_encoding_becomes_utf8(tmp_path, template):
    with moves.prepared(tmp_path, template.server, template.cluster) as found:
        filled(found, template, "ENCODING LATIN1 LOCALE 'C'", "--schema-only")
        (tmp_path / "work").mkdir()
        found.rows("INSERT INTO blocked_rooms VALUES ('!zoë:a', 'Größe')")
        result = rebuild(found)
        assert result["reasons"] == ["encoding is LATIN1, not UTF8"]
        assert found.rows("SELECT room_id, octet_length(user_id) FROM blocked_rooms") == [("!zoë:a", 7)]
        found.cluster.rows(f"DROP DATABASE {found.name}_before")


def test_the_password_is_on_no_command_line(wrong):
    wrong.rows("CREATE TABLE large AS SELECT repeat(md5(a::text), 9) AS a FROM generate_series(1, 30000) AS a")
    seen = set()
    with modules.started("synapse_database_rebuild", options(wrong)) as process:
        while process.poll() is None:
            done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
            seen |= {line for line in done.stdout.splitlines() if "pg_dump" in line or "psql" in line or "pg_restore" in line}
    assert any("psql" in line for line in seen) and not any(wrong.cluster.login["login_password"] in line for line in seen)
