# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows that PostgreSQL refuses for what other rows hold, found by SQLite in tables of its own."""

import contextlib
import sqlite3

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_relations
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import first_row_ids
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import ForeignKey


@pytest.fixture
def sqlite():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        yield connection


def test_orphans_and_rows_before_their_parents(sqlite):
    sqlite.executescript(
        "CREATE TABLE parent (a TEXT, b INTEGER, note TEXT); CREATE TABLE t (A TEXT, b INTEGER);"
        "INSERT INTO parent VALUES ('p', 1, NULL), ('q', 2, 'lost');"
        "INSERT INTO t VALUES ('p', 1), ('p', 2), (NULL, 9), ('x', NULL), ('q', 2), ('x', 1);"
        "CREATE TABLE chain (id INTEGER, next INTEGER); INSERT INTO chain VALUES (1, 2), (2, 1), (3, 3), (4, NULL), (5, 9)"
    )
    key = ForeignKey("t_fkey", "t", ("a", "b"), "parent", ("a", "b"))
    columns, parent_columns = {"a": "A", "b": "b"}, {"a": "a", "b": "b"}
    assert first_row_ids(sqlite, "t", preflight_relations.orphans(key, columns, parent_columns, [])) == [2, 6]
    assert first_row_ids(sqlite, "t", preflight_relations.orphans(key, columns, parent_columns, ["note = 'lost'"])) == [2, 5, 6]
    assert first_row_ids(sqlite, "t", preflight_relations.orphans(key, columns, None, [])) == [1, 2, 5, 6]
    own = ForeignKey("chain_fkey", "chain", ("next",), "chain", ("id",))
    same = {"id": "id", "next": "next"}
    assert first_row_ids(sqlite, "chain", preflight_relations.before_parent(own, same)) == [1]
    assert first_row_ids(sqlite, "chain", preflight_relations.orphans(own, same, same, [])) == [5]


def test_duplicates_where_a_condition_holds(sqlite):
    sqlite.executescript(
        "CREATE TABLE t (a, b, c); INSERT INTO t VALUES (1, 1, 0), (1, 1, 0), (1, 1, 1), (NULL, 1, 0), (NULL, 1, 0)"
    )
    assert preflight_relations.duplicates(sqlite, "t", ["a", "b"], None) == (2, [3])
    assert preflight_relations.duplicates(sqlite, "t", ["a", "b"], "c = 0") == (1, [2])
