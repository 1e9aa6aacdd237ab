# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's tables on both sides of a move, and how the port routine matches them column by column."""

from __future__ import annotations

import dataclasses
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import nulls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

_TABLES = """
SELECT c.relname, coalesce(json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
    FILTER (WHERE a.attgenerated = ''), '[]')
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') GROUP BY 1
"""

_REFERENCES = """
SELECT DISTINCT child.relname, parent.relname FROM pg_constraint k
JOIN pg_class child ON child.oid = k.conrelid JOIN pg_class parent ON parent.oid = k.confrelid
WHERE k.contype = 'f' AND child.relnamespace = 'public'::regnamespace
"""


class Tables:
    """The tables of SQLite's connection and of ``cursor``'s schema public, by the ``rules``.

    ``sqlite`` maps the names of SQLite's to the SQL that made them, ``postgres`` those of PostgreSQL's to [(column, type)].
    """

    def __init__(self, connection: sqlite3.Connection, cursor: Cursor, rules: Rules) -> None:
        self.connection, self._rules = connection, rules
        cursor.execute(_TABLES)
        self.postgres: dict[str, list[tuple[str, str]]] = dict(cursor.fetchall())
        self.sqlite: dict[str, str] = dict(
            connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type = 'table' ORDER BY name")
        )
        self._keys = database.unique_keys(cursor)
        self._nullable = nulls.columns(cursor, rules)

    def table(self, name: str) -> Table:
        """Return what is carried over of the table ``name`` that both sides have: the columns of both.

        The names may differ in case.
        """
        if name == "event_search":
            return self._search()
        boolean = {one.lower() for one in self._rules.boolean.get(name, ())}
        nullable = self._nullable.get(name, ([], []))[1]
        present, columns = self._columns_of_sqlite(name), []
        for column, kind in self.postgres[name]:
            if column.lower() in present:
                value = f"t.{identifier(present[column.lower()])}"
                columns.append(Column.of(column, value, kind, column.lower() in boolean, column in nullable))
        return Table(name, f"{identifier(name)} AS t", tuple(columns), self._key(name, columns))

    def one_sided(self, name: str) -> tuple[list[str], list[str]]:
        """Return the columns of ``name`` that only SQLite has, and those that only PostgreSQL has."""
        sqlite, postgres = self._columns_of_sqlite(name), {column.lower(): column for column, _kind in self.postgres[name]}
        return (
            [column for name, column in sqlite.items() if name not in postgres],
            [column for name, column in postgres.items() if name not in sqlite],
        )

    def _columns_of_sqlite(self, name: str) -> dict[str, str]:
        return {row[1].lower(): row[1] for row in self.connection.execute(f"PRAGMA table_info({identifier(name)})")}

    def _key(self, name: str, columns: list[Column]) -> tuple[str, ...]:
        """Return the columns of a unique index of PostgreSQL's, if both sides can write them; nothing where there is none."""
        plain = {one.name for one in columns if one.kind != "special"}
        key = tuple(self._keys.get(name, [()])[0])
        return key if plain.issuperset(key) else ()

    def _search(self) -> Table:
        """Return event_search as handle_search_table() ports it: joined with its event, the text as its search vector."""
        name = "event_search"
        values = {"origin_server_ts": "e.origin_server_ts", "stream_ordering": "e.stream_ordering", "vector": "t.value"}
        columns = []
        for column, kind in self.postgres[name]:
            found = Column.of(column, values.get(column, f"t.{identifier(column)}"), kind, False)
            if column == "vector":
                found = dataclasses.replace(found, takes="to_tsvector('english', {})")
            columns.append(found)
        source = "event_search AS t CROSS JOIN events AS e USING (event_id, room_id)"
        return Table(name, source, tuple(columns), self._key(name, columns))


def references(cursor: Cursor) -> list[tuple[str, str]]:
    """Return (child, parent) for every foreign key of a table of the schema public; a table may refer to itself."""
    cursor.execute(_REFERENCES)
    return cursor.fetchall()


def triggered(cursor: Cursor) -> set[str]:
    """Return the tables of the schema public with triggers, such as Synapse's, which look into other tables."""
    cursor.execute(
        "SELECT relname FROM pg_class AS t WHERE relnamespace = 'public'::regnamespace"
        " AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = t.oid AND NOT tgisinternal)"
    )
    return {name for (name,) in cursor.fetchall()}
