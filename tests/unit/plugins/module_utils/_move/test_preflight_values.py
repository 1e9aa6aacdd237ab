# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values that PostgreSQL refuses, found by SQLite in tables of its own."""

import contextlib
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_values
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import defects, mangled


@pytest.fixture
def lite():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        preflight_values.prepare(connection)
        yield connection


def described(kind, length=None):
    return {"x": {"type": kind, "length": length}}


def found(lite, kind, declared, values, length=None, required=False, boolean=False):
    """Return which of ``values`` in a column declared so on SQLite are found wrong for the type ``kind``."""
    lite.execute(f"CREATE TABLE t (X {declared})")
    lite.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    columns, target = {"x": "X"}, described(kind, length)
    wrong = defects(columns, target, {"x"} if required else set(), {"x"} if boolean else set())
    row, texts = mangled(columns, target)
    told = preflight_values.scan(lite, "t", wrong, row, texts)
    assert all(one.count == len(one.rows) for one in told)
    return [values[row - 1] for one in told for row in one.rows]


@pytest.mark.parametrize("declared", ["BIGINT", "INTEGER", "TEXT", ""])
@pytest.mark.parametrize(("kind", "limit"), [("smallint", 1 << 15), ("integer", 1 << 31), ("bigint", 1 << 63)])
def test_integers(lite, declared, kind, limit):
    good = [None, 0, -limit, limit - 1]
    bad = [1.5, "abc", b"", b"1", 1e30, -1e30, float("inf")]
    if kind != "bigint":
        bad += [limit, -limit - 1]
    if declared == "TEXT":
        # Numbers are text there. What looks like one PostgreSQL takes for one; the comparison sees text, and says so.
        assert set(map(str, found(lite, kind, declared, bad))) >= {"abc", "b''", "b'1'"}
        return
    assert found(lite, kind, declared, good + bad) == bad


def test_booleans_that_the_routine_knows_and_such_as_it_does_not(lite):
    assert found(lite, "boolean", "BOOLEAN", [None, 0, 1, 2, -1, "yes", b"\1", 0.5], boolean=True) == [2, -1, "yes", b"\1", 0.5]
    lite.execute("DROP TABLE t")
    assert found(lite, "boolean", "BOOLEAN", [None, 0, 1]) == [0, 1]


def test_text(lite):
    good = [None, "", "abc", "é🐘", "\\N", "a,b"]
    assert found(lite, "text", "TEXT", [*good, b"abc", b""]) == [b"abc", b""]
    lite.execute("DROP TABLE t")
    assert found(lite, "character varying(3)", "TEXT", ["abc", "éé🐘", "abcd", None], length=3) == ["abcd"]
    lite.execute("DROP TABLE t")
    assert found(lite, "text", "TEXT", ["a", None], required=True) == [None]
    lite.execute("DROP TABLE t")
    assert found(lite, "text", "TEXT", ["a", "a\0b", "\0"]) == ["a\0b", "\0"]


def test_text_that_is_not_utf8_even_where_two_columns_would_make_a_character_of_it(lite):
    lite.execute("CREATE TABLE t (a TEXT, b TEXT)")
    lite.execute("INSERT INTO t VALUES (CAST(x'c3' AS TEXT), CAST(x'a9' AS TEXT)), ('é', 'ü'), ('ok', CAST(x'eda080' AS TEXT))")
    columns = {"a": "a", "b": "b"}
    target = {name: {"type": "text", "length": None} for name in columns}
    told = preflight_values.scan(lite, "t", [], *mangled(columns, target))
    assert [(one.defect.column, one.rows, one.defect.dropped) for one in told] == [("a", [1], False), ("b", [1, 3], False)]


def test_a_character_at_the_border_of_two_pieces(lite):
    long = "x" * (preflight_values._PIECE - 1) + "é" + "x"
    assert found(lite, "text", "TEXT", [long]) == []
    lite.execute("UPDATE t SET x = CAST(CAST(x AS BLOB) || x'c3' AS TEXT)")
    assert [one.defect.words for one in preflight_values.scan(lite, "t", [], *mangled({"x": "X"}, described("text")))] == [
        "is not UTF-8"
    ]


def test_bytes_json_and_numbers(lite):
    assert found(lite, "bytea", "BYTEA", [None, b"\0", "abc", "a\\b", 5, 1.5]) == ["a\\b", 5, 1.5]
    lite.execute("DROP TABLE t")
    good = [None, "{}", '["\\\\u0000"]', '"é"', "null"]
    bad = ["", "{", '"\\u0000"', '["\\\\\\u0000"]', '"\\ud800"', "NaN", b"{}", "[" * 100000]
    assert found(lite, "jsonb", "TEXT", good + bad) == bad
    lite.execute("DROP TABLE t")
    assert found(lite, "double precision", "REAL", [None, 1, 1.5, "x", b"x"]) == ["x", b"x"]
    lite.execute("DROP TABLE t")
    assert found(lite, "tsvector", "TEXT", ["x", b"x", 1]) == []


def test_many_rows_are_counted_and_the_first_are_named(lite):
    lite.execute('CREATE TABLE "o""dd" ("se""lect" INTEGER)')
    lite.executemany('INSERT INTO "o""dd" VALUES (?)', [("x",)] * 50)
    wrong = defects({"x": 'se"lect'}, described("integer"), set(), set())
    (one,) = preflight_values.scan(lite, 'o"dd', wrong, None, [])
    assert one.count == 50 and one.rows == list(range(1, preflight_values.NAMED + 1))
    assert preflight_values.duplicates(lite, 'o"dd', ['se"lect'], None)[0] == 49


def test_orphans_and_rows_before_their_parents(lite):
    lite.executescript(
        "CREATE TABLE parent (a TEXT, b INTEGER, note TEXT); CREATE TABLE t (A TEXT, b INTEGER);"
        "INSERT INTO parent VALUES ('p', 1, NULL), ('q', 2, 'lost');"
        "INSERT INTO t VALUES ('p', 1), ('p', 2), (NULL, 9), ('x', NULL), ('q', 2), ('x', 1);"
        "CREATE TABLE chain (id INTEGER, next INTEGER); INSERT INTO chain VALUES (1, 2), (2, 1), (3, 3), (4, NULL), (5, 9)"
    )
    key = {"table": "t", "columns": ["a", "b"], "parent": "parent", "parent_columns": ["a", "b"]}
    here, there = {"a": "A", "b": "b"}, {"a": "a", "b": "b"}
    assert preflight_values.rows_of(lite, "t", preflight_values.orphans(key, [], here, there)) == [2, 6]
    assert preflight_values.rows_of(lite, "t", preflight_values.orphans(key, ["note = 'lost'"], here, there)) == [2, 5, 6]
    assert preflight_values.rows_of(lite, "t", preflight_values.orphans(key, [], here, None)) == [1, 2, 5, 6]
    own = {"table": "chain", "columns": ["next"], "parent": "chain", "parent_columns": ["id"]}
    same = {"id": "id", "next": "next"}
    assert preflight_values.rows_of(lite, "chain", preflight_values.too_early(own, same)) == [1]
    assert preflight_values.rows_of(lite, "chain", preflight_values.orphans(own, [], same, same)) == [5]


def test_duplicates_where_a_condition_holds(lite):
    lite.executescript(
        "CREATE TABLE t (a, b, c); INSERT INTO t VALUES (1, 1, 0), (1, 1, 0), (1, 1, 1), (NULL, 1, 0), (NULL, 1, 0)"
    )
    assert preflight_values.duplicates(lite, "t", ["a", "b"], None) == (2, [3])
    assert preflight_values.duplicates(lite, "t", ["a", "b"], "c = 0") == (1, [2])


_SCAN = """
import resource, sqlite3, sys
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_values as values
connection = sqlite3.connect(sys.argv[1])
values.prepare(connection)
columns = {"x": "x", "n": "n"}
target = {"x": {"type": "text", "length": None}, "n": {"type": "bigint", "length": None}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert not values.scan(connection, "t", values.defects(columns, target, {"n"}, set()), *values.mangled(columns, target))
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
