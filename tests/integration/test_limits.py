# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Limits that SQLite does not have: an index's, the routine's own, the number of sessions. Found before, told with the server's
words when they are met, and no reason for a new database when the row is mended."""

import contextlib
import random
import sqlite3

import pytest
import yaml

from support import commands, link
from support import move as moves

COPY, ROUTINE = {"engine": "copy"}, {"engine": "synapse"}


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        yield found


def plant(move, *statements) -> None:
    """Run ``statements``, each SQL or (SQL, values), on the SQLite database."""
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        for statement in statements:
            connection.execute(*([statement] if isinstance(statement, str) else statement))
        connection.commit()


def noise(size: int) -> str:
    """Return text that no compression makes shorter by much."""
    return "".join(random.Random(size).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=size))


def look(run, move, **how) -> dict:
    found = run("synapse_port_info", {**move.called, "folder": str(move.folder), **how})
    return {**found, "told": "\n".join(f"{one['found']} {one['remedy']}" for one in found["problems"])}


def relation(key: object, rowid: int | None = None) -> tuple:
    values = (rowid, f"$reaction{rowid or random.random()}", "$event", "m.annotation", key)
    return (
        "INSERT INTO event_relations (rowid, event_id, relates_to_id, relation_type, aggregation_key) VALUES (?, ?, ?, ?, ?)",
        values,
    )


def test_a_row_that_no_index_can_hold_is_found_before_anything_is_moved(run, move):
    plant(
        move,
        relation(noise(3497), 9001),  # does not fit
        relation("x" * 100_000, 9002),  # fits, compressed
        relation(noise(2300), 9003),  # fits as it is
        relation("é" * 1300, 9004),
        relation(noise(1400), 9005),
        # Two columns of one index, neither of which is too long alone.
        ("UPDATE event_relations SET relates_to_id = ? WHERE rowid = 9005", (noise(1500),)),
    )
    found = look(run, move)
    (problem,) = found["problems"]
    assert problem["table"] == "event_relations" and problem["rows"] == [9001, 9005] and problem["count"] == 2, problem
    assert "event_relations_relates" in problem["found"] and "aggregation_key" in problem["found"]
    plant(move, "DELETE FROM event_relations WHERE rowid IN (9001, 9005)")
    assert look(run, move)["movable"]


def verified(run, move) -> bool:
    return run("synapse_port_verify", {**move.login, "sqlite_database": str(move.source)}).get("equal", False)


def plant_many(move) -> None:
    """Have so many relations that their indexes are made when all of them are there, one of them too long for it."""
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        connection.executemany(relation("")[0], (relation("👍", 9100 + number)[1] for number in range(1200)))
        connection.execute(*relation(noise(3497), 9001))
        connection.commit()


def test_a_row_that_no_index_holds_is_mended_and_the_same_database_taken(run, move):
    plant_many(move)
    refused = run("synapse_port", {**move.options, **COPY})
    assert refused["failed"] and "54000" in refused["msg"] and "event_relations" in refused["msg"], refused
    # The server's own words, with its detail and hint; and a remedy that helps.
    for words in ("maximum 2704", "event_relations_relates", "1/3 of a buffer page", "run this again"):
        assert words in refused["msg"], refused["msg"]
    assert noise(3497) not in refused["output"]
    # The other engine takes the same database, and knows which row it is.
    refused = run("synapse_port", {**move.options, **ROUTINE})
    assert refused["failed"] and "(row id 9001)" in refused["msg"] and "event_relations_relates" in refused["msg"], refused
    move.lite("UPDATE event_relations SET aggregation_key = 'short' WHERE rowid = 9001")
    assert run("synapse_port", {**move.options, **COPY})["finished"]
    assert verified(run, move)
    assert move.rows("SELECT count(*) FROM pg_indexes WHERE indexname = 'event_relations_relates'") == [(1,)]


def test_a_row_against_a_foreign_key_is_mended_and_the_same_database_taken(run, move):
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        (event, room) = connection.execute("SELECT event_id, room_id FROM event_edges LIMIT 1").fetchone()
        rows = ((event, f"$before{number}", room) for number in range(1200))
        connection.executemany("INSERT INTO event_edges (event_id, prev_event_id, room_id, is_state) VALUES (?, ?, ?, 0)", rows)
        connection.execute("UPDATE event_edges SET event_id = '$nowhere' WHERE prev_event_id = '$before7'")
        connection.commit()
    refused = run("synapse_port", {**move.options, **COPY})
    assert refused["failed"] and "23503" in refused["msg"] and "event_edges_event_id_fkey" in refused["msg"], refused
    assert "$nowhere" not in refused["output"]
    move.lite("DELETE FROM event_edges WHERE event_id = '$nowhere'")
    assert run("synapse_port", {**move.options, **COPY})["finished"]
    assert verified(run, move)


def test_a_key_that_is_there_twice_is_mended_and_the_same_database_taken(run, move):
    columns = "event_id, room_id, sender, key, value"
    # PostgreSQL alone keeps events in the search unique. The first of the two has gone over when the second is refused.
    move.lite(f"INSERT INTO event_search (rowid, {columns}) SELECT 100000, {columns} FROM event_search WHERE rowid = 1")
    refused = run("synapse_port", {**move.options, **COPY, "batch_size": 2})
    assert refused["failed"] and "23505" in refused["msg"] and "event_search" in refused["msg"], refused
    move.lite("DELETE FROM event_search WHERE rowid = 1")
    assert run("synapse_port", {**move.options, **COPY, "batch_size": 2})["finished"]
    assert verified(run, move)


# What the routine ends at, or makes something else of: SQL, the table, a row's id, words of the report.
ROUTINES_OWN = {
    "a number to search": ("UPDATE event_search SET value = 5 WHERE rowid = 2", "event_search", 2, "needs text"),
    "a NUL beside it": ("UPDATE event_search SET key = 'a' || char(0) WHERE rowid = 3", "event_search", 3, "NUL"),
    "a blob for text": ("UPDATE pushers SET data = x'7b7d'", "pushers", None, "is a blob"),
    "a boolean of 2": ("UPDATE users SET shadow_banned = 2 WHERE rowid = 1", "users", 1, "neither 1 (true)"),
    "a fraction": ("UPDATE devices SET last_seen = 1.5 WHERE rowid = 1", "devices", 1, "whole number"),
    "a backslash for bytes": ("UPDATE user_filters SET filter_json = 'a\\b'", "user_filters", None, "backslash"),
    "the last number": (
        "INSERT INTO account_data (user_id, account_data_type, stream_id, content) VALUES ('@a', 't', 9223372036854775807, '{}')",
        "account_data",
        None,
        "last number",
    ),
    "the last row id": ("UPDATE room_depth SET rowid = 9223372036854775807 WHERE rowid = 1", "room_depth", None, "row id"),
    "a user without a next": (
        "INSERT INTO users (name, creation_ts) VALUES ('@9223372036854775807:localhost', 1)",
        "users",
        None,
        "user_id_seq",
    ),
    "a search entry below 1": (
        "INSERT INTO event_search (rowid, event_id, room_id, sender, key, value)"
        " SELECT -7, event_id, room_id, sender, 'content.x', 'x' FROM events WHERE type = 'm.room.power_levels' LIMIT 1",
        "event_search",
        -7,
        "below 1",
    ),
}
_GROUND = (
    "INSERT INTO pushers (id, user_name, profile_tag, kind, app_id, app_display_name, device_display_name, pushkey, ts, data)"
    " VALUES (1, '@person0:localhost', '', 'http', 'a', 'a', 'd', 'k', 1, '{}')",
    "INSERT INTO user_filters (user_id, full_user_id, filter_id, filter_json) VALUES ('p', '@p:localhost', 1, x'7b7d')",
)


def test_what_the_routine_stumbles_over_is_found_before(run, move):
    plant(move, *_GROUND, *(one[0] for one in ROUTINES_OWN.values()))
    found = look(run, move, **ROUTINE)
    for name, (_sql, table, row, words) in ROUTINES_OWN.items():
        same = [one for one in found["problems"] if one.get("table") == table and words in one["found"]]
        assert len(same) == 1 and (row is None or same[0]["rows"] == [row]), (name, found["told"])
    assert len(found["problems"]) == len(ROUTINES_OWN), found["told"]
    by_copy = look(run, move, **COPY)["told"]
    assert "needs text" not in by_copy.replace("PostgreSQL needs text", "") and "event_search.key" not in by_copy, by_copy
    # The module alone refuses what its preflight would, with either engine, and says which row.
    refused = run("synapse_port", {**move.options, **ROUTINE})
    assert refused["failed"] and "would fail at" in refused["msg"] and "event_search.value" in refused["msg"], refused


def test_a_blob_for_text_does_not_go_through_the_module_alone(run, move):
    sql, table, _row, words = ROUTINES_OWN["a blob for text"]
    plant(move, *_GROUND, sql)
    refused = run("synapse_port", {**move.options, **COPY})
    assert refused["failed"] and words in refused["msg"] and f"{table}." in refused["msg"], refused
    assert "row id" in refused["msg"] and not move.rows(f"SELECT 1 FROM {table}")


@contextlib.contextmanager
def late_ends(move):
    """Have the server hear late of a session's end, when Synapse's code has opened the next ones."""
    with link.Link(move.cluster.port, late=0.5) as way:
        text = yaml.safe_load(move.config.read_text())
        text["database"]["args"]["port"] = way.port
        move.config.write_text(yaml.safe_dump(text))
        yield


def test_a_role_with_too_few_sessions_is_told_and_one_with_few_is_enough(run, move):
    role = moves.USER
    try:
        move.rows(f"ALTER ROLE {role} CONNECTION LIMIT 2; REVOKE TEMPORARY ON DATABASE {move.name} FROM PUBLIC, {role}")
        plant(move, relation(noise(2300), 9003))
        found = look(run, move)
        temporary, sessions = found["problems"]
        assert "temporary tables" in temporary["found"], temporary
        assert "CONNECTION LIMIT of 2" in sessions["found"] and "needs 3" in sessions["found"], sessions
        assert [one for one in found["notes"] if "could not be asked" in one["found"] and one["rows"] == [9003]], found["notes"]
        (command,), (grant,) = (commands.commands(one["remedy"]) for one in (sessions, temporary))
        assert command.startswith(f'ALTER ROLE "{role}" CONNECTION LIMIT '), sessions
        move.rows(grant)
        move.rows(f"ALTER ROLE {role} CONNECTION LIMIT 3")
        with late_ends(move):
            done = run("synapse_port", {**move.options, **COPY})
        assert done.get("finished"), done
        assert verified(run, move)
        # The command helps as it is printed.
        move.rows(command)
        assert move.rows("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", role)[0][0] >= 6
    finally:
        move.rows(f"ALTER ROLE {role} CONNECTION LIMIT -1")
