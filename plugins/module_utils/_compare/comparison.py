# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a SQLite database with a PostgreSQL one: which tables, and every expected difference by its rule.

The rules are those of the port routine, synapse/_scripts/synapse_port_db.py: it carries every table that both sides have
but the ones it ignores and the schema's own versions. Whatever no rule explains is a difference.
"""

from __future__ import annotations

import dataclasses
import re
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, schemas, unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_comparison import RowComparison
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.row_digests import Sums
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import BOOKKEEPING, Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.shares import Kept
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.sides import Sides, in_this_process, in_workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    from psycopg2 import sql
except ImportError:
    pass

# How many rows of a table are shown, of differences and of rows that PostgreSQL cannot store.
_EXAMPLES = 5
_DROPPED_EXAMPLES = 20

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


@dataclasses.dataclass(frozen=True)
class Difference:
    """What no rule explains of a table with ``rows`` rows on SQLite: how many are ``missing`` on PostgreSQL, how many of its rows
    are ``unexpected``, how many of the missing ones it has with other content, and where the first of them are."""

    rows: int
    missing: int
    unexpected: int
    changed: int
    examples: list[str]


@dataclasses.dataclass(frozen=True)
class Expected:
    """A difference of ``rows`` rows in ``table`` that a ``rule`` explains: ``why``, and where the first of them are."""

    table: str
    rule: str
    rows: int
    why: str
    examples: list[str]


class Comparison:
    """The comparison of both ``sides`` by the ``rules``; ``kept`` are the sums that are known already.

    ``tables`` are compared; ``differing`` maps the names of those that differ to the Difference, ``expected`` lists the
    differences that a rule explains.
    """

    def __init__(self, sides: Sides, rules: Rules, kept: Kept, progress: _progress.Progress) -> None:
        self.sides, self.rules, self._kept, self._progress = sides, rules, kept, progress
        self.sqlite, self.postgres = sides.sqlite, sides.postgres
        self.tables: list[Table] = []
        self.expected: list[Expected] = []
        self._started = time.monotonic()
        self.differing: dict[str, Difference] = {}
        self.sqlite.text_factory = str
        self.both = schemas.Tables(self.sqlite, self.postgres, rules)
        # SQLite's sums of the tables that differ.
        self._known: dict[str, Sums] = {}
        self._sort()

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return round(time.monotonic() - self._started, 1)

    def run(self, names: set[str] | None = None) -> int:
        """Compare every table, or those of ``names``, by several processes; return how many rows were compared."""
        tables = {table.name: table for table in self.tables if names is None or table.name in names}
        sums = RowComparison(self.sides, in_workers(self.sides), self._kept, self._progress).compare(tables)
        for name, table in tables.items():
            self._judge(table, sums[name])
        self._known = {name: sums[name] for name in self.differing if name in sums}
        return sum(found.rows for found in sums.values())

    def recompare(self, names: set[str]) -> None:
        """Compare the tables of ``names`` once more, after something was carried over, which only our transaction sees yet."""
        for name in names:
            self.differing.pop(name, None)
            for side in ("sqlite", "postgres"):
                self.sqlite.execute(f"DELETE FROM temp.only_{side} WHERE name = ?", (name,))
        self.expected = [one for one in self.expected if one.table not in names or one.rule not in _FOUND_ON_THE_WAY]
        tables = {table.name: table for table in self.tables if table.name in names}
        nothing = Kept(self.postgres, "", usable=False, keeping=False)
        sums = RowComparison(self.sides, in_this_process(self.sides), nothing, self._progress).compare(tables, self._known)
        for name, table in tables.items():
            self._judge(table, sums[name])

    def result(self, rows: int) -> dict:
        """Return the part of the module's result that the comparison gives."""
        expected = sorted(self.expected, key=lambda one: (one.rule, one.table))
        return {
            "equal": not self.differing,
            "rows": rows,
            "tables": {name: dataclasses.asdict(found) for name, found in self.differing.items()},
            "expected": [dataclasses.asdict(one) for one in expected],
        }

    # Which tables

    def _sort(self) -> None:
        """Sort every table of either side into those that are compared and those for which a rule stands."""
        sqlite, postgres = self.both.sqlite, self.both.postgres
        virtual = [name for name, words in sqlite.items() if words.upper().startswith("CREATE VIRTUAL")]
        shadows = {f"{name}_{part}" for name in virtual for part in _SHADOWS}
        for name in sqlite:
            if name in self.rules.ignored:
                self._expect_rows(name, "ignored")
            elif name.startswith("sqlite_") or (name in shadows and name not in postgres):
                self._expect_rows(name, "sqlite")
            elif name in BOOKKEEPING:
                self._expect_rows(name, "bookkeeping")
            elif name not in postgres:
                self._expect_rows(name, "left_behind")
            elif name == "user_directory_stream_pos":
                self._stream_position(name)
            else:
                if name == "event_search":
                    self._without_event(name)
                else:
                    self._one_sided(name)
                self.tables.append(self.both.table(name))
        for name, rows in self._counts_of_postgres(sorted(set(postgres) - set(sqlite))):
            if rows:
                self._expect(name, "bookkeeping" if name in BOOKKEEPING else "only_postgresql", rows)

    def _expect(self, table: str, rule: str, rows: int, examples: list[str] | None = None, why: str = "") -> None:
        why = f"{why} {_WHY[rule]}".strip()
        self.expected.append(Expected(table, rule, rows, why, examples or []))

    def _expect_rows(self, name: str, rule: str) -> None:
        rows = self.sqlite.execute(f"SELECT count(*) FROM {identifier(name)}").fetchone()[0]
        if rows:
            self._expect(name, rule, rows)

    def _counts_of_postgres(self, names: list[str]) -> list[tuple[str, int]]:
        count = sql.SQL("SELECT {}, count(*) FROM public.{}")
        if names:
            parts = [count.format(sql.Literal(name), sql.Identifier(name)) for name in names]
            self.postgres.execute(sql.SQL(" UNION ALL ").join(parts))
        return self.postgres.fetchall() if names else []

    def _one_sided(self, name: str) -> None:
        """Expect what the columns hold that only one side has."""
        sqlite, postgres = self.both.one_sided(name)
        for column in postgres:
            self.postgres.execute(f"SELECT count({identifier(column)}) FROM public.{identifier(name)}")
            self._expect(name, "only_postgresql_column", only_row(self.postgres)[0], why=f"The column {column}:")
        for column in sqlite:
            rows = self.sqlite.execute(f"SELECT count({identifier(column)}) FROM {identifier(name)}").fetchone()[0]
            self._expect(name, "only_sqlite_column", rows, why=f"The column {column}:")

    def _without_event(self, name: str) -> None:
        """Expect the search entries that have no event."""
        alone = "SELECT {} FROM event_search AS t LEFT JOIN events AS e USING (event_id, room_id) WHERE e.event_id IS NULL"
        rows = self.sqlite.execute(alone.format("count(*)")).fetchone()[0]
        if rows:
            some = self.sqlite.execute(alone.format("t.rowid") + f" LIMIT {_EXAMPLES}")
            self._expect(name, "no_event", rows, [f"rowid={row[0]}" for row in some])

    def _stream_position(self, name: str) -> None:
        """The routine puts one row, whose position is NULL, where SQLite has any (handle_table)."""
        sqlite = self.sqlite.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        self.postgres.execute(f"SELECT count(*), count(stream_id) FROM public.{name}")
        postgres, positions = only_row(self.postgres)
        if postgres == min(sqlite, 1) and positions == 0:
            self._expect(name, "stream_position", sqlite)
            return
        self.differing[name] = Difference(
            rows=sqlite,
            missing=int(not postgres and sqlite > 0),
            unexpected=max(postgres - 1, positions),
            changed=0,
            examples=[f"{postgres} rows, {positions} set"],
        )

    # What differs

    def _judge(self, table: Table, found: Sums) -> None:
        """Note what came of comparing one table."""
        self.sqlite.text_factory = str
        if found.dropped:
            self._expect(table.name, "nul", found.dropped, self._dropped(table))
        if table.name == "sent_transactions":
            self._sent(table)
        missing, unexpected = self._only("sqlite", table), self._only("postgres", table)
        if missing or unexpected:
            self.differing[table.name] = Difference(
                rows=found.rows,
                missing=missing,
                unexpected=unexpected,
                changed=unmatched.replaced(self.sqlite, table.name),
                examples=self._examples(table),
            )

    def _only(self, side: str, table: Table) -> int:
        return self.sqlite.execute(f"SELECT count(*) FROM temp.only_{side} WHERE name = ?", (table.name,)).fetchone()[0]

    def _dropped(self, table: Table) -> list[str]:
        """Return where the first rows with a NUL character are."""
        texts = [row_digests.sqlite_text([one]) for one in table.plain] + [one.sqlite for one in table.special]
        found = " OR ".join(f"instr({text}, char(0))" for text in texts)  # one by one, or all of a row would be in memory
        query = f"SELECT t.rowid FROM {table.source} WHERE {found} LIMIT {_DROPPED_EXAMPLES}"
        return [f"rowid={row[0]}" for row in self.sqlite.execute(query)]

    def _sent(self, table: Table) -> None:
        """Of sent_transactions PostgreSQL may lack what is not a destination's last (_setup_sent_transactions)."""
        query = (
            "DELETE FROM temp.only_sqlite WHERE name = 'sent_transactions'"
            " AND id NOT IN (SELECT max(rowid) FROM main.sent_transactions GROUP BY destination)"
        )
        left = self.sqlite.execute(query).rowcount
        if left:
            self._expect(table.name, "sent_transactions", left)

    def _examples(self, table: Table) -> list[str]:
        """Return the first rows that differ, by their keys or, where these are secret or missing, by their ids."""
        shown = table.keys if not any(_SECRET.search(one.name) for one in table.keys) else []
        found = []
        for side in ("sqlite", "postgres"):
            query = f"SELECT id FROM temp.only_{side} WHERE name = ? LIMIT ?"
            ids = [row[0] for row in self.sqlite.execute(query, (table.name, _EXAMPLES))]
            found += [self._example(side, table, shown, number) for number in ids]
        return list(dict.fromkeys(found))[:_EXAMPLES]

    def _example(self, side: str, table: Table, shown: list[Column], number: int) -> str:
        if not shown:
            return f"rowid={number}" if side == "sqlite" else f"ctid={row_digests.ctid(number)}"
        if side == "sqlite":
            texts = ", ".join(f"CAST({one.sqlite} AS TEXT)" for one in shown)
            self.sqlite.text_factory = lambda text: text.decode("utf-8", "replace")
            row = self.sqlite.execute(f"SELECT {texts} FROM {table.source} WHERE t.rowid = ?", (number,)).fetchone()
            self.sqlite.text_factory = str
        else:
            texts = ", ".join(f"{identifier(one.name)}::text" for one in shown)
            self.postgres.execute(
                f"SELECT {texts} FROM public.{identifier(table.name)} WHERE ctid = %s", (row_digests.ctid(number),)
            )
            row = only_row(self.postgres)
        return ", ".join(f"{one.name}={(value or '')[:100]}" for one, value in zip(shown, row))
