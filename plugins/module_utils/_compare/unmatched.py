# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which rows only one side of a table has: those of the buckets whose sums differ, matched with each other, and then on disk."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_digests import Rows, ctid
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Rows that the other side has under the same key, with other content.
SAME_KEY = "EXISTS (SELECT 1 FROM temp.only_{} AS other WHERE other.name = differing.name AND other.key = differing.key)"

# How many rows of a side wait in memory for their equals on the other: some 50 MB.
_WAITING = 200_000


def prepare(sqlite: sqlite3.Connection) -> None:
    """Give the connection ``sqlite`` the functions of its expressions, and tables on disk for Unmatched, before it is used.

    They are in SQLite's own temporary database, a file that it has removed already and nobody else can open.
    """
    row_digests.prepare(sqlite)
    sqlite.execute("PRAGMA temp_store = FILE")
    sqlite.execute("CREATE TEMP TABLE waiting_sqlite (name TEXT, hash INTEGER, id INTEGER)")
    sqlite.execute("CREATE TEMP TABLE waiting_postgres (name TEXT, hash INTEGER, id INTEGER)")
    sqlite.execute("CREATE INDEX temp.waiting_sqlite_hash ON waiting_sqlite (name, hash)")
    sqlite.execute("CREATE INDEX temp.waiting_postgres_hash ON waiting_postgres (name, hash)")
    sqlite.execute("CREATE TEMP TABLE only_sqlite (name TEXT, key INTEGER, id INTEGER)")
    sqlite.execute("CREATE TEMP TABLE only_postgres (name TEXT, key INTEGER, id INTEGER)")
    sqlite.execute("CREATE INDEX temp.only_sqlite_key ON only_sqlite (name, key)")
    sqlite.execute("CREATE INDEX temp.only_postgres_key ON only_postgres (name, key)")


def replaced(sqlite: sqlite3.Connection, name: str) -> int:
    """Return how many rows of the table ``name`` SQLite has with the key of a row that differs on PostgreSQL."""
    query = f"SELECT count(*) FROM temp.only_sqlite AS differing WHERE name = ? AND {SAME_KEY.format('postgres')}"
    return sqlite.execute(query, (name,)).fetchone()[0]


class Unmatched:
    """Rows of ``table`` that one side has and the other has not been seen to have: at first those of all buckets that differ.

    They come in about the same order from both sides, so few of them wait at a time; those that are too many wait on disk, in
    the temporary tables of the SQLite connection ``sqlite``.
    """

    def __init__(self, sqlite: sqlite3.Connection, table: Table) -> None:
        self._sqlite, self._table, self._on_disk = sqlite, table, False
        # The id of each hash; of one that several rows have, the others' ids beside it.
        self._waiting: dict[str, dict[int, int]] = {"sqlite": {}, "postgres": {}}
        self._more: dict[str, dict[int, list[int]]] = {"sqlite": {}, "postgres": {}}
        self._repeated = {"sqlite": 0, "postgres": 0}

    def add(self, side: str, rows: Rows) -> None:
        """Match ``rows`` of one side with those of the other."""
        other = "postgres" if side == "sqlite" else "sqlite"
        waiting, opposite, fresh = self._waiting[side], self._waiting[other], dict(zip(rows.hashes, rows.ids))
        if len(fresh) < len(rows.hashes) or self._more[other] or not waiting.keys().isdisjoint(fresh):
            self._add_one_by_one(side, other, rows)
        else:  # in C
            met = fresh.keys() & opposite.keys()
            for row in met:
                del opposite[row]
            waiting.update((row, number) for row, number in fresh.items() if row not in met)
        if len(waiting) + self._repeated[side] > _WAITING:
            self._spill()

    def _add_one_by_one(self, side: str, other: str, rows: Rows) -> None:
        waiting, more, opposite, opposite_more = self._waiting[side], self._more[side], self._waiting[other], self._more[other]
        for row, number in zip(rows.hashes, rows.ids):
            if row in opposite_more:
                opposite_more[row].pop()
                self._repeated[other] -= 1
                if not opposite_more[row]:
                    del opposite_more[row]
            elif row in opposite:
                del opposite[row]
            elif row in waiting:
                more.setdefault(row, []).append(number)
                self._repeated[side] += 1
            else:
                waiting[row] = number

    def _left_waiting(self, side: str) -> Iterator[tuple[int, int]]:
        """Yield (hash, id) of what waits in memory."""
        yield from self._waiting[side].items()
        yield from ((row, number) for row, numbers in self._more[side].items() for number in numbers)

    def _spill(self) -> None:
        self._on_disk = True
        for side in ("sqlite", "postgres"):
            rows = ((self._table.name, row, number) for row, number in self._left_waiting(side))
            self._sqlite.executemany(f"INSERT INTO temp.waiting_{side} VALUES (?, ?, ?)", rows)
            self._waiting[side].clear()
            self._more[side].clear()
            self._repeated[side] = 0

    def settle(self, cursor: Cursor) -> None:
        """Fill temp.only_sqlite and temp.only_postgres with what is left.

        A row is ``(name of the table, hash of its key or NULL, id)``, the id as in Rows. Of rows that are equal those count that
        one side has more of.
        """
        sqlite, table = self._sqlite, self._table
        if self._on_disk:
            self._spill()
        text = "NULL"
        if table.key:
            present = " AND ".join(f"{one.sqlite} IS NOT NULL" for one in table.keys)
            text = f"hash_of(CASE WHEN {present} THEN CAST({row_digests.sqlite_text(table.keys)} AS BLOB) END)"
        insert = f"INSERT INTO temp.only_sqlite SELECT ?1, {text}, ?2 FROM {table.source} WHERE t.rowid = ?2"
        sqlite.executemany(insert, ((table.name, number) for number in self._left("sqlite", "postgres")))
        batches = iter(self._left("postgres", "sqlite"))
        while batch := list(itertools.islice(batches, row_digests.BATCH_ROWS)):
            sqlite.executemany("INSERT INTO temp.only_postgres VALUES (?, ?, ?)", _with_keys(cursor, table, batch))
        for side in ("sqlite", "postgres"):
            sqlite.execute(f"DELETE FROM temp.waiting_{side} WHERE name = ?", (table.name,))

    def _left(self, side: str, other: str) -> Iterator[int]:
        """Yield the ids of the rows of ``side`` that have no equal on the ``other`` one."""
        yield from (number for _row, number in self._left_waiting(side))
        if self._on_disk:
            query = (
                "SELECT id FROM (SELECT hash, id, row_number() OVER (PARTITION BY hash ORDER BY id) AS number"
                f" FROM temp.waiting_{side} WHERE name = ?1) AS waiting"
                f" WHERE number > (SELECT count(*) FROM temp.waiting_{other} AS other"
                " WHERE name = ?1 AND other.hash = waiting.hash)"
            )
            for (number,) in self._sqlite.execute(query, (self._table.name,)):
                yield number


def _with_keys(cursor: Cursor, table: Table, ids: list[int]) -> list[tuple]:
    """Return (name of the table, hash of the key or None, id) for PostgreSQL's rows of these ids."""
    if not table.key:
        return [(table.name, None, one) for one in ids]
    present = f"num_nulls({', '.join(map(identifier, table.key))}) = 0"
    cursor.execute(
        f"SELECT CASE WHEN {present} THEN {row_digests.postgres_hash(row_digests.postgres_text(table.keys))} END, ctid::text"
        f" FROM public.{identifier(table.name)} WHERE ctid = ANY (%s::tid[])",
        (list(map(ctid, ids)),),
    )
    numbers = {ctid(number): number for number in ids}
    return [(table.name, key, numbers[place]) for key, place in cursor]
