# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Limits that SQLite does not have: an index's, the routine's own, the number of sessions. Found before, told with the server's
words when they are met, and no reason for a new database when the row is mended."""

import contextlib
import random
import sqlite3

import pytest

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
    return "INSERT INTO event_relations (rowid, event_id, relates_to_id, relation_type, aggregation_key) VALUES (?, ?, ?, ?, ?)", values


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
    assert run("synapse_port", {**move.options, **COPY})["finished"]
