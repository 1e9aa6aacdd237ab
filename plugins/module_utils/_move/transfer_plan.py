# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to go over by the engine copy, table by table and part by part, and in which order.

A part is the rows of a table between two row ids, which go over in one transaction with the table's watermark.
"""

from __future__ import annotations

import dataclasses
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import schemas
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import copy_lines, synapse_port_db, watermarks
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_ids
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# The columns of a table's watermarks, and whether each goes up or down.
_FORWARD, _BACKWARD = ("forward_rowid", 1), ("backward_rowid", -1)


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of ``table`` with row ids from ``low`` to ``high``, which move its ``watermark`` (a column) to ``after``."""

    table: str
    low: int
    high: int
    watermark: str
    before: int
    after: int


class TransferPlan:
    """What has to go over: the ``transfers`` of the tables that are left, their parts one after the other, and the ``progress``.

    A part has ``rows`` rows at most.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.transfers: dict[str, copy_lines.Transfer] = {}
        self.progress = synapse_port_db.Progress()
        self._watermarks: dict[str, dict[str, int]] = {}
        self._at_work: dict[str, int] = {}
        self._parents: dict[str, set[str]] = {}
        self._undivided: set[str] = set()
        self._left: list[str] = []

    @classmethod
    def of(cls, both: schemas.Tables, cursor: Cursor, carried: set[str], compared: set[str], rows: int) -> TransferPlan:
        """Return the plan for the tables ``carried``, of which those ``compared`` are compared afterwards."""
        plan = cls(rows)
        plan._at_work = dict.fromkeys(carried, 0)
        for name, (forward, backward) in watermarks.read(cursor).items():
            if name in carried:
                plan._watermarks[name] = {_FORWARD[0]: forward, _BACKWARD[0]: backward}
        for name in carried:
            left = plan._left_of(both.connection, name)
            if left:
                plan.transfers[name] = copy_lines.Transfer.of(both.table(name), name in compared)
                total = count(both.connection, name)
                plan.progress.tables[name] = {"rows": total - left, "total": total, "dropped": 0}
        plan._left = sorted(plan.transfers, key=lambda name: -plan.progress.tables[name]["total"])
        return plan

    def order(self, references: list[tuple[str, str]]) -> None:
        """Let every table wait for those to which its foreign keys lead, by ``references`` as of schemas.references()."""
        for child, parent in references:
            if parent in self.transfers and parent != child:
                self._parents.setdefault(child, set()).add(parent)
            if parent == child:  # a row that refers to a later one of its own table goes over with it
                self._undivided.add(child)

    def _left_of(self, sqlite: sqlite3.Connection, name: str) -> int:
        """Return how many rows of the table are beyond its watermarks; search entries only go forward."""
        conditions = [(_FORWARD[0], ">=")] if name == "event_search" else [(_FORWARD[0], ">="), (_BACKWARD[0], "<=")]
        return sum(
            sqlite.execute(
                f"SELECT count(*) FROM {identifier(name)} WHERE rowid {beyond} ?", (self._watermarks[name][column],)
            ).fetchone()[0]
            for column, beyond in conditions
        )

    def next(self, sqlite: sqlite3.Connection, names: set[str]) -> Part | None:
        """Return the next part of the tables ``names`` that can go over now; None when there is none.

        ``sqlite`` is the source's connection.
        """
        before: list[str] = []
        while before != self._left:  # a table that is over lets those begin that refer to it
            before = list(self._left)
            # The table that the fewest are at work on, then the largest.
            for name in sorted(names.intersection(self._left), key=lambda name: (self._at_work[name], self._left.index(name))):
                if not all(map(self._is_over, self._parents.get(name, ()))):
                    continue
                part = self._part(sqlite, name)
                if part:
                    self._at_work[name] += 1
                    return part
                self._left.remove(name)
        return None

    def _is_over(self, name: str) -> bool:
        return name not in self._left and not self._at_work[name]

    def done(self, part: Part, carried: tuple[int, int], progress: _progress.Progress) -> None:
        """Note, and pass on to ``progress``, that ``part`` has gone over, with so many rows (carried, dropped)."""
        rows, dropped = carried
        self._at_work[part.table] -= 1
        table = self.progress.tables[part.table]
        table["rows"], table["dropped"] = table["rows"] + rows, table["dropped"] + dropped
        self.progress.activity = part.table
        self.progress.publish(progress)

    def require_over(self) -> None:
        """Raise Refusal when tables are left that wait for each other."""
        if self._left:
            raise Refusal(
                f"Foreign keys lead in a circle between tables that are to be carried over: {', '.join(sorted(self._left)[:3])}.",
                "Port with engine: synapse, and report the release of Synapse.",
            )

    def _part(self, sqlite: sqlite3.Connection, name: str) -> Part | None:
        """Return the next part of the table, and move its watermark beyond it; None when all of them are on their way."""
        reached = self._watermarks[name]
        for column, step in (_FORWARD, _BACKWARD):
            if name == "event_search" and step < 0:
                continue
            end = row_ids.LAST if step > 0 else row_ids.FIRST
            found = row_ids.run(sqlite, name, reached[column], end, None if name in self._undivided else self._rows)
            if found is None:
                continue
            low, high = sorted(found)
            if abs(found[1] + step) > row_ids.LAST:
                raise Refusal(
                    f"The table {name} has the row id {found[1]}, at which the numbers of both databases end.",
                    "Give that row another row id: it is no key of Synapse's.",
                )
            before, reached[column] = reached[column], found[1] + step
            return Part(name, low, high, column, before, reached[column])
        return None


def count(sqlite: sqlite3.Connection, name: str) -> int:
    """Return how many rows SQLite's table ``name`` has."""
    (rows,) = sqlite.execute(f"SELECT count(*) FROM {identifier(name)}").fetchone()
    return int(rows)
