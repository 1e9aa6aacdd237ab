# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NULL in boolean columns, which the port routine turns into false, though to Synapse it may mean true.

A pusher from before its column ``enabled`` was made, and a user from before ``approved``, hold NULL there and count as enabled
and as approved (COALESCE(enabled, TRUE) in synapse/storage/databases/main/pusher.py, likewise in registration.py): ported
as they are by _convert_rows() in synapse/_scripts/synapse_port_db.py, push messages would end and log-ins be refused.
"""

from __future__ import annotations

import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    from psycopg2 import extras, sql
except ImportError:
    pass

# Rows that a statement restores at once.
_BATCH = 1000

_NULLABLE = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.atttypid = 'boolean'::regtype
    AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.attnotnull GROUP BY 1
"""


def columns(cursor: Cursor, rules: Rules) -> dict[str, tuple[list[str], list[str]]]:
    """Return ``{table: (columns of a unique key, boolean columns whose NULLs the routine loses and restore() brings back)}``.

    ``rules`` are those of the Synapse that ported. Tables without a key are left out.
    """
    keys = database.unique_keys(cursor)
    cursor.execute(_NULLABLE)
    found = {}
    for table, nullable in cursor.fetchall():
        lost = [name for name in nullable if name in rules.boolean.get(table, ())]
        if lost and table in keys:
            found[table] = (keys[table][0], lost)
    return found


def restore(cursor: Cursor, source: Source, rules: Rules) -> dict[str, int]:
    """Make NULL again on PostgreSQL what is NULL in the ``source``; return ``{table.column: rows}``.

    The connection must autocommit; a run that is killed is simply begun again.
    """
    restored = {}
    with source.reading() as sqlite:
        for table, (key, lost) in columns(cursor, rules).items():
            present = {row[1] for row in sqlite.execute(f"PRAGMA table_info({identifier(table)})")}
            for name in lost:
                if present.issuperset([*key, name]):
                    rows = _restore(sqlite, cursor, table, key, name)
                    if rows:
                        restored[f"{table}.{name}"] = rows
    return restored


def _restore(sqlite: sqlite3.Connection, cursor: Cursor, table: str, key: list[str], name: str) -> int:
    """Restore the NULLs of one column; return how many rows had lost theirs."""
    place = {"table": sql.Identifier("public", table), "name": sql.Identifier(name)}
    count = sql.SQL("SELECT count(*) FROM {table} WHERE {name} IS NULL").format(**place)
    cursor.execute(count)
    before = only_row(cursor)[0]
    source = f"FROM {identifier(table)} WHERE {identifier(name)} IS NULL"
    if before == sqlite.execute(f"SELECT count(*) {source}").fetchone()[0]:
        return 0
    statement = sql.SQL(
        "UPDATE {table} AS t SET {name} = NULL FROM (VALUES %s) AS lost ({keys}) WHERE {same} AND t.{name} IS NOT NULL"
    ).format(
        **place,
        keys=sql.SQL(", ").join(map(sql.Identifier, key)),
        same=sql.SQL(" AND ").join(sql.SQL("t.{0} = lost.{0}").format(sql.Identifier(part)) for part in key),
    )
    rows = sqlite.execute(f"SELECT {', '.join(map(identifier, key))} {source}")
    while True:
        batch = rows.fetchmany(_BATCH)
        if not batch:
            break
        # A row with a NUL character is not there; one with a NULL in its key is nobody's.
        whole = [row for row in batch if not any(part is None or (isinstance(part, str) and "\0" in part) for part in row)]
        if whole:
            extras.execute_values(cursor, statement, whole, page_size=_BATCH)
    cursor.execute(count)
    return only_row(cursor)[0] - before
