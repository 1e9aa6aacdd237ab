# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The engine copy against Synapse's own routine: the same rows, the same sequences, whatever happens on the way."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import time
import types

import psycopg2
import pytest

from support import faults, hurt, interrupted, modules
from support import move as moves

# What one engine makes, and of which rows: 7 rows are a part, so that the parts of a table meet.
COPY, ROUTINE = {"engine": "copy", "batch_size": 7}, {"engine": "synapse"}


@pytest.fixture
def pair(tmp_path, homeserver, any_cluster):
    """``pair(source)`` -> two Moves of the same database, each into a database of its own."""
    with contextlib.ExitStack() as made:

        def of(change) -> list[moves.Move]:
            found = []
            for name in ("copy", "routine"):
                (tmp_path / name).mkdir()
                found.append(made.enter_context(moves.prepared(tmp_path / name, homeserver[0], any_cluster)))
            change(found[0].source)
            shutil.copy(found[0].source, found[1].source)
            return found

        yield of


@pytest.fixture
def grown(pair):
    """Two Moves of the same database, with rows enough to be struck on the way."""
    both = pair(lambda path: None)
    interrupted.Port(both[0])
    shutil.copy(both[0].source, both[1].source)
    return both


def port(move: moves.Move, how: dict) -> dict:
    """Port, with options of ``how``; return the module's result."""
    done = modules.run("synapse_port", {**move.options, **how})
    assert done.get("finished") and done.get("engine", how["engine"]) == how["engine"], done
    return done


def content(move: moves.Move) -> dict:
    """Return of every table how many rows it has and a sum of their hashes; those aside that each database keeps on its own."""
    names = move.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        " AND tablename NOT IN ('applied_schema_deltas', 'port_from_sqlite3') ORDER BY 1"
    )
    query = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t"
    return {name: move.rows(query.format(f'public."{name}"'))[0] for (name,) in names}


def sequences(move: moves.Move) -> dict:
    """Return of every sequence the number that it gives out next."""
    names = move.rows("SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace ORDER BY 1")
    query = "SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM {}"
    return {name: move.rows(query.format(f'public."{name}"'))[0][0] for (name,) in names}


def borders(move: moves.Move) -> dict:
    """Return how far the routine would go on in each table that is not left out."""
    return {
        name: (forward, backward)
        for name, forward, backward in move.rows("SELECT * FROM port_from_sqlite3")
        if (forward, backward) != (1, 0)
    }


def indexes(move: moves.Move) -> dict:
    """Return the definition of every index and every constraint."""
    constraints = "SELECT (conrelid::regclass::text, conname)::text, pg_get_constraintdef(oid), convalidated FROM pg_constraint"
    return {
        **dict(move.rows("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")),
        **{name: rest for name, *rest in move.rows(f"{constraints} WHERE connamespace = 'public'::regnamespace")},
    }


def require_same(pair: list[moves.Move]) -> None:
    for what in (content, sequences, borders, indexes):
        ours, theirs = map(what, pair)
        assert ours == theirs, {name: (ours.get(name), theirs.get(name)) for name in ours if ours.get(name) != theirs.get(name)}


def change(path: pathlib.Path) -> None:
    """Add rows, change and delete some, in tables that the routine carries again on each run and in those it adds to."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE devices SET display_name = 'renamed' WHERE device_id = 'HURT1'")
        connection.execute("DELETE FROM devices WHERE device_id = 'HURT2'")
        connection.execute("DELETE FROM room_alias_servers WHERE rowid % 2 = 0")
        connection.execute("UPDATE account_data SET content = content || ' ' WHERE rowid % 3 = 0")
        connection.execute("DELETE FROM access_tokens")
        columns = "user_id, hidden, display_name, device_id"
        connection.execute(
            f"INSERT INTO devices (rowid, {columns}) SELECT -50, user_id, hidden, 'new', 'NEW' FROM devices LIMIT 1"
        )
        for number in range(30):
            connection.execute("INSERT INTO rejections VALUES (?, ?, 'later')", (f"$later{number}", hurt.TEXTS[number % 17]))
        connection.execute("INSERT INTO rejections (rowid, event_id, reason, last_check) VALUES (-9000, '$below', 'x', 'y')")
        connection.commit()


def test_both_engines_make_the_same_of_a_database_built_to_hurt_at_first_and_again(pair):
    both = pair(hurt.hurt)
    done = [port(move, how) for move, how in zip(both, (COPY, ROUTINE))]
    require_same(both)
    dropped = [{name: table["dropped"] for name, table in one["tables"].items() if table["dropped"]} for one in done]
    assert dropped == [hurt.DROPPED, hurt.DROPPED]
    assert done[0]["sequences"] == done[1]["sequences"]
    for move in both:
        change(move.source)
    for move, how in zip(both, (COPY, ROUTINE)):
        port(move, how)
    require_same(both)
    # Each goes on where the other one ended.
    for move in both:
        change_again = "INSERT INTO rejections VALUES ('$third', 'third', 'time')"
        move.lite(change_again)
    for move, how in zip(both, (ROUTINE, COPY)):
        port(move, how)
    require_same(both)


@contextlib.contextmanager
def at_work(move: moves.Move):
    """Run the engine copy within the block; nothing of it is left behind."""
    with modules.started("synapse_port", {**move.options, **COPY}) as module:
        try:
            yield module
        finally:
            module.kill()
    deadline = time.monotonic() + 30
    while faults.processes(str(move.source)) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_port_that_is_killed_again_and_again_ends_as_the_routines(pair):
    both = pair(lambda path: None)
    harness = interrupted.Port(both[0])
    shutil.copy(both[0].source, both[1].source)
    begun = time.monotonic()
    port(both[0], COPY)
    longest = time.monotonic() - begun
    harness.begin_anew()
    for moment in faults.moments():
        with at_work(both[0]) as module:
            with contextlib.suppress(subprocess.TimeoutExpired):
                module.wait(moment * longest)
    port(both[0], COPY)
    port(both[1], ROUTINE)
    require_same(both)


def test_a_process_that_is_killed_ends_the_run_and_the_next_one_goes_on(grown):
    with modules.started("synapse_port", {**grown[0].options, **COPY}) as module:
        while not grown[0].rows("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY %%'"):
            assert module.poll() is None, module.communicate()
            time.sleep(0.005)
        children = pathlib.Path(f"/proc/{module.pid}/task/{module.pid}/children").read_text().split()
        os.kill(int(random.choice(children)), signal.SIGKILL)
        told = module.communicate(timeout=60)[0].decode()
    assert "was killed" in told and "it goes on where it stopped" in told, told
    port(grown[0], COPY)
    port(grown[1], ROUTINE)
    require_same(grown)


@pytest.mark.parametrize("how", [COPY, ROUTINE], ids=["copy", "synapse"])
def test_no_index_is_lost_with_a_port_that_is_killed_while_it_builds_them(run, grown, how):
    move = grown[0]
    with modules.started("synapse_port", {**move.options, **COPY}) as module:
        aside = 0
        while True:
            assert module.poll() is None, module.communicate()
            if move.rows("SELECT to_regclass('synapse_postgres.aside')")[0][0]:
                before, aside = aside, move.rows("SELECT count(*) FROM synapse_postgres.aside")[0][0]
                if aside < before:  # the first of them is built again
                    break
        module.kill()
        module.communicate()
    told = run("synapse_port_verify", {**move.login, "sqlite_database": str(move.source)})
    assert told.get("failed") and "are not built again yet" in told["msg"], told
    port(move, how)
    port(grown[1], ROUTINE)
    require_same(grown)
    assert move.rows("SELECT count(*) FROM synapse_postgres.aside") == [(0,)]


def test_a_row_against_a_foreign_key_is_found_when_the_key_is_made_again(run, grown):
    move = grown[0]
    # Events are many, so the keys that lead to them are put aside, and nothing else has the row refused on the way.
    move.lite("UPDATE event_edges SET event_id = '$nowhere' WHERE rowid = 1")
    for _again in range(2):
        refused = run("synapse_port", {**move.options, **COPY})
        assert refused["failed"] and "event_edges_event_id_fkey" in refused["msg"] and "23503" in refused["msg"], refused
        assert "$nowhere" not in refused["output"] and "Mend those rows on SQLite" in refused["msg"]
        query = "SELECT name FROM synapse_postgres.aside WHERE table_name = 'event_edges'"
        assert move.rows(query) == [("event_edges_event_id_fkey",)]
    assert "are not built again yet" in run("synapse_port_verify", {**move.login, "sqlite_database": str(move.source)})["msg"]
    # Mended on SQLite, and into a new database, as it says.
    shutil.copy(grown[1].source, move.source)
    interrupted.Port.begin_anew(types.SimpleNamespace(move=move))
    port(move, COPY)
    port(grown[1], ROUTINE)
    require_same(grown)


@pytest.mark.parametrize("how", [COPY, ROUTINE], ids=["copy", "synapse"])
def test_a_load_that_was_killed_with_children_before_their_parents_is_gone_on_with_from_a_newer_copy(grown, how):
    move = grown[0]
    with modules.started("synapse_port", {**move.options, **COPY}) as module:
        loaded = "SELECT 1 FROM port_from_sqlite3 WHERE table_name = 'event_edges' AND forward_rowid > 1"
        while not move.rows("SELECT to_regclass('port_from_sqlite3')")[0][0] or not move.rows(loaded):
            assert module.poll() is None, module.communicate()
        module.kill()
    # No foreign key is there, so any table may have been the last to begin.
    assert move.rows("SELECT 1 FROM synapse_postgres.aside WHERE name = 'event_edges_event_id_fkey'")
    move.rows("UPDATE port_from_sqlite3 SET forward_rowid = 1, backward_rowid = 0 WHERE table_name = 'events'")
    move.rows("TRUNCATE events")
    for each in grown:
        each.lite("UPDATE devices SET display_name = 'renamed'")
    port(move, how)
    port(grown[1], ROUTINE)
    require_same(grown)


def test_a_schema_that_was_made_anew_after_a_killed_load_is_filled(grown):
    move = grown[0]
    with modules.started("synapse_port", {**move.options, **COPY}) as module:
        while not move.rows("SELECT to_regclass('synapse_postgres.aside')")[0][0] or not move.rows(
            "SELECT 1 FROM synapse_postgres.aside"
        ):
            assert module.poll() is None, module.communicate()
        module.kill()
    move.rows(f"DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {moves.USER}")
    port(move, COPY)
    port(grown[1], ROUTINE)
    require_same(grown)


def test_tables_whose_triggers_look_for_rows_are_filled_when_the_keys_are_there(grown):
    move = grown[0]
    with modules.started("synapse_port", {**move.options, **COPY}) as module:
        while not move.rows("SELECT to_regclass('synapse_postgres.aside')")[0][0]:
            assert module.poll() is None, module.communicate()
        seen = set()
        while module.poll() is None:
            query = "SELECT table_name, forward_rowid > 1, (SELECT count(*) FROM synapse_postgres.aside WHERE stage = 1) > 0"
            with contextlib.suppress(psycopg2.errors.UndefinedTable):
                seen |= set(move.rows(f"{query} FROM port_from_sqlite3"))
        assert module.returncode == 0, module.communicate()
    # Synapse's check_event_stream_ordering() finds the event of a membership by its id.
    assert ("events", True, True) in seen and ("room_memberships", False, True) in seen
    assert ("room_memberships", True, True) not in seen


def test_either_engine_goes_on_where_the_other_was_killed(grown):
    for move, how in zip(grown, (COPY, ROUTINE)):
        with modules.started("synapse_port", {**move.options, **how, "batch_size": 5}) as module:
            while not move.rows("SELECT to_regclass('port_from_sqlite3')")[0][0] or not move.rows(
                "SELECT 1 FROM port_from_sqlite3 WHERE forward_rowid > 100"
            ):
                assert module.poll() is None, module.communicate()
                time.sleep(0.01)
            module.kill()
    for move, how in zip(grown, (ROUTINE, COPY)):
        port(move, how)
    require_same(grown)


def test_a_routine_with_other_rules_carries_the_rows_itself(run, pair, tmp_path):
    move = pair(lambda path: None)[0]
    python = _with_other_rules(move, tmp_path / "other")
    done = run("synapse_port", {**move.options, "synapse_python": str(python), "engine": "copy"})
    assert done.get("finished") and done["engine"] == "synapse", done
    assert "does not know the port routine of this Synapse" in done["output"]


def _with_other_rules(move: moves.Move, folder: pathlib.Path) -> pathlib.Path:
    """Return an interpreter for which Synapse is as it is, but for a routine that carries rows in another way."""
    words = "import synapse; print(synapse.__path__[0])"
    told = subprocess.run([move.server.python, "-c", words], capture_output=True, text=True, check=True, cwd="/")
    installed, overlay = pathlib.Path(told.stdout.strip()), folder / "synapse"
    overlay.mkdir(parents=True)
    for path in installed.iterdir():
        if path.name != "_scripts":
            (overlay / path.name).symlink_to(path)
    shutil.copytree(installed / "_scripts", overlay / "_scripts")
    routine = overlay / "_scripts" / "synapse_port_db.py"
    text = routine.read_text()
    assert "return bool(col)" in text
    routine.write_text(text.replace("return bool(col)", "return bool(int(col or 0))"))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {move.server.python} "$@"\n')
    python.chmod(0o755)
    return python


def test_a_row_that_is_refused_is_named_without_its_values(run, pair):
    move = pair(lambda path: None)[0]
    port(move, COPY)
    # Two rows of SQLite's that have the same token, which it does not mind.
    move.rows("DELETE FROM access_tokens; UPDATE port_from_sqlite3 SET forward_rowid = 1 WHERE table_name = 'access_tokens'")
    move.rows("UPDATE synapse_postgres.move SET status = 'running', routine = routine || '{\"again\": false}'")
    move.rows("CREATE UNIQUE INDEX one_of_a_kind ON access_tokens ((device_id IS NULL))")
    refused = run("synapse_port", {**move.options, **COPY})
    tokens = [token for (token,) in move.lite("SELECT token FROM access_tokens")]
    assert refused["failed"] and "access_tokens" in refused["msg"] and "23505" in refused["msg"], refused
    assert tokens and not [token for token in tokens if token in refused["output"]]


def test_a_key_that_two_parts_have_is_refused_and_nobody_waits_for_ever(run, pair):
    move = pair(lambda path: None)[0]
    harness = interrupted.Port(move)
    harness.grow(1)
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        # PostgreSQL alone keeps events in the search unique. The first part has so much to do that the next one is before it.
        connection.execute("UPDATE event_search SET value = value || printf('%.*c', 300000, ' a') WHERE rowid < 8")
        columns = "event_id, room_id, sender, key, value"
        first = connection.execute("SELECT min(rowid) FROM event_search").fetchone()[0]
        connection.execute(
            f"INSERT INTO event_search (rowid, {columns}) SELECT 100000, {columns} FROM event_search WHERE rowid = {first + 6}"
        )
        connection.commit()
    for _again in range(2):
        refused = run("synapse_port", {**move.options, **COPY})
        assert refused["failed"] and "23505" in refused["msg"] and "event_search" in refused["msg"], refused


def test_settings_of_the_database_that_are_hard_on_a_long_step_do_not_reach_it(grown):
    for setting in (
        "default_transaction_isolation = 'repeatable read'",
        "idle_in_transaction_session_timeout = '50ms'",
        "lock_timeout = '1ms'",
    ):
        grown[0].rows(f"ALTER DATABASE {grown[0].name} SET {setting}")
    port(grown[0], COPY)
    grown[0].lite("UPDATE devices SET display_name = 'renamed'")
    grown[1].lite("UPDATE devices SET display_name = 'renamed'")
    port(grown[0], COPY)
    port(grown[1], ROUTINE)
    require_same(grown)


def test_tokens_that_were_renewed_between_two_runs_are_carried_over(run, pair):
    move = pair(_with_renewed_tokens)[0]
    port(move, COPY)
    # Twice renewed: the first of the new ones is gone, and the old one leads to the second.
    move.lite("INSERT INTO refresh_tokens VALUES (3, '@person0:localhost', 'D', 'third', NULL, NULL, NULL)")
    move.lite("UPDATE refresh_tokens SET next_token_id = 3 WHERE id = 1")
    move.lite("DELETE FROM refresh_tokens WHERE id = 2")
    move.lite("INSERT INTO access_tokens (id, user_id, device_id, token, refresh_token_id) VALUES (901, 'u', 'D', 'later', 3)")
    port(move, COPY)
    assert run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login})["equal"]


def _with_renewed_tokens(path: pathlib.Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(refresh_tokens)")]
        assert names[:4] == ["id", "user_id", "device_id", "token"], names
        for number, following in ((1, 2), (2, None)):
            connection.execute(
                "INSERT INTO refresh_tokens (id, user_id, device_id, token, next_token_id) VALUES (?, ?, 'D', ?, ?)",
                (number, "@person0:localhost", f"token{number}", following),
            )
        columns = "id, user_id, device_id, token, refresh_token_id"
        connection.execute(f"INSERT INTO access_tokens ({columns}) VALUES (900, '@person0:localhost', 'D', 'now', 1)")
        connection.commit()
