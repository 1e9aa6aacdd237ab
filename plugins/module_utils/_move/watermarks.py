# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far each table has been carried: the routine's own table port_from_sqlite3, by which either engine goes on.

A table has two watermarks, since the routine goes through its row ids forwards and backwards from where it began
(setup_table() and handle_table() in synapse/_scripts/synapse_port_db.py).
"""

from __future__ import annotations

import sqlite3
from typing import Iterable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier


def exist(cursor: Cursor) -> bool:
    """Tell whether the routine has made its table: Synapse's schema is whole then, and rows may have been carried."""
    cursor.execute("SELECT to_regclass('public.port_from_sqlite3')")
    return only_row(cursor)[0] is not None


def read(cursor: Cursor) -> dict[str, tuple[int, int]]:
    """Return ``{table: (forward, backward)}``: the row ids between the two have been carried."""
    if not exist(cursor):
        return {}
    cursor.execute("SELECT table_name, forward_rowid, backward_rowid FROM public.port_from_sqlite3")
    return {table: (forward, backward) for table, forward, backward in cursor.fetchall()}


def begun(cursor: Cursor) -> set[str]:
    """Return the tables that have watermarks, and are there."""
    cursor.execute(
        "SELECT table_name FROM public.port_from_sqlite3 JOIN pg_class ON relname = table_name"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    return {name for (name,) in cursor.fetchall()}


def begin(cursor: Cursor, tables: Iterable[str]) -> None:
    """Give every one of ``tables`` watermarks, as setup_table() of the routine does."""
    cursor.execute(
        "INSERT INTO public.port_from_sqlite3 SELECT name, 1, 0 FROM unnest(%s::text[]) AS name ON CONFLICT DO NOTHING",
        (sorted(tables),),
    )


def forget(cursor: Cursor, tables: Iterable[str]) -> None:
    """Take the watermarks of ``tables`` away: they begin anew."""
    cursor.execute("DELETE FROM public.port_from_sqlite3 WHERE table_name = ANY (%s)", (sorted(tables),))


def move_to_ends(cursor: Cursor, sqlite: sqlite3.Connection, tables: Iterable[str]) -> None:
    """Set the watermarks of ``tables`` to the ends of what SQLite has."""
    ends = []
    for name in tables:
        low, high = sqlite.execute(f"SELECT min(rowid), max(rowid) FROM {identifier(name)}").fetchone()
        ends.append((name, max((high or 0) + 1, 1), min(low - 1, 0) if low is not None else 0))
    if ends:
        cursor.execute(
            "UPDATE public.port_from_sqlite3 AS watermark SET forward_rowid = forward, backward_rowid = backward"
            " FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS ends (name, forward, backward) WHERE table_name = name",
            [list(column) for column in zip(*ends)],
        )
