# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a move from SQLite to PostgreSQL would fail: every reason that can be seen beforehand, in one report."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import glob
import os
import re
import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import (
    _connection,
    _defaults,
    _diagnosis,
    _sessions,
    _words,
    _workers,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, system_refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    copy_engine,
    index_limits,
    preflight_values,
    record,
    sequences,
    synapse_port_db,
    synapse_rules,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import NAMED
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents, file, paths, snapshot
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


@dataclasses.dataclass
class Report:
    """What was found, each a dict of ``found``, ``remedy`` and, of rows, ``table``, ``count`` and ``rows`` (the first ids).

    ``problems`` stand in the way of a move, ``notes`` do not.
    """

    problems: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def problem(self, found: str, remedy: str, **where: object) -> None:
        self.problems.append({"found": found, "remedy": remedy, **where})

    def note(self, found: str, remedy: str, **where: object) -> None:
        self.notes.append({"found": found, "remedy": remedy, **where})

    @contextlib.contextmanager
    def hearing(self):
        """Take a Refusal, or the operating system's, within the block for a problem, and go on after it."""
        try:
            yield
        except (Refusal, OSError) as error:
            refusal = error if isinstance(error, Refusal) else system_refusal(error)
            self.problem(refusal.found, refusal.remedy)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that the routine carries over. ``columns`` maps names on PostgreSQL to SQLite's, ``target`` to what they are.

    The routine writes names without quotes, so PostgreSQL takes them in lower case. ``only`` are columns of SQLite alone.
    """

    name: str
    columns: dict
    target: dict
    only: tuple


def look(params: dict) -> dict:
    """Return the result of the module synapse_port_info, whose ``params`` these are; nothing is changed.

    ``{problems, notes, movable, source (as contents.Contents, None where it is no database of Synapse's), synapse (its
    version, None where it does not answer), sizes}``, sizes in bytes: see _sizes().
    """
    report, path = Report(), params["sqlite_database"]
    source = config = server = synapse = None
    with report.hearing():
        path = paths.resolve(path)
        source = contents.inspect(path)
    _link(report, params["sqlite_database"], path)
    if source:
        _file(report, path, source, params["drain_background_updates"])
    with report.hearing():
        config = synapse_port_db.read_config(params["config"], _section(params))
    if config:
        server = _server(report, path, source, config)
    with report.hearing():
        # A container sees the folder that the copy will be in; elsewhere any will do.
        folder = existing(params["folder"]) if params["command"] else None
        synapse = synapse_rules.ask(synapse_rules.python_words(params), server and server["config"], folder)
    if source and synapse:
        # A row that refers to a later one of its own table goes over with it by the engine copy, and alone by the routine.
        synapse["one_by_one"] = params["engine"] == "synapse" or not copy_engine.knows(synapse)
        _compare(report, path, source, synapse, config, refusal_told=bool(server and server["wrong"]))
    sizes = _sizes(report, path, params["folder"], params["space"], server)
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


def existing(folder: str) -> str:
    """Return ``folder``, or the nearest one above it that exists."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def _link(report: Report, given: str, path: str) -> None:
    """Note that the path that was ``given`` leads to ``path``, and what then lies beside the link to no avail."""
    if given != path:
        report.note(f"{given} leads to {path}.", "That file is moved, with the log beside it.")
    log = f"{given}-wal"
    if os.path.islink(given) and os.path.isfile(log) and os.path.getsize(log):
        report.note(
            f"{log} holds {os.path.getsize(log)} bytes, and SQLite does not read it, since {given} is a link.",
            "It is of a time when the file was in the place of the link; what is in it alone is not part of the database.",
        )


def _file(report: Report, path: str, source: contents.Contents, drain: bool) -> None:
    """Report what is wrong with the file as such."""
    pending = source.background_updates
    if drain and pending:
        report.note(
            f"{path} has {len(pending)} pending background updates ({', '.join(pending)}).",
            "Synapse's own tool will finish them on the copy.",
        )
    for found, remedy in contents.unfit_to_move(path, source, drain):
        report.problem(found, remedy)
    if source.journal_mode != "wal":
        report.note(
            f"{path} is kept in the journal mode {source.journal_mode}, in which who reads it keeps Synapse from writing.",
            "If Synapse runs on it and complains of a locked database, run "
            f"`sqlite3 {_words.shell(path)} 'PRAGMA journal_mode=WAL'`.",
        )
    with report.hearing(), file.reading(path) as connection:
        complaints = [row[0] for row in connection.execute(f"PRAGMA quick_check({_COMPLAINTS})")]
        if complaints != ["ok"]:
            report.problem(
                f"{path} is damaged: {'; '.join(' '.join(complaint.split()) for complaint in complaints)}.",
                "Restore it from a backup, or recover it with sqlite3's .recover, before moving it.",
            )


def _server(report: Report, path: str, source: dict | None, config: dict) -> dict | None:
    """Report what is wrong with the target; return its facts, None when Synapse's role cannot log in.

    ``{max_wal_size (bytes), config (by which Synapse looks at its tables there; None where they would be in a schema that a move
    does not know), wrong (whether there was a problem)}``.
    """
    before = len(report.problems)
    libpq = synapse_port_db.connection_keywords(config)
    facts = None
    with report.hearing(), _connection.connected(libpq, True, "synapse_port_info", _connection.MOVED) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery(), pg_size_bytes(current_setting('max_wal_size'))")
            standby, max_wal_size = cursor.fetchone()
            facts = {"max_wal_size": max_wal_size, "config": None}
            connection.set_session(readonly=True)
            _defaults_fit(report, cursor, _diagnosis.place(libpq), standby)
            _database_fit(report, cursor, connection.info.dbname, config)
            _room_for_sessions(report, cursor, config)
            with report.hearing():
                record.require_home(cursor)
                facts["config"] = synapse_port_db.without_defaults(config, cursor)
                record.require_synapses(cursor, config["server_name"])
                if source:
                    record.require_only_ported(cursor, path)
                ownership.require_own(cursor)
    return facts and {**facts, "wrong": len(report.problems) > before}


def _defaults_fit(report: Report, cursor, server: str, standby: bool) -> None:
    """Report what Synapse would meet in every session, though the move leaves it."""
    found = f"The server at {server} does not let this role write"
    if standby:
        report.problem(f"{found}: it is a standby.", "Give the address of the primary.")
    elif _defaults.begins_read_only(cursor):
        report.problem(
            f"{found}: every transaction of the role begins with default_transaction_read_only = on.",
            "Take that away where it is set (psql's \\drds tells): "
            f"{_defaults.reset_command(cursor, 'default_transaction_read_only')}.",
        )
    timeouts = _defaults.session_timeouts(cursor)
    if timeouts:
        told = ", ".join(f"{name} = {value}" for name, value in timeouts.items())
        report.note(
            f"Every session of this role begins with {told}. The move goes by none of these, but Synapse will.",
            "See that they are meant for Synapse; psql's \\drds tells which the role and the database carry.",
        )


def _room_for_sessions(report: Report, cursor, config: dict) -> None:
    """Report where the role may not have as many sessions as a move, and then Synapse, has at once.

    ``cursor`` is of one that ends before the move begins.
    """
    room = _sessions.of(cursor)
    left, synapses = room.left + 1, synapse_port_db.pool(config)
    # The move's own, as in _sessions.LEAST, with a whole crew; and Synapse's tools beside the one that keeps the lock.
    wanted = max(_sessions.LEAST - 1 + _workers.size(), 1 + synapses)
    if left < _sessions.LEAST:
        report.problem(
            f"{room.limit}, of which {max(left, 0)} are free, and a move needs {_sessions.LEAST} at least.",
            room.raised(wanted - left),
        )
    elif left < wanted:
        report.note(
            f"{room.limit}, of which {left} are free: the move makes do with them, in more time than with {wanted}, and each "
            f"process of Synapse's may open {synapses} (cp_max).",
            room.raised(wanted - left),
        )


def _database_fit(report: Report, cursor, name: str, config: dict) -> None:
    """Report what Synapse or the routine cannot work with in the connected database ``name``."""
    facts = database.find(cursor, name)
    with report.hearing():
        for warning in database.require_fit(cursor, bool(config["database"].get("allow_unsafe_locale"))):
            report.note(warning, "Nothing is to be done before the move.")
    cursor.execute(
        "SELECT current_user, has_database_privilege(current_database(), 'CREATE'), to_regnamespace('public') IS NOT NULL,"
        " coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), false),"
        " has_database_privilege(current_database(), 'TEMPORARY')"
    )
    role, in_database, has_schema, in_schema, temporary = cursor.fetchone()
    quoted = _words.identifier(role)
    if not temporary:
        report.problem(
            f"The role {role} may not make temporary tables in the database {name}, and a move brings some rows there by them.",
            f"Allow it, as the database's owner, by `GRANT TEMPORARY ON DATABASE {_words.identifier(name)} TO {quoted}`.",
        )
    if not in_database:
        report.problem(
            f"The role {role} may not create anything in the database {name}, which belongs to {facts['owner']}.",
            f"Give it to Synapse's role by `ALTER DATABASE {_words.identifier(name)} OWNER TO {quoted}`, or by the module "
            "postgres_database.",
        )
    if not has_schema:
        report.problem(
            f"The database {name} has no schema public, in which Synapse makes its tables.",
            f"Make it, in that database and as a superuser, by `CREATE SCHEMA public AUTHORIZATION {quoted}`.",
        )
    elif in_database and not in_schema:
        report.problem(
            f"The role {role} may not create anything in the schema public of the database {name}.",
            f"Allow it, in that database and as a superuser, by `GRANT USAGE, CREATE ON SCHEMA public TO {quoted}`.",
        )


def _compare(report: Report, path: str, source: dict, synapse: dict, config: dict | None, refusal_told: bool) -> None:
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
    with report.hearing(), file.reading(path) as connection:
        here = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        missing = synapse_rules.missing(here, target["columns"], synapse) if target["schema_version"] == known else []
        if missing:
            report.problem(
                f"The target database is not whole: {len(missing)} tables of Synapse {synapse['version']} are missing there "
                f"({', '.join(missing[:3])}).",
                "Give the move a new, empty database (synapse_postgres_database).",
            )
            return
        preflight_values.prepare(connection)
        libpq = synapse_port_db.connection_keywords(config)
        _Comparison(report, path, connection, synapse, libpq, version == known == target["schema_version"]).all()
    if target["made"]:
        with report.hearing():
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
        carried = synapse_rules.carried(self.there, self.target["columns"], synapse)
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
                    f"event_search has {_rows(len(below), below[:NAMED])} in {self.path} below 1, where no port looks.",
                    "Keep a copy of the file, and give them others, with Synapse stopped, by "
                    + _on_sqlite(
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
                f"users has {_rows(len(rows), rows[:NAMED])} in {self.path} whose names are numbers beyond those of "
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
                f"{table.name} has {_rows(len(large), large[:NAMED])} in {self.path} that may be too large for an "
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
                f"{table.name} has {_rows(len(rows), named)} in {self.path} whose {', '.join(columns)} are longer than "
                f"PostgreSQL's index {index.name} can hold.",
                _mend(self.path, table.name, columns, named),
                table=table.name,
                count=len(rows),
                rows=named,
            )

    def _tell(self, table: str, found: preflight_values.Found) -> None:
        defect, where = found.defect, {"table": table, "count": found.count, "rows": found.rows}
        words = f"{table}.{defect.column} {defect.words} in {_rows(found.count, found.rows)} of {self.path}."
        if not defect.dropped:
            remedy = (_BY_COPY if defect.alone else "") + _mend(self.path, table, [defect.column], found.rows)
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
                    f"{table.name} has {_rows(count, rows)} in {self.path} that repeat the {', '.join(here)} of another one, "
                    "which PostgreSQL refuses.",
                    "Find out which to keep, keep a copy of the file, and delete these or those that they repeat with Synapse "
                    f"stopped: {_deletion(self.path, table.name, rows, count)}.",
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
                f"{_deletion(self.path, table.name, rows, count)}."
            ),
        )
        if key["parent"] == table.name and self.synapse["one_by_one"]:
            nothing = ", ".join(f"{identifier(table.columns[column])} = NULL" for column in key["columns"])
            self._tell_references(
                table.name,
                preflight_values.too_early(key, table.columns) + sent,
                f"refer by {names} to later rows of the same table, which the routine sends after them: PostgreSQL refuses it",
                lambda rows, count: (
                    "Port with engine: copy, if it knows this release; or keep a copy of the file and, with Synapse stopped, run "
                    f"{_on_sqlite(self.path, f'UPDATE {identifier(table.name)} SET {nothing} WHERE {_among(rows)}')}"
                    f"{_in_turns(rows, count)}."
                ),
            )

    def _tell_references(self, table: str, where: str, words: str, remedy) -> None:
        """Report the rows of ``table`` for which ``where`` holds, if there are any; ``remedy`` is told their ids and number."""
        query = f"SELECT count(*) FROM {identifier(table)} AS child WHERE {where}"
        count = self.connection.execute(query).fetchone()[0]
        if count:
            rows = preflight_values.rows_of(self.connection, table, where)
            found = f"In {self.path}, {_rows(count, rows)} of {table} {words}."
            self.report.problem(found, remedy(rows, count), table=table, count=count, rows=rows)


def require_carried(path: str, synapse: dict, config: dict, borders: dict[str, tuple[int, int]]) -> None:
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
        _Comparison(report, path, connection, rules, synapse_port_db.connection_keywords(config), settled).new_rows(borders)
    if report.problems:
        words = " ".join(f"{one['found']} {one['remedy']}" for one in report.problems[:_COMPLAINTS])
        raise Refusal(
            f"Synapse's port routine would fail at {len(report.problems)} things, and nothing was carried over. {words}",
            "The module synapse_port_info tells them all.",
        )


def _renumbered(report: Report, path: str, synapse: dict, config: dict) -> None:
    """Report tables whose row ids were given anew since an earlier run, by VACUUM: later rows would be left out."""
    libpq = synapse_port_db.connection_keywords(config)
    with _connection.connected(libpq, True, "synapse_port_info", _connection.MOVED) as target, target.cursor() as cursor:
        for table, row in record.renumbered(cursor, path, synapse["append_only"]):
            refusal = record.renumbered_refusal(path, table, row)
            report.problem(refusal.found, refusal.remedy, table=table, count=1, rows=[row])


def _sizes(report: Report, path: str, folder: str, space: dict | None, server: dict | None) -> dict:
    """Return bytes: ``sqlite`` (the file and its log), ``snapshot`` (what a copy needs in ``folder``), ``free`` (there, for the
    user who runs this), ``expected_postgres`` (at most: Synapse's documentation tells of 25 to 100 % more) and ``wal`` (what
    the server keeps of its log meanwhile, max_wal_size; None where it was not asked).

    A newer copy is made beside an older one, so that one gives nothing back; what a copy that was killed has taken counts as
    free, since the next one goes on with it.
    """
    there = existing(folder)
    status = os.statvfs(there)
    size = os.path.getsize(path) + file.log_size(path) if os.path.isfile(path) else 0
    sizes = {
        "sqlite": size,
        "expected_postgres": 2 * size,
        "wal": server["max_wal_size"] if server else None,
        "snapshot": size + size // 10,
        "free": status.f_bavail * status.f_frsize + snapshot.unfinished_bytes(os.path.join(glob.escape(folder), "*")),
    }
    if sizes["free"] < sizes["snapshot"]:
        report.problem(
            f"The copy needs {sizes['snapshot'] >> 20} MiB, and the file system of {there} has {sizes['free'] >> 20} MiB left.",
            "Make room there, or keep the copy on another file system (in the role synapse_port: synapse_port_folder).",
        )
    if space:
        _disk(report, space, sizes["expected_postgres"])
    else:
        report.note(
            f"Nobody could look at the disk of PostgreSQL's host: up to {sizes['expected_postgres'] >> 20} MiB may be needed.",
            "See that there is room for that, and for the write-ahead log.",
        )
    return sizes


def _disk(report: Report, space: dict, size: int) -> None:
    """Report where on the server's host ``size`` bytes of data and the write-ahead log do not fit.

    ``space`` is what the module synapse_database_info tells; what an earlier run brought there already needs no more room.
    """
    data, wal = space["data"], space["wal"]
    needed = max(size - data["size"], 0) + (wal["max_wal_size"] if space["same_file_system"] else 0)
    for what, place, bytes_needed in (("data", data, needed), ("write-ahead log", wal, wal["max_wal_size"])):
        if place["free"] < bytes_needed:
            report.problem(
                f"PostgreSQL's {what} may need up to {bytes_needed >> 20} MiB, and the file system of {place['path']} has "
                f"{place['free'] >> 20} MiB left.",
                "Make room there, or move the cluster to a larger file system.",
            )


def _rows(count: int, rows: list) -> str:
    """Return ``3 rows (row ids 1, 7, 9)``."""
    named = f"row id{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))}{' ...' if count > len(rows) else ''}"
    return f"{count} row{'s' if count > 1 else ''} ({named})"


def _on_sqlite(path: str, *statements: str) -> str:
    """Return the command by which SQLite's shell runs ``statements`` on the database at ``path``."""
    return f"`sqlite3 {_words.shell(path)} {_words.shell('; '.join(statements))}`"


def _among(rows: list) -> str:
    return f"rowid IN ({', '.join(map(str, rows))})"


def _in_turns(rows: list, count: int) -> str:
    """Return what is to be added where a command is about ``rows``, and there are more: ``count``."""
    return f" (these are the first {len(rows)}: run this again for the others)" if count > len(rows) else ""


def _deletion(path: str, table: str, rows: list, count: int) -> str:
    return _on_sqlite(path, f"DELETE FROM {identifier(table)} WHERE {_among(rows)}") + _in_turns(rows, count)


def _mend(path: str, table: str, columns: list[str], rows: list) -> str:
    names = ", ".join(map(identifier, columns))
    look = _on_sqlite(path, f"SELECT rowid, {names} FROM {identifier(table)} WHERE {_among(rows)}")
    return f"Look at them by {look}, and correct or delete them with Synapse stopped; keep a copy of the file."
