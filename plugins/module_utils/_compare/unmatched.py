# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which rows only one side of a table has: those of the buckets whose sums differ, matched with each other, and then on disk."""

from __future__ import annotations

import itertools
import os
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_digests import Rows, Sums, ctid
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Rows that the other side has under the same key, with other content.
SAME_KEY = "EXISTS (SELECT 1 FROM temp.only_{} AS other WHERE other.name = mine.name AND other.key = mine.key)"

# How many rows of a side wait in memory for their equals on the other: some 50 MB.
_WAITING = 200_000


def prepare(lite) -> None:
    """Give the SQLite connection ``lite`` the functions of its expressions, and tables on disk for Unmatched, before it is used.

    They are in SQLite's own temporary database, a file that it has removed already and nobody else can open.
    """
    row_digests.prepare(lite)
    lite.execute("PRAGMA temp_store = FILE")
    lite.execute("CREATE TEMP TABLE here (name TEXT, hash INTEGER, id INTEGER)")
    lite.execute("CREATE TEMP TABLE there (name TEXT, hash INTEGER, id INTEGER)")
    lite.execute("CREATE INDEX temp.here_hash ON here (name, hash)")
    lite.execute("CREATE INDEX temp.there_hash ON there (name, hash)")
    lite.execute("CREATE TEMP TABLE only_here (name TEXT, key INTEGER, id INTEGER)")
    lite.execute("CREATE TEMP TABLE only_there (name TEXT, key INTEGER, id INTEGER)")
    lite.execute("CREATE INDEX temp.only_here_key ON only_here (name, key)")
    lite.execute("CREATE INDEX temp.only_there_key ON only_there (name, key)")


def compare(lite, cursor, table: Table, mine: Sums | None = None) -> Sums:
    """Compare ``table``; return SQLite's sums, with the rows that only one side has in temp.only_here and temp.only_there.

    ``lite`` is a connection that went through prepare(), ``cursor`` one of PostgreSQL's; each in one transaction. ``mine`` are
    SQLite's sums where they are known. Memory does not grow with the table.
    """
    mine = mine or row_digests.lite_sums(lite, cursor, table)
    buckets = mine.differing(row_digests.server_sums(cursor, table))
    if buckets:
        unmatched = Unmatched(lite, table)
        for rows in row_digests.lite_rows(lite, cursor, table):
            unmatched.add("here", rows.of(buckets))
        with tempfile.TemporaryFile(dir=os.environ.get("SQLITE_TMPDIR")) as stream:
            row_digests.server_rows(cursor, table, buckets, stream)
            stream.seek(0)
            for rows in row_digests.received(stream):
                unmatched.add("there", rows)
        unmatched.settle(cursor)
    return mine


def replaced(lite, name: str) -> int:
    """Return how many rows of the table ``name`` SQLite has with the key of a row that differs on PostgreSQL."""
    query = f"SELECT count(*) FROM temp.only_here AS mine WHERE name = ? AND {SAME_KEY.format('there')}"
    return lite.execute(query, (name,)).fetchone()[0]


class Unmatched:
    """Rows of ``table`` that one side has and the other has not been seen to have: at first those of all buckets that differ.

    They come in about the same order from both sides, so few of them wait at a time; those that are too many wait on disk, in
    the temporary tables of the SQLite connection ``lite``.
    """

    def __init__(self, lite, table: Table) -> None:
        self._lite, self._table, self._on_disk = lite, table, False
        # The id of each hash; of one that several rows have, the others' ids beside it.
        self._waiting: dict[str, dict[int, int]] = {"here": {}, "there": {}}
        self._more: dict[str, dict[int, list[int]]] = {"here": {}, "there": {}}
        self._repeated = {"here": 0, "there": 0}

    def add(self, side: str, rows: Rows) -> None:
        """Match ``rows`` of one side with those of the other."""
        other = "there" if side == "here" else "here"
        mine, theirs, fresh = self._waiting[side], self._waiting[other], dict(zip(rows.hashes, rows.ids))
        if len(fresh) < len(rows.hashes) or self._more[other] or not mine.keys().isdisjoint(fresh):
            self._add_one_by_one(side, other, rows)
        else:  # in C
            met = fresh.keys() & theirs.keys()
            for row in met:
                del theirs[row]
            mine.update((row, number) for row, number in fresh.items() if row not in met)
        if len(mine) + self._repeated[side] > _WAITING:
            self._spill()

    def _add_one_by_one(self, side: str, other: str, rows: Rows) -> None:
        mine, more, theirs, theirs_more = self._waiting[side], self._more[side], self._waiting[other], self._more[other]
        for row, number in zip(rows.hashes, rows.ids):
            if row in theirs_more:
                theirs_more[row].pop()
                self._repeated[other] -= 1
                if not theirs_more[row]:
                    del theirs_more[row]
            elif row in theirs:
                del theirs[row]
            elif row in mine:
                more.setdefault(row, []).append(number)
                self._repeated[side] += 1
            else:
                mine[row] = number

    def _left_waiting(self, side: str):
        """Yield (hash, id) of what waits in memory."""
        yield from self._waiting[side].items()
        yield from ((row, number) for row, numbers in self._more[side].items() for number in numbers)

    def _spill(self) -> None:
        self._on_disk = True
        for side in ("here", "there"):
            rows = ((self._table.name, row, number) for row, number in self._left_waiting(side))
            self._lite.executemany(f"INSERT INTO temp.{side} VALUES (?, ?, ?)", rows)
            self._waiting[side].clear()
            self._more[side].clear()
            self._repeated[side] = 0

    def settle(self, cursor) -> None:
        """Fill temp.only_here and temp.only_there with what is left.

        A row is ``(name of the table, hash of its key or NULL, id)``, the id as in Rows. Of rows that are equal those count that
        one side has more of.
        """
        lite, table = self._lite, self._table
        if self._on_disk:
            self._spill()
        text = "NULL"
        if table.key:
            present = " AND ".join(f"{one.lite} IS NOT NULL" for one in table.keys)
            text = f"hash_of(CASE WHEN {present} THEN CAST({row_digests.lite_text(table.keys)} AS BLOB) END)"
        insert = f"INSERT INTO temp.only_here SELECT ?1, {text}, ?2 FROM {table.source} WHERE t.rowid = ?2"
        lite.executemany(insert, ((table.name, number) for number in self._left("here", "there")))
        batches = iter(self._left("there", "here"))
        while batch := list(itertools.islice(batches, row_digests.BATCH_ROWS)):
            lite.executemany("INSERT INTO temp.only_there VALUES (?, ?, ?)", _with_keys(cursor, table, batch))
        for side in ("here", "there"):
            lite.execute(f"DELETE FROM temp.{side} WHERE name = ?", (table.name,))

    def _left(self, mine: str, theirs: str):
        """Yield the ids of ``mine`` that have no equal among ``theirs``."""
        yield from (number for _row, number in self._left_waiting(mine))
        if self._on_disk:
            query = (
                "SELECT id FROM (SELECT hash, id, row_number() OVER (PARTITION BY hash ORDER BY id) AS number"
                f" FROM temp.{mine} WHERE name = ?1) AS mine"
                f" WHERE number > (SELECT count(*) FROM temp.{theirs} AS theirs WHERE name = ?1 AND theirs.hash = mine.hash)"
            )
            for (number,) in self._lite.execute(query, (self._table.name,)):
                yield number


def _with_keys(cursor, table: Table, ids: list[int]) -> list[tuple]:
    """Return (name of the table, hash of the key or None, id) for PostgreSQL's rows of these ids."""
    if not table.key:
        return [(table.name, None, one) for one in ids]
    present = f"num_nulls({', '.join(map(identifier, table.key))}) = 0"
    cursor.execute(
        f"SELECT CASE WHEN {present} THEN {row_digests.server_hash(row_digests.server_text(table.keys))} END, ctid::text"
        f" FROM public.{identifier(table.name)} WHERE ctid = ANY (%s::tid[])",
        (list(map(ctid, ids)),),
    )
    numbers = {ctid(number): number for number in ids}
    return [(table.name, key, numbers[place]) for key, place in cursor]
