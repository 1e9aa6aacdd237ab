# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a move from SQLite to PostgreSQL would fail: every reason that can be seen beforehand, in one report."""

from __future__ import annotations

import array
import dataclasses
import re
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    copy_engine,
    index_limits,
    port_config,
    preflight_file,
    preflight_room,
    preflight_target,
    preflight_values,
    sequences,
    synapse_rules,
    target_checks,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.port_config import PortConfig
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import (
    Report,
    correction_remedy,
    counted_rows,
    deletion_command,
    repetition,
    row_id_condition,
    sqlite_command,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import NAMED
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents, file, paths
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# Complaints of SQLite's own check that are told.
_COMPLAINTS = 5

# What helps where only the routine fails.
_BY_COPY = "Port with engine: copy, if it knows this release. Or: "

# Words that name no table in SQLite without quotes, and do in PostgreSQL: https://www.sqlite.org/lang_keywords.html.
_SQLITE_RESERVED = {
    "ADD", "ALTER", "BETWEEN", "COMMIT", "DELETE", "DROP", "ESCAPE", "EXISTS", "INDEX", "INSERT", "NOTHING", "SET", "TRANSACTION",
    "UPDATE", "VALUES",
}  # fmt: skip

# A constraint that takes the place of NOT NULL in Synapse's schema.
_NOT_NULL = re.compile(r"\(?(\w+) IS NOT NULL\)?")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that the routine carries over. ``columns`` maps names on PostgreSQL to SQLite's, ``target`` to what they are.

    The routine writes names without quotes, so PostgreSQL takes them in lower case. ``only`` are columns of SQLite alone.
    """

    name: str
    columns: dict
    target: dict
    only: tuple


def inspect(params: dict) -> dict:
    """Return the result of the module synapse_port_info, whose ``params`` these are; nothing is changed.

    ``{problems, notes, movable, source (as contents.Contents, None where it is no database of Synapse's), synapse (its
    version, None where it does not answer), sizes}``, sizes in bytes: see preflight_room.report_room().
    """
    report, path = Report(), params["sqlite_database"]
    source = config = target = synapse = None
    with report.catching_refusals():
        path = paths.resolve(path)
        source = contents.inspect(path)
    preflight_file.report_link(report, params["sqlite_database"], path)
    if source:
        preflight_file.report_file(report, path, source, params["drain_background_updates"])
    with report.catching_refusals():
        config = port_config.read(params["config"], _section(params))
    if config:
        target = preflight_target.report_target(report, path, source is not None, config)
    with report.catching_refusals():
        # A container sees the folder that the copy will be in; elsewhere any will do.
        folder = preflight_room.existing_folder(params["folder"]) if params["command"] else None
        synapse = synapse_rules.ask_json(synapse_rules.python_words(params), target and target.config, folder)
    if source and synapse:
        # A row that refers to a later one of its own table goes over with it by the engine copy, and alone by the routine.
        synapse["one_by_one"] = params["engine"] == "synapse" or not copy_engine.knows(Rules.from_json(synapse))
        _compare(report, path, source, synapse, config, refusal_told=bool(target and target.is_unfit))
    sizes = preflight_room.report_room(report, path, params["folder"], params["space"], target and target.max_wal_size)
    return {
        "problems": report.problems,
        "notes": report.notes,
        "movable": not report.problems,
        "source": dataclasses.asdict(source) if source else None,
        "synapse": synapse["version"] if synapse else None,
        "sizes": sizes,
    }


def _section(params: dict) -> dict | None:
    """Return the ``database:`` section for the log-in of the module's ``params``, None where they name no user."""
    if not params["login_user"] and not params["login_args"]:
        return None
    args = _connection.keywords(params)
    return {"name": "psycopg2", "args": args, "allow_unsafe_locale": params["allow_unsafe_locale"]}


def _compare(report: Report, path: str, source: dict, synapse: dict, config: PortConfig, refusal_told: bool) -> None:
    """Report what of the database at ``path`` the installed Synapse cannot carry over.

    ``refusal_told`` says that the report tells already why the target would not take Synapse's tables.
    """
    version, known = source.schema_version, synapse["schema_version"]
    if version is not None and version > known:
        report.problem(
            f"{path} has the schema version {version}, and Synapse {synapse['version']} knows versions up to {known}.",
            "Use the Synapse that wrote it, or a newer one.",
        )
    elif version is not None and version < known:
        report.note(
            f"{path} has the schema version {version}, which Synapse {synapse['version']} brings to {known}, on the copy.",
            "Nothing is to be done; the file itself stays as it is.",
        )
    target = synapse.get("target")
    if target is None:
        if synapse.get("refused") and not refusal_told:
            report.problem(
                f"Synapse {synapse['version']} cannot make its tables in the target database: {synapse['refused']}.",
                "If an earlier attempt left tables behind there, give it a new, empty database (synapse_postgres_database).",
            )
        report.note(
            "The values were not compared with PostgreSQL's types, since what the target looks like is not known.",
            "Mend what stands under problems, then run this again.",
        )
        return
    with report.catching_refusals(), file.reading(path) as connection:
        here = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        missing = Rules.from_json(synapse).missing(here, target["columns"]) if target["schema_version"] == known else []
        if missing:
            report.problem(
                f"The target database is not whole: {len(missing)} tables of Synapse {synapse['version']} are missing there "
                f"({', '.join(missing[:3])}).",
                "Give the move a new, empty database (synapse_postgres_database).",
            )
            return
        preflight_values.prepare(connection)
        libpq = config.keywords
        _Comparison(report, path, connection, synapse, libpq, version == known == target["schema_version"]).all()
    if target["made"]:
        with report.catching_refusals():
            _renumbered(report, path, synapse, config)


class _Comparison:
    """Looks through every table that the routine carries over, for all that PostgreSQL will refuse in it.

    ``libpq`` are the keywords that lead to the target. ``settled`` says that both sides have the same version of the schema, so
    that no migration adds or removes a column.
    """

    def __init__(self, report: Report, path: str, connection, synapse: dict, libpq: dict, settled: bool) -> None:
        self.report, self.path, self.connection, self.synapse, self.settled = report, path, connection, synapse, settled
        self.libpq, self.within = libpq, {}
        self.target = synapse["target"]
        self.dropped: dict[str, list[str]] = {}
        self.there = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
        carried = Rules.from_json(synapse).carried(self.there, self.target["columns"])
        self.tables = {name: self._table(name) for name in sorted(carried)}

    def all(self) -> None:
        if self.target["schema_version"] == self.synapse["schema_version"]:  # else Synapse makes some of them yet
            self._left_behind()
        for step in (self._shape, self._row_ids, self._values, self._unique):
            for table in self.tables.values():
                self._looked(step, table)
        self._numbered_users()
        self._waiting()
        for key in self.target["foreign_keys"]:
            if key["table"] in self.tables:
                self._looked(self._references, key)

    def new_rows(self, borders: dict[str, tuple[int, int]]) -> None:
        """Look only at what the routine has still to carry: of tables that it adds to, the rows beyond its ``borders``."""
        for name in set(self.synapse["append_only"]) & set(borders):
            forward, backward = borders[name]
            self.within[name] = f"rowid >= {forward} OR rowid <= {backward}"
        for step in (self._shape, self._row_ids, self._values):
            for table in self.tables.values():
                self._looked(step, table)

    def _looked(self, step, what) -> None:
        """Run one step; a table that SQLite cannot read does not hide the others."""
        try:
            step(what)
        except sqlite3.Error as error:
            name = what.name if isinstance(what, Table) else what["table"]
            self.report.problem(
                f"SQLite cannot read the table {name} of {self.path}: {error}.",
                "Restore the file from a backup, or recover it with sqlite3's .recover, before moving it.",
                table=name,
            )

    def _table(self, name: str) -> Table:
        target = dict(self.target["columns"][name])
        if name == "event_search":
            # The routine takes care of it by itself: it makes the vector of the value, and takes the rest from events.
            target = {column: target[column] for column in ("event_id", "room_id", "key", "sender")}
            target["value"] = {"type": "text", "length": None, "required": True, "default": False, "always": False}
        here = [row[1] for row in self.connection.execute(f"PRAGMA table_info({identifier(name)})")]
        columns = {column.lower(): column for column in here if column.lower() in target}
        return Table(name, columns, target, tuple(column for column in here if column.lower() not in target))

    def _left_behind(self) -> None:
        """Note the tables whose rows stay on SQLite."""
        virtual = [name for name, made in self.there.items() if (made or "").upper().startswith("CREATE VIRTUAL")]
        ours = {*self.target["columns"], "sqlite_sequence", *(name for name in self.there if name.startswith("sqlite_"))}
        foreign = [
            name for name in sorted(set(self.there) - ours) if not any(name.startswith(f"{search}_") for search in virtual)
        ]
        counts = {name: self._count(name) for name in foreign}
        for name, count in counts.items():
            self.report.note(
                f"The table {name} ({count} rows) is not Synapse {self.synapse['version']}'s, and stays behind on SQLite.",
                "If a module of yours made it, carry its rows over by hand before Synapse starts on PostgreSQL.",
                table=name,
                count=count,
            )
        both = set(self.there) & set(self.target["columns"])
        ignored = [name for name in self.synapse["ignored"] if name in both and self._count(name)]
        if ignored:
            self.report.note(
                f"The port routine leaves out {', '.join(ignored)}, which Synapse makes anew.",
                "Nothing is to be done; Synapse fills the user directory by a background update after the move.",
            )

    def _count(self, table: str) -> int:
        try:
            return self.connection.execute(f"SELECT count(*) FROM {identifier(table)}").fetchone()[0]
        except sqlite3.Error:  # a virtual table of a module that is not loaded here
            return 0

    def _shape(self, table: Table) -> None:
        """Report columns that the two sides do not share, and what the routine does not know of the shared ones."""
        wrong = []
        if not self._has_row_ids(table.name):
            wrong.append("has no row ids, by which the routine goes")
        if self.settled:
            wrong += [f"has the column {column}, which PostgreSQL has not" for column in table.only]
            missing = sorted(set(table.target) - set(table.columns))
            wrong += [
                f"lacks the column {column}, which PostgreSQL needs"
                for column in missing
                if table.target[column]["required"] and not table.target[column]["default"]
            ]
        if table.name not in self.synapse["autoincrement"]:
            always = [column for column in table.columns if table.target[column]["always"]]
            wrong += [f"has the column {column}, which PostgreSQL fills by itself, unknown to the routine" for column in always]
        by_hand = f"This needs another Synapse than {self.synapse['version']}, or somebody changed the file by hand: undo that."
        told = [(words, by_hand) for words in wrong]
        if self.synapse["one_by_one"]:
            told += [(words, f"{_BY_COPY}give it another name, with Synapse stopped.") for words in self._unquoted(table)]
        for words, remedy in told if self._count(table.name) else []:
            self.report.problem(f"The table {table.name} of {self.path} {words}.", remedy, table=table.name)

    def _unquoted(self, table: Table) -> list[str]:
        """Return what the routine's statements, which have names without quotes, would not find, or take for something else."""
        plain = re.compile("[a-z_][a-z0-9_$]*")
        reserved, found = set(self.target["reserved"]), []
        if not plain.fullmatch(table.name) or table.name in reserved or table.name.upper() in _SQLITE_RESERVED:
            found.append("has a name that SQL knows only in quotes, and the routine sets none")
        columns = [here for name, here in table.columns.items() if not plain.fullmatch(name) or name in reserved]
        return found + [f"has the column {name}, which SQL knows only in quotes, and the routine sets none" for name in columns]

    def _row_ids(self, table: Table) -> None:
        """Report row ids by which a move cannot go on."""
        if not self._has_row_ids(table.name):
            return
        name = identifier(table.name)
        low, high = self.connection.execute(f"SELECT min(rowid), max(rowid) FROM {name}").fetchone()
        last = [one for one in (low, high) if one is not None and abs(one) >= (1 << 63) - 1]
        if last:
            self.report.problem(
                f"The table {table.name} of {self.path} has the row id {last[0]}, at which the numbers of both databases end.",
                "Give that row another row id, with Synapse stopped; keep a copy of the file.",
                table=table.name,
                count=len(last),
                rows=last,
            )
        if table.name == "event_search":
            query = "SELECT child.rowid FROM event_search AS child JOIN events USING (event_id, room_id) WHERE child.rowid < 1"
            below = [row[0] for row in self.connection.execute(query)]
            if below:
                columns = "event_id, room_id, sender, key, value"
                self.report.problem(
                    f"event_search has {counted_rows(len(below), below[:NAMED])} in {self.path} below 1, where no port looks.",
                    "Keep a copy of the file, and give them others, with Synapse stopped, by "
                    + sqlite_command(
                        self.path,
                        f"INSERT INTO event_search ({columns}) SELECT {columns} FROM event_search WHERE rowid < 1",
                        "DELETE FROM event_search WHERE rowid < 1",
                    )
                    + ".",
                    table=table.name,
                    count=len(below),
                    rows=below[:NAMED],
                )

    def _waiting(self) -> None:
        """Report tables that the routine would never begin with, since it waits for those that their foreign keys lead to."""
        parents: dict[str, set[str]] = {name: set() for name in self.tables}
        for key in self.target["foreign_keys"] if self.synapse["one_by_one"] else ():
            if key["table"] in parents and key["parent"] != key["table"]:
                parents[key["table"]].add(key["parent"])
        while True:
            over = [name for name, needed in parents.items() if not needed & parents.keys() and needed <= self.tables.keys()]
            if not over:
                break
            for name in over:
                del parents[name]
        for name, needed in parents.items():
            self.report.problem(
                f"The table {name} has foreign keys on PostgreSQL to {', '.join(sorted(needed))}, which do not come before it: "
                "the routine would wait for them to no end.",
                f"{_BY_COPY}drop the foreign key on PostgreSQL, and make it again after the move.",
                table=name,
            )

    def _numbered_users(self) -> None:
        """Report users whose number has none after it: find_max_generated_user_id_localpart() in Synapse's registration.py."""
        if "users" not in self.tables:
            return
        query = "SELECT rowid, name FROM users WHERE name >= '@0' AND name < '@a'"
        numbered = ((row, re.match(r"@(\d+):", name)) for row, name in self.connection.execute(query))
        rows = [row for row, number in numbered if number and int(number[1]) >= (1 << 63) - 1]
        if rows:
            self.report.problem(
                f"users has {counted_rows(len(rows), rows[:NAMED])} in {self.path} whose names are numbers beyond those of "
                "Synapse's sequence user_id_seq, which is set to the next one.",
                "Such a user cannot be moved: deactivate and delete it on SQLite, with Synapse stopped; keep a copy of the file.",
                table="users",
                count=len(rows),
                rows=rows[:NAMED],
            )

    def _has_row_ids(self, name: str) -> bool:
        return not re.search(r"\bWITHOUT\s+ROWID[\s,\w]*$", (self.there[name] or "").rstrip().upper())

    def _values(self, table: Table) -> None:
        """Report values that PostgreSQL refuses, and note those that the routine leaves out."""
        required = {column for column in table.columns if table.target[column]["required"]}
        checks = self.target["checks"].get(table.name, ())
        required |= {found[1] for found in map(_NOT_NULL.fullmatch, checks) if found} & set(table.columns)
        boolean = set(self.synapse["boolean"].get(table.name, ())) & set(table.columns)
        wrong = preflight_values.defects(table.columns, table.target, required, boolean)
        wrong += preflight_values.exhausted(table.columns, {column for name, column in sequences.NUMBERED if name == table.name})
        row, texts = preflight_values.mangled(table.columns, table.target)
        if table.name == "event_search" and self.synapse["one_by_one"]:
            more, texts = preflight_values.unsearchable(texts)
            wrong += more
        limits, large = index_limits.Limits(self.connection, table.name, table.columns, self.target), array.array("q")
        named = limits.large if self._has_row_ids(table.name) else None
        within = self.within.get(table.name, "1")
        for found in preflight_values.scan(self.connection, table.name, wrong, row, texts, named, large.append, within):
            self._tell(table.name, found)
        if large:
            self._indexed(table, limits, large)

    def _indexed(self, table: Table, limits: index_limits.Limits, large: array.array) -> None:
        """Report those of the ``large`` rows of ``table`` that an index of PostgreSQL's cannot hold, as the server judges."""
        try:
            way = _connection.connected(self.libpq, what="synapse_port_info", schema=_connection.MOVED)
            with way as connection, connection.cursor() as cursor:
                refused = limits.refused(cursor, large)
                connection.rollback()
        except Refusal as error:
            self.report.note(
                f"{table.name} has {counted_rows(len(large), large[:NAMED])} in {self.path} that may be too large for an "
                f"index, and the server could not be asked. {error.found}",
                error.remedy,
                table=table.name,
                count=len(large),
                rows=list(large[:NAMED]),
            )
            return
        for index, rows in refused.items():
            columns, named = [table.columns[column] for column in index.columns], rows[:NAMED]
            self.report.problem(
                f"{table.name} has {counted_rows(len(rows), named)} in {self.path} whose {', '.join(columns)} are longer than "
                f"PostgreSQL's index {index.name} can hold.",
                correction_remedy(self.path, table.name, columns, named),
                table=table.name,
                count=len(rows),
                rows=named,
            )

    def _tell(self, table: str, found: preflight_values.Found) -> None:
        defect, where = found.defect, {"table": table, "count": found.count, "rows": found.rows}
        words = f"{table}.{defect.column} {defect.words} in {counted_rows(found.count, found.rows)} of {self.path}."
        if not defect.dropped:
            remedy = (_BY_COPY if defect.alone else "") + correction_remedy(self.path, table, [defect.column], found.rows)
            self.report.problem(words, remedy, **where)
            return
        self.dropped.setdefault(table, []).append(defect.where)
        self.report.note(
            f"{words} PostgreSQL cannot store that, and the port routine leaves these rows out.",
            f"Nothing is to be done if they may be lost; otherwise take the NUL out of {defect.column} on SQLite, "
            "with Synapse stopped.",
            **where,
        )

    def _unique(self, table: Table) -> None:
        """Report rows that are equal where only PostgreSQL wants them to differ."""
        guarded = self._guarded(table.name)
        wanted = [(columns, None) for columns in self.target["unique"].get(table.name, ())]
        wanted += [(index["columns"], index["where"]) for index in self.target["partial_unique"].get(table.name, ())]
        for columns, where in wanted:
            known = all(column in table.columns for column in columns)
            if not known or any(partial in (None, where) and columns_here <= set(columns) for columns_here, partial in guarded):
                continue
            here = [table.columns[column] for column in columns]
            count, rows = preflight_values.duplicates(self.connection, table.name, here, where)
            if count:
                self.report.problem(
                    f"{table.name} has {counted_rows(count, rows)} in {self.path} that repeat the {', '.join(here)} of another "
                    "one, which PostgreSQL refuses.",
                    "Find out which to keep, keep a copy of the file, and delete these or those that they repeat with Synapse "
                    f"stopped: {deletion_command(self.path, table.name, rows, count)}.",
                    table=table.name,
                    count=count,
                    rows=rows,
                )

    def _guarded(self, table: str) -> list:
        """Return the sets of columns that SQLite itself keeps unique, each with None, or the condition of a partial index."""
        name = identifier(table)
        found = []
        key = {row[1].lower() for row in self.connection.execute(f"PRAGMA table_info({name})") if row[5]}
        if key:
            found.append((key, None))
        for index in self.connection.execute(f"PRAGMA index_list({name})").fetchall():
            columns = [row[2] for row in self.connection.execute(f"PRAGMA index_info({identifier(index[1])})")]
            if index[2] and None not in columns:  # None is an expression
                found.append(
                    (
                        {column.lower() for column in columns},
                        preflight_values.condition(self.connection, index[1]) if index[4] else None,
                    )
                )
        return found

    def _references(self, key: dict) -> None:
        """Report rows that refer to what PostgreSQL will not have when they come."""
        table, parent = self.tables[key["table"]], self.tables.get(key["parent"])
        if not all(column in table.columns for column in key["columns"]):
            return
        if parent and not all(column in parent.columns for column in key["parent_columns"]):
            return
        sent = "".join(f" AND NOT ifnull({condition}, 0)" for condition in self.dropped.get(table.name, ()))
        lost = self.dropped.get(key["parent"], [])
        where = preflight_values.orphans(key, lost, table.columns, parent.columns if parent else None) + sent
        names = ", ".join(table.columns[column] for column in key["columns"])
        to = f"{key['parent']}.{', '.join(key['parent_columns'])}"
        self._tell_references(
            table.name,
            where,
            f"refer by {names} to rows of {to} that are not there" + (" or are left out" if lost else ""),
            lambda rows, count: (
                "What they belong to is gone: keep a copy of the file, and delete them with Synapse stopped by "
                f"{deletion_command(self.path, table.name, rows, count)}."
            ),
        )
        if key["parent"] == table.name and self.synapse["one_by_one"]:
            nothing = ", ".join(f"{identifier(table.columns[column])} = NULL" for column in key["columns"])
            self._tell_references(
                table.name,
                preflight_values.too_early(key, table.columns) + sent,
                f"refer by {names} to later rows of the same table, which the routine sends after them: PostgreSQL refuses it",
                lambda rows, count: (
                    "Port with engine: copy, if it knows this release; or keep a copy of the file and, with Synapse stopped, "
                    f"run {sqlite_command(self.path, f'UPDATE {identifier(table.name)} SET {nothing} WHERE {row_id_condition(rows)}')}"  # noqa: E501
                    f"{repetition(rows, count)}."
                ),
            )

    def _tell_references(self, table: str, where: str, words: str, remedy) -> None:
        """Report the rows of ``table`` for which ``where`` holds, if there are any; ``remedy`` is told their ids and number."""
        query = f"SELECT count(*) FROM {identifier(table)} AS child WHERE {where}"
        count = self.connection.execute(query).fetchone()[0]
        if count:
            rows = preflight_values.rows_of(self.connection, table, where)
            found = f"In {self.path}, {counted_rows(count, rows)} of {table} {words}."
            self.report.problem(found, remedy(rows, count), table=table, count=count, rows=rows)


def require_carried(path: str, synapse: dict, config: PortConfig, borders: dict[str, tuple[int, int]]) -> None:
    """Raise Refusal for what Synapse's routine would fail at, or change, in what it has still to carry of the database ``path``.

    ``synapse`` is as of synapse_rules.ask(), with the target; ``borders`` are those of the routine in it.
    """
    report, known = Report(), synapse["target"]
    if known is None:  # why Synapse cannot make its tables there, the routine says itself
        return
    with file.reading(path) as connection:
        preflight_values.prepare(connection)
        settled = contents.inspect(path).schema_version == synapse["schema_version"] == known["schema_version"]
        rules = {**synapse, "one_by_one": True}
        _Comparison(report, path, connection, rules, config.keywords, settled).new_rows(borders)
    if report.problems:
        words = " ".join(f"{one['found']} {one['remedy']}" for one in report.problems[:_COMPLAINTS])
        raise Refusal(
            f"Synapse's port routine would fail at {len(report.problems)} things, and nothing was carried over. {words}",
            "The module synapse_port_info tells them all.",
        )


def _renumbered(report: Report, path: str, synapse: dict, config: PortConfig) -> None:
    """Report tables whose row ids were given anew since an earlier run, by VACUUM: later rows would be left out."""
    libpq = config.keywords
    with _connection.connected(libpq, True, "synapse_port_info", _connection.MOVED) as target, target.cursor() as cursor:
        for table, row in target_checks.renumbered(cursor, Source.at(path), synapse["append_only"]):
            refusal = target_checks.renumbered_refusal(path, table, row)
            report.problem(refusal.found, refusal.remedy, table=table, count=1, rows=[row])
