# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Row ids of a table of SQLite's, cut into runs of so many rows."""

from __future__ import annotations

import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# The smallest and the largest row id that there can be: https://www.sqlite.org/autoinc.html.
FIRST, LAST = -(1 << 63), (1 << 63) - 1


def run(sqlite: sqlite3.Connection, table: str, start: int, stop: int, rows: int | None = None) -> tuple[int, int] | None:
    """Return the row ids of the first and the last of ``rows`` rows at most, on the way from ``start`` to ``stop``.

    The way goes down where ``stop`` is the smaller one. Without ``rows`` all are one run. None where no row is on the way.
    """
    order, reverse = ("", "DESC") if start <= stop else ("DESC", "")
    query, between = f"SELECT rowid FROM {identifier(table)} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", sorted((start, stop))
    first = sqlite.execute(f"{query} {order} LIMIT 1", between).fetchone()
    if first is None:
        return None
    last = sqlite.execute(f"{query} {order} LIMIT 1 OFFSET {rows - 1}", between).fetchone() if rows else None
    last = last or sqlite.execute(f"{query} {reverse} LIMIT 1", between).fetchone()
    return first[0], last[0]
