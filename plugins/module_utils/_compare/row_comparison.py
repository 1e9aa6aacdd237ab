# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of tables row for row: the sums of all shares, then the rows of those buckets in which the sums differ."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_digests import Rows, Share, Sums
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.shares import Kept
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.sides import Sides, Work
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.unmatched import Unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# How many sums are kept at once, and how many rows of shares that have changed are kept in mind (16 bytes each).
_KEPT = 32
_READ = 2_000_000


@dataclasses.dataclass(frozen=True)
class RowComparison:
    """What compares tables of ``sides``: ``work`` does its tasks, ``kept`` are the sums that are known already."""

    sides: Sides
    work: Work
    kept: Kept
    progress: _progress.Progress

    def compare(self, tables: dict[str, Table], known: dict[str, Sums] | None = None) -> dict[str, Sums]:
        """Compare ``tables``; return SQLite's sums by table. The rows that differ are in temp.only_sqlite and only_postgres then.

        ``known`` are SQLite's sums of tables for which they need not be found again.
        """
        shares = [share for table in tables.values() for share in self.kept.cut(self.sides, table)]
        sums, read = self._sum(tables, shares, known or {})
        buckets = {name: sums[name, "sqlite"].differing(sums[name, "postgres"]) for name in tables}
        differing = [share for share in shares if buckets[share.table]]
        if differing:
            self._gather(tables, differing, buckets, read)
        return {name: sums[name, "sqlite"] for name in tables}

    def _sum(
        self, tables: dict[str, Table], shares: list[Share], known: dict[str, Sums]
    ) -> tuple[dict[tuple[str, str], Sums], dict[Share, Rows]]:
        """Return ``{(table, side): Sums}``, and those rows of SQLite's that were read and are likely to differ."""
        shares = [share for share in shares if share.side == "postgres" or share.table not in known]
        # The longest last would leave the others waiting for it: those for which the server is asked for each row go first.
        shares.sort(key=lambda share: (not tables[share.table].special, share.low - share.high))
        sums = {(name, side): Sums() for name in tables for side in ("sqlite", "postgres")}
        sums.update(((name, "sqlite"), known[name]) for name in tables if name in known)
        left, total, rows = iter(shares), self._estimated(tables), sum(sums[name, "sqlite"].rows for name in tables)
        in_mind: dict[Share, Rows] = {}

        def inspect(sides: Sides, share: Share) -> tuple:
            read = Rows() if share.side == "sqlite" and self.kept.knows(share.table) else None
            found, new = self.kept.sums(sides, tables[share.table], share, read)
            return found, new, read if read and len(read.ids) == found.rows else None

        def done(share: Share, answer: tuple) -> None:
            nonlocal rows
            part, new, read = answer
            # What has changed is likely to differ, and is not read once more then.
            if read and sum(len(each.ids) for each in in_mind.values()) < _READ:
                in_mind[share] = read
            sums[share.table, share.side].add(part)
            rows += part.rows if share.side == "sqlite" else 0
            self.progress.tell(current=share.table, done=rows, total=max(total, rows))
            self.kept.keep(share, part, new)
            self.kept.settle(keeper, at_least=_KEPT)

        with self._keeper() as keeper:
            self.work(inspect, lambda: next(left, None), done)
            self.kept.settle(keeper)
        return sums, in_mind

    @contextlib.contextmanager
    def _keeper(self) -> Iterator[Cursor | None]:
        """Yield the cursor of a session that commits what is to be kept, while the others see one moment; None for nothing."""
        if not self.kept.keeping:
            yield None
            return
        with self.sides.target.connected("synapse_port_verify") as keeper:
            keeper.execute("SET synchronous_commit = off")
            yield keeper

    def _gather(
        self, tables: dict[str, Table], shares: list[Share], buckets: dict[str, list[int]], read: dict[Share, Rows]
    ) -> None:
        """Find the rows of ``shares`` that only one side has, in the ``buckets`` of each table; ``read`` are known already."""
        # What is at about the same place on both sides one after the other.
        ends = {(share.table, share.side): share.high for share in sorted(shares, key=lambda share: share.high)}
        shares.sort(key=lambda share: (share.table, share.high / (abs(ends[share.table, share.side]) or 1)))
        left, total = iter(shares), self._estimated(tables)
        unmatched = {share.table: Unmatched(self.sides.sqlite, tables[share.table]) for share in shares}

        def following() -> Share | None:
            for share in left:
                if share not in read:
                    return share
                unmatched[share.table].add("sqlite", read.pop(share).of(buckets[share.table]))
            return None

        def inspect(sides: Sides, share: Share) -> list[Rows]:
            return _rows(sides, tables[share.table], buckets[share.table], share)

        def done(share: Share, found: list[Rows]) -> None:
            for rows in found:
                unmatched[share.table].add(share.side, rows)
            self.progress.tell(current=f"{share.table}: which rows differ", done=total, total=total)

        self.work(inspect, following, done)
        for each in unmatched.values():
            each.settle(self.sides.postgres)

    def _estimated(self, names: dict[str, Table]) -> int:
        """Return about how many rows SQLite's tables have, without reading them."""
        return sum(self.sides.sqlite.execute(f"SELECT max(rowid) FROM {identifier(name)}").fetchone()[0] or 0 for name in names)


def _rows(sides: Sides, table: Table, buckets: list[int], share: Share) -> list[Rows]:
    """Return the rows of ``share`` in ``buckets``."""
    if share.side == "sqlite":
        return [rows.of(buckets) for rows in row_digests.sqlite_rows(sides.sqlite, sides.postgres, table, share)]
    stream = io.BytesIO()
    row_digests.postgres_rows(sides.postgres, table, buckets, stream, share)
    stream.seek(0)
    return list(row_digests.received(stream))
