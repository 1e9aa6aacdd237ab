# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shares in which a table is compared, apart from each other, and how the sums of one are known without working them out.

The sums of a share are kept in the target database. They hold as long as nothing in the share has changed, and that is seen
sooner than they are worked out again. On SQLite: by the file's stamp, where it is the very file in which they were found, or by a
digest of the rows (row_digests.sqlite_mark()). On PostgreSQL: by what the server keeps of every row. When every row of the share
is of a transaction that had ended before its sums were worked out, and there are as many as then, in the same file, then none has
come and none has gone: a changed row is a new one of a later transaction (manual, sections 5.6 "System Columns" and 13.1
"Introduction").

So what a second comparison takes goes by what has changed since the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_digests import Share, Sums
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.sides import Sides
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_ids
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
    from psycopg2 import extras
except ImportError:
    pass

# Rows of SQLite's, and blocks of PostgreSQL's, that one process looks at at a time.
_ROWS = 20_000
_BLOCKS = 512

# The first PostgreSQL that reads some blocks of a table without reading all of them (release notes, "TID range scans").
_READS_BLOCKS = 140000

# To work out the sums of fewer rows costs no more than to keep them.
_WORTH_KEEPING = 2000

# Of the canonical text, the marks and the sums: what another release of this collection has kept is worth nothing if it changes.
_FORM = "3"

# The file of each table, and how many blocks it has.
_FILES = """
SELECT relname, pg_relation_filenode(oid), pg_relation_size(oid) / current_setting('block_size')::int
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
"""

_KEEP = """
INSERT INTO synapse_postgres.sums (table_name, side, low, high, mark, since, stamp, dropped, sums) VALUES %s
ON CONFLICT (table_name, side, low) DO UPDATE SET high = excluded.high, mark = excluded.mark, since = excluded.since,
    stamp = excluded.stamp, dropped = excluded.dropped, sums = excluded.sums
"""
_STAMP = """
UPDATE synapse_postgres.sums AS kept SET stamp = new.stamp FROM (VALUES %s) AS new (table_name, side, low, stamp)
WHERE (kept.table_name, kept.side, kept.low) = (new.table_name, new.side, new.low)
"""


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What is known of a share up to ``high``: its ``mark``.

    On PostgreSQL every row's transaction is before ``since``; on SQLite the file had this ``stamp``.
    """

    high: int
    mark: str
    since: int | None
    stamp: str | None


class Kept:
    """The sums that earlier comparisons have left in the database of ``cursor``; if ``keeping``, new ones are left there, too.

    ``stamp`` is that of the SQLite database they are compared with. The cursor is in a transaction that sees one moment. None are
    known or kept where they are not ``usable``: in a database that was restored from a copy, whose transactions have other
    numbers, and where the transaction itself has written; nor where there is no place for them.
    """

    def __init__(self, cursor: Cursor, stamp: str, usable: bool, keeping: bool) -> None:
        self._stamp = stamp
        self._entries: dict[tuple[str, str, int], _Entry] = {}
        cursor.execute(
            "SELECT pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint,"
            " coalesce(has_table_privilege(to_regclass('synapse_postgres.sums'), 'SELECT'), false),"
            " coalesce(has_table_privilege(to_regclass('synapse_postgres.sums'), 'INSERT'), false)"
            " FROM pg_current_snapshot() AS now"
        )
        self._ended, latest, readable, writable = only_row(cursor)
        self.keeping = usable and keeping and readable and writable
        self._new: list[tuple[Share, _Entry, Sums | None]] = []
        if usable and readable:
            # Two thousand million numbers later nobody can tell which of two transactions is the later one.
            cursor.execute(
                "SELECT table_name, side, low, high, mark, since, stamp FROM synapse_postgres.sums"
                " WHERE since IS NULL OR since > %s",
                (latest - (1 << 31),),
            )
            self._entries = {(name, side, low): _Entry(*rest) for name, side, low, *rest in cursor}
        self._known = {name for name, side, _low in self._entries if side == "sqlite"}
        cursor.execute(_FILES)
        self._files = {name: rest for name, *rest in cursor}

    def cut(self, sides: Sides, table: Table) -> list[Share]:
        """Return the shares of ``table`` on both sides: those that are known, and new ones for what lies between and beyond."""
        name, found = identifier(table.name), []
        blocks = self._files[table.name][1]
        step = _BLOCKS if sides.postgres.connection.server_version >= _READS_BLOCKS else max(blocks, 1)
        found += [Share(table.name, "postgres", start, start + step) for start in range(0, blocks, step)]
        at, last = sides.sqlite.execute(f"SELECT min(rowid), max(rowid) FROM {name}").fetchone()
        if at is None:
            return found
        for low, high in self._known_of_sqlite(table.name):
            found += _runs(sides.sqlite, table.name, at, low - 1)
            found.append(Share(table.name, "sqlite", low, high))
            at = max(at, high + 1)
        return found + _runs(sides.sqlite, table.name, at, last)

    def _known_of_sqlite(self, name: str) -> list[tuple[int, int]]:
        return sorted((low, one.high) for (table, side, low), one in self._entries.items() if (table, side) == (name, "sqlite"))

    def knows(self, name: str) -> bool:
        """Tell whether anything is known of SQLite's table ``name``."""
        return name in self._known

    def sums(self, sides: Sides, table: Table, share: Share, rows: row_digests.Rows | None = None) -> tuple[Sums, _Entry | None]:
        """Return the sums of ``share``, and what is new to know about it, for keep().

        ``rows`` is as in row_digests.sqlite_sums(); rows of sums that are known are not read.
        """
        sqlite, cursor = sides.sqlite, sides.postgres
        entry = self._entries.get((share.table, share.side, share.low))
        entry = entry if entry and entry.high == share.high else None
        if share.side == "postgres":
            return self._postgres_sums(cursor, table, share, entry)
        if entry and entry.stamp == self._stamp and entry.mark.startswith(_marked(table, "")):
            return _read(cursor, share), None
        mark = ""
        if entry or (self.keeping and share.high - share.low >= _WORTH_KEEPING):
            mark = _marked(table, row_digests.sqlite_mark(sqlite, table, share))
        if entry and entry.mark == mark:
            return _read(cursor, share), dataclasses.replace(entry, stamp=self._stamp)
        return row_digests.sqlite_sums(sqlite, cursor, table, share, rows), _Entry(share.high, mark, None, self._stamp)

    def _postgres_sums(self, cursor: Cursor, table: Table, share: Share, entry: _Entry | None) -> tuple[Sums, _Entry | None]:
        if entry:
            rows, late, known = _read_with_state(cursor, share, entry.since or 0)
            if not late and self._postgres_mark(table, rows) == entry.mark:
                return known, None
        found = row_digests.postgres_sums(cursor, table, share)
        return found, _Entry(share.high, self._postgres_mark(table, found.rows), self._ended, None)

    def _postgres_mark(self, table: Table, rows: int) -> str:
        """Return the mark of a share of ``rows`` rows on PostgreSQL, in the table's present file."""
        return _marked(table, f"{self._files[table.name][0]} {rows}")

    def keep(self, share: Share, found: Sums, new: _Entry | None) -> None:
        """Keep what sums() has told, when settle() is called next."""
        if new and self.keeping and found.rows > _WORTH_KEEPING:
            known = self._entries.get((share.table, share.side, share.low))
            # Sums of the same mark are the same; those of PostgreSQL's rows are never found again by it.
            content = None if share.side == "sqlite" and known and known.mark == new.mark else found
            self._new.append((share, new, content))

    def settle(self, cursor: Cursor | None, at_least: int = 1) -> None:
        """Write what is to be kept, if it is ``at_least`` so much, at once; the cursor's connection commits by itself.

        There is no cursor where nothing is kept.
        """
        if cursor is None or len(self._new) < at_least:
            return
        rows = [
            (share.table, share.side, share.low, *dataclasses.astuple(entry), found.dropped, psycopg2.Binary(_packed(found)))
            for share, entry, found in self._new
            if found
        ]
        places = [(share.table, share.side, share.low, entry.stamp) for share, entry, found in self._new if not found]
        self._new.clear()
        if rows:
            extras.execute_values(cursor, _KEEP, rows)
        if places:
            extras.execute_values(cursor, _STAMP, places)


def _runs(sqlite: sqlite3.Connection, name: str, low: int, high: int) -> list[Share]:
    """Return shares for the rows with row ids from ``low`` to ``high``; none where there are no rows."""
    found = []
    while low <= high:
        ends = row_ids.run(sqlite, name, low, high, _ROWS)
        if ends is None:
            break
        found.append(Share(name, "sqlite", *ends))
        low = ends[1] + 1
    return found


def _marked(table: Table, mark: str) -> str:
    """Return ``mark`` with what else the sums depend on: how the table's columns are read."""
    return f"{hashlib.blake2b(repr((_FORM, table.columns)).encode(), digest_size=8).hexdigest()} {mark}"


def _packed(sums: Sums) -> bytes:
    return b"".join(
        number.to_bytes(size, "big", signed=True) for numbers, size in ((sums.counts, 8), (sums.sums, 16)) for number in numbers
    )


def _unpacked(dropped: int, raw: bytes) -> Sums:
    counts, sums = (
        [int.from_bytes(raw[at : at + size], "big", signed=True) for at in range(start, start + size * row_digests.BUCKETS, size)]
        for start, size in ((0, 8), (8 * row_digests.BUCKETS, 16))
    )
    return Sums(counts, sums, dropped)


def _read(cursor: Cursor, share: Share) -> Sums:
    query = "SELECT dropped, sums FROM synapse_postgres.sums WHERE (table_name, side, low) = (%s, %s, %s)"
    cursor.execute(query, (share.table, share.side, share.low))
    return _unpacked(*only_row(cursor))


def _read_with_state(cursor: Cursor, share: Share, since: int) -> tuple[int, bool, Sums]:
    """Return how many rows PostgreSQL has in ``share``, whether one is of the transaction ``since`` or a later one, and what is
    known of it."""
    cursor.execute(
        "SELECT rows, late, dropped, sums FROM (SELECT count(*), coalesce(bool_or(age(xmin) <= age(%s::text::xid)), false)"
        f" FROM public.{identifier(share.table)} WHERE ctid >= %s::tid AND ctid < %s::tid) AS found (rows, late),"
        " synapse_postgres.sums WHERE (table_name, side, low) = (%s, 'postgres', %s)",
        (since % (1 << 32), f"({share.low},0)", f"({share.high},0)", share.table, share.low),
    )
    rows, late, *known = only_row(cursor)
    return rows, late, _unpacked(*known)
