# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite's rows, each as one text, in memory that does not grow with a row.

What SQLite makes a text of is in memory several times at once: the value, each part that is put together, the whole, Python's.
So rows from a certain size on are not read as texts. SQLite refuses them, and their values are read piece by piece.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from typing import Any, Callable, Iterable, Iterator, Protocol, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Bytes of a row, or of its text, from which on it is large, and bytes of a value that are read at once.
_LARGE = 1 << 20
_PIECE = 1 << 18

# SQLite's own limit: https://www.sqlite.org/limits.html, section 1.
_NO_LIMIT = (1 << 31) - 1


class Table(Protocol):
    """A table by its ``name``; ``source`` follows FROM, where it calls the table ``t``; each of ``columns`` has a ``name``."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def columns(self) -> Sequence[Any]: ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows are read: those with ids from ``low`` to ``high``, of these the ones of the query ``among`` if there is one.

    With ``whole`` no row is large.
    """

    low: int = -(1 << 63)
    high: int = (1 << 63) - 1
    among: str = ""
    whole: bool = False


ALL = Rows()


@dataclasses.dataclass(frozen=True)
class Format:
    """How a row is written: the text of each of its values, with the bytes ``between`` between them.

    ``text(column)`` is SQLite's expression for a value's text. ``large(column, kind, size, pieces)`` is given the type that a
    large value has in SQLite (text or blob), its ``size`` in bytes, and an iterator of its bytes; it returns an iterator of
    the value's text, or None where only SQLite can make it.
    """

    text: Callable[[Any], str]
    large: Callable[[Any, str, int, Iterator[bytes]], Iterable[bytes] | None]
    between: bytes = b""


def read(connection: sqlite3.Connection, table: Table, wanted: str, rows: Rows = ALL) -> Iterator[tuple]:
    """Yield ``(row id, *wanted)`` for the ``rows`` of ``table``, in their order; of a large row the id alone.

    ``wanted`` are expressions. The row before a large one may count as large, too, as Python reads one row ahead. No row is large
    for a Python before 3.11, which cannot tell SQLite where to stop, or in a virtual table, whose values are not read in pieces.
    """
    low = rows.low
    where = "t.rowid BETWEEN ? AND ?" + (f" AND t.rowid IN ({rows.among})" if rows.among else "")
    query = f"SELECT t.rowid, {wanted} FROM {table.source} WHERE {where} ORDER BY t.rowid"
    in_pieces = not rows.whole and hasattr(connection, "blobopen") and not _is_virtual(connection, table)
    while low <= rows.high:
        try:
            with _length_limited(connection, _LARGE if in_pieces else _NO_LIMIT):
                for row in connection.execute(query, (low, rows.high)):
                    low = row[0] + 1
                    yield row
            return
        except sqlite3.DataError:  # "string or blob too big", and nothing else is one
            lowest = f"SELECT min(t.rowid) FROM {table.source} WHERE {where}"
            large = connection.execute(lowest, (low, rows.high)).fetchone()[0]
        yield (large,)
        low = large + 1


def pieces(connection: sqlite3.Connection, table: Table, row_id: int, form: Format) -> Iterator[bytes]:
    """Yield the text of the large row ``row_id`` of ``table`` in the ``form``, bytes by bytes."""
    with _length_limited(connection, _NO_LIMIT):
        for number, column in enumerate(table.columns):
            if number and form.between:
                yield form.between
            yield from _value(connection, table, column, row_id, form)


def _value(connection: sqlite3.Connection, table: Table, column: Any, row_id: int, form: Format) -> Iterator[bytes]:
    """Yield the text of one value of a large row, bytes by bytes."""
    row, name = f"FROM {table.source} WHERE t.rowid = {row_id}", f"t.{identifier(column.name)}"
    # By number, since a name may come as bytes: 1 is a text, 6 a blob, 0 neither.
    kind = connection.execute(f"SELECT instr('text blob', typeof({name})) {row}").fetchone()[0]
    with connection.blobopen(table.name, column.name, row_id, readonly=True) if kind else contextlib.nullcontext(b"") as value:
        text = None
        if not isinstance(value, bytes) and len(value) > _PIECE:
            text = form.large(column, "text" if kind == 1 else "blob", len(value), _in_pieces(value))
        if text is None:
            text = connection.execute(f"SELECT CAST({form.text(column)} AS BLOB) {row}").fetchone()
        yield from text


def _in_pieces(value: sqlite3.Blob) -> Iterator[bytes]:
    while True:
        piece = value.read(_PIECE)
        if not piece:
            return
        yield piece


def _is_virtual(connection: sqlite3.Connection, table: Table) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? AND upper(sql) LIKE 'CREATE VIRTUAL%'"
    return connection.execute(query, (table.name,)).fetchone() is not None


@contextlib.contextmanager
def _length_limited(connection: sqlite3.Connection, size: int) -> Iterator[None]:
    """Let SQLite refuse values and rows of more than ``size`` bytes within the block."""
    if not hasattr(connection, "setlimit"):
        yield
        return
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size)
    try:
        yield
    finally:
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed, with rows left that nobody has read
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
