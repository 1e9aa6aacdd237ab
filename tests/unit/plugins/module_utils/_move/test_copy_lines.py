# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values of which PostgreSQL would store another one do not go over, with the engine copy: the row is named."""

import sqlite3

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import copy_lines


@pytest.mark.parametrize(
    ("kind", "sound", "changed", "words"),
    [
        ("text", ["a", "\\x61", 5, None], [b"a", b""], "is a blob"),
        ("character varying(9)", ["a"], [b"a"], "is a blob"),
        ("character(3)", ["a"], [b"a"], "is a blob"),
        ("jsonb", ["{}", 1], [b"{}"], "is a blob"),
        ("bigint", [1, 2.0, None], [1.5, -0.5, float("inf")], "no whole number"),
        ("boolean", [0, 1, 1.0, None], [2, -1, 0.5, "f", "", b"1"], "neither 1 (true) nor 0"),
        ("bytea", [b"\\", b"", "a", None], ["a\\b", "\\x61", 5, 1.5], "backslash"),
    ],
)
def test_a_value_that_would_be_another_one_is_refused_by_its_row(kind, sound, changed, words):
    for value in sound:
        lines = _made(kind, value)
        assert lines.read(1 << 20).endswith(b"beside\x01\n") and lines.rows == 1
    for value in changed:
        with pytest.raises(Refusal) as refused:
            _made(kind, value).read(1 << 20)
        assert words in refused.value.found and "row id 7" in refused.value.found and "t.a " in refused.value.found


def _made(kind: str, value: object, beside: str = "beside") -> copy_lines.Lines:
    """Return the lines of a table with one row, of the row id 7."""
    lite = sqlite3.connect(":memory:")
    copy_lines.prepare(lite)
    lite.execute("CREATE TABLE t (b TEXT, a)")
    lite.execute("INSERT INTO t (rowid, b, a) VALUES (7, ?, ?)", (beside, value))
    columns = (Column.of("a", 't."a"', kind, kind == "boolean"), Column.of("b", 't."b"', "text", False))
    return copy_lines.Lines(lite, Table("t", "t", columns))


def test_a_row_with_a_nul_is_left_out_but_not_one_with_a_value_that_would_change():
    lines = _made("text", "whole", "x\0")
    assert lines.read(9) == b"" and lines.dropped == 1
    with pytest.raises(Refusal):
        _made("text", b"a", "x\0").read(9)
