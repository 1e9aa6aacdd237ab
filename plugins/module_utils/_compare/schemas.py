# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's tables on both sides of a move, and how the port routine matches them column by column."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import nulls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Tables that each database keeps on its own: run() in synapse/_scripts/synapse_port_db.py, whose own the last one is.
BOOKKEEPING = {"schema_version", "applied_schema_deltas", "port_from_sqlite3"}

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
    """The tables of SQLite's connection ``lite`` and of ``cursor``'s schema public, by what ``routine`` decides.

    ``mine`` maps the names of SQLite's to the SQL that made them, ``theirs`` those of PostgreSQL's to lists of (column, type);
    ``routine`` is as in record.Record.
    """

    def __init__(self, lite, cursor, routine: dict) -> None:
        self._lite, self._routine = lite, routine
        cursor.execute(_TABLES)
        self.theirs = dict(cursor.fetchall())
        self.mine = dict(lite.execute("SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type = 'table' ORDER BY name"))
        self._keys = database.unique_keys(cursor)
        self._nullable = nulls.columns(cursor, routine)

    def table(self, name: str) -> Table:
        """Return what is carried over of the table ``name`` that both sides have: the columns of both.

        The names may differ in case.
        """
        if name == "event_search":
            return self._search()
        boolean = {one.lower() for one in self._routine["boolean"].get(name, [])}
        nullable = self._nullable.get(name, ([], []))[1]
        mine, columns = self._columns_here(name), []
        for there, kind in self.theirs[name]:
            if there.lower() in mine:
                lite = f"t.{identifier(mine[there.lower()])}"
                columns.append(Column.of(there, lite, kind, there.lower() in boolean, there in nullable))
        return Table(name, f"{identifier(name)} AS t", tuple(columns), self._key(name, columns))

    def one_sided(self, name: str) -> tuple[list[str], list[str]]:
        """Return the columns of ``name`` that only SQLite has, and those that only PostgreSQL has."""
        mine, theirs = self._columns_here(name), {there.lower(): there for there, _kind in self.theirs[name]}
        return (
            [column for name, column in mine.items() if name not in theirs],
            [column for name, column in theirs.items() if name not in mine],
        )

    def _columns_here(self, name: str) -> dict[str, str]:
        return {row[1].lower(): row[1] for row in self._lite.execute(f"PRAGMA table_info({identifier(name)})")}

    def _key(self, name: str, columns: list[Column]) -> tuple[str, ...]:
        """Return the columns of a unique index of PostgreSQL's, if both sides can write them; nothing where there is none."""
        plain = {one.name for one in columns if one.kind != "special"}
        key = tuple(self._keys.get(name, [()])[0])
        return key if plain.issuperset(key) else ()

    def _search(self) -> Table:
        """Return event_search as handle_search_table() ports it: joined with its event, the text as its search vector."""
        name = "event_search"
        here = {"origin_server_ts": "e.origin_server_ts", "stream_ordering": "e.stream_ordering", "vector": "t.value"}
        columns = []
        for there, kind in self.theirs[name]:
            found = Column.of(there, here.get(there, f"t.{identifier(there)}"), kind, False)
            if there == "vector":
                found = dataclasses.replace(found, takes="to_tsvector('english', {})")
            columns.append(found)
        source = "event_search AS t CROSS JOIN events AS e USING (event_id, room_id)"
        return Table(name, source, tuple(columns), self._key(name, columns))


def references(cursor) -> list[tuple[str, str]]:
    """Return (child, parent) for every foreign key of a table of the schema public; a table may refer to itself."""
    cursor.execute(_REFERENCES)
    return cursor.fetchall()


def triggered(cursor) -> set[str]:
    """Return the tables of the schema public with triggers, such as Synapse's, which look into other tables."""
    cursor.execute(
        "SELECT relname FROM pg_class AS t WHERE relnamespace = 'public'::regnamespace"
        " AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = t.oid AND NOT tgisinternal)"
    )
    return {name for (name,) in cursor.fetchall()}
