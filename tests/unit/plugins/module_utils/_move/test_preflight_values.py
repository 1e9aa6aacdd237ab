# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values that PostgreSQL refuses, found by SQLite in tables of its own."""

import contextlib
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_relations, preflight_values
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import (
    Checks,
    broken_text,
    defects,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import TargetColumn


@pytest.fixture
def sqlite():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        preflight_values.add_functions(connection)
        yield connection


def described(kind, length=None):
    return {"x": TargetColumn(kind, length=length)}


def found(sqlite, kind, declared, values, length=None, required=False, boolean=False):
    """Return which of ``values`` in a column declared so on SQLite are found wrong for the type ``kind``."""
    sqlite.execute(f"CREATE TABLE t (X {declared})")
    sqlite.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    columns, target = {"x": "X"}, described(kind, length)
    wrong = defects(columns, target, {"x"} if required else set(), {"x"} if boolean else set())
    told = preflight_values.scan(sqlite, "t", Checks(wrong, *broken_text(columns, target)))
    assert all(one.count == len(one.rows) for one in told)
    return [values[row - 1] for one in told for row in one.rows]


@pytest.mark.parametrize("declared", ["BIGINT", "INTEGER", "TEXT", ""])
@pytest.mark.parametrize(("kind", "limit"), [("smallint", 1 << 15), ("integer", 1 << 31), ("bigint", 1 << 63)])
def test_integers(sqlite, declared, kind, limit):
    good = [None, 0, -limit, limit - 1]
    bad = [1.5, "abc", b"", b"1", 1e30, -1e30, float("inf")]
    if kind != "bigint":
        bad += [limit, -limit - 1]
    if declared == "TEXT":
        # Numbers are text there. What looks like one PostgreSQL takes for one; the comparison sees text, and says so.
        assert set(map(str, found(sqlite, kind, declared, bad))) >= {"abc", "b''", "b'1'"}
        return
    assert found(sqlite, kind, declared, good + bad) == bad


def test_booleans_that_the_routine_knows_and_such_as_it_does_not(sqlite):
    assert found(sqlite, "boolean", "BOOLEAN", [None, 0, 1, 2, -1, "yes", b"\1", 0.5], boolean=True) == [2, -1, "yes", b"\1", 0.5]
    sqlite.execute("DROP TABLE t")
    assert found(sqlite, "boolean", "BOOLEAN", [None, 0, 1]) == [0, 1]


def test_text(sqlite):
    good = [None, "", "abc", "é🐘", "\\N", "a,b"]
    assert found(sqlite, "text", "TEXT", [*good, b"abc", b""]) == [b"abc", b""]
    sqlite.execute("DROP TABLE t")
    assert found(sqlite, "character varying(3)", "TEXT", ["abc", "éé🐘", "abcd", None], length=3) == ["abcd"]
    sqlite.execute("DROP TABLE t")
    assert found(sqlite, "text", "TEXT", ["a", None], required=True) == [None]
    sqlite.execute("DROP TABLE t")
    assert found(sqlite, "text", "TEXT", ["a", "a\0b", "\0"]) == ["a\0b", "\0"]


def test_text_that_is_not_utf8_even_where_two_columns_would_make_a_character_of_it(sqlite):
    sqlite.execute("CREATE TABLE t (a TEXT, b TEXT)")
    sqlite.execute("INSERT INTO t VALUES (CAST(x'c3' AS TEXT), CAST(x'a9' AS TEXT)), ('é', 'ü'), ('ok', CAST(x'eda080' AS TEXT))")
    columns = {"a": "a", "b": "b"}
    target = {name: TargetColumn("text") for name in columns}
    told = preflight_values.scan(sqlite, "t", Checks([], *broken_text(columns, target)))
    assert [(one.defect.column, one.rows, one.defect.dropped) for one in told] == [("a", [1], False), ("b", [1, 3], False)]


def test_a_character_at_the_border_of_two_pieces(sqlite):
    long = "x" * (preflight_values._PIECE - 1) + "é" + "x"
    assert found(sqlite, "text", "TEXT", [long]) == []
    sqlite.execute("UPDATE t SET x = CAST(CAST(x AS BLOB) || x'c3' AS TEXT)")
    checks = Checks([], *broken_text({"x": "X"}, described("text")))
    assert [one.defect.words for one in preflight_values.scan(sqlite, "t", checks)] == ["is not UTF-8"]


def test_bytes_json_and_numbers(sqlite):
    assert found(sqlite, "bytea", "BYTEA", [None, b"\0", "abc", "a\\b", 5, 1.5]) == ["a\\b", 5, 1.5]
    sqlite.execute("DROP TABLE t")
    good = [None, "{}", '["\\\\u0000"]', '"é"', "null"]
    bad = ["", "{", '"\\u0000"', '["\\\\\\u0000"]', '"\\ud800"', "NaN", b"{}", "[" * 100000]
    assert found(sqlite, "jsonb", "TEXT", good + bad) == bad
    sqlite.execute("DROP TABLE t")
    assert found(sqlite, "double precision", "REAL", [None, 1, 1.5, "x", b"x"]) == ["x", b"x"]
    sqlite.execute("DROP TABLE t")
    assert found(sqlite, "tsvector", "TEXT", ["x", b"x", 1]) == []


def test_many_rows_are_counted_and_the_first_are_named(sqlite):
    sqlite.execute('CREATE TABLE "o""dd" ("se""lect" INTEGER)')
    sqlite.executemany('INSERT INTO "o""dd" VALUES (?)', [("x",)] * 50)
    wrong = defects({"x": 'se"lect'}, described("integer"), set(), set())
    (one,) = preflight_values.scan(sqlite, 'o"dd', Checks(wrong))
    assert one.count == 50 and one.rows == list(range(1, preflight_values.NAMED + 1))
    assert preflight_relations.duplicates(sqlite, 'o"dd', ['se"lect'], None)[0] == 49


_SCAN = """
import resource, sqlite3, sys
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_values as values
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import TargetColumn
connection = sqlite3.connect(sys.argv[1])
values.add_functions(connection)
columns = {"x": "x", "n": "n"}
target = {"x": TargetColumn("text"), "n": TargetColumn("bigint")}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checks = values.Checks(values.defects(columns, target, {"n"}, set()), *values.broken_text(columns, target))
assert not values.scan(connection, "t", checks)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_that_of_a_row_and_not_of_a_table(tmp_path):
    path = tmp_path / "large.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x TEXT, n BIGINT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", (("x" * 1000, number) for number in range(100_000)))
        connection.commit()
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path[:0] = sys.argv[2:]\n" + _SCAN, path, *sys.path],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) < 20 << 10  # KiB, for 100 MB of rows
