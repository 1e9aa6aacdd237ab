# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_port with a real Synapse's database and routine: ported once, resumed, and never over live data."""

import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml

from support import conversation, sqlite
from support import move as moves


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    """A Move whose database is dropped afterwards, with a configuration that the routine must not trip over."""
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        # What an administrator's configuration has and does not exist here; Synapse itself starts without it.
        found.startable = found.config.read_text()
        text = yaml.safe_load(found.startable)
        text.update(modules=[{"module": "not.installed.Here", "config": {}}], media_store_path="/nowhere/media")
        found.config.write_text(yaml.safe_dump(text))
        yield found


def tables(move) -> list:
    return move.rows("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'synapse_postgres')")


def users(move) -> int:
    return move.rows("SELECT count(*) FROM users")[0][0]


def scripted(move, script: str) -> dict:
    """Return the options for a routine that is the shell script ``script``, beside Synapse's own; $routine is that."""
    path = move.folder / "routine"
    path.write_text(f'#!/bin/sh\nroutine="{move.server.python} -m synapse._scripts.synapse_port_db"\n{script}\n')
    path.chmod(0o755)
    options = dict(move.options)
    return {"python_command": [options.pop("synapse_python")], "command": [str(path)], **options, "engine": "synapse"}


def test_ported_once_then_recognised_then_extended_and_then_never_over_live_data(run, move, homeserver):
    said = homeserver[1]
    assert run("synapse_port", move.options, check=True)["changed"] and not move.rows(
        "SELECT 1 FROM pg_tables WHERE schemaname='public'"
    )
    first = run("synapse_port", move.options)
    assert first["changed"] and first["finished"], first
    assert first["tables"]["users"]["rows"] == first["tables"]["users"]["total"] == len(said["users"])
    assert users(move) == len(said["users"])
    assert pathlib.Path(first["log"]).stat().st_mode & 0o077 == 0
    assert moves.PASSWORD not in first["output"] + pathlib.Path(first["log"]).read_text()
    assert not [path for path in move.folder.iterdir() if path.name.startswith(".port-")]

    for check in (True, False):
        again = run("synapse_port", move.options, check=check)
        assert not again["changed"] and again["finished"]

    # Phase two: what was said since is carried over.
    move.lite("INSERT INTO users (name, creation_ts) VALUES ('@late:localhost', 1)")
    assert run("synapse_port", move.options, check=True)["changed"]
    second = run("synapse_port", move.options)
    assert second["changed"] and users(move) == len(said["users"]) + 1

    # Synapse lives on it.
    move.config.write_text(move.startable)
    with move.synapse() as url:
        conversation.check(url, said)
        refused = run("synapse_port", {**move.options, "sqlite_database": str(_other(move))})
        assert refused["failed"] and "Synapse has written" in refused["msg"], refused
        assert not run("synapse_port", move.options)["changed"]
    before = move.rows("SELECT event_id FROM events ORDER BY 1")
    refused = run("synapse_port", {**move.options, "sqlite_database": str(_other(move))})
    assert refused["failed"] and "Synapse has written" in refused["msg"]
    # Whatever became of our record of it.
    move.rows("DROP SCHEMA synapse_postgres CASCADE")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "Synapse has written" in refused["msg"], refused
    move.rows("DROP TABLE port_from_sqlite3")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "Synapse has written" in refused["msg"]
    assert move.rows("SELECT event_id FROM events ORDER BY 1") == before


def _other(move):
    """Return a copy of the source that differs from it, as a newer snapshot would."""
    other = move.folder / "other.db"
    shutil.copy(move.source, other)
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("INSERT OR IGNORE INTO users (name, creation_ts) VALUES ('@other:localhost', 1)")
        connection.commit()
    return other


@pytest.mark.parametrize("after", [0.5, 2.5, 4.0])
def test_a_killed_port_goes_on(run, move, homeserver, after):
    said = homeserver[1]
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})\n" + _KILLED]
    victim = subprocess.Popen(
        [*words, str(move.source), str(move.config), move.options["synapse_python"]], start_new_session=True
    )
    time.sleep(after)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    done = run("synapse_port", {**move.options, "batch_size": 7})
    assert done["finished"], done
    assert users(move) == len(said["users"])
    assert not run("synapse_port", move.options)["changed"]


_KILLED = """
from support import modules
modules.run("synapse_port", {"sqlite_database": sys.argv[1], "config": [sys.argv[2]], "synapse_python": sys.argv[3]})
"""


def test_rows_that_postgresql_cannot_store_are_counted(run, move):
    move.lite("UPDATE users SET appservice_id = 'a' || char(0) || 'b' WHERE name = '@person0:localhost'")
    done = run("synapse_port", move.options)
    assert done["tables"]["users"]["dropped"] == 1


def test_a_folder_of_configuration_files_is_read_as_synapse_reads_it(run, move):
    whole = yaml.safe_load(move.config.read_text())
    folder = move.folder / "conf.d"
    folder.mkdir()
    (folder / "database.yaml").write_text(yaml.safe_dump({"database": whole.pop("database")}))
    (folder / "server_name.yaml").write_text(yaml.safe_dump({"server_name": whole.pop("server_name")}))
    (folder / "notes.txt").write_text("{")
    whole["database"] = {"name": "sqlite3", "args": {"database": "/nowhere.db"}}
    move.config.write_text(yaml.safe_dump(whole))
    assert run("synapse_port", {**move.options, "config": [str(move.config), str(folder)]})["finished"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE TABLE other_things (x int)", "are not Synapse's"),
        (
            "CREATE TABLE schema_version (v int); CREATE TABLE users (x int); INSERT INTO users VALUES (1);"
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO synapse",
            "1 rows in users",
        ),
    ],
)
def test_a_target_that_is_not_ours_is_refused(run, move, statement, words):
    move.rows(statement)
    before = tables(move)
    for check in (True, False):
        refused = run("synapse_port", move.options, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert tables(move) == before


def test_a_target_that_was_emptied_is_ported_again(run, move, homeserver):
    assert run("synapse_port", move.options)["finished"]
    move.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION synapse")
    again = run("synapse_port", move.options)
    assert again["changed"] and again["finished"], again
    assert users(move) == len(homeserver[1]["users"])


def test_a_switch_that_was_cut_short_before_synapse_started_is_gone_on_with(run, move):
    verify = {"sqlite_database": str(move.source), **move.login}
    assert run("synapse_port", move.options)["finished"]
    queued = run("synapse_user_directory", move.login)
    assert queued["changed"] and queued["users"] == 3 and not run("synapse_user_directory", move.login)["changed"]
    again = run("synapse_port", move.options)
    assert again["finished"] and not again["changed"] and not move.rows("SELECT 1 FROM background_updates")
    assert run("synapse_port_verify", verify)["equal"]
    assert run("synapse_user_directory", move.login)["changed"]
    move.lite("UPDATE users SET password_hash = 'other'")
    assert run("synapse_port", move.options)["changed"] and run("synapse_port_verify", {**verify, "carry_changes": True})["equal"]
    assert run("synapse_user_directory", move.login)["changed"]
    assert run("synapse_user_directory", {**move.login, "state": "taken_back"}, check=True)["changed"]
    assert run("synapse_user_directory", {**move.login, "state": "taken_back"})["changed"]
    assert not run("synapse_user_directory", {**move.login, "state": "taken_back"})["changed"]


def test_a_copy_that_was_restored_elsewhere_counts_as_live(run, move):
    assert run("synapse_port", move.options)["finished"]
    # A dump and a restore write every row in one new transaction, under other numbers.
    move.rows("UPDATE synapse_postgres.move SET source = source")
    refused = run("synapse_port", {**move.options, "sqlite_database": str(_other(move))})
    assert refused["failed"] and "restored after the move" in refused["msg"], refused


def test_another_homeserver_is_kept_out_even_after_half_a_move(run, move):
    assert run("synapse_port", scripted(move, "exit 5"))["failed"]
    text = move.config.read_text()
    move.config.write_text(text.replace("server_name: localhost", "server_name: other.example.org"))
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "the homeserver localhost's, and this one is other.example.org" in refused["msg"], refused
    move.config.write_text(text)
    assert run("synapse_port", move.options)["finished"]


def test_a_vacuum_between_two_runs_is_noticed(run, move):
    assert run("synapse_port", move.options)["finished"]
    # Where the routine stopped stands another row now.
    move.lite("UPDATE events SET event_id = event_id || 'x' WHERE rowid = (SELECT max(rowid) FROM events)")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "numbered anew by a VACUUM" in refused["msg"], refused


def test_a_role_that_works_in_another_schema_is_refused(run, move):
    move.rows("CREATE SCHEMA synapse AUTHORIZATION synapse")
    for check in (True, False):
        refused = run("synapse_port", move.options, check=check)
        assert refused["failed"] and "works in the schema synapse" in refused["msg"], refused


def test_a_target_with_another_locale_is_refused(run, move):
    move.rows("SELECT 1")
    move.cluster.rows(f"DROP DATABASE {move.name}")
    move.cluster.rows(f"CREATE DATABASE {move.name} OWNER synapse LC_COLLATE 'C.UTF-8' LC_CTYPE 'C' TEMPLATE template0")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "LC_COLLATE is C.UTF-8, not C" in refused["msg"]


def test_a_target_that_somebody_uses_and_two_moves_at_once_are_refused(run, move):
    session = move.connect()
    with contextlib.closing(session):
        refused = run("synapse_port", move.options)
        assert refused["failed"] and "connected to the target database" in refused["msg"]
    with contextlib.closing(move.cluster.connect(dbname=move.name)) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (0x736E707370,))
        refused = run("synapse_port", move.options)
        assert refused["failed"] and "Another move" in refused["msg"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"users": 0}, "holds no users"),
        ({"auto_vacuum": True}, "auto_vacuum"),
        ({"pending": ("populate_stats",)}, "pending background updates (populate_stats)"),
    ],
)
def test_a_source_that_cannot_be_moved_is_refused(run, move, options, words):
    move.source.unlink()
    sqlite.homeserver(move.source, **options)
    for check in (True, False):
        refused = run("synapse_port", move.options, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert not tables(move)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sqlite_database": "/nowhere/homeserver.db"}, "cannot be read"),
        ({"sqlite_database": "homeserver.db"}, "not absolute"),
        ({"sqlite_database": __file__}, "not a SQLite database"),
        ({"config": ["/nowhere/homeserver.yaml"]}, "/nowhere/homeserver.yaml"),
        ({"synapse_python": "/nowhere/python"}, "does not run"),
        ({"synapse_python": sys.executable}, "has no Synapse"),
        ({"batch_size": 0}, "carries nothing"),
        ({"command": ["synapse_port_db"]}, "mutually exclusive"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(run, move, options, words):
    for check in (True, False):
        refused = run("synapse_port", {**move.options, **options}, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert not tables(move)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("database: {name: psycopg2, args: {}}", "No server_name"),
        ("server_name: test", "No database section for psycopg2"),
        ("server_name: test\ndatabase: {name: sqlite3, args: {database: /x}}", "No database section for psycopg2"),
        ("server_name: [", "homeserver-postgres.yaml"),
        ("server_name: test\n# \udcff", "is not UTF-8, as which Synapse reads it: line 2 "),
        ("server_name: test\ndatabase: {name: psycopg2, args: {1: x}}", "database.args.1 is neither text nor a number"),
    ],
)
def test_a_configuration_that_does_not_serve_is_refused(run, move, text, words):
    move.config.write_text(text, errors="surrogateescape")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and words in refused["msg"], refused


def test_a_routine_that_fails_is_quoted_and_can_be_run_again(run, move):
    refused = run("synapse_port", scripted(move, "echo 'something broke'; exit 5"))
    assert refused["failed"] and "something broke" in refused["msg"] and ".port.log" in refused["msg"]
    assert run("synapse_port", move.options)["finished"]


def test_what_the_routine_leaves_undone_is_done(run, move):
    done = run("synapse_port", move.options)
    assert done["finished"], done
    # thread_subscriptions_sequence is one of those that it does not set; Synapse counts from the same table on SQLite.
    assert set(done["sequences"]) <= {name for (name,) in move.rows("SELECT sequencename FROM pg_sequences")}
    assert move.rows("SELECT count(*) FROM pg_stats WHERE schemaname = 'public' AND tablename = 'events'")[0][0] > 0


def test_background_updates_are_drained_on_the_copy_where_that_is_wished(run, move, homeserver):
    move.lite(
        "INSERT INTO background_updates (update_name, progress_json, ordering) VALUES ('users_set_deactivated_flag', '{}', 0)"
    )
    assert "pending background updates" in run("synapse_port", move.options)["msg"]
    wished = {**move.options, "drain_background_updates": True}
    before = move.source.read_bytes()
    assert run("synapse_port", wished, check=True)["changed"] and move.source.read_bytes() == before
    done = run("synapse_port", wished)
    assert done["finished"] and users(move) == len(homeserver[1]["users"]), done
    assert not move.lite("SELECT * FROM background_updates") and not run("synapse_port", wished)["changed"]
    assert move.rows("SELECT count(*) FROM background_updates") == [(0,)]


def test_a_tool_that_cannot_drain_is_quoted(run, move):
    move.lite("INSERT INTO background_updates (update_name, progress_json) VALUES ('unheard_of', '{}')")
    refused = run("synapse_port", {**move.options, "drain_background_updates": True})
    assert refused["failed"] and "A background update" in refused["msg"] and ".drain.log" in refused["msg"], refused


def test_a_routine_that_was_ended_from_outside_and_says_that_all_is_well_is_not_believed(run, move):
    # Ended by SIGTERM it exits with 0, half-way.
    log = f"{move.source}.port.log"
    options = scripted(
        move, f"$routine \"$@\" &\nwhile ! grep -q 'Copying to postgres' {log}; do sleep 0.05; done\nkill -TERM $!\nwait $!"
    )
    refused = run("synapse_port", {**options, "batch_size": 1})
    assert refused["failed"] and "ended before it was through" in refused["msg"], refused
    assert run("synapse_port", move.options)["finished"]


def test_a_copy_that_is_replaced_while_it_is_ported_counts_for_nothing(run, move):
    newer = f"{move.source}.newer"
    refused = run(
        "synapse_port", scripted(move, f'$routine "$@" || exit $?\ncp {move.source} {newer} && mv {newer} {move.source}')
    )
    assert refused["failed"] and "was replaced while it was ported" in refused["msg"], refused
    assert run("synapse_port", move.options)["changed"]


def test_a_null_that_means_true_does_not_become_false(run, move):
    # As users and pushers have them from before these columns were made.
    move.lite("UPDATE users SET approved = NULL WHERE name = '@person0:localhost'")
    move.lite("UPDATE users SET approved = 0 WHERE name = '@person1:localhost'")
    move.lite(
        "INSERT INTO pushers"
        " (id, user_name, profile_tag, kind, app_id, app_display_name, device_display_name, pushkey, ts, enabled)"
        " VALUES (1, '@person0:localhost', '', 'http', 'app', 'App', 'Phone', 'key', 1, NULL)"
    )
    done = run("synapse_port", {**move.options, "engine": "synapse"})
    assert done["restored"] == {"users.approved": 1, "pushers.enabled": 1}, done
    assert move.rows("SELECT enabled FROM pushers") == [(None,)]
    assert move.rows("SELECT approved FROM users ORDER BY name LIMIT 2") == [(None,), (False,)]
    verified = {"sqlite_database": str(move.source), **move.login}
    assert run("synapse_port_verify", verified)["equal"]
    move.rows("UPDATE users SET approved = false")
    assert run("synapse_port_verify", verified)["tables"]["users"]["changed"] >= 1
