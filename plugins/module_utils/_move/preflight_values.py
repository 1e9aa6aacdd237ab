# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows on SQLite that the port routine cannot carry to PostgreSQL, found by SQLite itself: one scan of each table.

SQLite keeps any value in any column, and compares in the order NULL < numbers < text < blobs
(https://www.sqlite.org/datatype3.html, section 4.1): so ``x >= ''`` says that x is text or a blob, and ``x >= x''`` that it is a
blob. Such comparisons cost a scan nothing; only text is given to Python, once for each row, to see whether it is UTF-8.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import re
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import lenient
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
    rows: list


def prepare(connection: sqlite3.Connection) -> None:
    """Give ``connection`` the functions that the conditions of this module call; and let it read what is no UTF-8 as well."""
    connection.text_factory = lenient
    for function in (_is_mangled, _holds_nul, _is_no_utf8, _is_no_json):
        connection.create_function(function.__name__.lstrip("_"), 1, function)


def unsearchable(texts: list[Defect]) -> tuple[list[Defect], list[Defect]]:
    """Return what the routine fails at in event_search, and of mangled()'s ``texts`` what they are there.

    It looks for a NUL character only in the value, and in that without asking whether it is a text: handle_search_table() in
    synapse/_scripts/synapse_port_db.py.
    """
    no_text = Defect("value", "typeof(value) IN ('integer', 'real')", "is a number, where the routine needs text", alone=True)
    nul = [dataclasses.replace(one, dropped=False, alone=True) if one.dropped and one.column != "value" else one for one in texts]
    return [no_text], nul


def exhausted(columns: dict[str, str], numbered: set[str]) -> list[Defect]:
    """Return that a number of the columns ``numbered`` is the last that there is: the routine sets a sequence to the next one."""
    words = "is the last number that there is, and Synapse's sequence needs the one after it"
    return [
        Defect(columns[name], f"{identifier(columns[name])} >= {_LAST} OR {identifier(columns[name])} <= -{_LAST}", words)
        for name in sorted(numbered & columns.keys())
    ]


def defects(columns: dict[str, str], target: dict[str, dict], required: set[str], boolean: set[str]) -> list[Defect]:
    """Return what can be wrong with a value in a table, except that text can be mangled: see mangled().

    ``columns`` is ``{name on PostgreSQL: name on SQLite}``; ``target`` is PostgreSQL's ``{column: {type, length}}`` as
    synapse_rules.ask() gives it. ``required`` are the columns that refuse NULL, ``boolean`` those that the routine knows as
    boolean and turns into true or false, NULL into false (_convert_rows() in synapse/_scripts/synapse_port_db.py).
    """
    found = []
    for name, here in columns.items():
        column, kind = identifier(here), target[name]["type"]
        if name in boolean:
            found.append(Defect(here, f"{column} <> 0 AND {column} <> 1", "is neither 1 (true) nor 0 (false)"))
            continue
        if name in required:
            found.append(Defect(here, f"{column} IS NULL", "is NULL, where PostgreSQL needs a value"))
        found.extend(Defect(here, where, words) for where, words in _refused(column, kind, target[name]["length"]))
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


def mangled(columns: dict[str, str], target: dict[str, dict]) -> tuple[str | None, list[Defect]]:
    """Return what can be wrong with text: one cheap condition for a whole row, and the defects it may stand for."""
    texts = [here for name, here in columns.items() if _is_text(target[name]["type"])]
    if not texts:
        return None, []
    # The comma keeps two halves of a character in neighbouring columns apart.
    row = " || ',' || ".join(f"ifnull({identifier(here)}, '')" for here in texts)
    found = []
    for here in texts:
        is_text, value = f"typeof({identifier(here)}) = 'text'", f"CAST({identifier(here)} AS BLOB)"
        found.append(Defect(here, f"{is_text} AND is_no_utf8({value})", "is not UTF-8"))
        found.append(Defect(here, f"{is_text} AND holds_nul({value})", "holds a NUL character", dropped=True))
    return f"is_mangled(CAST({row} AS BLOB))", found


def scan(
    connection: sqlite3.Connection,
    table: str,
    wrong: list[Defect],
    row: str | None,
    texts: list[Defect],
    large: str | None = None,
    hear=None,
    within: str = "1",
) -> list[Found]:
    """Return which of the defects ``wrong``, and of ``texts`` where the condition ``row`` holds, ``table`` has, and where.

    Only rows for which ``within`` holds are looked at.

    On the way ``hear`` is called with the id of each row for which the condition ``large`` holds.
    """
    if large:
        connection.create_function("heard", 1, hear)  # it returns nothing, so no row counts for it
        large = f"CASE WHEN {large} THEN heard(rowid) END"
    counts = _counts(connection, table, within, wrong, [row] if row else [], large)
    found = list(zip(wrong, counts))
    if row and counts[-1]:
        found += zip(texts, _counts(connection, table, within, texts, []))
    return [
        Found(defect, count, rows_of(connection, table, f"({within}) AND ({defect.where})")) for defect, count in found if count
    ]


def _counts(
    connection: sqlite3.Connection, table: str, within: str, wrong: list[Defect], more: list[str], looked_at: str | None = None
) -> list[int]:
    """Return how many rows meet the conditions of ``wrong``, and ``more``; ``looked_at`` is one that none meets."""
    conditions = [f"({condition})" for condition in [*(defect.where for defect in wrong), *more]]
    if not conditions and not looked_at:
        return []
    counts = ", ".join([*(f"count(CASE WHEN {condition} THEN 1 END)" for condition in conditions), "0"])
    # A sound row fails every condition and is not counted at all.
    where = " OR ".join(([looked_at] if looked_at else []) + conditions)
    return connection.execute(f"SELECT {counts} FROM {identifier(table)} WHERE ({within}) AND ({where})").fetchone()[:-1]


def rows_of(connection: sqlite3.Connection, table: str, where: str) -> list:
    """Return the first NAMED row ids of ``table`` (which may go by the alias ``child``) for which ``where`` holds."""
    query = f"SELECT child.rowid FROM {identifier(table)} AS child WHERE {where} LIMIT {NAMED}"
    return [row[0] for row in connection.execute(query)]


def condition(connection: sqlite3.Connection, index: str) -> str:
    """Return the condition of the partial ``index`` of SQLite's as PostgreSQL writes simple ones: in parentheses."""
    made = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (index,)).fetchone()[0]
    found = " ".join(re.split(r"\bWHERE\b", made, maxsplit=1, flags=re.IGNORECASE)[-1].split())
    return found if found.startswith("(") else f"({found})"


def orphans(key: dict, parent_dropped: list[str], here: dict, there: dict | None) -> str:
    """Return a condition that is true of a row of a child, under the alias ``child``, whose parent is missing on PostgreSQL.

    ``key`` is a foreign key as of synapse_rules.ask(); ``here`` and ``there`` map the names of the columns of child and parent on
    PostgreSQL to SQLite's, ``there`` None for a parent that is not carried over. ``parent_dropped`` are conditions on the
    parent's columns under which the routine leaves a row of it out. A key that is NULL in part refers to nothing.
    """
    names = [identifier(here[column]) for column in key["columns"]]
    given = " AND ".join(f"child.{name} IS NOT NULL" for name in names)
    if there is None:
        return given
    same = [f"parent.{identifier(there[column])} = child.{name}" for column, name in zip(key["parent_columns"], names)]
    same += [f"NOT ifnull({condition}, 0)" for condition in parent_dropped]
    return f"{given} AND NOT EXISTS (SELECT 1 FROM {identifier(key['parent'])} AS parent WHERE {' AND '.join(same)})"


def too_early(key: dict, here: dict) -> str:
    """Return a condition that is true of a row, under the alias ``child``, that the routine sends before the row it refers to.

    ``key`` is a foreign key of a table to itself. Rows are inserted one by one, from row id 1 upwards, and PostgreSQL looks
    after each (refresh_tokens has such a key, and an older token refers to the newer one).
    """
    names = list(zip(key["columns"], key["parent_columns"]))
    same = " AND ".join(f"parent.{identifier(here[theirs])} = child.{identifier(here[ours])}" for ours, theirs in names)
    return f"EXISTS (SELECT 1 FROM {identifier(key['table'])} AS parent WHERE {same} AND parent.rowid > child.rowid)"


def duplicates(connection: sqlite3.Connection, table: str, columns: list[str], where: str | None) -> tuple[int, list]:
    """Return how many rows share ``columns`` with an earlier one, where the condition ``where`` holds, and the first row ids."""
    names = ", ".join(identifier(column) for column in columns)
    given = " AND ".join([f"{identifier(column)} IS NOT NULL" for column in columns] + ([where] if where else []))
    query = f"SELECT count(*), max(rowid) FROM {identifier(table)} WHERE {given} GROUP BY {names} HAVING count(*) > 1"
    count, rows = 0, []
    for many, row in connection.execute(query):
        count += many - 1
        if len(rows) < NAMED:
            rows.append(row)
    return count, rows


def _is_text(kind: str) -> bool:
    return kind == "text" or kind.startswith("character")


def _is_mangled(value: bytes | None) -> bool:
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
