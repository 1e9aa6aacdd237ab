# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows that are equal where a unique index keeps them apart, as one in another order than its collation has today does not."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

# An index that is out of order shows each of two such rows by itself, so none is asked.
WITHOUT_INDEXES = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")

# Columns of an index stand in indkey in its order, and those that it only INCLUDEs behind them. An expression has no column.
_INDEXES = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text,
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k),
    coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
    pg_table_size(c.oid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indisunique AND c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
    AND (%(schema)s IS NULL OR n.nspname = %(schema)s)
ORDER BY 1
"""


@dataclasses.dataclass(frozen=True)
class UniqueIndex:
    """A unique index: its name and its table's as SQL has them, its ``keys`` (columns or expressions), a partial one's condition.

    ``nulls_equal`` is an index's with NULLS NOT DISTINCT; ``size`` is the table's in bytes.
    """

    name: str
    table: str
    keys: list[str]
    condition: str
    nulls_equal: bool
    size: int

    @property
    def key(self) -> str:
        """What is to be there once."""
        return ", ".join(self.keys)

    @property
    def covered(self) -> str:
        """The condition of the rows that it keeps apart: one without a value is equal to none."""
        present = "" if self.nulls_equal else "".join(f" AND ({key}) IS NOT NULL" for key in self.keys)
        return f"({self.condition}){present}"

    @property
    def listing(self) -> str:
        """The SELECT of the values that are there more than once, and how often."""
        groups = ", ".join(str(number + 1) for number in range(len(self.keys)))
        return f"SELECT {self.key}, count(*) FROM ONLY {self.table} WHERE {self.covered} GROUP BY {groups} HAVING count(*) > 1"


def present(cursor: Cursor, schema: str | None = None) -> list[UniqueIndex]:
    """Return the unique indexes of the tables in ``schema``, or in all schemas but the server's own."""
    cursor.execute(_INDEXES, {"schema": schema})
    return [UniqueIndex(*row) for row in cursor.fetchall()]


def duplicated(cursor: Cursor, index: UniqueIndex) -> int:
    """Return how many values of its key stand in more than one row; ask within scans_off()."""
    cursor.execute(f"SELECT count(*) FROM ({index.listing}) AS duplicates")
    return int(only_row(cursor)[0])


@contextlib.contextmanager
def scans_off(cursor: Cursor) -> Iterator[None]:
    """Let no question within the block be answered by an index."""
    for name in WITHOUT_INDEXES:
        cursor.execute(f"SET {name} = off")
    try:
        yield
    finally:
        # After an error of the server's there is nothing to set back in a transaction that has failed.
        with contextlib.suppress(Exception):
            for name in WITHOUT_INDEXES:
                cursor.execute(f"RESET {name}")
