# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""_compare against real servers: what the routine's way of inserting stores compares equal, and anything else is found."""

import contextlib
import json
import sqlite3

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, shares, sides, unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_comparison import RowComparison
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Name of a column -> its type on PostgreSQL. On SQLite none has a type, so that it takes whatever comes.
TYPES = {
    "small": "smallint",
    "number": "bigint",
    "flag": "boolean",
    "own flag": "boolean",
    "words": "text",
    'odd "%s" name': "character varying(5)",
    "lock": "character(3)",
    "raw": "bytea",
    "fields": "jsonb",
    "ratio": "double precision",
    "keys": "text[]",
}

# What PostgreSQL takes: no NUL, no half of a pair.
_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("\\'\":;,{}\t\n%éЖ🐘"))
_numbers = st.integers(-(2**63), 2**63 - 1)
_floats = st.floats(allow_nan=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | st.floats(-1e300, 1e300) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=5),
    max_leaves=12,
)
_json_text = st.one_of(
    _json.map(json.dumps),
    _json.map(lambda value: json.dumps(value, ensure_ascii=False, indent=1)),
    st.sampled_from(['{"b": 1, "a": 2, "b": 3.50}', "[1E5, -0, -0.0, 1.5e+3, 12e-3, 1e400]", '"\\ud83d\\ude00\\u0007\\/"']),
)


VALUES = {
    "small": st.none() | st.integers(-(2**15), 2**15 - 1) | st.integers(-30000, 30000).map(float),
    "number": st.none() | _numbers | _numbers.map(lambda number: f" {number}\n") | st.integers(-(10**18), 10**18).map(float),
    "flag": st.none() | st.sampled_from([0, 1, 0.0, -0.0, 1.0]),
    "own flag": st.none() | st.sampled_from(["t", "false", " YES ", "0", "off"]),
    "words": st.none() | _text | _text.map(lambda text: text * 50) | _numbers | _floats,
    'odd "%s" name': st.none()
    | st.builds(lambda text, more: text[:5] + " " * more, _text, st.integers(0, 9)).filter(lambda text: not text[5:].strip(" "))
    | st.integers(-9999, 99999),
    "lock": st.none() | st.builds(lambda text, more: text[:3] + " " * more, _text, st.integers(0, 9)),
    "raw": st.none() | st.binary() | _text.map(lambda text: text.replace("\\", "/")),
    "fields": st.none() | _json_text,
    "ratio": st.none() | _floats | st.integers(-(2**60), 2**60),
    "keys": st.none() | st.lists(_text.filter(bool), max_size=3).map(lambda found: "{" + ",".join(map(json.dumps, found)) + "}"),
}


class Pair:
    """A table ``both`` on either side, with the columns of TYPES."""

    def __init__(self, cluster, path: str) -> None:
        self.path = path
        self.there = cluster.connect()
        self.there.autocommit = False
        self.cursor = self.there.cursor()
        definitions = ", ".join(f"{identifier(name)} {kind}" for name, kind in TYPES.items())
        self.cursor.execute("DROP TABLE IF EXISTS public.both")
        self.cursor.execute(f"CREATE TABLE public.both ({definitions})")
        self.there.commit()
        self.here = sqlite3.connect(":memory:", isolation_level=None)
        self.here.execute(f"CREATE TABLE both ({', '.join(map(identifier, TYPES))})")
        unmatched.prepare(self.here)
        columns = [Column.of(name, f"t.{identifier(name)}", kind, name == "flag") for name, kind in TYPES.items()]
        self.table = Table("both", "both AS t", tuple(columns))

    def put_here(self, *rows: dict) -> None:
        marks = ", ".join("?" * len(TYPES))
        self.here.executemany(f"INSERT INTO both VALUES ({marks})", [[row.get(name) for name in TYPES] for row in rows])

    def put_there(self, *rows: dict) -> None:
        """Insert as the routine does: _convert_rows and insert_many_txn in synapse/_scripts/synapse_port_db.py."""
        for row in rows:
            values = [bool(row.get(name)) if name == "flag" else row.get(name) for name in TYPES]
            values = [bytearray(value) if isinstance(value, bytes) else value for value in values]
            self.cursor.execute(f"INSERT INTO public.both VALUES ({', '.join(['%s'] * len(values))})", values)

    def compare(self, cursor) -> row_digests.Sums:
        """Compare the table, as a move does what it has carried over; return SQLite's sums."""
        both = sides.Sides(Source(self.path, 0), Target(cursor, {}), self.here)
        kept = shares.Kept(cursor, "", usable=False, keeping=False)
        told = _progress.Progress(f"{self.path}.progress.json", "verify")
        return RowComparison(both, sides.in_this_process(both), kept, told).compare({"both": self.table})["both"]

    def only(self) -> tuple[list, int]:
        """Return the row ids that only SQLite has and the number of rows that only PostgreSQL has; empty both."""
        found = self.compare(self.cursor)
        ids = [row[0] for row in self.here.execute("SELECT id FROM temp.only_sqlite ORDER BY 1")]
        more = self.here.execute("SELECT count(*) FROM temp.only_postgres").fetchone()[0]
        self.rows, self.dropped = found.rows, found.dropped
        return ids, more

    def clear(self) -> None:
        self.there.rollback()
        for name in ("both", "temp.only_sqlite", "temp.only_postgres"):
            self.here.execute(f"DELETE FROM {name}")


@pytest.fixture(scope="module")
def pair(cluster, tmp_path_factory):
    found = Pair(cluster, str(tmp_path_factory.mktemp("pair") / "pair.db"))
    with contextlib.closing(found.there), contextlib.closing(found.here):
        yield found
        found.clear()
        found.cursor.execute("DROP TABLE public.both")
        found.there.commit()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rows=st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=4))
def test_what_the_routine_stores_compares_equal(pair, rows):
    pair.clear()
    pair.put_here(*rows, *rows[:1])
    pair.put_there(*reversed(rows), *rows[:1])
    assert pair.only() == ([], 0)
    assert pair.rows == len(rows) + 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", TYPES)
def test_one_changed_value_is_found(pair, name, data):
    pair.clear()
    row = data.draw(st.fixed_dictionaries(VALUES))
    other = {**row, name: data.draw(VALUES[name])}
    pair.put_there(row, other)
    pair.cursor.execute(f"SELECT count(DISTINCT coalesce({identifier(name)}::text, '(none)')) FROM public.both")
    differs = pair.cursor.fetchone()[0] == 2
    pair.there.rollback()
    pair.put_here({}, row, {})
    pair.put_there({}, {}, other)
    assert pair.only() == (([2], 1) if differs else ([], 0))


@pytest.mark.parametrize(
    ("name", "here", "there"),
    [
        ("words", "", None),
        ("words", "a", "A"),
        ("words", "a ", "a"),
        ("words", "e\u0301", "é"),
        ("raw", b"\0\\", b"\0/"),
        ("raw", b"", None),
        ("flag", 1, 0),
        ("number", 0, None),
        ("fields", '{"a": 1}', '{"a": 1.0}'),
        ("fields", "[1, 2]", "[2, 1]"),
        ("keys", '{"NULL"}', "{NULL}"),
        ("words", b"\xff\xfe", "\\xfffd"),
        # What the routine makes of them is something else.
        ("words", b"\xff\xfe", "\\xfffe"),
        ("lock", b"", "\\x"),
        ("number", 1.5, 2),
        ("flag", 2, True),
        ("flag", "false", True),
        ("raw", "a\\\\b", b"a\\b"),
        ("raw", "\\x61", b"a"),
    ],
)
def test_the_smallest_differences_are_found(pair, name, here, there):
    pair.clear()
    pair.put_here({name: here})
    pair.put_there({name: there})
    assert pair.only() == ([1], 1)


def test_text_that_runs_from_one_column_into_the_next_is_not_the_same(pair):
    pair.clear()
    pair.put_here({"words": "a2:", 'odd "%s" name': "b"})
    pair.put_there({"words": "a", 'odd "%s" name': "2:b"})
    assert pair.only() == ([1], 1)


def test_copies_are_counted(pair):
    pair.clear()
    pair.put_here(*[{"words": "same"}] * 5, *[{"words": "other"}] * 2)
    pair.put_there(*[{"words": "same"}] * 3, *[{"words": "other"}] * 4)
    ids, more = pair.only()
    assert len(ids) == 2 and set(ids) <= {1, 2, 3, 4, 5} and more == 2


def test_rows_that_postgresql_cannot_store_are_dropped_or_missing(pair):
    pair.clear()
    pair.put_here({"words": "a\0b"}, {"fields": '{"a":'}, {"fields": '"\\u0000"'}, {"number": "many"}, {"words": "whole"})
    pair.here.execute("INSERT INTO both (words) VALUES (CAST(x'c328' AS TEXT))")
    pair.put_there({"words": "whole"})
    assert pair.only() == ([2, 3, 4, 6], 0)
    assert pair.dropped == 1


def test_all_rows_of_a_large_table_may_differ(pair):
    pair.clear()
    pair.here.executemany("INSERT INTO both (number, words) VALUES (?, 'here')", [(number,) for number in range(5000)])
    pair.cursor.execute("INSERT INTO public.both (number, words) SELECT n, 'there' FROM generate_series(0, 4999) n")
    ids, more = pair.only()
    assert len(ids) == more == 5000


def test_a_server_that_goes_away_is_said_and_not_waited_for(pair, cluster):
    pair.clear()
    pair.put_here({"words": "x"})
    with contextlib.closing(cluster.connect()) as connection, connection.cursor() as cursor:
        cluster.rows("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        with pytest.raises(psycopg2.Error):
            pair.compare(cursor)
