# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine ``copy``: the rows that Synapse's port routine would carry over, by COPY and several processes at once.

Synapse's own code makes the schema, runs the background updates, sets the sequences and says which tables there are
(create_schema()). Then every table goes over in parts. SQLite writes a part's rows as lines of COPY's CSV format, in its
own C code; they and the watermark up to which the table has come, in the routine's own table port_from_sqlite3, are one
transaction. So either engine goes on where the other one was killed. Large tables are filled without most of their indexes and
constraints, which are made when they are full (indexes).

A table that the routine would empty and fill again on a later run gets its new rows as the others do. Then it is compared, and
what differs still is carried over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sqlite3
import time
from typing import Callable, Iterable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress, _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import schemas, shares, sides
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.comparison import Comparison
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    carry_over,
    copy_lines,
    indexes,
    move_lock,
    record,
    synapse_port_db,
    transfer_plan,
    watermarks,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.record import Port
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.transfer_plan import Part, TransferPlan
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_reader
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source, tables
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

# The routines whose rules these are, by Rules.carrying: Synapse 1.143 to 1.163.
KNOWN = {"f2599f1dd2ebe837c5ec9cfa909f44e845771132f44ee36e6acdf5eab12a61ff"}

# Rows of a part where nothing else is said.
ROWS = 50_000

# Rows from which on a table is filled without its indexes and constraints.
_LARGE = 1000

# What Synapse's schema and its updates have come to, on either side.
_STATE = ("schema_version", "schema_compat_version", "applied_schema_deltas", "background_updates")

# Of a part: to move its table's watermark, and to see whether the watermark has come to it.
_MOVED = "UPDATE public.port_from_sqlite3 SET {0} = %(after)s WHERE table_name = %(table)s AND {0} = %(before)s RETURNING 1"
_THERE = "SELECT 1 FROM public.port_from_sqlite3 WHERE table_name = %(table)s AND {0} = %(before)s"


def knows(rules: Rules) -> bool:
    """Tell whether the rules of the installed Synapse's routine are those that this engine follows."""
    return rules.carrying in KNOWN


def state(source: Source, cursor: Cursor, rules: Rules) -> str:
    """Return a digest of all that decides whether Synapse's code has a schema to make: see record.schema_created().

    It is Synapse's release, the tables of SQLite, and what the schemas of both sides have come to.
    """
    with source.reading() as sqlite:
        found = [rules.version, rules.carrying, sqlite.execute("SELECT name, sql FROM sqlite_master ORDER BY 1").fetchall()]
        present = tables(sqlite)
        for name in _STATE:
            found.append(sorted(sqlite.execute(f"SELECT * FROM {name}").fetchall()) if name in present else None)
            cursor.execute("SELECT to_regclass(%s)", (f"public.{name}",))
            if only_row(cursor)[0]:
                cursor.execute(f"SELECT * FROM public.{name}")
                found.append(sorted(cursor.fetchall()))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def require_same_tables(port: Port, names: list[str]) -> None:
    """Raise Refusal unless ``names``, the tables that Synapse's routine would set up, are those that copy() carries over."""
    rules = port.rules
    with port.source.reading() as sqlite:
        both = schemas.Tables(sqlite, port.cursor, rules)
    carried = rules.carried(both.sqlite, both.postgres) - {"sent_transactions"}
    other = sorted(carried ^ (set(names) - set(rules.ignored)))
    if other:
        raise Refusal(
            f"Synapse {rules.version} chooses the tables of a move by other rules than the engine copy: {other[0]} is one.",
            "Port with engine: synapse.",
        )


def copy(port: Port, schema_state: str, rows: int) -> synapse_port_db.Progress:
    """Carry over what the target of ``port`` lacks of its source; return how many rows went over.

    ``schema_state`` is the state of both sides, for which Synapse's tables are made. ``rows`` at most are carried in one
    transaction. Raises Refusal.
    """
    cursor, rules = port.cursor, port.rules
    with port.source.progress("port") as progress, port.source.reading() as sqlite:
        progress.tell(current="counting", done=0, total=0, now=True)
        both = schemas.Tables(sqlite, cursor, rules)
        carried = rules.carried(both.sqlite, both.postgres)
        _require_columns(both, carried)
        rewritten = carried - set(rules.append_only)
        if port.is_first:
            _empty(cursor, rewritten, carried)
        # Rows of the file as it was in an earlier run.
        older = set(_with_rows(cursor, carried)) if port.is_first else set()
        watermarks.begin(cursor, carried)
        record.schema_created(cursor, port.source.stamp(), schema_state)
    done = synapse_port_db.Progress()
    while True:
        with port.source.reading() as sqlite:
            both = schemas.Tables(sqlite, cursor, rules)
            plan = TransferPlan.of(both, cursor, carried, rewritten if port.ported_before else set(), rows)
        done.tables.update(plan.progress.tables)
        try:
            _load(port, plan)
            break
        except Refusal as refused:
            # What was refused, or what it is against, may have been mended since: the table is carried anew, then all are.
            table = refused.facts.get("table")
            if table is None or not older:
                raise
            older -= _empty(cursor, {str(table)} & older or older, carried)
            watermarks.begin(cursor, carried)
    if port.ported_before:
        with port.source.progress("port") as progress:
            done.tables.update(_bring_up(port, rewritten, progress))
    return done


def _load(port: Port, plan: TransferPlan) -> None:
    """Carry over what ``plan`` has; the first time, large tables go without most of their indexes and constraints."""
    cursor = port.cursor
    triggered = schemas.triggered(cursor)
    if port.is_first:
        large = {name for name, table in plan.progress.tables.items() if table["total"] >= _LARGE}
        indexes.put_aside(cursor, large - triggered)
    plan.order(schemas.references(cursor))
    # Their triggers look for rows of other tables, by keys that are put aside.
    later = carry_over.concerned(cursor, list(triggered))
    _fill(port.source, port.target, plan, set(plan.transfers) - later)
    indexes.put_back(port.source, port.target, foreign_keys=False)
    _fill(port.source, port.target, plan, later)
    plan.require_over()
    indexes.put_back(port.source, port.target)


def _fill(source: Source, target: Target, plan: TransferPlan, names: set[str]) -> None:
    """Carry over the tables ``names`` of ``plan``, by several processes."""
    if not names & set(plan.transfers):
        return
    with source.progress("port") as progress, source.reading() as sqlite:
        _workers.work(
            lambda: _carrying(source, target, plan.transfers),
            lambda: plan.next(sqlite, names),
            lambda part, carried: plan.done(part, carried, progress),
            target.workers(),
        )


def _require_columns(both: schemas.Tables, carried: set[str]) -> None:
    """Raise Refusal when PostgreSQL has no place for a column of SQLite's; the routine ends there, too."""
    for name in sorted(carried - {"event_search"}):
        only_sqlite = both.one_sided(name)[0]
        if only_sqlite:
            raise Refusal(
                f"The table {name} has the column {only_sqlite[0]} on SQLite and none of that name on PostgreSQL.",
                "Port with the release of Synapse that made the SQLite database, or a later one; if it is a module's table, let "
                "the module make its column on PostgreSQL.",
            )


def _empty(cursor: Cursor, rewritten: set[str], carried: set[str]) -> set[str]:
    """Empty what an earlier run left in the tables ``rewritten``, as setup_table() of the routine does, and begin them anew.

    Tables that refer to them go with them, and begin anew, too. Returns all that begin anew, of ``carried``.
    """
    concerned = sorted(carry_over.concerned(cursor, _with_rows(cursor, rewritten), indexes.references(cursor)))
    cursor.execute("BEGIN")
    if concerned:
        names = sql.SQL(", ").join(sql.Identifier("public", name) for name in concerned)
        cursor.execute(sql.SQL("TRUNCATE {}").format(names))
    anew = [name for name in {*concerned, *rewritten} if name in carried]
    watermarks.forget(cursor, anew)
    cursor.execute("COMMIT")
    return set(anew)


def complete(source: Source, target: Target) -> None:
    """Make again what a first load that did not end has put aside, but foreign keys, which half of the rows may be against.

    A table with rows that are against an index is emptied, to be carried anew: they may be mended since.
    """
    while True:
        try:
            indexes.put_back(source, target, foreign_keys=False)
            return
        except Refusal as refused:
            table = refused.facts.get("table")
            if table is None or not _with_rows(target.cursor, {str(table)}):
                raise
            _empty(target.cursor, {str(table)}, watermarks.begun(target.cursor))


def begin_anew(source: Source, target: Target) -> None:
    """Undo a first load that was killed while foreign keys were aside, which half of the rows may be against; make the keys.

    For what cannot do without them: Synapse's own code.
    """
    if not indexes.references(target.cursor):
        return
    begun = watermarks.begun(target.cursor)
    _empty(target.cursor, begun, begun)
    indexes.put_back(source, target)


def _with_rows(cursor: Cursor, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that hold rows."""
    holds = sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})")
    parts = [holds.format(sql.Literal(name), sql.Identifier("public", name)) for name in names]
    if not parts:
        return []
    cursor.execute(sql.SQL(" UNION ALL ").join(parts))
    return [name for (name,) in cursor]


def _bring_up(port: Port, names: set[str], progress: _progress.Progress) -> dict[str, dict[str, int]]:
    """Make the tables ``names`` hold what SQLite's hold, where they differ, and set their watermarks to the ends.

    The routine empties them and carries every row again. Here they are proved to be equal, or made so. Returns
    ``{table: {rows, total, dropped}}`` of those that differed.
    """
    with sides.both(port.source, port.target, writing=True) as both:
        kept = shares.Kept(port.cursor, port.source.stamp(), usable=True, keeping=True)
        comparison = Comparison(both, port.rules, kept, progress)
        comparison.run(names)
        changed = carry_over.carry_differences(comparison, names)
        if comparison.differing:
            raise Refusal(
                f"The tables {', '.join(sorted(comparison.differing))} still differ after their rows were carried over.",
                "Give the move a new, empty database (synapse_postgres_database), or port with engine: synapse.",
            )
        watermarks.move_to_ends(port.cursor, both.sqlite, names)
        totals = {name: transfer_plan.count(both.sqlite, name) for name in changed}
    dropped = {one.table: one.rows for one in comparison.expected if one.rule == "nul"}
    return {
        name: {"rows": total - dropped.get(name, 0), "total": total, "dropped": dropped.get(name, 0)}
        for name, total in totals.items()
    }


@contextlib.contextmanager
def _carrying(
    source: Source, target: Target, transfers: dict[str, copy_lines.Transfer]
) -> Iterator[Callable[[Part], tuple[int, int]]]:
    """Yield the function that carries a Part over, by connections of its own, and returns (rows, dropped)."""
    with source.reading() as sqlite, target.connected("routine", autocommit=False) as cursor:
        copy_lines.prepare(sqlite)
        # The last transaction of the move waits for the disk, and so for these as well.
        cursor.execute(f"SET synchronous_commit = off; {move_lock.NOTICE_SILENCE}")
        cursor.connection.commit()
        yield lambda part: _carry_over(sqlite, cursor, part, transfers[part.table])


def _carry_over(sqlite: sqlite3.Connection, cursor: Cursor, part: Part, transfer: copy_lines.Transfer) -> tuple[int, int]:
    """Carry the rows of ``part`` over, in one transaction with its watermark; return how many went, and how many were dropped.

    The transaction waits for those of the parts before this one. Where one of these waits for it in turn, on a key that both
    have, it gives way, and meets the key when the other one has ended.
    """
    rows = row_reader.Rows(part.low, part.high)
    with carry_over.refused_without_values(part.table):
        try:
            lines = transfer.send(sqlite, cursor, rows)
        except psycopg2.errors.ForeignKeyViolation:
            if not transfer.refusable:
                raise
            cursor.connection.rollback()
            _comes_to(cursor, part, _MOVED)
            cursor.connection.commit()
            return 0, 0
        if not _comes_to(cursor, part, _MOVED, gives_way=True):
            cursor.connection.rollback()
            _comes_to(cursor, part, _THERE)
            cursor.connection.rollback()
            lines = transfer.send(sqlite, cursor, rows)
            _comes_to(cursor, part, _MOVED)
        cursor.connection.commit()
    return lines.rows, lines.dropped


def _comes_to(cursor: Cursor, part: Part, statement: str, gives_way: bool = False) -> bool:
    """Return when ``statement`` finds the watermark of ``part``; with ``gives_way`` False as soon as somebody waits for us."""
    query, tries = sql.SQL(statement).format(sql.Identifier(part.watermark)), 0
    while True:
        cursor.execute(query, dataclasses.asdict(part))
        if cursor.fetchone():
            return True
        if not gives_way:
            cursor.connection.rollback()
        elif tries % 100 == 99:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)) LIMIT 1")
            if cursor.fetchone():
                return False
        if _workers.is_orphaned():
            raise BrokenPipeError
        tries += 1
        time.sleep(0.005)
