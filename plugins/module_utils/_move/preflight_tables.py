# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The source's tables as the routine carries them, held against the schema that Synapse makes in the target."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import synapse_rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import (
    Report,
    counted_rows,
    sqlite_command,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import NAMED
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import TargetColumn, TargetSchema
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# What helps where only the routine fails.
BY_COPY = "Port with engine: copy, if it knows this release. Or: "

# Words that name no table in SQLite without quotes, and do in PostgreSQL: https://www.sqlite.org/lang_keywords.html.
_SQLITE_RESERVED = {
    "ADD", "ALTER", "BETWEEN", "COMMIT", "DELETE", "DROP", "ESCAPE", "EXISTS", "INDEX", "INSERT", "NOTHING", "SET", "TRANSACTION",
    "UPDATE", "VALUES",
}  # fmt: skip

# The first and the last of SQLite's row ids are this far from zero.
_LAST_ROW_ID = (1 << 63) - 1


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that the routine carries over. ``columns`` maps names on PostgreSQL to SQLite's, ``target`` to what they are.

    The routine writes names without quotes, so PostgreSQL takes them in lower case. ``only_on_sqlite`` are columns of SQLite
    alone.
    """

    name: str
    columns: dict[str, str]
    target: dict[str, TargetColumn]
    only_on_sqlite: tuple[str, ...]
    has_row_ids: bool


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What all looks at the source's tables share: the database at ``path``, read by ``sqlite``, and what it meets in the target.

    ``tables`` are those that are carried over; ``definitions`` maps all tables on SQLite to their CREATE statements.
    ``row_by_row``: the routine carries, which inserts each row by itself. ``same_version``: both sides have the same version of
    the schema, so that no migration adds or removes a column.
    """

    report: Report
    path: str
    sqlite: sqlite3.Connection
    rules: Rules
    target: TargetSchema
    row_by_row: bool
    same_version: bool
    definitions: dict[str, str | None]
    tables: dict[str, Table]

    @classmethod
    def of(
        cls, report: Report, path: str, sqlite: sqlite3.Connection, synapse: synapse_rules.Answer, row_by_row: bool
    ) -> Inspection:
        """Return the Inspection of the database at ``path`` against the target in the answer ``synapse``."""
        rules, target = synapse.rules, synapse.target
        if target is None:
            raise AssertionError("it is looked at only where it is known")
        version = sqlite.execute("SELECT version FROM schema_version").fetchone()
        same_version = version is not None and version[0] == rules.schema_version == target.schema_version
        definitions = dict(sqlite.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
        carried = sorted(rules.carried(definitions, target.columns))
        tables = {name: _table(sqlite, name, definitions[name], target) for name in carried}
        return cls(report, path, sqlite, rules, target, row_by_row, same_version, definitions, tables)

    @contextlib.contextmanager
    def reading(self, table: str) -> Iterator[None]:
        """Report that SQLite cannot read ``table`` in the block, and go on after it: one does not hide the others."""
        try:
            yield
        except sqlite3.Error as error:
            self.report.problem(
                f"SQLite cannot read the table {table} of {self.path}: {error}.",
                "Restore the file from a backup, or recover it with sqlite3's .recover, before moving it.",
                table=table,
            )

    def count(self, table: str) -> int:
        """Return how many rows ``table`` has on SQLite."""
        try:
            return self.sqlite.execute(f"SELECT count(*) FROM {identifier(table)}").fetchone()[0]
        except sqlite3.Error:  # a virtual table of a module that is not loaded here
            return 0


def _table(sqlite: sqlite3.Connection, name: str, definition: str | None, schema: TargetSchema) -> Table:
    target = dict(schema.columns[name])
    if name == "event_search":
        # The routine takes care of it by itself: it makes the vector of the value, and takes the rest from events.
        target = {column: target[column] for column in ("event_id", "room_id", "key", "sender")}
        target["value"] = TargetColumn("text", required=True)
    names = [row[1] for row in sqlite.execute(f"PRAGMA table_info({identifier(name)})")]
    columns = {column.lower(): column for column in names if column.lower() in target}
    only_on_sqlite = tuple(column for column in names if column.lower() not in target)
    has_row_ids = not re.search(r"\bWITHOUT\s+ROWID[\s,\w]*$", (definition or "").rstrip().upper())
    return Table(name, columns, target, only_on_sqlite, has_row_ids)


def report_left_behind(inspection: Inspection) -> None:
    """Note the tables whose rows stay on SQLite."""
    definitions, target, rules = inspection.definitions, inspection.target, inspection.rules
    virtual = [name for name, definition in definitions.items() if (definition or "").upper().startswith("CREATE VIRTUAL")]
    known = {*target.columns, "sqlite_sequence", *(name for name in definitions if name.startswith("sqlite_"))}
    foreign = [name for name in sorted(set(definitions) - known) if not any(name.startswith(f"{search}_") for search in virtual)]
    for name in foreign:
        count = inspection.count(name)
        inspection.report.note(
            f"The table {name} ({count} rows) is not Synapse {rules.version}'s, and stays behind on SQLite.",
            "If a module of yours made it, carry its rows over by hand before Synapse starts on PostgreSQL.",
            table=name,
            count=count,
        )
    both = set(definitions) & set(target.columns)
    ignored = [name for name in rules.ignored if name in both and inspection.count(name)]
    if ignored:
        inspection.report.note(
            f"The port routine leaves out {', '.join(ignored)}, which Synapse makes anew.",
            "Nothing is to be done; Synapse fills the user directory by a background update after the move.",
        )


def report_columns(inspection: Inspection, table: Table) -> None:
    """Report columns that the two sides do not share, and what the routine does not know of the shared ones."""
    version = inspection.rules.version
    by_hand = f"This needs another Synapse than {version}, or somebody changed the file by hand: undo that."
    found = [(words, by_hand) for words in _misfits(inspection, table)]
    if inspection.row_by_row:
        found += [(words, f"{BY_COPY}give it another name, with Synapse stopped.") for words in _unquoted(inspection, table)]
    for words, remedy in found if inspection.count(table.name) else []:
        inspection.report.problem(f"The table {table.name} of {inspection.path} {words}.", remedy, table=table.name)


def _misfits(inspection: Inspection, table: Table) -> Iterator[str]:
    """Yield what of the form of ``table`` no move can go by."""
    if not table.has_row_ids:
        yield "has no row ids, by which the routine goes"
    if inspection.same_version:
        for column in table.only_on_sqlite:
            yield f"has the column {column}, which PostgreSQL has not"
        for column in sorted(set(table.target) - set(table.columns)):
            if table.target[column].required and not table.target[column].default:
                yield f"lacks the column {column}, which PostgreSQL needs"
    if table.name not in inspection.rules.autoincrement:
        for column in table.columns:
            if table.target[column].always:
                yield f"has the column {column}, which PostgreSQL fills by itself, unknown to the routine"


def _unquoted(inspection: Inspection, table: Table) -> list[str]:
    """Return what the routine's statements, which have names without quotes, would not find, or take for something else."""
    plain = re.compile("[a-z_][a-z0-9_$]*")
    reserved, found = inspection.target.reserved, []
    if not plain.fullmatch(table.name) or table.name in reserved or table.name.upper() in _SQLITE_RESERVED:
        found.append("has a name that SQL knows only in quotes, and the routine sets none")
    columns = [column for name, column in table.columns.items() if not plain.fullmatch(name) or name in reserved]
    return found + [f"has the column {name}, which SQL knows only in quotes, and the routine sets none" for name in columns]


def report_row_ids(inspection: Inspection, table: Table) -> None:
    """Report row ids by which a move cannot go on."""
    if not table.has_row_ids:
        return
    ends = inspection.sqlite.execute(f"SELECT min(rowid), max(rowid) FROM {identifier(table.name)}").fetchone()
    last = [row_id for row_id in ends if row_id is not None and abs(row_id) >= _LAST_ROW_ID]
    if last:
        inspection.report.problem(
            f"The table {table.name} of {inspection.path} has the row id {last[0]}, at which the numbers of both databases end.",
            "Give that row another row id, with Synapse stopped; keep a copy of the file.",
            table=table.name,
            count=len(last),
            rows=last,
        )
    if table.name == "event_search":
        _report_search_below(inspection)


def _report_search_below(inspection: Inspection) -> None:
    """Report rows of event_search with row ids below 1, which handle_search_table() of the routine does not come to."""
    query = "SELECT child.rowid FROM event_search AS child JOIN events USING (event_id, room_id) WHERE child.rowid < 1"
    below = [row[0] for row in inspection.sqlite.execute(query)]
    if below:
        columns = "event_id, room_id, sender, key, value"
        command = sqlite_command(
            inspection.path,
            f"INSERT INTO event_search ({columns}) SELECT {columns} FROM event_search WHERE rowid < 1",
            "DELETE FROM event_search WHERE rowid < 1",
        )
        inspection.report.problem(
            f"event_search has {counted_rows(len(below), below[:NAMED])} in {inspection.path} below 1, where no port looks.",
            f"Keep a copy of the file, and give them others, with Synapse stopped, by {command}.",
            table="event_search",
            count=len(below),
            rows=below[:NAMED],
        )


def report_circles(inspection: Inspection) -> None:
    """Report tables that the routine would never begin with, since it waits for those that their foreign keys lead to."""
    tables = inspection.tables
    parents: dict[str, set[str]] = {name: set() for name in tables}
    for key in inspection.target.foreign_keys if inspection.row_by_row else ():
        if key.table in parents and key.parent != key.table:
            parents[key.table].add(key.parent)
    while True:
        over = [name for name, needed in parents.items() if not needed & parents.keys() and needed <= tables.keys()]
        if not over:
            break
        for name in over:
            del parents[name]
    for name, needed in parents.items():
        inspection.report.problem(
            f"The table {name} has foreign keys on PostgreSQL to {', '.join(sorted(needed))}, which do not come before it: "
            "the routine would wait for them to no end.",
            f"{BY_COPY}drop the foreign key on PostgreSQL, and make it again after the move.",
            table=name,
        )
