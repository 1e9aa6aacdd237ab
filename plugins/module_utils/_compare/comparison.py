# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a SQLite database with a PostgreSQL one, by several processes: every expected difference by its rule.

The rules are those of the port routine, synapse/_scripts/synapse_port_db.py: it carries every table that both sides have
but the ones it ignores and the schema's own versions. Whatever no rule explains is a difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _progress, _sessions, _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, schemas
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.shares import Kept
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.unmatched import (
    Unmatched,
    compare,
    prepare,
    replaced,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

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
    with _temporary_beside(source), file.reading(source) as lite, _one_moment(lite, cursor, writing):
        yield lite


@contextlib.contextmanager
def _looking(source: str, libpq: dict, snapshot: str, look):
    """Yield the function that gives a Share to ``look(lite, cursor, share)``, in a process of a crew.

    PostgreSQL is seen as of ``snapshot``.
    """
    way = _connection.connected(libpq, True, "synapse_port_verify", _connection.MOVED)
    with file.reading(source) as lite, way as connection:
        with connection.cursor() as cursor, _one_moment(lite, cursor, writing=False, snapshot=snapshot):
            yield lambda share: look(lite, cursor, share)


def _rows(lite, cursor, table: Table, buckets: list[int], share: row_digests.Share) -> list[row_digests.Rows]:
    """Return the rows of ``share`` in ``buckets``."""
    if share.side == "here":
        return [rows.of(buckets) for rows in row_digests.lite_rows(lite, cursor, table, share)]
    stream = io.BytesIO()
    row_digests.server_rows(cursor, table, buckets, stream, share)
    stream.seek(0)
    return list(row_digests.received(stream))


@contextlib.contextmanager
def _one_moment(lite, cursor, writing: bool, snapshot: str | None = None):
    prepare(lite)
    file.require_utf8(lite)
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

    def __init__(self, lite, cursor, routine: dict, progress: _progress.Progress, kept: Kept) -> None:
        self.lite, self.cursor, self.routine, self.progress = lite, cursor, routine, progress
        self.tables: list[Table] = []
        self.expected: list[dict] = []
        self._started = time.monotonic()
        self.differing: dict[str, dict] = {}
        lite.text_factory = str
        self.both = schemas.Tables(lite, cursor, routine)
        self._kept = kept
        self._read: dict[row_digests.Share, row_digests.Rows] = {}
        self._mine: dict[str, row_digests.Sums] = {}
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
        sums = {(name, side): row_digests.Sums() for name in tables for side in ("here", "there")}
        left, total, rows = iter(shares), sum(self._estimated(name) for name in tables), 0

        def look(lite, cursor, share: row_digests.Share) -> tuple:
            read = row_digests.Rows() if share.side == "here" and self._kept.knows(share.table) else None
            found, new = self._kept.sums(lite, cursor, tables[share.table], share, read)
            return found, new, read if read and len(read.ids) == found.rows else None

        def done(share: row_digests.Share, answer: tuple) -> None:
            nonlocal rows
            part, new, read = answer
            # What has changed is likely to differ, and is not read once more then.
            if read and sum(len(each.ids) for each in self._read.values()) < _READ:
                self._read[share] = read
            sums[share.table, share.side].add(part)
            rows += part.rows if share.side == "here" else 0
            self.progress.tell(current=share.table, done=rows, total=max(total, rows))
            self._kept.keep(share, part, new)
            self._kept.settle(keeper, at_least=_KEPT)

        with _connection.connected(libpq, True, "synapse_port_verify", _connection.MOVED) as other, other.cursor() as keeper:
            keeper.execute("SET synchronous_commit = off")
            _workers.work(
                lambda: _looking(source, libpq, snapshot, look), lambda: next(left, None), done, _sessions.workers(keeper)
            )
            self._kept.settle(keeper)
        return sums

    def _gather(self, source: str, libpq: dict, snapshot: str, tables: dict, shares: list, buckets: dict) -> None:
        """Find the rows of ``shares`` that only one side has; ``buckets`` are those of each table in which they are."""
        # What is at about the same place on both sides one after the other.
        ends = {(share.table, share.side): share.high for share in sorted(shares, key=lambda share: share.high)}
        shares.sort(key=lambda share: (share.table, share.high / (abs(ends[share.table, share.side]) or 1)))
        left, total = iter(shares), sum(self._estimated(name) for name in tables)
        unmatched = {share.table: Unmatched(self.lite, tables[share.table]) for share in shares}

        def following() -> row_digests.Share | None:
            for share in left:
                if share not in self._read:
                    return share
                unmatched[share.table].add("here", self._read.pop(share).of(buckets[share.table]))
            return None

        def look(lite, cursor, share: row_digests.Share) -> list[row_digests.Rows]:
            return _rows(lite, cursor, tables[share.table], buckets[share.table], share)

        def done(share: row_digests.Share, found: list[row_digests.Rows]) -> None:
            for rows in found:
                unmatched[share.table].add(share.side, rows)
            self.progress.tell(current=f"{share.table}: which rows differ", done=total, total=total)

        _workers.work(lambda: _looking(source, libpq, snapshot, look), following, done, _sessions.workers(self.cursor))
        for each in unmatched.values():
            each.settle(self.cursor)

    def recompare(self, names: set[str]) -> None:
        """Compare the tables of ``names`` once more, after something was carried over."""
        for name in names:
            self.differing.pop(name, None)
            for side in ("here", "there"):
                self.lite.execute(f"DELETE FROM temp.only_{side} WHERE name = ?", (name,))
        self.expected = [one for one in self.expected if one["table"] not in names or one["rule"] not in _FOUND_ON_THE_WAY]
        for table in self.tables:
            if table.name in names:
                self._judge(table, compare(self.lite, self.cursor, table, self._mine.get(table.name)))

    def result(self, rows: int) -> dict:
        """Return the part of the module's result that the comparison gives."""
        expected = sorted(self.expected, key=lambda one: (one["rule"], one["table"]))
        return {"equal": not self.differing, "rows": rows, "tables": dict(self.differing), "expected": expected}

    def _estimated(self, name: str) -> int:
        """Return about how many rows SQLite's table has, without reading it."""
        return self.lite.execute(f"SELECT max(rowid) FROM {identifier(name)}").fetchone()[0] or 0

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
            elif name in schemas.BOOKKEEPING:
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
                self._expect(name, "bookkeeping" if name in schemas.BOOKKEEPING else "only_postgresql", rows)

    def _expect(self, table: str, rule: str, rows: int, examples: list[str] | None = None, why: str = "") -> None:
        why = f"{why} {_WHY[rule]}".strip()
        self.expected.append({"table": table, "rule": rule, "rows": rows, "why": why, "examples": examples or []})

    def _expect_rows(self, name: str, rule: str) -> None:
        rows = self.lite.execute(f"SELECT count(*) FROM {identifier(name)}").fetchone()[0]
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
            self.cursor.execute(f"SELECT count({identifier(column)}) FROM public.{identifier(name)}")
            self._expect(name, "only_postgresql_column", self.cursor.fetchone()[0], why=f"The column {column}:")
        for column in here:
            rows = self.lite.execute(f"SELECT count({identifier(column)}) FROM {identifier(name)}").fetchone()[0]
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

    def _judge(self, table: Table, found: row_digests.Sums) -> None:
        """Note what came of comparing one table."""
        self.lite.text_factory = str
        if found.dropped:
            self._expect(table.name, "nul", found.dropped, self._dropped(table))
        if table.name == "sent_transactions":
            self._sent(table)
        missing, unexpected = self._only("here", table), self._only("there", table)
        if missing or unexpected:
            changed = replaced(self.lite, table.name)
            self._differ(table.name, found.rows, missing, unexpected, changed, self._examples(table))

    def _differ(self, name: str, rows: int, missing: int, unexpected: int, changed: int, examples: list[str]) -> None:
        found = {"rows": rows, "missing": missing, "unexpected": unexpected, "changed": changed, "examples": examples}
        self.differing[name] = found

    def _only(self, side: str, table: Table) -> int:
        return self.lite.execute(f"SELECT count(*) FROM temp.only_{side} WHERE name = ?", (table.name,)).fetchone()[0]

    def _dropped(self, table: Table) -> list[str]:
        """Return where the first rows with a NUL character are."""
        texts = [row_digests.lite_text([one]) for one in table.plain] + [one.lite for one in table.special]
        found = " OR ".join(f"instr({text}, char(0))" for text in texts)  # one by one, or all of a row would be in memory
        query = f"SELECT t.rowid FROM {table.source} WHERE {found} LIMIT {_DROPPED_EXAMPLES}"
        return [f"rowid={row[0]}" for row in self.lite.execute(query)]

    def _sent(self, table: Table) -> None:
        """Of sent_transactions PostgreSQL may lack what is not a destination's last (_setup_sent_transactions)."""
        query = (
            "DELETE FROM temp.only_here WHERE name = 'sent_transactions'"
            " AND id NOT IN (SELECT max(rowid) FROM main.sent_transactions GROUP BY destination)"
        )
        left = self.lite.execute(query).rowcount
        if left:
            self._expect(table.name, "sent_transactions", left)

    def _examples(self, table: Table) -> list[str]:
        """Return the first rows that differ, by their keys or, where these are secret or missing, by their ids."""
        shown = table.keys if not any(_SECRET.search(one.name) for one in table.keys) else []
        found = []
        for side in ("here", "there"):
            query = f"SELECT id FROM temp.only_{side} WHERE name = ? LIMIT ?"
            ids = [row[0] for row in self.lite.execute(query, (table.name, _EXAMPLES))]
            found += [self._example(side, table, shown, number) for number in ids]
        return list(dict.fromkeys(found))[:_EXAMPLES]

    def _example(self, side: str, table: Table, shown: list[Column], number) -> str:
        if not shown:
            return f"rowid={number}" if side == "here" else f"ctid={row_digests.ctid(number)}"
        if side == "here":
            texts = ", ".join(f"CAST({one.lite} AS TEXT)" for one in shown)
            self.lite.text_factory = lambda text: text.decode("utf-8", "replace")
            row = self.lite.execute(f"SELECT {texts} FROM {table.source} WHERE t.rowid = ?", (number,)).fetchone()
            self.lite.text_factory = str
        else:
            texts = ", ".join(f"{identifier(one.name)}::text" for one in shown)
            self.cursor.execute(
                f"SELECT {texts} FROM public.{identifier(table.name)} WHERE ctid = %s", (row_digests.ctid(number),)
            )
            row = self.cursor.fetchone()
        return ", ".join(f"{one.name}={(value or '')[:100]}" for one, value in zip(shown, row))
