# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite's rows, each as one text, in memory that does not grow with a row.

What SQLite makes a text of is in memory several times at once: the value, each part that is put together, the whole, Python's.
So rows from a certain size on are not read as texts. SQLite refuses them, and their values are read piece by piece.
"""

from __future__ import annotations

import contextlib
import sqlite3

# Bytes of a row, or of its text, from which on it is large, and bytes of a value that are read at once.
_LARGE = 1 << 20
_PIECE = 1 << 18

_EVERY = (-(1 << 63), (1 << 63) - 1)


def each(lite, table, wanted: str, low: int = _EVERY[0], high: int = _EVERY[1], among: str = "", whole: bool = False):
    """Yield ``(row id, *wanted)`` for SQLite's rows of the table.Table ``table``, in their order; of a large row the id alone.

    ``wanted`` are expressions; the rows have ids from ``low`` to ``high``, and those of the query ``among`` if there is one. The
    row before a large one may count as large, too, as Python reads one row ahead. With ``whole`` no row is large; nor is one for
    a Python before 3.11, which cannot tell SQLite where to stop, or in a virtual table, whose values cannot be read in pieces.
    """
    where = "t.rowid BETWEEN ? AND ?" + (f" AND t.rowid IN ({among})" if among else "")
    query = f"SELECT t.rowid, {wanted} FROM {table.source} WHERE {where} ORDER BY t.rowid"
    size = _LARGE if not whole and hasattr(lite, "blobopen") and not _is_virtual(lite, table) else 0
    while low <= high:
        try:
            with _limited(lite, size):
                for row in lite.execute(query, (low, high)):
                    low = row[0] + 1
                    yield row
            return
        except sqlite3.DataError:  # "string or blob too big", and nothing else is one
            large = lite.execute(f"SELECT min(t.rowid) FROM {table.source} WHERE {where}", (low, high)).fetchone()[0]
        yield (large,)
        low = large + 1


def _is_virtual(lite, table) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? AND upper(sql) LIKE 'CREATE VIRTUAL%'"
    return lite.execute(query, (table.name,)).fetchone() is not None


def pieces(lite, table, number: int, text, large, between: bytes = b""):
    """Yield the text of the large row ``number``, bytes by bytes: what its columns come to, with ``between`` between them.

    ``text(column)`` is SQLite's expression for a value's part of it. ``large(column, kind, size, values)`` is given the type that
    a large value has in SQLite (text or blob), its ``size`` in bytes, and an iterator of its bytes; it returns an iterator of
    the value's part, or None where only SQLite can make it.
    """
    row = f"FROM {table.source} WHERE t.rowid = {number}"
    with _limited(lite, 0):
        for place, one in enumerate(table.columns):
            if place and between:
                yield between
            found, kind = None, lite.execute(f"SELECT instr('text blob', typeof({one.sqlite})) {row}").fetchone()[0]
            with lite.blobopen(table.name, one.name, number, readonly=True) if kind else contextlib.nullcontext(b"") as value:
                if len(value) > _PIECE:
                    values = iter(lambda value=value: value.read(_PIECE), b"")
                    found = large(one, "text" if kind == 1 else "blob", len(value), values)
                if found is None:
                    found = lite.execute(f"SELECT CAST({text(one)} AS BLOB) {row}").fetchone()
                yield from found


@contextlib.contextmanager
def _limited(lite, size: int):
    """Let SQLite refuse values and rows of more than ``size`` bytes within the block; 0 is for no limit but its own."""
    if not hasattr(lite, "setlimit"):
        yield
        return
    before = lite.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size or (1 << 31) - 1)
    try:
        yield
    finally:
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed, with rows left that nobody has read
            lite.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
