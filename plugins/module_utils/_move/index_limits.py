# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows that no index of PostgreSQL's can hold: SQLite names the few that are large, and the server judges them.

An entry of a btree has a third of a page at most, what is long in it compressed (index_form_tuple() in
src/backend/access/common/indextuple.c, BTMaxItemSize in src/include/access/nbtree.h): 3000 characters of noise do not fit, and
100 000 equal ones do. So the server makes the same index on a temporary table, and is given just these rows.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import Iterable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import is_no_text, stored
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_relations
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import TargetSchema
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
except ImportError:
    pass

# Types whose values are all small.
_SMALL = {"smallint", "integer", "bigint", "boolean", "real", "double precision"}

# Of a page, what an entry has that fits whatever else the index holds: less than a third, for numbers and the entry's own head.
_SAFE = 4

# Bytes of a text whose search vector is sure to have less than its 1 MiB (manual, section 12.11), with each of its words and
# parts of words in it, and their places.
_SAFE_WORDS = 1 << 17

# Rows, and characters of them, that the server is given at once.
_BATCH_ROWS = 500
_BATCH_SIZE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Index:
    """An index of PostgreSQL's: ``using`` is what follows USING in its definition, ``columns`` are all that it looks at.

    ``where`` is a condition on SQLite of the rows that it holds, where its definition does not have it.
    """

    name: str
    using: str
    columns: tuple[str, ...]
    where: str = "1"


class IndexLimits:
    """What the indexes of ``table`` can hold. ``columns`` is ``{name on PostgreSQL: name on SQLite}``.

    Synapse's background updates, which make some indexes later, made those on SQLite as well: so SQLite's own count, too.
    """

    def __init__(self, sqlite: sqlite3.Connection, table: str, columns: dict[str, str], target: TargetSchema) -> None:
        self._sqlite, self._table, self._columns = sqlite, table, columns
        self._types = {name: column.type for name, column in target.columns[table].items()}
        self._expressions: dict[str, str] = {}  # what the server makes of a column's value, with {} for it
        self._safe_size = target.page // _SAFE
        self.indexes = [
            Index(one.name, one.using, one.columns) for one in target.indexes.get(table, ()) if columns.keys() >= set(one.columns)
        ]
        self.indexes += self._indexes_of_sqlite()
        if table == "event_search":  # its vector is made of the value: handle_search_table() of the routine
            self._types["value"], self._expressions["value"] = "tsvector", "to_tsvector('english', {})"
            self.indexes.append(Index("event_search_fts_idx", "gin (value)", ("value",)))

    def _indexes_of_sqlite(self) -> list[Index]:
        """Return SQLite's own indexes of other columns than those of PostgreSQL's."""
        known = {frozenset(one.columns) for one in self.indexes}
        on_postgres = {sqlite_name: name for name, sqlite_name in self._columns.items()}
        found = []
        for _number, name, _unique, _origin, is_partial in self._sqlite.execute(f"PRAGMA index_list({identifier(self._table)})"):
            indexed = [row[2] for row in self._sqlite.execute(f"PRAGMA index_info({identifier(name)})")]
            columns = tuple(on_postgres[column] for column in indexed if column in on_postgres)
            if len(columns) == len(indexed) and frozenset(columns) not in known:  # neither an expression nor SQLite's alone
                using = f"btree ({', '.join(map(identifier, columns))})"
                where = preflight_relations.partial_index_condition(self._sqlite, name) if is_partial else "1"
                found.append(Index(name, using, columns, where))
        return found

    @property
    def large_rows(self) -> str | None:
        """The condition on SQLite of a row that may be too large for some index; None where none can be."""
        conditions = []
        sized = sorted({column for one in self.indexes for column in one.columns if self._types[column] not in _SMALL})
        for safe, names in (
            (self._safe_size, [name for name in sized if self._types[name] != "tsvector"]),
            (_SAFE_WORDS, [name for name in sized if self._types[name] == "tsvector"]),
        ):
            lengths = [f"ifnull(length(CAST({identifier(self._columns[name])} AS BLOB)), 0)" for name in names]
            if lengths:
                conditions.append(f"{' + '.join(lengths)} > {safe}")
        return f"({' OR '.join(conditions)})" if conditions else None

    def oversized(self, cursor: Cursor, row_ids: Iterable[int]) -> dict[Index, list[int]]:
        """Return of ``row_ids`` those that the server of ``cursor`` cannot put into an index, by the index.

        It is all in the cursor's open transaction, and to be rolled back. Raises psycopg2.Error where the role may not make a
        temporary table.
        """
        found = {}
        for index in self.indexes:
            cursor.execute("SAVEPOINT inspected")
            kinds = ", ".join(f"{identifier(name)} {self._types[name]}" for name in index.columns)
            cursor.execute(f"CREATE TEMP TABLE candidates ({kinds}); CREATE INDEX ON pg_temp.candidates USING {index.using}")
            refused = [row_id for batch in self._batches(index, row_ids) for row_id in self._refused(cursor, index, batch)]
            cursor.execute("ROLLBACK TO SAVEPOINT inspected")
            if refused:
                found[index] = sorted(refused)
        return found

    def _batches(self, index: Index, row_ids: Iterable[int]) -> Iterator[list[tuple]]:
        """Yield lists of (row id, *values as the server gets them) of those of ``row_ids`` that ``index`` holds."""
        names = ", ".join(identifier(self._columns[name]) for name in index.columns)
        query = f"SELECT rowid, {names} FROM {identifier(self._table)} WHERE rowid = ? AND ({index.where})"
        kinds = ["bool" if self._types[name] == "boolean" else "int" for name in index.columns]
        batch: list[tuple] = []
        size = 0
        for row_id in row_ids:
            for row in self._sqlite.execute(query, (row_id,)):
                values = [stored(value, kind) for value, kind in zip(row[1:], kinds)]
                if not any(is_no_text(value) for value in values):  # what is wrong with them then is no length
                    batch.append((row_id, *values))
                    size += sum(map(len, filter(None, values)))
            if len(batch) == _BATCH_ROWS or size > _BATCH_SIZE:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _refused(self, cursor: Cursor, index: Index, batch: list[tuple]) -> list[int]:
        """Return the ids of the rows of ``batch`` that are too large."""
        given = [f"given{place}" for place in range(len(index.columns))]
        values = [
            f"CAST({self._expressions.get(name, '{}').format(one)} AS {self._types[name]})"
            for name, one in zip(index.columns, given)
        ]
        arrays = ", ".join(["%s::text[]"] * len(given))
        insert = f"INSERT INTO pg_temp.candidates SELECT {', '.join(values)} FROM unnest({arrays}) AS given ({', '.join(given)})"
        try:
            cursor.execute("SAVEPOINT batch")
            cursor.execute(insert, [list(column) for column in list(zip(*batch))[1:]])
            cursor.execute("RELEASE SAVEPOINT batch")
            return []
        except psycopg2.Error as error:
            # Class 22: no such value, which is no matter of length. Class 54: too much of it. Appendix A of the manual.
            kind = (error.pgcode or "")[:2]
            if kind not in ("22", "54"):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT batch; RELEASE SAVEPOINT batch")
        if len(batch) == 1:
            return [batch[0][0]] if kind == "54" else []
        half = len(batch) // 2
        return self._refused(cursor, index, batch[:half]) + self._refused(cursor, index, batch[half:])
