# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying over the rows of append-only tables that changed on SQLite between two runs of the port routine.

The routine only ever adds to these tables: a row that Synapse changed or deleted since the first run stays old. Which rows
these are is in temp.only_sqlite and temp.only_postgres of the SQLite connection: see unmatched.Unmatched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from typing import Iterable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, schemas
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.comparison import Comparison
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.sides import Sides
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.unmatched import SAME_KEY
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import copy_lines, record, target_checks
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_reader
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
except ImportError:
    pass

# How often at most what differs is carried over, when that makes other rows differ.
_CASCADES = 3

# Rows that a statement deletes at once.
_BATCH = 10000

# Classes of errors that tell of no row: connection, resources, intervention, system (manual, appendix A).
_NO_ROW = ("08", "53", "57", "58")

# Classes of errors that a row's content is the reason of: data, constraints, a view's check, limits, functions' own.
_OF_A_ROW = ("22", "23", "44", "54", "P0")


@dataclasses.dataclass(frozen=True)
class Carried:
    """How many rows of a table were carried over: ``written``, as new or over old ones, and ``deleted``."""

    written: int = 0
    deleted: int = 0

    def __add__(self, other: Carried) -> Carried:
        return Carried(self.written + other.written, self.deleted + other.deleted)


def require_ported_here(cursor: Cursor, source: Source) -> None:
    """Raise Refusal unless the target holds what a move of this collection put there, and nothing that Synapse wrote since."""
    recorded = record.read(cursor)
    if recorded is None:
        raise Refusal(
            "The target database holds no record of a move, so nothing is carried over: what Synapse wrote there would be lost.",
            "Port with the module synapse_port, or verify without carry_changes.",
        )
    if recorded.status != "ported":
        raise Refusal("The move into the target database has not ended.", "Run synapse_port to its end, then this again.")
    target_checks.require_only_ported(cursor, source)
    target_checks.require_same_rows(cursor, source, recorded.rules.append_only if recorded.rules else ())


def require_ported(cursor: Cursor, source: Source) -> None:
    """Raise Refusal unless ``source`` is the very file that was ported: an older one would undo what is there."""
    recorded = record.read(cursor)
    if recorded is None or source.stamp() != recorded.stamp:
        raise Refusal(
            f"{source.path} is not, or no longer, what was ported, so nothing is carried over from it.",
            "Run synapse_port on it first, then this again.",
        )


def planned(sqlite: sqlite3.Connection, names: list[str]) -> dict[str, Carried]:
    """Return what carry() will do, by table; a changed row is a written one."""
    written = "SELECT count(*) FROM temp.only_sqlite WHERE name = ?"
    deleted = f"SELECT count(*) FROM temp.only_postgres AS differing WHERE name = ? AND NOT {SAME_KEY.format('sqlite')}"
    return {name: Carried(*(sqlite.execute(query, (name,)).fetchone()[0] for query in (written, deleted))) for name in names}


def concerned(cursor: Cursor, names: Iterable[str], aside: Iterable[tuple[str, str]] = ()) -> set[str]:
    """Return ``names`` and every table whose foreign keys lead to one of them, as deleting there may delete here.

    ``aside`` are foreign keys that are not there now, as (child, parent).
    """
    references = [*schemas.references(cursor), *aside]
    found = set(names)
    while True:
        more = {child for child, parent in references if parent in found} - found
        if not more:
            return found
        found |= more


def carry_differences(comparison: Comparison, names: set[str]) -> dict[str, Carried]:
    """Carry over what differs in the tables ``names``, and see what it came to; return what was carried, by table.

    Deleting a row may delete others that refer to it, in the same table or another, which then differ and are carried, too.
    """
    done: dict[str, Carried] = {}
    for _cascade in range(_CASCADES):
        tables = {table.name: table for table in comparison.tables if table.name in comparison.differing and table.name in names}
        if not tables:
            break
        carried = carry(comparison.sides, tables)
        for name, rows in carried.items():
            done[name] = done.get(name, Carried()) + rows
        deleted = [name for name, rows in carried.items() if rows.deleted]
        names = {*tables, *concerned(comparison.postgres, deleted)}
        comparison.recompare(names)
    return done


def carry(sides: Sides, tables: dict[str, Table]) -> dict[str, Carried]:
    """Make PostgreSQL's ``tables`` hold what SQLite's hold; return what was carried, by table.

    Children go before their parents where rows are deleted, and after them where rows are written. It is all in PostgreSQL's
    open transaction, without savepoints: their rows would bear later transactions' numbers than the one that record.carried()
    records. Memory does not grow with the number of rows. Raises Refusal where the server refuses a row.
    """
    cursor = sides.postgres
    names = _parents_first(cursor, list(tables))
    copy_lines.prepare(sides.sqlite)
    cursor.execute("SET CONSTRAINTS ALL DEFERRED")
    done = dict.fromkeys(names, Carried())
    for name in reversed(names):
        with refused_without_values(name):
            done[name] += Carried(deleted=_delete(sides, tables[name]))
    for name in names:
        with refused_without_values(name):
            done[name] += Carried(written=_write(sides, tables[name]))
    with refused_without_values(", ".join(names)):
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return done


@contextlib.contextmanager
def refused_without_values(name: str) -> Iterator[None]:
    """Turn the server's refusal of a row of the table ``name`` into ours; with the ``table`` as a fact, if a row is the reason.

    Its own words may hold the row, and so a secret: see _connection.without_values().
    """
    try:
        yield
    except psycopg2.Error as error:
        # A link or a server that is gone, a full disk, an end that was asked for: it is about no row.
        if error.pgcode is None or error.pgcode[:2] in _NO_ROW:
            raise
        said, of_a_row = error.diag, error.pgcode[:2] in _OF_A_ROW
        mend = (
            "Mend those rows on SQLite, with Synapse stopped (the module synapse_port_info tells which they are, and so does the "
            "server's log), then run this again: it carries the table anew."
        )
        raise Refusal(
            f"PostgreSQL refused what was to be carried over to {name}, SQLSTATE {error.pgcode}: "
            f"{_connection.without_values(type(error), said.message_primary or '', said.message_detail, said.message_hint)}.",
            f"What was under way is undone. {mend if of_a_row else 'See the server log, then run this again.'}",
            **({"table": name} if of_a_row else {}),
        ) from None


def _parents_first(cursor: Cursor, names: list[str]) -> list[str]:
    """Return ``names`` so that no table stands before one that it refers to; in a circle any order is as good."""
    left, found = sorted(names), []
    references = [(child, parent) for child, parent in schemas.references(cursor) if parent in names and parent != child]
    while left:
        free = [name for name in left if not any(child == name and parent in left for child, parent in references)] or left[:1]
        found += free
        left = [name for name in left if name not in free]
    return found


def _delete(sides: Sides, table: Table) -> int:
    deleted = 0
    query = f"SELECT id FROM temp.only_postgres AS differing WHERE name = ? AND NOT {SAME_KEY.format('sqlite')}"
    rows = sides.sqlite.execute(query, (table.name,))
    for batch in iter(lambda: rows.fetchmany(_BATCH), []):
        sides.postgres.execute(
            f"DELETE FROM {copy_lines.place(table)} WHERE ctid = ANY (%s::tid[])", ([row_digests.ctid(row[0]) for row in batch],)
        )
        deleted += sides.postgres.rowcount
    return deleted


def _write(sides: Sides, table: Table) -> int:
    """Bring SQLite's rows to a temporary table on the server, and from there to where they belong."""
    cursor = sides.postgres
    transfer = copy_lines.Transfer(table, _merge(table))
    among = f"SELECT id FROM temp.only_sqlite WHERE name = {_literal(table.name)}"
    transfer.send(sides.sqlite, cursor, row_reader.Rows(among=among))
    written = only_row(cursor)[0]
    cursor.execute(f"DROP TABLE {copy_lines.WAITING}")
    return written


def _merge(table: Table) -> str:
    """Return the statement that writes the rows that wait, over those of the same key or as new ones, and counts them.

    It is one, since a changed row may refer to a new one and foreign keys are looked at when a statement ends; the changed rows
    first, since a new one may have a value that they give up.
    """
    place, waiting = copy_lines.place(table), copy_lines.WAITING
    where = f" AND NOT EXISTS (SELECT FROM {place} AS t WHERE {_same_key(table)})" if table.key else ""
    return (
        f"WITH changed AS ({_update(table)}), new AS (INSERT INTO {place} ({copy_lines.names(table)}) OVERRIDING SYSTEM VALUE"
        f" SELECT {copy_lines.given(table.columns)} FROM {waiting} AS c WHERE (SELECT count(*) FROM changed) >= 0{where}"
        " RETURNING 1) SELECT (SELECT count(*) FROM changed) + (SELECT count(*) FROM new)"
    )


def _update(table: Table) -> str:
    """Return the UPDATE of the rows that PostgreSQL has under the same key; one that finds nothing where there is no key."""
    others = [one for one in table.columns if one.name not in table.key]
    if not others or not table.key:
        return "SELECT 1 WHERE false"
    settings = ", ".join(f"{identifier(one.name)} = {copy_lines.given([one])}" for one in others)
    place, waiting = copy_lines.place(table), copy_lines.WAITING
    return f"UPDATE {place} AS t SET {settings} FROM {waiting} AS c WHERE {_same_key(table)} RETURNING 1"


def _same_key(table: Table) -> str:
    return " AND ".join(f"t.{name} = c.{name}" for name in map(identifier, table.key))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
