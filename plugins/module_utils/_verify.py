# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that a move from SQLite to PostgreSQL lost nothing: every table compared, every expected difference by its rule.

The rules are those of the port routine, synapse/_scripts/synapse_port_db.py: it carries every table that both sides have
but the ones it ignores and the schema's own versions. Whatever no rule explains is a difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import (
    _carry,
    _compare,
    _connection,
    _content,
    _crew,
    _indexes,
    _move,
    _names,
    _ownership,
    _progress,
    _room,
    _sequences,
    _shares,
    _sqlite,
    _synapse,
    _tables,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    from psycopg2 import sql
except ImportError:
    pass

# How many rows of a table are shown, of differences and of rows that PostgreSQL cannot store.
_EXAMPLES = 5
_DROPPED_EXAMPLES = 20

# How many sums are kept at once, and how many rows of shares that have changed are kept in mind (16 bytes each).
_KEPT = 32
_READ = 2_000_000

# How often at most what differs is carried over, when that makes other rows differ.
_CASCADES = 3

# Rules whose entries come from comparing a table, and come again when it is compared again.
_FOUND_ON_THE_WAY = ("nul", "sent_transactions")

# What SQLite keeps of a full-text index: https://www.sqlite.org/fts3.html, section 9.1.
_SHADOWS = ("content", "docsize", "segdir", "segments", "stat")

# Key columns that are, or lead to, somebody's secret; the row's id is shown instead.
_SECRET = re.compile("token|secret|password|hash|session|nonce|code|key_json|content|json|value|body|data")

_WHY = {
    "ignored": "Synapse makes it anew; the port routine leaves it out.",
    "bookkeeping": "Synapse and the port routine keep it for each database on its own.",
    "sqlite": "SQLite's own.",
    "nul": "PostgreSQL stores no NUL characters in text, so the port routine leaves these rows out.",
    "no_event": "Search entries without an event are of no use, and the port routine leaves them out.",
    "stream_position": "The routine sets it anew, so that Synapse rebuilds the user directory.",
    "sent_transactions": "Only the last transaction of each destination is needed, and the last day's.",
    "left_behind": "The table is not Synapse's, or no longer, and PostgreSQL has none: its rows stay behind on SQLite.",
    "only_postgresql": "SQLite has no such table.",
    "only_sqlite_column": "PostgreSQL's table has no such column; what it holds stays behind on SQLite.",
    "only_postgresql_column": "SQLite's table has no such column.",
}


def verify(params: dict, check_mode: bool) -> dict:
    """Compare the databases, carry over what may be; return the result of the module synapse_port_verify.

    ``params`` are the module's. Raises Refusal, with the result as its facts, unless the databases are equal in the end.
    """
    source = params["sqlite_database"]
    _sqlite.require_database(source)
    _names.require_one(source)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress.Progress(f"{source}.progress.json", "verify"))
        connection = stack.enter_context(_connection.session(params, True, "synapse_port_verify", _connection.MOVED))
        cursor = stack.enter_context(connection.cursor())
        _move.require_home(cursor)
        _ownership.require_own(cursor, reading=not params["carry_changes"])
        if params["carry_changes"]:
            stack.enter_context(_move.only_one(cursor, connection.info.dbname))
            _move.require_unused(cursor)
        _sequences.require_synapses(cursor)
        _indexes.require_none_aside(cursor)
        lite = stack.enter_context(both_sides(source, cursor, writing=params["carry_changes"] and not check_mode))
        if params["carry_changes"]:
            _carry.require_ours(cursor, source)
        record = _move.record(cursor)
        kept = _shares.Kept(cursor, source, here=record is not None and record.here, keeping=not check_mode)
        comparison = Comparison(lite, cursor, _routine(record, params, connection.info.dbname), progress, kept)
        _require_whole(comparison)
        result = comparison.result(comparison.run(source, _connection.keywords(params)))
        carried = {}
        if params["carry_changes"] and result["tables"]:
            carried = _carried(comparison, result, source, check_mode)
            result = comparison.result(result["rows"])
        result = {**result, "carried": carried, "seconds": comparison.seconds}
        if not result["equal"]:
            raise _unequal(result, comparison.routine, source)
        if params["original"]:
            progress.tell(f"what SQLite says of {params['original']}", result["rows"], result["rows"], now=True)
            _require_original(params["original"], source, record)
        return {"changed": bool(carried), **result}


def _require_whole(comparison: Comparison) -> None:
    """Raise Refusal when a table of Synapse's is on SQLite alone: no rule is for that."""
    missing = _synapse.missing(comparison.both.mine, comparison.both.theirs, comparison.routine)
    if missing:
        raise Refusal(
            f"The target database is not whole: {len(missing)} tables of Synapse's are missing there ({', '.join(missing[:3])}).",
            "Stay on SQLite, and give the move a new, empty database (synapse_postgres_database).",
        )


def _require_original(original: str, source: str, record: _move.Record | None) -> None:
    """Raise Refusal unless ``source``, which was compared, is a copy of all that the database ``original`` holds.

    What it held when it was ported stands in the ``record``, before Synapse's own code wrote to it.
    """
    path = _names.opened(original)
    if path == source:  # no copy was compared, but the original itself
        return
    _sqlite.require_database(path)
    _names.require_one(path)
    _sqlite.require_closed(path)
    ported = record and record.content and record.stamp == _sqlite.stamp(source)
    _content.require_same(original, source, record.content if ported else _content.of(source))


def _carried(comparison: Comparison, result: dict, source: str, check_mode: bool) -> dict:
    """Carry over what differs, or in check mode say what would be; return ``{table: {written, deleted}}``.

    The tables that differ, and those that refer to them, are compared again afterwards.
    """
    lite, cursor, routine = comparison.lite, comparison.cursor, comparison.routine
    other = sorted(set(result["tables"]) - set(routine["append_only"]))
    if other:
        raise _unequal({**result, "carried": {}, "seconds": comparison.seconds}, routine, source)
    _carry.require_ported(cursor, source)
    tables = {table.name: table for table in comparison.tables if table.name in result["tables"]}
    planned = _carry.planned(lite, list(tables))
    if check_mode:
        comparison.differing.clear()
        return planned
    written = comparison.carry(set(tables))
    if comparison.differing:
        result = comparison.result(result["rows"])
        raise _unequal({**result, "carried": {}, "seconds": comparison.seconds}, routine, source)
    _move.carried(cursor)
    return written


def _unequal(result: dict, routine: dict, source: str) -> Refusal:
    """Return the Refusal for databases that differ; ``result`` becomes the failed task's."""
    told = [
        f"{name} ({found['missing']} rows missing on PostgreSQL, {found['unexpected']} that SQLite does not have,"
        f" {found['changed']} of them changed)"
        for name, found in result["tables"].items()
    ]
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    remedy = (
        "Stay on SQLite. Stop Synapse, run synapse_port on a new copy and this again; if a table still differs, give the move a "
        "new, empty database."
    )
    if set(result["tables"]) <= set(routine["append_only"]):
        remedy = (
            "These are tables that the routine only adds to: with Synapse stopped, run synapse_port on a new copy and this "
            "with carry_changes."
        )
    return Refusal(
        f"PostgreSQL does not hold what {source} holds: {len(told)} tables differ: {', '.join(told[:3])}{more}.", remedy, **result
    )


def _routine(record: _move.Record | None, params: dict, database: str) -> dict:
    """Return what the Synapse that ported decides, from the record of the move or from the installed Synapse."""
    if record and record.routine:
        return record.routine
    if params["synapse_python"]:
        return _synapse.ask([params["synapse_python"]])
    raise Refusal(
        f"The database {database!r} holds no record of a move, so what its Synapse ports is not known.",
        "Give synapse_python, the interpreter that runs Synapse, or port with the module synapse_port.",
    )


@contextlib.contextmanager
def _temporary_beside(path: str):
    """Let SQLite keep its temporary files in the folder of ``path``, which is a disk; /tmp may be memory."""
    folder, before = os.path.dirname(path), os.environ.get("SQLITE_TMPDIR")
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["SQLITE_TMPDIR"] = folder
    try:
        yield
    finally:
        os.environ.pop("SQLITE_TMPDIR", None)
        if before is not None:
            os.environ["SQLITE_TMPDIR"] = before


@contextlib.contextmanager
def both_sides(source: str, cursor, writing: bool):
    """Yield a connection to the SQLite database ``source``; it and ``cursor`` show both sides as they are at one moment.

    Each is in a transaction within the block, and PostgreSQL's is kept if the block ends well.
    """
    with _temporary_beside(source), _sqlite.reading(source) as lite, _one_moment(lite, cursor, writing):
        yield lite


@contextlib.contextmanager
def _looking(source: str, libpq: dict, snapshot: str, look):
    """Yield the function that gives a Share to ``look(lite, cursor, share)``, in a process of a crew.

    PostgreSQL is seen as of ``snapshot``.
    """
    way = _connection.connected(libpq, True, "synapse_port_verify", _connection.MOVED)
    with _sqlite.reading(source) as lite, way as connection:
        with connection.cursor() as cursor, _one_moment(lite, cursor, writing=False, snapshot=snapshot):
            yield lambda share: look(lite, cursor, share)


def _rows(lite, cursor, table: _compare.Table, buckets: list[int], share: _compare.Share) -> list[_compare.Rows]:
    """Return the rows of ``share`` in ``buckets``."""
    if share.side == "here":
        return [rows.of(buckets) for rows in _compare.lite_rows(lite, cursor, table, share)]
    stream = io.BytesIO()
    _compare.server_rows(cursor, table, buckets, stream, share)
    stream.seek(0)
    return list(_compare.received(stream))


@contextlib.contextmanager
def _one_moment(lite, cursor, writing: bool, snapshot: str | None = None):
    _compare.prepare(lite)
    _sqlite.require_utf8(lite)
    lite.execute("BEGIN")
    lite.execute("SELECT count(*) FROM sqlite_master").fetchone()
    cursor.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ {'WRITE' if writing else 'ONLY'}")
    if snapshot:
        cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))
    try:
        # Nothing here lives long enough for compiled queries to pay.
        cursor.execute("SET LOCAL jit = off")
        yield
    except BaseException:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")


class Comparison:
    """The comparison of the SQLite connection ``lite`` with the database of ``cursor``, by the rules of ``routine``.

    ``tables`` are compared; ``differing`` maps the names of those that differ to what is told of them, ``expected`` lists
    the differences that a rule explains. ``kept`` are the sums that are known already.
    """

    def __init__(self, lite, cursor, routine: dict, progress: _progress.Progress, kept: _shares.Kept) -> None:
        self.lite, self.cursor, self.routine, self.progress = lite, cursor, routine, progress
        self.tables: list[_compare.Table] = []
        self.expected: list[dict] = []
        self._started = time.monotonic()
        self.differing: dict[str, dict] = {}
        lite.text_factory = str
        self.both = _tables.Tables(lite, cursor, routine)
        self._kept = kept
        self._read: dict[_compare.Share, _compare.Rows] = {}
        self._mine: dict[str, _compare.Sums] = {}
        self._sort()

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return round(time.monotonic() - self._started, 1)

    def run(self, source: str, libpq: dict, names: set[str] | None = None) -> int:
        """Compare every table, or those of ``names``; return how many rows were compared.

        Several processes are at work, each with connections of its own to the SQLite database ``source`` and by ``libpq``'s
        keywords; they see PostgreSQL as it is at our moment, and a copy that nobody writes to is the same at any.
        """
        tables = {table.name: table for table in self.tables if names is None or table.name in names}
        shares = [share for table in tables.values() for share in self._kept.cut(self.lite, self.cursor, table)]
        # The longest last would leave the others waiting for it: those for which the server is asked for each row go first.
        shares.sort(key=lambda share: (not tables[share.table].special, share.low - share.high))
        self.cursor.execute("SELECT pg_export_snapshot()")
        snapshot = self.cursor.fetchone()[0]
        sums = self._sum(source, libpq, snapshot, tables, shares)
        buckets = {name: sums[name, "here"].differing(sums[name, "there"]) for name in tables}
        concerned = [share for share in shares if buckets[share.table]]
        if concerned:
            self._gather(source, libpq, snapshot, tables, concerned, buckets)
        self._read.clear()
        for name, table in tables.items():
            if buckets[name]:
                self._mine[name] = sums[name, "here"]
            self._judge(table, sums[name, "here"])
        return sum(sums[name, "here"].rows for name in tables)

    def _sum(self, source: str, libpq: dict, snapshot: str, tables: dict, shares: list) -> dict:
        """Return ``{(table, side): Sums}``."""
        sums = {(name, side): _compare.Sums() for name in tables for side in ("here", "there")}
        left, total, rows = iter(shares), sum(self._estimated(name) for name in tables), 0

        def look(lite, cursor, share: _compare.Share) -> tuple:
            read = _compare.Rows() if share.side == "here" and self._kept.knows(share.table) else None
            found, new = self._kept.sums(lite, cursor, tables[share.table], share, read)
            return found, new, read if read and len(read.ids) == found.rows else None

        def done(share: _compare.Share, answer: tuple) -> None:
            nonlocal rows
            part, new, read = answer
            # What has changed is likely to differ, and is not read once more then.
            if read and sum(len(each.ids) for each in self._read.values()) < _READ:
                self._read[share] = read
            sums[share.table, share.side].add(part)
            rows += part.rows if share.side == "here" else 0
            self.progress.tell(doing=share.table, done=rows, total=max(total, rows))
            self._kept.keep(share, part, new)
            self._kept.settle(keeper, at_least=_KEPT)

        with _connection.connected(libpq, True, "synapse_port_verify", _connection.MOVED) as other, other.cursor() as keeper:
            keeper.execute("SET synchronous_commit = off")
            _crew.work(lambda: _looking(source, libpq, snapshot, look), lambda: next(left, None), done, _room.workers(keeper))
            self._kept.settle(keeper)
        return sums

    def _gather(self, source: str, libpq: dict, snapshot: str, tables: dict, shares: list, buckets: dict) -> None:
        """Find the rows of ``shares`` that only one side has; ``buckets`` are those of each table in which they are."""
        # What is at about the same place on both sides one after the other.
        ends = {(share.table, share.side): share.high for share in sorted(shares, key=lambda share: share.high)}
        shares.sort(key=lambda share: (share.table, share.high / (abs(ends[share.table, share.side]) or 1)))
        left, total = iter(shares), sum(self._estimated(name) for name in tables)
        unmatched = {share.table: _compare.Unmatched(self.lite, tables[share.table]) for share in shares}

        def following() -> _compare.Share | None:
            for share in left:
                if share not in self._read:
                    return share
                unmatched[share.table].add("here", self._read.pop(share).of(buckets[share.table]))
            return None

        def look(lite, cursor, share: _compare.Share) -> list[_compare.Rows]:
            return _rows(lite, cursor, tables[share.table], buckets[share.table], share)

        def done(share: _compare.Share, found: list[_compare.Rows]) -> None:
            for rows in found:
                unmatched[share.table].add(share.side, rows)
            self.progress.tell(doing=f"{share.table}: which rows differ", done=total, total=total)

        _crew.work(lambda: _looking(source, libpq, snapshot, look), following, done, _room.workers(self.cursor))
        for each in unmatched.values():
            each.settle(self.cursor)

    def again(self, names: set[str]) -> None:
        """Compare the tables of ``names`` once more, after something was carried over."""
        for name in names:
            self.differing.pop(name, None)
            for side in ("here", "there"):
                self.lite.execute(f"DELETE FROM temp.only_{side} WHERE name = ?", (name,))
        self.expected = [one for one in self.expected if one["table"] not in names or one["rule"] not in _FOUND_ON_THE_WAY]
        for table in self.tables:
            if table.name in names:
                self._judge(table, _compare.compare(self.lite, self.cursor, table, self._mine.get(table.name)))

    def carry(self, names: set[str]) -> dict:
        """Carry over what differs in the tables ``names``, and see what it came to; return ``{table: {written, deleted}}``.

        Deleting a row may delete others that refer to it, in the same table or another, which then differ and are carried, too.
        """
        done: dict[str, dict[str, int]] = {}
        for _again in range(_CASCADES):
            tables = {table.name: table for table in self.tables if table.name in self.differing and table.name in names}
            if not tables:
                break
            carried = _carry.carry(self.lite, self.cursor, tables)
            for name, rows in carried.items():
                before = done.get(name, {"written": 0, "deleted": 0})
                done[name] = {kind: before[kind] + rows[kind] for kind in rows}
            deleted = [name for name, rows in carried.items() if rows["deleted"]]
            names = {*tables, *_carry.concerned(self.cursor, deleted)}
            self.again(names)
        return done

    def result(self, rows: int) -> dict:
        """Return the part of the module's result that the comparison gives."""
        expected = sorted(self.expected, key=lambda one: (one["rule"], one["table"]))
        return {"equal": not self.differing, "rows": rows, "tables": dict(self.differing), "expected": expected}

    def _estimated(self, name: str) -> int:
        """Return about how many rows SQLite's table has, without reading it."""
        return self.lite.execute(f"SELECT max(rowid) FROM {_sqlite.quoted(name)}").fetchone()[0] or 0

    # Which tables

    def _sort(self) -> None:
        """Sort every table of either side into those that are compared and those for which a rule stands."""
        mine, theirs = self.both.mine, self.both.theirs
        virtual = [name for name, words in mine.items() if words.upper().startswith("CREATE VIRTUAL")]
        shadows = {f"{name}_{part}" for name in virtual for part in _SHADOWS}
        for name in mine:
            if name in self.routine["ignored"]:
                self._expect_rows(name, "ignored")
            elif name.startswith("sqlite_") or (name in shadows and name not in theirs):
                self._expect_rows(name, "sqlite")
            elif name in _synapse.BOOKKEEPING:
                self._expect_rows(name, "bookkeeping")
            elif name not in theirs:
                self._expect_rows(name, "left_behind")
            elif name == "user_directory_stream_pos":
                self._stream_position(name)
            else:
                if name == "event_search":
                    self._without_event(name)
                else:
                    self._one_sided(name)
                self.tables.append(self.both.table(name))
        for name, rows in self._counts_there(sorted(set(theirs) - set(mine))):
            if rows:
                self._expect(name, "bookkeeping" if name in _synapse.BOOKKEEPING else "only_postgresql", rows)

    def _expect(self, table: str, rule: str, rows: int, examples: list[str] | None = None, why: str = "") -> None:
        why = f"{why} {_WHY[rule]}".strip()
        self.expected.append({"table": table, "rule": rule, "rows": rows, "why": why, "examples": examples or []})

    def _expect_rows(self, name: str, rule: str) -> None:
        rows = self.lite.execute(f"SELECT count(*) FROM {_sqlite.quoted(name)}").fetchone()[0]
        if rows:
            self._expect(name, rule, rows)

    def _counts_there(self, names: list[str]) -> list[tuple[str, int]]:
        count = sql.SQL("SELECT {}, count(*) FROM public.{}")
        if names:
            parts = [count.format(sql.Literal(name), sql.Identifier(name)) for name in names]
            self.cursor.execute(sql.SQL(" UNION ALL ").join(parts))
        return self.cursor.fetchall() if names else []

    def _one_sided(self, name: str) -> None:
        """Expect what the columns hold that only one side has."""
        here, there = self.both.one_sided(name)
        for column in there:
            self.cursor.execute(f"SELECT count({_sqlite.quoted(column)}) FROM public.{_sqlite.quoted(name)}")
            self._expect(name, "only_postgresql_column", self.cursor.fetchone()[0], why=f"The column {column}:")
        for column in here:
            rows = self.lite.execute(f"SELECT count({_sqlite.quoted(column)}) FROM {_sqlite.quoted(name)}").fetchone()[0]
            self._expect(name, "only_sqlite_column", rows, why=f"The column {column}:")

    def _without_event(self, name: str) -> None:
        """Expect the search entries that have no event."""
        alone = "SELECT {} FROM event_search AS t LEFT JOIN events AS e USING (event_id, room_id) WHERE e.event_id IS NULL"
        rows = self.lite.execute(alone.format("count(*)")).fetchone()[0]
        if rows:
            some = self.lite.execute(alone.format("t.rowid") + f" LIMIT {_EXAMPLES}")
            self._expect(name, "no_event", rows, [f"rowid={row[0]}" for row in some])

    def _stream_position(self, name: str) -> None:
        """The routine puts one row, whose position is NULL, where SQLite has any (handle_table)."""
        here = self.lite.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        self.cursor.execute(f"SELECT count(*), count(stream_id) FROM public.{name}")
        there, set_ones = self.cursor.fetchone()
        if there == min(here, 1) and set_ones == 0:
            self._expect(name, "stream_position", here)
        else:
            self._differ(name, here, int(not there and here > 0), max(there - 1, set_ones), 0, [f"{there} rows, {set_ones} set"])

    # What differs

    def _judge(self, table: _compare.Table, found: _compare.Sums) -> None:
        """Note what came of comparing one table."""
        self.lite.text_factory = str
        if found.dropped:
            self._expect(table.name, "nul", found.dropped, self._dropped(table))
        if table.name == "sent_transactions":
            self._sent(table)
        missing, unexpected = self._only("here", table), self._only("there", table)
        if missing or unexpected:
            changed = _carry.replaced(self.lite, table.name)
            self._differ(table.name, found.rows, missing, unexpected, changed, self._examples(table))

    def _differ(self, name: str, rows: int, missing: int, unexpected: int, changed: int, examples: list[str]) -> None:
        found = {"rows": rows, "missing": missing, "unexpected": unexpected, "changed": changed, "examples": examples}
        self.differing[name] = found

    def _only(self, side: str, table: _compare.Table) -> int:
        return self.lite.execute(f"SELECT count(*) FROM temp.only_{side} WHERE name = ?", (table.name,)).fetchone()[0]

    def _dropped(self, table: _compare.Table) -> list[str]:
        """Return where the first rows with a NUL character are."""
        texts = [_compare.lite_text([one]) for one in table.plain] + [one.lite for one in table.special]
        found = " OR ".join(f"instr({text}, char(0))" for text in texts)  # one by one, or all of a row would be in memory
        query = f"SELECT t.rowid FROM {table.source} WHERE {found} LIMIT {_DROPPED_EXAMPLES}"
        return [f"rowid={row[0]}" for row in self.lite.execute(query)]

    def _sent(self, table: _compare.Table) -> None:
        """Of sent_transactions PostgreSQL may lack what is not a destination's last (_setup_sent_transactions)."""
        query = (
            "DELETE FROM temp.only_here WHERE name = 'sent_transactions'"
            " AND id NOT IN (SELECT max(rowid) FROM main.sent_transactions GROUP BY destination)"
        )
        left = self.lite.execute(query).rowcount
        if left:
            self._expect(table.name, "sent_transactions", left)

    def _examples(self, table: _compare.Table) -> list[str]:
        """Return the first rows that differ, by their keys or, where these are secret or missing, by their ids."""
        shown = table.keys if not any(_SECRET.search(one.name) for one in table.keys) else []
        found = []
        for side in ("here", "there"):
            query = f"SELECT id FROM temp.only_{side} WHERE name = ? LIMIT ?"
            ids = [row[0] for row in self.lite.execute(query, (table.name, _EXAMPLES))]
            found += [self._example(side, table, shown, number) for number in ids]
        return list(dict.fromkeys(found))[:_EXAMPLES]

    def _example(self, side: str, table: _compare.Table, shown: list[_compare.Column], number) -> str:
        if not shown:
            return f"rowid={number}" if side == "here" else f"ctid={_compare.ctid(number)}"
        if side == "here":
            texts = ", ".join(f"CAST({one.lite} AS TEXT)" for one in shown)
            self.lite.text_factory = lambda text: text.decode("utf-8", "replace")
            row = self.lite.execute(f"SELECT {texts} FROM {table.source} WHERE t.rowid = ?", (number,)).fetchone()
            self.lite.text_factory = str
        else:
            texts = ", ".join(f"{_sqlite.quoted(one.name)}::text" for one in shown)
            self.cursor.execute(
                f"SELECT {texts} FROM public.{_sqlite.quoted(table.name)} WHERE ctid = %s", (_compare.ctid(number),)
            )
            row = self.cursor.fetchone()
        return ", ".join(f"{one.name}={(value or '')[:100]}" for one, value in zip(shown, row))
