# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite's rows as lines of COPY's CSV format, written by SQLite's own C code, as the port routine would have them stored."""

from __future__ import annotations

import itertools

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _compare, _rows, _sqlite

# Bytes that COPY is handed at once.
PIECE = 1 << 20

# How a value stands between two quotes: no text of Synapse's is likely to have the character, and none has to.
_QUOTE = b"\x01"
_COPY = "COPY {} ({}) FROM STDIN (FORMAT csv, DELIMITER ',', QUOTE E'\\x01')"

# The columns whose values are written as texts.
_TEXTS = ("text", "char", "special")


def prepare(lite) -> None:
    """Give the SQLite connection ``lite`` the function of its expressions, before it is used."""
    lite.create_function("as_given", 3, _as_given)


def into(table: _compare.Table, place: str) -> str:
    """Return the COPY that takes the Lines of ``table`` into ``place``, a table's name as SQL has it."""
    return _COPY.format(place, names(table))


def names(table: _compare.Table) -> str:
    """Return the names of the columns that are carried, as SQL lists them."""
    return ", ".join(_sqlite.quoted(one.name) for one in table.columns)


def waiting(table: _compare.Table, name: str) -> str:
    """Return the statement that makes the temporary table ``name``, in which lines wait for what SQL makes of them.

    What only a function of the server makes of a value is text there.
    """
    columns = (f"{_sqlite.quoted(one.name)} {'text' if one.kind == 'special' else one.type}" for one in table.columns)
    return f"CREATE TEMP TABLE {name} ({', '.join(columns)}) ON COMMIT DROP"


class Lines:
    """The lines of ``table``'s rows as a file that COPY reads, but for rows that have a NUL character; see _rows.each().

    ``rows`` and ``dropped`` count those that were read.
    """

    def __init__(self, lite, table: _compare.Table, **which) -> None:
        self.rows = self.dropped = 0
        self._lite, self._table = lite, table
        lite.text_factory = bytes
        line = " || ',' || ".join(map(_csv, table.columns))
        self._pieces, self._piece, self._at = self._read(_rows.each(lite, table, f"{line} || char(10)", **which)), b"", 0

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, and none at the end."""
        if self._at >= len(self._piece):
            self._piece, self._at = next(self._pieces, b""), 0
        piece = self._piece[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _read(self, found):
        """Yield the lines, those of many rows at once."""
        lines, length = [], 0
        for row in found:
            large = len(row) == 1
            if lines and (large or length >= PIECE):
                yield b"".join(lines)
                lines, length = [], 0
            if large:
                yield from self._large(row[0])
            elif b"\0" in row[1]:
                self.dropped += 1
            else:
                self.rows += 1
                lines.append(row[1])
                length += len(row[1])
        if lines:
            yield b"".join(lines)

    def _large(self, number: int):
        """Yield the line of a large row; nothing where it has a NUL character."""
        if any(b"\0" in piece for piece in _pieces(self._lite, self._table, number)):
            self.dropped += 1
            return
        self.rows += 1
        yield from filter(None, _pieces(self._lite, self._table, number))
        yield b"\n"


def _pieces(lite, table: _compare.Table, number: int):
    return _rows.pieces(lite, table, number, _csv, _large_csv, between=b",")


def _csv(one: _compare.Column) -> str:
    """Return SQLite's expression for a value of the column in a line of CSV, as the routine would have it stored.

    NULL is nothing, an empty text two quotes.
    """
    name = one.lite
    text = f"char(1) || replace({name}, char(1), char(1, 1)) || char(1)"
    odd = f"as_given(CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END, typeof({name}), '{one.kind}')"
    if one.kind in ("bool", "bool or null"):
        true = f"CASE WHEN typeof({name}) IN ('integer', 'real') THEN {name} <> 0 ELSE length(CAST({name} AS BLOB)) > 0 END"
        null = f"WHEN {name} IS NULL THEN ''" if one.kind == "bool or null" else ""
        return f"CASE {null} WHEN {true} THEN 't' ELSE 'f' END"
    plain = {"int": ("integer", name), "bytea": ("blob", f"'\\x' || hex({name})")}
    kind, value = plain.get(one.kind, ("text", text))
    return f"CASE typeof({name}) WHEN '{kind}' THEN {value} WHEN 'null' THEN '' ELSE {odd} END"


def _large_csv(one: _compare.Column, kind: str, _size: int, values):
    """Return the pieces of the same for a large value: see _rows.pieces()."""
    if kind == "text" and one.kind in _TEXTS:
        return itertools.chain([_QUOTE], (value.replace(_QUOTE, _QUOTE * 2) for value in values), [_QUOTE])
    if kind == "blob" and one.kind == "bytea":
        return itertools.chain([b"\\x"], (value.hex().upper().encode() for value in values))
    if kind == "blob" and one.kind in _TEXTS:
        return itertools.chain([_QUOTE, b"\\x"], (value.hex().encode() for value in values), [_QUOTE])
    return None


def _as_given(value: object, kind_here: str, kind: str) -> bytes:
    """Return a value's part of a line of CSV where SQLite's own functions do not do: the function as_given() there."""
    text = value if kind_here == "text" else _compare.stored(value, kind).encode("utf-8", "surrogateescape")
    return _QUOTE + text.replace(_QUOTE, _QUOTE * 2) + _QUOTE
