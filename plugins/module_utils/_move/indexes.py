# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The indexes and constraints that are put aside while tables are filled.

To build an index or to check a constraint at the end is cheaper than to keep it up row by row (manual, section 14.4 "Populating
a Database"). What is put aside is recorded in the target database, in the transaction that drops it, and taken off the record in
the one that makes it again: however a port ends, nothing of it is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Callable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress, _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import carry_over, move_lock
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

try:
    from psycopg2 import extras, sql
except ImportError:
    pass

# The stage in which foreign keys are made again, after all others.
_FOREIGN_KEY = 2

# What is put aside of large tables, as what makes it again, and the table that a foreign key leads to: foreign keys from them and
# to them; unique constraints; indexes. What has a property that its definition does not tell stays, and so do primary keys, the
# tables of other roles, and what the foreign keys of these lead to.
_FOUND = """
SELECT %(foreign_key)s AS stage, child.relname AS table_name, conname AS name, 'CONSTRAINT' AS kind,
    format('ALTER TABLE public.%%I ADD CONSTRAINT %%I %%s', child.relname, conname, pg_get_constraintdef(k.oid)) AS definition,
    parent.relname AS parent
FROM pg_constraint k JOIN pg_class child ON child.oid = k.conrelid JOIN pg_class parent ON parent.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND child.relnamespace = 'public'::regnamespace
    AND parent.relnamespace = 'public'::regnamespace AND %(names)s && ARRAY[child.relname::text, parent.relname]
    AND pg_has_role(child.relowner, 'USAGE') AND pg_has_role(parent.relowner, 'USAGE')
UNION ALL
SELECT 1, t.relname, index.relname, CASE WHEN k.oid IS NULL THEN 'INDEX' ELSE 'CONSTRAINT' END, CASE WHEN k.oid IS NULL
    THEN pg_get_indexdef(i.indexrelid)
    ELSE format('ALTER TABLE public.%%I ADD CONSTRAINT %%I %%s', t.relname, conname, pg_get_constraintdef(k.oid)) END, NULL
FROM pg_index i JOIN pg_class index ON index.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype <> 'f'
WHERE t.relnamespace = 'public'::regnamespace AND t.relkind = 'r' AND t.relname = ANY (%(names)s)
    AND i.indisvalid AND NOT i.indisprimary AND NOT i.indisexclusion AND NOT i.indisclustered AND NOT i.indisreplident
    AND (k.oid IS NULL OR k.contype = 'u') AND index.reltablespace = 0 AND (k.oid IS NULL OR index.reloptions IS NULL)
    AND obj_description(i.indexrelid, 'pg_class') IS NULL AND pg_has_role(t.relowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_constraint f JOIN pg_class child ON child.oid = f.conrelid
        WHERE f.contype = 'f' AND f.conindid = i.indexrelid
        AND NOT (pg_has_role(child.relowner, 'USAGE') AND child.relnamespace = t.relnamespace))
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = i.indexrelid AND deptype = 'e')
ORDER BY 1 DESC
"""


@dataclasses.dataclass(frozen=True)
class _Aside:
    """An index or a constraint that is put aside, to be made again in its ``stage``: foreign keys need the others.

    ``parent`` is the table that a foreign key leads to.
    """

    stage: int
    table: str
    name: str
    definition: str
    parent: str | None


def put_aside(cursor: Cursor, names: set[str]) -> None:
    """Drop the indexes and constraints of the tables ``names`` that can be made again, and record them."""
    cursor.execute("BEGIN")
    cursor.execute(_FOUND, {"names": sorted(names), "foreign_key": _FOREIGN_KEY})
    found = cursor.fetchall()
    if found:  # two statements, however far the server is
        recorded = [(stage, table, name, definition, parent) for stage, table, name, _kind, definition, parent in found]
        extras.execute_values(cursor, "INSERT INTO synapse_postgres.aside VALUES %s", recorded, page_size=len(found))
        cursor.execute(sql.SQL("; ").join(_drop(table, name, kind) for _stage, table, name, kind, *_how in found))
    cursor.execute("COMMIT")


def _drop(table: str, name: str, kind: str) -> sql.Composed:
    if kind == "INDEX":
        return sql.SQL("DROP INDEX {}").format(sql.Identifier("public", name))
    return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.Identifier("public", table), sql.Identifier(name))


def put_back(source: Source, target: Target, foreign_keys: bool = True) -> None:
    """Make again all that is put aside in ``target``, several at a time; how far it is is told beside the ``source``.

    Without ``foreign_keys``, these stay aside. Raises Refusal when rows are against a constraint.
    """
    found = [one for one in aside(target.cursor) if foreign_keys or one.stage != _FOREIGN_KEY]
    if not found:
        return
    with source.progress("port", unit="indexes") as progress:
        progress.tell(current="the indexes", done=0, total=len(found), now=True)
        builds = _Builds(found, progress)
        _workers.work(lambda: _building(target), builds.next, builds.done, target.workers())


def aside(cursor: Cursor) -> list[_Aside]:
    """Return what is put aside, in the order in which it is made again: that of the largest tables first.

    Without the routine's table of watermarks, Synapse's tables are not those any more, and nothing is.
    """
    cursor.execute("SELECT to_regclass('synapse_postgres.aside'), to_regclass('public.port_from_sqlite3')")
    if None in only_row(cursor):
        return []
    cursor.execute(
        "SELECT stage, table_name, name, definition, parent FROM synapse_postgres.aside"
        " ORDER BY stage, pg_relation_size(to_regclass(format('public.%I', table_name))) DESC NULLS LAST, name"
    )
    return [_Aside(*row) for row in cursor]


def references(cursor: Cursor) -> list[tuple[str, str]]:
    """Return (child, parent) for every foreign key that is put aside."""
    return [(one.table, one.parent) for one in aside(cursor) if one.parent]


def require_none_aside(cursor: Cursor) -> None:
    """Raise Refusal when something is put aside: the port has not ended."""
    found = aside(cursor)
    if found:
        raise Refusal(
            f"{len(found)} indexes and constraints of the target database are not built again yet, {found[0].name} among them.",
            "Run synapse_port to its end: it builds them.",
        )


class _Builds:
    """What is left to be made; foreign keys one by one, as each locks two tables."""

    def __init__(self, found: list[_Aside], progress: _progress.Progress) -> None:
        self._left, self._total, self._progress, self._at_work, self._made = found, len(found), progress, 0, 0

    def next(self) -> _Aside | None:
        if not self._left or (self._left[0].stage == _FOREIGN_KEY and self._at_work):
            return None
        self._at_work += 1
        return self._left.pop(0)

    def done(self, one: _Aside, _answer: None) -> None:
        self._at_work, self._made = self._at_work - 1, self._made + 1
        self._progress.tell(current=one.name, done=self._made, total=self._total)


@contextlib.contextmanager
def _building(target: Target) -> Iterator[Callable[[_Aside], None]]:
    """Yield the function that makes again what is _Aside, by a session of its own."""
    with target.connected("routine") as cursor:
        # The last transaction of the move waits for the disk, and so for these as well.
        cursor.execute(f"SET synchronous_commit = off; {move_lock.NOTICE_SILENCE}")

        def build(one: _Aside) -> None:
            with carry_over.refused_without_values(one.table):
                # Statements that are sent at once are one transaction (manual, "Multiple Statements in a Simple Query").
                forget = sql.SQL("DELETE FROM synapse_postgres.aside WHERE (table_name, name) = ({}, {})").format(
                    sql.Literal(one.table), sql.Literal(one.name)
                )
                cursor.execute(sql.SQL("{}; {}").format(sql.SQL(one.definition), forget))

        yield build
