# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What needs no server: the text of a stored value, a column's kind, sums of rows; see also tests/integration/test_compare.py."""

import sqlite3

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, stored


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "bool", "false"),
        (2, "bool", "true"),
        (None, "bool or null", None),
        (0, "bool or null", "false"),
        ("", "bool", "false"),
        ("false", "bool", "true"),
        (None, "text", None),
        (b"\x00\xff", "bytea", "\\x00ff"),
        (b"a", "text", "\\x61"),
        (7, "text", "7"),
        (1e16, "text", "10000000000000000"),
        (1.50, "text", "1.5"),
        (-0.0, "text", "0.0"),
        (1e-7, "text", "0.0000001"),
        (2.5, "int", "3"),
        (-2.5, "int", "-3"),
        (-0.4, "int", "0"),
        (float("-inf"), "special", "-Infinity"),
        ("\\N", "text", "\\N"),
    ],
)
def test_a_value_is_stored_as_the_routine_gives_it_to_psycopg2(value, kind, text):
    assert stored(value, kind) == text


@pytest.mark.parametrize(
    ("kind", "boolean", "found"),
    [
        ("bigint", False, "int"),
        ("boolean", True, "bool"),
        ("boolean", False, "special"),
        ("bigint", True, "int"),
        ("character varying(32)", False, "text"),
        ("character varying", False, "text"),
        ("character(1)", False, "char"),
        ("text[]", False, "special"),
        ("jsonb", False, "special"),
        ("numeric(3,1)", False, "special"),
    ],
)
def test_a_column_is_of_the_kind_that_both_sides_can_write(kind, boolean, found):
    assert Column.of("a", "t.a", kind, boolean).kind == found


def written(definition: str, kind: str, *values) -> list[bytes]:
    """Return the canonical text of a column of SQLite's ``definition`` for ``values``."""
    lite = sqlite3.connect(":memory:")
    lite.execute(f"CREATE TABLE t (a {definition})")
    unmatched.prepare(lite)
    lite.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    lite.text_factory = bytes
    column = Column.of("a", "t.a", kind, kind == "boolean")
    found = [row[0] for row in lite.execute(f"SELECT {row_digests.sqlite_text([column])} FROM t ORDER BY rowid")]
    lite.close()
    return found


def test_the_canonical_text_is_as_documented():
    assert written("TEXT", "text", None, "", "ab", "é", "a\0b", b"ab") == [
        b":", b"0:", b"2:ab", "2:é".encode(), b"3:a\0b", b"?blob 6162",
    ]  # fmt: skip
    assert written("BIGINT", "bigint", None, -5, 2**62, 1.5) == [b";", b"-5;", b"4611686018427387904;", b"?1.5;"]
    assert written("BLOB", "bytea", None, b"", b"\xaa\x00", "aé", "\\\\\\001", "\\x4142", "\\q") == [
        b";", b"\\x;", b"\\xaa00;", b"\\x61c3a9;", b"?\\\\\\001;", b"?\\x4142;", b"?\\q;",
    ]  # fmt: skip
    assert written("BOOL", "boolean", None, 0, 1, 3) == [b"f;", b"f;", b"t;", b"?3"]
    assert written("CHAR(1)", "character(1)", "X", "X  ", "") == [b"1:X", b"1:X", b"0:"]
    assert written("TEXT", "character varying(2)", "abc", "ab ", "a") == [b"3:abc", b"2:ab", b"1:a"]


def test_sums_do_not_depend_on_the_order_and_count_copies():
    def summed(*rows):
        found = row_digests.Sums()
        for row in rows:
            found.counts[row % row_digests.BUCKETS] += 1
            found.sums[row % row_digests.BUCKETS] += row
        return found

    far = 5 + row_digests.BUCKETS
    assert summed(5, 7, far).differing(summed(far, 5, 7)) == []
    assert summed(5, 5, 7).differing(summed(5, 7)) == [5]
    assert summed(5, 7).differing(summed(far, 8)) == [5, 7, 8]
    assert summed(5, 5, 7).rows == 3


def test_a_table_of_many_columns_stays_within_what_the_server_takes():
    columns = [Column.of(f"c{number}", f"t.c{number}", "text", False) for number in range(70)]
    text = row_digests.postgres_text(columns)
    assert max(call.count(",") + 1 for call in text.split(" || ")) <= 100
    assert text.count("octet_length") == 70
