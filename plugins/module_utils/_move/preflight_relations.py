# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows on SQLite that PostgreSQL refuses for what other rows hold, or do not: what they refer to, and what they repeat.

Conditions on a row of a table are for its alias ``child``.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Iterable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import NAMED
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import ForeignKey
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier


def orphans(
    key: ForeignKey, columns: dict[str, str], parent_columns: dict[str, str] | None, parent_dropped: Iterable[str]
) -> str:
    """Return a condition that is true of a row whose parent by ``key`` is missing on PostgreSQL.

    ``columns`` and ``parent_columns`` map the names of the columns of child and parent on PostgreSQL to SQLite's,
    ``parent_columns`` None for a parent that is not carried over. ``parent_dropped`` are conditions on the parent's columns under
    which the routine leaves a row of it out. A key that is NULL in part refers to nothing.
    """
    names = [identifier(columns[column]) for column in key.columns]
    given = " AND ".join(f"child.{name} IS NOT NULL" for name in names)
    if parent_columns is None:
        return given
    same = [f"parent.{identifier(parent_columns[column])} = child.{name}" for column, name in zip(key.parent_columns, names)]
    same += [f"NOT ifnull({condition}, 0)" for condition in parent_dropped]
    return f"{given} AND NOT EXISTS (SELECT 1 FROM {identifier(key.parent)} AS parent WHERE {' AND '.join(same)})"


def before_parent(key: ForeignKey, columns: dict[str, str]) -> str:
    """Return a condition that is true of a row that the routine sends before the row it refers to by ``key``, of its own table.

    Rows are inserted one by one, from row id 1 upwards, and PostgreSQL looks after each (refresh_tokens has such a key, and an
    older token refers to the newer one). ``columns`` maps names on PostgreSQL to SQLite's.
    """
    same = " AND ".join(
        f"parent.{identifier(columns[parent])} = child.{identifier(columns[column])}"
        for column, parent in zip(key.columns, key.parent_columns)
    )
    return f"EXISTS (SELECT 1 FROM {identifier(key.table)} AS parent WHERE {same} AND parent.rowid > child.rowid)"


def duplicates(connection: sqlite3.Connection, table: str, columns: list[str], where: str | None) -> tuple[int, list[int]]:
    """Return how many rows share ``columns`` with an earlier one, where the condition ``where`` holds, and the first row ids."""
    names = ", ".join(identifier(column) for column in columns)
    given = " AND ".join([f"{identifier(column)} IS NOT NULL" for column in columns] + ([where] if where else []))
    query = f"SELECT count(*), max(rowid) FROM {identifier(table)} WHERE {given} GROUP BY {names} HAVING count(*) > 1"
    count = 0
    row_ids: list[int] = []
    for many, row_id in connection.execute(query):
        count += many - 1
        if len(row_ids) < NAMED:
            row_ids.append(row_id)
    return count, row_ids


def unique_on_sqlite(connection: sqlite3.Connection, table: str) -> list[tuple[set[str], str | None]]:
    """Return the sets of columns of ``table``, in lower case, that SQLite itself keeps unique.

    Each with None, or with the condition of a partial index.
    """
    name = identifier(table)
    found: list[tuple[set[str], str | None]] = []
    key = {row[1].lower() for row in connection.execute(f"PRAGMA table_info({name})") if row[5]}
    if key:
        found.append((key, None))
    for _number, index, is_unique, _origin, is_partial in connection.execute(f"PRAGMA index_list({name})").fetchall():
        columns = [row[2] for row in connection.execute(f"PRAGMA index_info({identifier(index)})")]
        if is_unique and None not in columns:  # None is an expression
            where = partial_index_condition(connection, index) if is_partial else None
            found.append(({column.lower() for column in columns}, where))
    return found


def partial_index_condition(connection: sqlite3.Connection, index: str) -> str:
    """Return the condition of the partial ``index`` of SQLite's as PostgreSQL writes simple ones: in parentheses."""
    definition = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (index,)).fetchone()[0]
    found = " ".join(re.split(r"\bWHERE\b", definition, maxsplit=1, flags=re.IGNORECASE)[-1].split())
    return found if found.startswith("(") else f"({found})"
