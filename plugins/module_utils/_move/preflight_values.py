# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values on SQLite that the port routine cannot carry to PostgreSQL, found by SQLite itself: one scan of each table.

SQLite keeps any value in any column, and compares in the order NULL < numbers < text < blobs
(https://www.sqlite.org/datatype3.html, section 4.1): so ``x >= ''`` says that x is text or a blob, and ``x >= x''`` that it is a
blob. Such comparisons cost a scan nothing; only text is given to Python, once for each row, to see whether it is UTF-8.
"""

from __future__ import annotations

import array
import codecs
import dataclasses
import json
import re
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import lenient
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import TargetColumn
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Row ids that are named of those in which something was found.
NAMED = 20

# PostgreSQL's integers: manual, section 8.1.
_RANGES = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
_LAST = (1 << 63) - 1
_FLOATS = ("real", "double precision", "numeric")

# jsonb refuses a NUL, which JSON can write: manual, section 8.14.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Defect:
    """A kind of row that cannot be carried over: ``where`` is an SQL condition that is true of one, ``words`` says what is wrong.

    ``dropped`` says that the routine leaves such a row out, rather than failing at it; ``alone``, that it fails alone, and the
    engine copy does not.
    """

    column: str
    where: str
    words: str
    dropped: bool = False
    alone: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """``count`` rows with ``defect``; ``rows`` are the row ids of the first."""

    defect: Defect
    count: int
    rows: list[int]


@dataclasses.dataclass(frozen=True)
class Checks:
    """What one scan of a table looks for: ``defects``, and ``texts``, those that a row may have for which ``broken_text`` holds.

    That condition costs little, and is for all texts of a row at once.
    """

    defects: list[Defect]
    broken_text: str | None = None
    texts: list[Defect] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class RowCollector:
    """Takes the ids of the rows for which ``condition`` holds, if there is one, that a scan comes by: ``row_ids``."""

    condition: str | None
    row_ids: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))


def add_functions(connection: sqlite3.Connection) -> None:
    """Give ``connection`` the functions that the conditions of this module call; and let it read what is no UTF-8 as well."""
    connection.text_factory = lenient
    for function in (_is_broken_text, _holds_nul, _is_no_utf8, _is_no_json):
        connection.create_function(function.__name__.lstrip("_"), 1, function)


def search_defects(texts: list[Defect]) -> tuple[list[Defect], list[Defect]]:
    """Return what the routine fails at in event_search, and of broken_text()'s ``texts`` what they are there.

    It looks for a NUL character only in the value, and in that without asking whether it is a text: handle_search_table() in
    synapse/_scripts/synapse_port_db.py.
    """
    no_text = Defect("value", "typeof(value) IN ('integer', 'real')", "is a number, where the routine needs text", alone=True)
    nul = [dataclasses.replace(one, dropped=False, alone=True) if one.dropped and one.column != "value" else one for one in texts]
    return [no_text], nul


def exhausted_numbers(columns: dict[str, str], numbered: set[str]) -> list[Defect]:
    """Return that a number of the columns ``numbered`` is the last that there is: the routine sets a sequence to the next one."""
    words = "is the last number that there is, and Synapse's sequence needs the one after it"
    return [
        Defect(columns[name], f"{identifier(columns[name])} >= {_LAST} OR {identifier(columns[name])} <= -{_LAST}", words)
        for name in sorted(numbered & columns.keys())
    ]


def defects(columns: dict[str, str], target: dict[str, TargetColumn], required: set[str], boolean: set[str]) -> list[Defect]:
    """Return what can be wrong with a value in a table, except that text can be broken: see broken_text().

    ``columns`` is ``{name on PostgreSQL: name on SQLite}``, ``target`` what they are on PostgreSQL. ``required`` are
    the columns that refuse NULL, ``boolean`` those that the routine knows as boolean and turns into true or false, NULL into
    false (_convert_rows() in synapse/_scripts/synapse_port_db.py).
    """
    found = []
    for name, sqlite_name in columns.items():
        column, kind = identifier(sqlite_name), target[name].type
        if name in boolean:
            found.append(Defect(sqlite_name, f"{column} <> 0 AND {column} <> 1", "is neither 1 (true) nor 0 (false)"))
            continue
        if name in required:
            found.append(Defect(sqlite_name, f"{column} IS NULL", "is NULL, where PostgreSQL needs a value"))
        found.extend(Defect(sqlite_name, where, words) for where, words in _refused(column, kind, target[name].length))
    return found


def _refused(column: str, kind: str, length: int | None) -> list[tuple[str, str]]:
    """Return conditions on the quoted ``column`` under which a value is refused, or changed, by PostgreSQL's type ``kind``."""
    if kind in _RANGES:
        # CAST cuts off a fraction, makes 0 of a word, and the nearest integer of what is too large. None equals the original.
        limit = _RANGES[kind]
        beyond = f" OR {column} < {-limit} OR {column} > {limit - 1}" if kind != "bigint" else ""
        return [(f"{column} <> CAST({column} AS INTEGER){beyond}", f"is no whole number that fits {kind}")]
    if kind == "boolean":
        return [(f"{column} IS NOT NULL", "is a number, and the routine does not know that PostgreSQL has a boolean there")]
    if kind in _FLOATS:
        return [(f"{column} >= ''", "is no number")]
    if kind == "bytea":
        text = f"typeof({column}) = 'text' AND instr({column}, '\\')"
        return [(f"{column} < '' OR {text}", "is neither a blob nor text without a backslash")]
    if kind == "jsonb":
        return [
            (f"{column} < '' OR {column} >= x'' OR is_no_json(CAST({column} AS BLOB))", "is no JSON that PostgreSQL can store")
        ]
    if _is_text(kind):
        blob = [(f"{column} >= x''", "is a blob, where PostgreSQL needs text")]
        if length is None:
            return blob
        return [*blob, (f"typeof({column}) <> 'blob' AND length({column}) > {length}", f"is longer than {length} characters")]
    return []


def broken_text(columns: dict[str, str], target: dict[str, TargetColumn]) -> tuple[str | None, list[Defect]]:
    """Return what can be wrong with text: one cheap condition for a whole row, and the defects it may stand for."""
    texts = [sqlite_name for name, sqlite_name in columns.items() if _is_text(target[name].type)]
    if not texts:
        return None, []
    # The comma keeps two halves of a character in neighbouring columns apart.
    row = " || ',' || ".join(f"ifnull({identifier(name)}, '')" for name in texts)
    found = []
    for name in texts:
        is_text, value = f"typeof({identifier(name)}) = 'text'", f"CAST({identifier(name)} AS BLOB)"
        found.append(Defect(name, f"{is_text} AND is_no_utf8({value})", "is not UTF-8"))
        found.append(Defect(name, f"{is_text} AND holds_nul({value})", "holds a NUL character", dropped=True))
    return f"is_broken_text(CAST({row} AS BLOB))", found


def scan(
    connection: sqlite3.Connection, table: str, checks: Checks, within: str = "1", collector: RowCollector | None = None
) -> list[Found]:
    """Return which of the defects of ``checks`` the rows of ``table`` have, for which the condition ``within`` holds, and where.

    On the way ``collector`` gets the ids of its rows.
    """
    collecting = None
    if collector and collector.condition:
        # It returns nothing, so no row counts for it.
        connection.create_function("collect_row", 1, collector.row_ids.append)
        collecting = f"CASE WHEN {collector.condition} THEN collect_row(rowid) END"
    conditions = [*(defect.where for defect in checks.defects), *([checks.broken_text] if checks.broken_text else [])]
    counts = _counts(connection, table, within, conditions, collecting)
    found = list(zip(checks.defects, counts))
    if checks.broken_text and counts[-1]:
        found += zip(checks.texts, _counts(connection, table, within, [defect.where for defect in checks.texts]))
    return [
        Found(defect, count, first_row_ids(connection, table, f"({within}) AND ({defect.where})"))
        for defect, count in found
        if count
    ]


def _counts(
    connection: sqlite3.Connection, table: str, within: str, conditions: list[str], collecting: str | None = None
) -> tuple[int, ...]:
    """Return how many rows meet each of ``conditions``; ``collecting`` is one that none meets."""
    if not conditions and not collecting:
        return ()
    counts = ", ".join([*(f"count(CASE WHEN ({condition}) THEN 1 END)" for condition in conditions), "0"])
    # A sound row fails every condition and is not counted at all.
    where = " OR ".join([*([collecting] if collecting else []), *(f"({condition})" for condition in conditions)])
    return connection.execute(f"SELECT {counts} FROM {identifier(table)} WHERE ({within}) AND ({where})").fetchone()[:-1]


def first_row_ids(connection: sqlite3.Connection, table: str, where: str) -> list[int]:
    """Return the first NAMED row ids of ``table`` (which may go by the alias ``child``) for which ``where`` holds."""
    query = f"SELECT child.rowid FROM {identifier(table)} AS child WHERE {where} LIMIT {NAMED}"
    return [row[0] for row in connection.execute(query)]


def _is_text(kind: str) -> bool:
    return kind == "text" or kind.startswith("character")


def _is_broken_text(value: bytes | None) -> bool:
    return _holds_nul(value) or _is_no_utf8(value)


def _holds_nul(value: bytes | None) -> bool:
    return value is not None and b"\0" in value


def _is_no_utf8(value: bytes | None) -> bool:
    if value is None:
        return False
    try:
        if len(value) <= _PIECE:
            value.decode("utf-8")
            return False
        decoder = codecs.getincrementaldecoder("utf-8")()  # so that a great value is not in memory once more, as characters
        for start in range(0, len(value), _PIECE):
            decoder.decode(value[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return True
    return False


def _is_no_json(value: bytes | None) -> bool:
    if value is None:
        return False
    try:
        text = value.decode("utf-8")
        # Python reads NaN and lone surrogates, PostgreSQL does not.
        json.dumps(json.loads(text), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        return True
    return _ESCAPED_NUL.search(text) is not None
