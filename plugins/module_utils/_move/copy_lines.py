# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite's rows as lines of COPY's CSV format, written by SQLite's own C code, as the port routine would have them stored."""

from __future__ import annotations

import dataclasses
import itertools
import re
import sqlite3
from typing import Any, Iterable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table, changed, stored
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_reader
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
except ImportError:
    pass

# Bytes that COPY is handed at once.
PIECE = 1 << 20

# How a value stands between two quotes: no text of Synapse's is likely to have the character, and none has to.
_QUOTE = b"\x01"
_COPY = "COPY {} ({}) FROM STDIN (FORMAT csv, DELIMITER ',', QUOTE E'\\x01')"

# The temporary table in which rows wait for what SQL makes of them. What only a function of the server makes of a value is text
# there.
WAITING = "pg_temp.waiting"

# What stands in a line for a value of which PostgreSQL would store another one: see _as_given().
_MARKED = re.compile(rb"\0changed\0([^\0]*)\0")

# The columns whose values are written as texts.
_TEXTS = ("text", "char", "special")


def prepare(sqlite: sqlite3.Connection) -> None:
    """Give the connection ``sqlite`` the function of the lines' expressions, before it is used."""
    sqlite.create_function("as_given", 4, _as_given)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How the rows of ``table`` go to PostgreSQL: straight into it, or into a temporary table, from which ``merge`` takes them.

    ``refusable``: rows that PostgreSQL refuses for what other rows hold may be left out, since the table is compared afterwards.
    """

    table: Table
    merge: str | None
    refusable: bool = False

    @classmethod
    def of(cls, table: Table, compared: bool) -> Transfer:
        """Return the Transfer of rows that PostgreSQL has not yet, or some of which it may have, where they are ``compared``."""
        if not compared and all(one.takes in ("{}", f"CAST({{}} AS {one.type})") for one in table.columns):
            return cls(table, None)
        # What only a function of the server makes of a value has to wait, and so has what may be there already.
        refused = " ON CONFLICT DO NOTHING" if compared else ""
        insert = f"INSERT INTO {place(table)} ({names(table)}) OVERRIDING SYSTEM VALUE"
        return cls(table, f"{insert} SELECT {given(table.columns)} FROM {WAITING} AS c{refused}", compared)

    def send(self, sqlite: sqlite3.Connection, cursor: Cursor, rows: row_reader.Rows) -> Lines:
        """Send ``rows``, and have them taken; return the Lines that went.

        The temporary table is there until the transaction ends.
        """
        lines = Lines(sqlite, self.table, rows)
        if self.merge is not None:
            columns = (f"{identifier(one.name)} {'text' if one.kind == 'special' else one.type}" for one in self.table.columns)
            cursor.execute(f"CREATE TEMP TABLE {WAITING} ({', '.join(columns)}) ON COMMIT DROP")
        lines.send(cursor, place(self.table) if self.merge is None else WAITING)
        if self.merge is not None:
            cursor.execute(self.merge)
        return lines


def place(table: Table) -> str:
    """Return the name of PostgreSQL's table, as SQL has it."""
    return f"public.{identifier(table.name)}"


def names(table: Table) -> str:
    """Return the names of the columns that are carried, as SQL lists them."""
    return ", ".join(identifier(one.name) for one in table.columns)


def given(columns: Iterable[Column]) -> str:
    """Return what SQL makes of the values of ``columns`` that wait in WAITING, which is called ``c``."""
    return ", ".join(one.takes.format(f"c.{identifier(one.name)}") for one in columns)


class Lines:
    """The lines of ``table``'s rows as a file that COPY reads, but for rows that have a NUL character; see row_reader.read().

    ``rows`` and ``dropped`` count those that were read.
    """

    def __init__(self, sqlite: sqlite3.Connection, table: Table, rows: row_reader.Rows = row_reader.ALL) -> None:
        self.rows = self.dropped = 0
        self._sqlite, self._table = sqlite, table
        self._refused: Refusal | None = None
        sqlite.text_factory = bytes
        line = " || ',' || ".join(map(_csv, table.columns))
        self._pieces = self._read(row_reader.read(sqlite, table, f"{line} || char(10)", rows))
        self._piece, self._at = b"", 0

    def send(self, cursor: Cursor, target: str) -> None:
        """Send the lines to the table ``target``. Raises Refusal for a value of which PostgreSQL would store another one."""
        try:
            cursor.copy_expert(_COPY.format(target, names(self._table)), self, PIECE)  # type: ignore[arg-type]  # it only reads
        except psycopg2.Error:
            if self._refused:
                raise self._refused from None
            raise

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, and none at the end."""
        if self._at >= len(self._piece):
            self._piece, self._at = next(self._pieces, b""), 0
        piece = self._piece[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _read(self, found: Iterable[tuple]) -> Iterator[bytes]:
        """Yield the lines, those of many rows at once."""
        lines: list[bytes] = []
        length = 0
        for row in found:
            large = len(row) == 1
            if lines and (large or length >= PIECE):
                yield b"".join(lines)
                lines, length = [], 0
            if large:
                yield from self._large(row[0])
            elif b"\0" in row[1]:
                self._leave_out(*row)
            else:
                self.rows += 1
                lines.append(row[1])
                length += len(row[1])
        if lines:
            yield b"".join(lines)

    def _large(self, number: int) -> Iterator[bytes]:
        """Yield the line of a large row; nothing where it has a NUL character."""
        nul = None
        for piece in _pieces(self._sqlite, self._table, number):
            if b"\0" in piece and not (nul and _MARKED.search(nul)):
                nul = piece
        if nul is not None:
            self._leave_out(number, nul)
            return
        self.rows += 1
        yield from filter(None, _pieces(self._sqlite, self._table, number))
        yield b"\n"

    def _leave_out(self, number: int, text: bytes) -> None:
        """Count out the row ``number``, whose ``text`` has a NUL character; refuse one that is marked by as_given()."""
        marked = _MARKED.search(text)
        if marked:
            column, wrong = marked[1].decode().split("\n")
            self._refused = Refusal(
                f"{self._table.name}.{column} {wrong} in the row with the row id {number} of SQLite.",
                "Correct or delete it there, with Synapse stopped, and run this again; the module synapse_port_info finds all.",
            )
            raise self._refused
        self.dropped += 1


def _pieces(sqlite: sqlite3.Connection, table: Table, number: int) -> Iterator[bytes]:
    return row_reader.pieces(sqlite, table, number, row_reader.Format(_csv, _large_csv, between=b","))


def _csv(one: Column) -> str:
    """Return SQLite's expression for a value of the column in a line of CSV, as the routine would have it stored.

    NULL is nothing, an empty text two quotes.
    """
    name = one.sqlite
    text = f"char(1) || replace({name}, char(1), char(1, 1)) || char(1)"
    column = one.name.replace("'", "''")
    odd = f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END, typeof({name}), '{one.kind}'"
    odd = f"as_given({odd}, '{column}')"
    if one.kind in ("bool", "bool or null"):
        null = "''" if one.kind == "bool or null" else "'f'"
        return f"CASE WHEN {name} = 1 THEN 't' WHEN {name} = 0 THEN 'f' WHEN {name} IS NULL THEN {null} ELSE {odd} END"
    plain = {"int": ("integer", name), "bytea": ("blob", f"'\\x' || hex({name})")}
    kind, value = plain.get(one.kind, ("text", text))
    return f"CASE typeof({name}) WHEN '{kind}' THEN {value} WHEN 'null' THEN '' ELSE {odd} END"


def _large_csv(one: Column, kind: str, _size: int, values: Iterator[bytes]) -> Iterator[bytes] | None:
    """Return the pieces of the same for a large value: see row_reader.pieces()."""
    if kind == "text" and one.kind in _TEXTS:
        return itertools.chain([_QUOTE], (value.replace(_QUOTE, _QUOTE * 2) for value in values), [_QUOTE])
    if kind == "blob" and one.kind == "bytea":
        return itertools.chain([b"\\x"], (value.hex().upper().encode() for value in values))
    return None


def _as_given(value: Any, sqlite_type: str, kind: str, column: str) -> bytes:
    """Return a value's part of a line of CSV where SQLite's own functions do not do: the function as_given() there.

    A value of which PostgreSQL would store another one is marked, as no value that it stores can be.
    """
    wrong = changed(value, sqlite_type, kind)
    if wrong:
        return b"\0changed\0%b\0" % f"{column}\n{wrong}".encode()
    text = value if sqlite_type == "text" else (stored(value, kind) or "").encode("utf-8", "surrogateescape")
    return _QUOTE + text.replace(_QUOTE, _QUOTE * 2) + _QUOTE
