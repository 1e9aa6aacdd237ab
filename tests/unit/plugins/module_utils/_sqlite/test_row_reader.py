# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""row_reader, and the lines and digests of rows that are read piece by piece: the same as of those that are read whole."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import copy_lines
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_reader

KINDS = {
    "number": "bigint",
    "word": "text",
    "short": "character varying(9)",
    "flag": "boolean",
    "content": "bytea",
    "json": "jsonb",
}
TIMES = st.sampled_from([1, 1, 2000])
TEXTS = st.builds(str.__mul__, st.text(st.characters(codec="utf-8"), max_size=9), TIMES)
TEXTS |= st.sampled_from(["\x01", '"\x01\x01,\n' * 500, "\0", "x" * 3000 + "\0", "\\N", "ü" * 1500])
VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
VALUES |= st.builds(bytes.__mul__, st.binary(max_size=9), TIMES)


@pytest.fixture(scope="module")
def small():
    """Have rows be large from 2000 bytes on, and values be read 61 bytes at a time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_reader, "_LARGE", 2000)
        patched.setattr(row_reader, "_PIECE", 61)
        yield


def made(rows: list[tuple]) -> tuple:
    """Return a database with ``rows`` in a table of all KINDS, and its table.Table."""
    lite = sqlite3.connect(":memory:", isolation_level=None)
    unmatched.prepare(lite)
    copy_lines.prepare(lite)
    lite.execute(f"CREATE TABLE talk ({', '.join(KINDS)})")
    lite.executemany(f"INSERT INTO talk VALUES ({', '.join('?' * len(KINDS))})", rows)
    columns = [Column.of(name, f't."{name}"', kind, kind == "boolean") for name, kind in KINDS.items()]
    return lite, Table("talk", '"talk" AS t', tuple(columns))


def lines(lite, table, size: int = 1009) -> tuple:
    found = copy_lines.Lines(lite, table)
    try:
        content = b"".join(iter(lambda: found.read(size), b""))
    except Refusal as refusal:  # of a value that PostgreSQL would store as another one
        return refusal.found
    return content, found.rows, found.dropped


def plain(table) -> Table:
    """Return the table without what only a server can read."""
    return Table(table.name, table.source, tuple(table.plain))


@given(st.lists(st.tuples(*[VALUES] * len(KINDS)), max_size=6))
def test_rows_in_pieces_are_the_rows(small, rows):
    lite, table = made(rows)
    sums = row_digests.sqlite_sums(lite, None, plain(table))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_reader, "_LARGE", 1 << 20)
        assert lines(lite, table) == lines(made(rows)[0], table)
        whole = made(rows)[0]
        assert sums == row_digests.sqlite_sums(whole, None, plain(table))
        expected = lines(whole, table)
    assert lines(lite, table) == expected


@given(st.lists(st.tuples(*[VALUES] * len(KINDS)), min_size=1, max_size=4), st.data())
def test_the_mark_of_large_rows_tells_them_apart(small, rows, data):
    lite, table = made(rows)
    share = row_digests.Share("talk", "sqlite", -(2**63), 2**63 - 1)
    before = row_digests.sqlite_mark(lite, table, share)
    assert before == row_digests.sqlite_mark(made(rows)[0], table, share)
    column, value = data.draw(st.sampled_from(list(KINDS))), data.draw(VALUES)
    changed = lite.execute(
        f"UPDATE talk SET {column} = ?1 WHERE rowid = 1 AND ({column}, typeof({column})) IS NOT (?1, typeof(?1))", (value,)
    )
    assert (before == row_digests.sqlite_mark(lite, table, share)) == (changed.rowcount == 0)


def test_small_rows_stand_between_large_ones_in_their_order(small):
    lite, table = made([(number, "x" * (3000 * (number % 2)), None, None, None, None) for number in range(9)])
    found = list(row_reader.read(lite, table, "t.word"))
    assert {row[0] for row in found if len(row) == 1} >= {2, 4, 6, 8} and len(found[-1]) == 2
    assert [row[0] for row in found] == list(range(1, 10))
    assert [row[0] for row in row_reader.read(lite, table, "t.word", row_reader.Rows(3, 6))] == [3, 4, 5, 6]
    assert [row[0] for row in row_reader.read(lite, table, "t.word", row_reader.Rows(among="SELECT 2 UNION SELECT 5"))] == [2, 5]
    assert {len(row) for row in row_reader.read(lite, table, "t.word", row_reader.Rows(whole=True))} == {2}
    assert lite.execute("SELECT max(length(word)) FROM talk").fetchone() == (3000,), "the limit has not been lifted"
