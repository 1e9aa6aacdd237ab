# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine ``copy``: the rows that Synapse's port routine would carry over, by COPY and several processes at once.

Synapse's own code lays the schema, runs the background updates, sets the sequences and says which tables there are
(synapse_port_db.lay()). Then every table goes over in parts. SQLite writes a part's rows as lines of COPY's CSV format, in its
own C code; they and the border up to which the table has come, in the routine's own table port_from_sqlite3, are one
transaction. So either engine goes on where the other one was killed. Large tables are filled without most of their indexes and
constraints, which are made when they are full (indexes).

A table that the routine would empty and fill again on a later run gets its new rows as the others do. Then it is compared, and
what differs still is carried over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _progress, _sessions, _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import schemas, shares
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.comparison import Comparison, both_sides
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    carry_over,
    copy_lines,
    indexes,
    record,
    synapse_port_db,
    synapse_rules,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, row_reader
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

# The routines whose rules these are, by synapse_rules.ask()'s ``carrying``: Synapse 1.143 to 1.163.
KNOWN = {"f2599f1dd2ebe837c5ec9cfa909f44e845771132f44ee36e6acdf5eab12a61ff"}

# Rows of a part where nothing else is said.
ROWS = 50_000

# Rows from which on a table is filled without its indexes and constraints.
_LARGE = 1000

# The largest number that both databases know.
_FARTHEST = 2**63 - 1


def knows(routine: dict) -> bool:
    """Tell whether the rules of the installed Synapse's routine are those that this engine follows."""
    return routine.get("carrying") in KNOWN


# What Synapse's schema and its updates have come to, on either side.
_STATE = ("schema_version", "schema_compat_version", "applied_schema_deltas", "background_updates")


def state(cursor, source: str, routine: dict) -> str:
    """Return a digest of all that decides whether Synapse's code has something to lay: see record.laid().

    It is Synapse's release, the tables of SQLite, and what the schemas of both sides have come to.
    """
    with file.reading(source) as lite:
        told = [
            routine["version"],
            routine["carrying"],
            lite.execute("SELECT name, sql FROM sqlite_master ORDER BY 1").fetchall(),
        ]
        here = {name for (name,) in lite.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for name in _STATE:
            told.append(sorted(lite.execute(f"SELECT * FROM {name}").fetchall()) if name in here else None)
            cursor.execute("SELECT to_regclass(%s)", (f"public.{name}",))
            if cursor.fetchone()[0]:
                cursor.execute(f"SELECT * FROM public.{name}")
                told.append(sorted(cursor.fetchall()))
    return hashlib.sha256(repr(told).encode()).hexdigest()


def require_same_tables(cursor, source: str, routine: dict, tables: list[str]) -> None:
    """Raise Refusal unless ``tables``, those that Synapse's routine would set up, are those that copy() carries over."""
    with file.reading(source) as lite:
        both = schemas.Tables(lite, cursor, routine)
    ours = synapse_rules.carried(both.mine, both.theirs, routine) - {"sent_transactions"}
    other = sorted(ours ^ (set(tables) - set(routine["ignored"])))
    if other:
        raise Refusal(
            f"Synapse {routine['version']} chooses the tables of a move by other rules than the engine copy: {other[0]} is one.",
            "Port with engine: synapse.",
        )


def copy(cursor, libpq: dict, source: str, routine: dict, laid: str, goes_on: bool, rows: int) -> synapse_port_db.Progress:
    """Carry over what the target lacks of the SQLite database ``source``; return how many rows went over.

    ``cursor`` is the target's, on a connection that autocommits, ``libpq`` the keywords for others. ``routine`` is the move's, as
    in record.Record; ``laid`` the state of both sides, for which all is laid. ``goes_on``: an earlier run of this engine on the
    very same file was killed. ``rows`` at most are carried in one transaction. Raises Refusal.
    """
    with _progress.Progress(f"{source}.progress.json", "port") as told, file.reading(source) as lite:
        told.tell(current="counting", done=0, total=0, now=True)
        both = schemas.Tables(lite, cursor, routine)
        carried = synapse_rules.carried(both.mine, both.theirs, routine)
        _require_columns(both, carried)
        rewritten = carried - set(routine["append_only"])
        first_load = not routine["again"] and not goes_on
        if first_load:
            _empty(cursor, rewritten, carried)
        # Rows of the file as it was in an earlier run.
        older = set(_with_rows(cursor, carried)) if first_load else set()
        _begin(cursor, carried)
        record.laid(cursor, source, laid)
    progress = synapse_port_db.Progress()
    while True:
        with file.reading(source) as lite:
            both = schemas.Tables(lite, cursor, routine)
            plan = _Plan(lite, cursor, both, carried, rewritten if routine["again"] else set(), rows)
        progress.tables.update(plan.progress.tables)
        try:
            _load(cursor, libpq, source, plan, aside=first_load)
            break
        except Refusal as refused:
            # What was refused, or what it is against, may have been mended since: the table is carried anew, then all are.
            table = refused.facts.get("table")
            if table is None or not older:
                raise
            older -= _empty(cursor, {table} & older or older, carried)
            _begin(cursor, carried)
    if routine["again"]:
        with _progress.Progress(f"{source}.progress.json", "port") as told:
            progress.tables.update(_bring_up(cursor, libpq, source, routine, rewritten, told))
    return progress


def _load(cursor, libpq: dict, source: str, plan: _Plan, aside: bool) -> None:
    """Carry over what ``plan`` has; with ``aside``, large tables without most of their indexes and constraints."""
    triggered = schemas.triggered(cursor)
    if aside:
        large = {name for name, table in plan.progress.tables.items() if table["total"] >= _LARGE}
        indexes.put_aside(cursor, large - triggered)
    plan.order(schemas.references(cursor))
    # Their triggers look for rows of other tables, by keys that are put aside.
    later = carry_over.concerned(cursor, list(triggered))
    _fill(cursor, plan, libpq, source, set(plan.ways) - later)
    indexes.put_back(cursor, libpq, source, foreign_keys=False)
    _fill(cursor, plan, libpq, source, later)
    plan.require_over()
    indexes.put_back(cursor, libpq, source)


def _fill(cursor, plan: _Plan, libpq: dict, source: str, names: set[str]) -> None:
    """Carry over the tables ``names`` of ``plan``, by several processes."""
    if not names & set(plan.ways):
        return
    with _progress.Progress(f"{source}.progress.json", "port") as told, file.reading(source) as lite:
        _workers.work(
            lambda: _carrier(source, libpq, plan.ways),
            lambda: plan.next(lite, names),
            lambda *did: plan.done(*did, told),
            _sessions.workers(cursor),
        )


def _require_columns(both: schemas.Tables, carried: set[str]) -> None:
    """Raise Refusal when PostgreSQL has no place for a column of SQLite's; the routine ends there, too."""
    for name in sorted(carried - {"event_search"}):
        here = both.one_sided(name)[0]
        if here:
            raise Refusal(
                f"The table {name} has the column {here[0]} on SQLite and none of that name on PostgreSQL.",
                "Port with the release of Synapse that made the SQLite database, or a later one; if it is a module's table, let "
                "the module make its column on PostgreSQL.",
            )


def _empty(cursor, rewritten: set[str], carried: set[str]) -> set[str]:
    """Empty what an earlier run left in the tables ``rewritten``, as setup_table() of the routine does, and begin them anew.

    Tables that refer to them go with them, and begin anew, too. Returns all that begin anew, of ``carried``.
    """
    concerned = sorted(carry_over.concerned(cursor, _with_rows(cursor, rewritten), indexes.references(cursor)))
    cursor.execute("BEGIN")
    if concerned:
        names = sql.SQL(", ").join(sql.Identifier("public", name) for name in concerned)
        cursor.execute(sql.SQL("TRUNCATE {}").format(names))
    anew = [name for name in {*concerned, *rewritten} if name in carried]
    cursor.execute("DELETE FROM public.port_from_sqlite3 WHERE table_name = ANY (%s)", (anew,))
    cursor.execute("COMMIT")
    return set(anew)


def complete(cursor, libpq: dict, source: str) -> None:
    """Make again what a first load that did not end has put aside, but foreign keys, which half of the rows may be against.

    A table with rows that are against an index is emptied, to be carried anew: they may be mended since. ``libpq`` and ``source``
    are as in indexes.put_back().
    """
    while True:
        try:
            indexes.put_back(cursor, libpq, source, foreign_keys=False)
            return
        except Refusal as refused:
            table = refused.facts.get("table")
            if table is None or not _with_rows(cursor, {table}):
                raise
            _empty(cursor, {table}, _begun(cursor))


def begin_anew(cursor, libpq: dict, source: str) -> None:
    """Undo a first load that was killed while foreign keys were aside, which half of the rows may be against; make the keys.

    For what cannot do without them: Synapse's own code. ``libpq`` and ``source`` are as in indexes.put_back().
    """
    if not indexes.references(cursor):
        return
    begun = _begun(cursor)
    _empty(cursor, begun, begun)
    indexes.put_back(cursor, libpq, source)


def _begun(cursor) -> set[str]:
    """Return the tables that have a border."""
    cursor.execute(
        "SELECT table_name FROM public.port_from_sqlite3 JOIN pg_class ON relname = table_name"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    return {name for (name,) in cursor.fetchall()}


def _with_rows(cursor, names: set[str]) -> list[str]:
    """Return those of ``names`` that hold rows."""
    holds = sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})")
    parts = [holds.format(sql.Literal(name), sql.Identifier("public", name)) for name in names]
    if not parts:
        return []
    cursor.execute(sql.SQL(" UNION ALL ").join(parts))
    return [name for (name,) in cursor]


def _begin(cursor, carried: set[str]) -> None:
    """Give every table a border, as setup_table() of the routine does."""
    cursor.execute(
        "INSERT INTO public.port_from_sqlite3 SELECT name, 1, 0 FROM unnest(%s::text[]) AS name ON CONFLICT DO NOTHING",
        (sorted(carried),),
    )


def _count(lite, name: str) -> int:
    return lite.execute(f"SELECT count(*) FROM {identifier(name)}").fetchone()[0]


def _bring_up(cursor, libpq: dict, source: str, routine: dict, names: set[str], told: _progress.Progress) -> dict:
    """Make the tables ``names`` hold what SQLite's hold, where they differ, and set their borders to the ends.

    The routine empties them and carries every row again. Here they are proved to be equal, or made so. Returns
    ``{table: {rows, total, dropped}}`` of those that differed.
    """
    with both_sides(source, cursor, writing=True) as lite:
        comparison = Comparison(lite, cursor, routine, told, shares.Kept(cursor, source, here=True, keeping=True))
        comparison.run(source, libpq, names)
        changed = carry_over.carry_differences(comparison, names)
        if comparison.differing:
            raise Refusal(
                f"The tables {', '.join(sorted(comparison.differing))} still differ after their rows were carried over.",
                "Give the move a new, empty database (synapse_postgres_database), or port with engine: synapse.",
            )
        _set_borders(lite, cursor, names)
        totals = {name: _count(lite, name) for name in changed}
    dropped = {one["table"]: one["rows"] for one in comparison.expected if one["rule"] == "nul"}
    return {
        name: {"rows": total - dropped.get(name, 0), "total": total, "dropped": dropped.get(name, 0)}
        for name, total in totals.items()
    }


def _set_borders(lite, cursor, names: set[str]) -> None:
    """Set the borders of the tables ``names`` to the ends of what SQLite has."""
    ends = []
    for name in names:
        low, high = lite.execute(f"SELECT min(rowid), max(rowid) FROM {identifier(name)}").fetchone()
        ends.append((name, max((high or 0) + 1, 1), min(low - 1, 0) if low is not None else 0))
    if ends:
        cursor.execute(
            "UPDATE public.port_from_sqlite3 AS border SET forward_rowid = forward, backward_rowid = backward"
            " FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS ends (name, forward, backward) WHERE table_name = name",
            [list(column) for column in zip(*ends)],
        )


@dataclasses.dataclass(frozen=True)
class _Part:
    """The rows of ``table`` with row ids from ``low`` to ``high``, which move its ``border`` (a column) to ``after``."""

    table: str
    low: int
    high: int
    border: str
    before: int
    after: int


class _Way:
    """How ``table`` goes over: the statements ``first``, ``copy``, which takes its lines, and ``last`` on PostgreSQL.

    ``compared``: the table is compared afterwards, so rows that PostgreSQL refuses for what other rows hold may be left to that.
    """

    def __init__(self, table: Table, compared: bool) -> None:
        self.table, self.compared = table, compared
        there, self.first, self.last = f"public.{identifier(table.name)}", "", ""
        if not compared and all(one.takes in ("{}", f"CAST({{}} AS {one.type})") for one in table.columns):
            self.copy = copy_lines.into(table, there)
            return
        # What only a function of the server makes of a value waits in a table of its own, and so does what may be there already.
        self.first = copy_lines.waiting(table, "copied")
        self.copy = copy_lines.into(table, "pg_temp.copied")
        names, given = copy_lines.names(table), ", ".join(one.takes.format(identifier(one.name)) for one in table.columns)
        refused = " ON CONFLICT DO NOTHING" if compared else ""
        self.last = f"INSERT INTO {there} ({names}) OVERRIDING SYSTEM VALUE SELECT {given} FROM pg_temp.copied{refused}"


class _Plan:
    """What has to go over: the ``ways`` of the tables that are left, their parts one after the other, and the ``progress``."""

    def __init__(self, lite, cursor, both: schemas.Tables, carried: set[str], compared: set[str], rows: int) -> None:
        self._rows = rows
        cursor.execute(
            "SELECT table_name, forward_rowid, backward_rowid FROM public.port_from_sqlite3 WHERE table_name = ANY (%s)",
            (sorted(carried),),
        )
        self._borders = {name: {"forward_rowid": forward, "backward_rowid": backward} for name, forward, backward in cursor}
        self.ways, self.progress, self._at_work = {}, synapse_port_db.Progress(), dict.fromkeys(carried, 0)
        self._parents: dict[str, set[str]] = {}
        self._undivided: set[str] = set()
        for name in carried:
            left = self._left_of(lite, name)
            if left:
                self.ways[name] = _Way(both.table(name), name in compared)
                total = _count(lite, name)
                self.progress.tables[name] = {"rows": total - left, "total": total, "dropped": 0}
        self._left = sorted(self.ways, key=lambda name: -self.progress.tables[name]["total"])

    def order(self, references: list[tuple[str, str]]) -> None:
        """Let every table wait for those to which its foreign keys lead, by ``references`` as of schemas.references()."""
        for child, parent in references:
            if parent in self.ways and parent != child:
                self._parents.setdefault(child, set()).add(parent)
            if parent == child:  # a row that refers to a later one of its own table goes over with it
                self._undivided.add(child)

    def _left_of(self, lite, name: str) -> int:
        border = self._borders[name]
        query = f"SELECT count(*) FROM {identifier(name)} WHERE rowid"
        beyond = lite.execute(f"{query} >= ?", (border["forward_rowid"],)).fetchone()[0]
        if name == "event_search":
            return beyond
        return beyond + lite.execute(f"{query} <= ?", (border["backward_rowid"],)).fetchone()[0]

    def next(self, lite, names: set[str]) -> _Part | None:
        """Return the next part of the tables ``names`` that can go over now; None when there is none.

        ``lite`` is SQLite's connection.
        """
        before: list[str] = []
        while before != self._left:  # a table that is over lets those begin that refer to it
            before = list(self._left)
            # The table that the fewest are at work on, then the largest.
            for name in sorted(names.intersection(self._left), key=lambda name: (self._at_work[name], self._left.index(name))):
                if not all(map(self._is_over, self._parents.get(name, ()))):
                    continue
                part = self._part(lite, name)
                if part:
                    self._at_work[name] += 1
                    return part
                self._left.remove(name)
        return None

    def _is_over(self, name: str) -> bool:
        return name not in self._left and not self._at_work[name]

    def done(self, part: _Part, carried: tuple[int, int], told: _progress.Progress) -> None:
        """Note, and pass on to ``told``, that ``part`` has gone over, with so many rows (carried, dropped)."""
        rows, dropped = carried
        self._at_work[part.table] -= 1
        table = self.progress.tables[part.table]
        table["rows"], table["dropped"] = table["rows"] + rows, table["dropped"] + dropped
        self.progress.doing = part.table
        self.progress.tell(told)

    def require_over(self) -> None:
        """Raise Refusal when tables are left that wait for each other."""
        if self._left:
            raise Refusal(
                f"Foreign keys lead in a circle between tables that are to be carried over: {', '.join(sorted(self._left)[:3])}.",
                "Port with engine: synapse, and report the release of Synapse.",
            )

    def _part(self, lite, name: str) -> _Part | None:
        border = self._borders[name]
        table = identifier(name)
        for column, beyond, order, step in (("forward_rowid", ">=", "", 1), ("backward_rowid", "<=", "DESC", -1)):
            if name == "event_search" and step < 0:
                continue
            query = f"SELECT rowid FROM {table} WHERE rowid {beyond} ? ORDER BY rowid {order} LIMIT 1"
            start = lite.execute(query, (border[column],)).fetchone()
            if start is None:
                continue
            end = None
            if name not in self._undivided:
                end = lite.execute(f"{query} OFFSET {self._rows - 1}", (border[column],)).fetchone()
            end = end or lite.execute(f"SELECT {'max' if step > 0 else 'min'}(rowid) FROM {table}").fetchone()
            low, high = sorted((start[0], end[0]))
            if abs(end[0] + step) > _FARTHEST:
                raise Refusal(
                    f"The table {name} has the row id {end[0]}, at which the numbers of both databases end.",
                    "Give that row another row id: it is no key of Synapse's.",
                )
            before, border[column] = border[column], end[0] + step
            return _Part(name, low, high, column, before, border[column])
        return None


@contextlib.contextmanager
def _carrier(source: str, libpq: dict, ways: dict[str, _Way]):
    """Yield the function that carries a _Part over, by connections of its own, and returns (rows, dropped)."""
    with file.reading(source) as lite, _connection.connected(libpq, what="routine", schema=_connection.MOVED) as connection:
        copy_lines.prepare(lite)
        with connection.cursor() as cursor:
            # The last transaction of the move waits for the disk, and so for these as well.
            cursor.execute(f"SET synchronous_commit = off; {record.NOTICE_SILENCE}")
            connection.commit()
            yield lambda part: _carry_over(lite, cursor, part, ways[part.table])


def _carry_over(lite, cursor, part: _Part, way: _Way) -> tuple[int, int]:
    """Carry the rows of ``part`` over, in one transaction with its border; return how many they are, and how many were dropped.

    The transaction waits for those of the parts before this one. Where one of these waits for it in turn, on a key that both
    have, it gives way, and meets the key when the other one has ended.
    """
    with carry_over.told_without_values(part.table):
        try:
            lines = _sent(lite, cursor, part, way)
        except psycopg2.errors.ForeignKeyViolation:
            if not way.compared:
                raise
            cursor.connection.rollback()
            _comes_to(cursor, part, _MOVED)
            cursor.connection.commit()
            return 0, 0
        if not _comes_to(cursor, part, _MOVED, gives_way=True):
            cursor.connection.rollback()
            _comes_to(cursor, part, _THERE)
            cursor.connection.rollback()
            lines = _sent(lite, cursor, part, way)
            _comes_to(cursor, part, _MOVED)
        cursor.connection.commit()
    return lines.rows, lines.dropped


def _sent(lite, cursor, part: _Part, way: _Way) -> copy_lines.Lines:
    if way.first:
        cursor.execute(way.first)
    lines = copy_lines.Lines(lite, way.table, row_reader.Rows(part.low, part.high))
    lines.send(cursor, way.copy)
    if way.last:
        cursor.execute(way.last)
    return lines


# Of a part: to move its table's border, and to see whether the border has come to it.
_MOVED = "UPDATE public.port_from_sqlite3 SET {0} = %(after)s WHERE table_name = %(table)s AND {0} = %(before)s RETURNING 1"
_THERE = "SELECT 1 FROM public.port_from_sqlite3 WHERE table_name = %(table)s AND {0} = %(before)s"


def _comes_to(cursor, part: _Part, statement: str, gives_way: bool = False) -> bool:
    """Return when ``statement`` finds the border of ``part``; with ``gives_way`` False as soon as somebody waits for us."""
    query, tries = sql.SQL(statement).format(sql.Identifier(part.border)), 0
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
