# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's database made anew in UTF8 and C: beside the old one, which nobody can write to meanwhile, and put in its place.

Whatever ends the work before the names change, a kill as well, leaves the old database as it was: what was made beside it is
known by its comment, has never been anybody's, and is dropped by the next run. The names change in one transaction, and the old
database is kept until somebody says otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import time
from typing import Any, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _progress, _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import collation, database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair import (
    blockers,
    contents,
    filling,
    programs,
    properties,
    resolution,
    swap,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier, listed

_MARK = "matrixops.synapse_postgres: "
_IN_MAKING = f"{_MARK}being made anew from "
_KEPT = f"{_MARK}kept as it was until "

# How long somebody may hold a lock on one of Synapse's tables before the work is given up.
_LOCK_TIMEOUT = "5s"


@dataclasses.dataclass(frozen=True)
class Names:
    """The database ``live``, and those beside it: the one ``making``, the one that was live ``before``, one ``given_back``."""

    live: str

    @property
    def making(self) -> str:
        return self._beside("_rebuilding")

    @property
    def before(self) -> str:
        return self._beside("_before")

    @property
    def given_back(self) -> str:
        return self._beside("_given_back")

    def _beside(self, suffix: str) -> str:
        kept = self.live.encode("utf-8")[: _connection.LONGEST_NAME - len(suffix)]
        return kept.decode("utf-8", "ignore") + suffix


def rebuilt(server: Server, name: str, folder: str, resolve_duplicates: bool, check_mode: bool) -> dict[str, Any]:
    """Make the database ``name`` anew where its locale, its encoding or its indexes' order is wrong; the module's result.

    ``folder`` takes the dump of the schema, the rows left out and the progress; Refusal.
    """
    names = Names(name)
    _require_elsewhere(server, names)
    reasons = _reasons(server, names)
    result: dict[str, Any] = {"changed": bool(reasons), "reasons": reasons, "removed": [], "rows": 0, "tables": 0, "seconds": {}}
    if not reasons:
        return result
    _require_name_free(server.cursor, names.before, f"state: old_removed takes it away when {name!r} is all right")
    _require_ours(server, names)
    tools = programs.find(server.libpq, server.cursor.connection.server_version)
    if not check_mode:
        blockers.require_unused(server.cursor, name, [])
    with _guarded(server, name, check_mode) as guard:
        with guard.connection.cursor() as cursor:
            blockers.require_carried(cursor)
            result["size"] = blockers.require_room(cursor)
            removals = resolution.resolve(cursor) if resolve_duplicates else []
            if not resolve_duplicates:
                _require_no_duplicates(cursor)
            result["removed"] = _counted(removals)
            tables = filling.tables(cursor)
        if check_mode:
            return result
        if removals:
            result["removed_file"] = _keep_removals(folder, removals)
        _make(server, names, folder, tools, removals, tables, guard, result)
    return {**result, "kept": names.before}


def given_back(server: Server, name: str, check_mode: bool) -> dict[str, Any]:
    """Put the database that was before a rebuild back in its place, and keep the new one beside it; the module's result."""
    names = Names(name)
    _require_elsewhere(server, names)
    _require_kept(server.cursor, names)
    _require_name_free(server.cursor, names.given_back, "drop it if nobody needs it")
    for one in (name, names.before):
        blockers.require_unused(server.cursor, one, [])
    if not check_mode:
        more = [properties.comment_statement(server.cursor, name, None)]
        swap.rename(server, [(name, names.given_back), (names.before, name)], more)
    return {"changed": True, "kept": names.given_back}


def old_removed(server: Server, name: str, check_mode: bool) -> dict[str, Any]:
    """Drop the database that was before a rebuild; the module's result."""
    names = Names(name)
    _require_elsewhere(server, names)
    if database.find(server.cursor, names.before) is None:
        return {"changed": False, "size": 0}
    _require_kept(server.cursor, names)
    server.cursor.execute("SELECT pg_database_size(%s)", (names.before,))
    [(size,)] = server.cursor.fetchall()
    if not check_mode:
        blockers.require_unused(server.cursor, names.before, [])
        server.cursor.execute(f"DROP DATABASE {identifier(names.before)}")
    return {"changed": True, "size": size}


def _make(
    server: Server,
    names: Names,
    folder: str,
    tools: programs.Programs,
    removals: list[resolution.Removal],
    tables: list[filling.Table],
    guard: swap.Guard,
    result: dict[str, Any],
) -> None:
    """Make the new database, fill it, prove it, put it in the old one's place; whatever fails, the old one stays in it."""
    begun = time.monotonic()
    work = filling.Filling(server, tools, names.live, names.making, folder, _by_table(removals), _workers.size())
    try:
        _create(server.cursor, names)
        with _stage(folder, "copy", result, "MB") as tell:
            work.make_tables()
            work.copy_rows(tables, tell)
            work.copy_sequences()
        with _stage(folder, "make indexes", result, "indexes") as tell:
            work.make_indexes(tell)
            with server.within(names.making, autocommit=True) as cursor:
                cursor.execute("ANALYZE")
        with _stage(folder, "compare", result, "MB") as tell:
            found = contents.require_same(server, work, tables, tell)
        _keep_in_database(server, names, removals)
        _put_in_place(server, names, guard)
    except BaseException:
        with contextlib.suppress(Exception):
            _drop_making(server.cursor, names)
        raise
    result.update(rows=found.rows, tables=found.tables)
    result["seconds"]["total"] = round(time.monotonic() - begun, 1)


def _put_in_place(server: Server, names: Names, guard: swap.Guard) -> None:
    """Change the names, and give each database its comment."""
    cursor, today = server.cursor, datetime.date.today()
    more = [
        properties.comment_statement(cursor, names.live, properties.comment(cursor, names.live)),
        properties.comment_statement(cursor, names.before, f"{_KEPT}{today}, when {names.live} was made anew in UTF8 and C"),
    ]
    swap.rename(server, [(names.live, names.before), (names.making, names.live)], more, guard)


def _create(cursor: Cursor, names: Names) -> None:
    """Make the new database, with a comment by which the next run knows it, and with all that the old one is."""
    _drop_making(cursor, names)
    cursor.execute(properties.creation(cursor, names.live, names.making))
    cursor.execute(properties.comment_statement(cursor, names.making, f"{_IN_MAKING}{names.live}"))
    for statement in properties.statements(cursor, names.live, names.making):
        cursor.execute(statement)


def _drop_making(cursor: Cursor, names: Names) -> None:
    """Drop what an earlier run left of the new database, with whatever of that run is still connected to it."""
    cursor.execute(f"DROP DATABASE IF EXISTS {identifier(names.making)} WITH (FORCE)")


@contextlib.contextmanager
def _stage(folder: str, step: str, result: dict[str, Any], unit: str) -> Iterator[filling.Tell]:
    """Yield what tells of a stage how far it is, and note the seconds that it took."""
    begun = time.monotonic()
    with _progress.Progress(os.path.join(folder, "rebuild.progress.json"), step, unit) as progress:
        yield progress.tell
    result["seconds"][step] = round(time.monotonic() - begun, 1)


@contextlib.contextmanager
def _guarded(server: Server, name: str, check_mode: bool) -> Iterator[swap.Guard]:
    """Yield our session in the database ``name``, which lets nobody write to its tables as long as it lasts; everybody may read.

    In check mode it keeps nobody off. Raises Refusal where somebody else keeps a table.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(_connection.connected({**server.libpq, "dbname": name}, False, server.module))
        with connection.cursor() as cursor:
            tables = [table.name for table in filling.tables(cursor)]
            if tables and not check_mode:
                cursor.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
                cursor.execute(f"LOCK TABLE ONLY {', ONLY '.join(tables)} IN SHARE MODE")
        yield swap.Guard(connection, stack.close)


def _reasons(server: Server, names: Names) -> list[str]:
    """Return why the database is to be made anew; Refusal where that would not help."""
    found = database.find(server.cursor, names.live)
    if found is None:
        raise Refusal(f"The server has no database {names.live!r}.", "Correct the name.")
    with server.within(names.live) as cursor:
        if found.encoding == "UTF8":
            wrong = collation.not_utf8(cursor)
            if wrong:
                raise Refusal(f"In the database {names.live!r}, {listed(wrong)}.", "No copy mends that; ask for help.")
        reasons, _warnings = database.locale_problems(cursor)
        contradicted = collation.contradiction(cursor, names.live)
        if contradicted and not reasons:
            reasons = [f"LC_COLLATE says C, and it was another when the database was made: in pg_database {contradicted}"]
    return reasons


def _require_elsewhere(server: Server, names: Names) -> None:
    """Raise Refusal where our own session would be in the way."""
    connected = server.cursor.connection.info.dbname
    if connected in (names.live, names.making, names.before, names.given_back):
        raise Refusal(
            f"The task is connected to the database {connected!r}, whose name is to change.",
            "Let it connect to another one (login_db: postgres).",
        )


def _require_name_free(cursor: Cursor, name: str, what_to_do: str) -> None:
    if database.find(cursor, name) is not None:
        raise Refusal(f"There is a database {name!r} already, kept from an earlier rebuild.", f"Look at it first; {what_to_do}.")


def _require_ours(server: Server, names: Names) -> None:
    """Raise Refusal where a database of the name that is needed is not one that a run of ours left in the making."""
    if database.find(server.cursor, names.making) is None:
        return
    if (properties.comment(server.cursor, names.making) or "").startswith(_IN_MAKING):
        return
    with server.within(names.making) as cursor:
        # A run that was killed between the making and the comment left an empty one.
        if database.tables(cursor):
            raise Refusal(
                f"There is a database {names.making!r} that no run of this made.", "Rename it or drop it, then run this again."
            )


def _require_kept(cursor: Cursor, names: Names) -> None:
    """Raise Refusal unless both databases are there, and the old one was kept by a rebuild."""
    if not (properties.comment(cursor, names.before) or "").startswith(_KEPT):
        raise Refusal(
            f"There is no database {names.before!r} that a rebuild of {names.live!r} kept.", "Nothing has to be done about it."
        )
    if database.find(cursor, names.live) is None:
        raise Refusal(
            f"There is no database {names.live!r}, and {names.before!r} is all that is left of it.",
            f"Find out what became of it. To use the old one: `ALTER DATABASE {identifier(names.before)} RENAME TO "
            f"{identifier(names.live)}`.",
        )


def _require_no_duplicates(cursor: Cursor) -> None:
    """Raise Refusal where rows stand in the way of a unique index, and say of which of them it is known what to do."""
    removals = resolution.resolve(cursor)
    if removals:
        counts = [f"{one['rows']} in {one['table']} (index {one['index']})" for one in _counted(removals)]
        raise Refusal(
            f"Rows are there that a unique index should keep apart: {listed(counts, 10)}.",
            "Which of them count is known: those of them that say the same, or the newest. Leave the others out by "
            "resolve_duplicates: true (in the role: synapse_database_resolve_duplicates: true); they are kept.",
            duplicates=counts,
        )


def _counted(removals: list[resolution.Removal]) -> list[dict[str, Any]]:
    """Return how many rows are left out, by table and index."""
    counts: dict[tuple[str, str], int] = {}
    for one in removals:
        counts[one.table, one.index] = counts.get((one.table, one.index), 0) + 1
    return [{"table": table, "index": index, "rows": rows} for (table, index), rows in sorted(counts.items())]


def _by_table(removals: list[resolution.Removal]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in removals:
        found.setdefault(one.table, []).append(one.ctid)
    return found


def _keep_removals(folder: str, removals: list[resolution.Removal]) -> str:
    """Write the rows that are left out to a file of their own, a line of JSON each; return its path."""
    path = os.path.join(folder, f"removed-rows-{datetime.datetime.now():%Y%m%d-%H%M%S}.jsonl")
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
        for one in removals:
            stream.write(json.dumps({"table": one.table, "index": one.index, "row": json.loads(one.row)}) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return path


def _keep_in_database(server: Server, names: Names, removals: list[resolution.Removal]) -> None:
    """Keep the rows that are left out in the new database as well, in our schema there, which is the database's owner's."""
    if not removals:
        return
    with server.within(names.making) as cursor:
        owner = identifier(str(database.current(cursor).owner))
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS synapse_postgres AUTHORIZATION {owner}")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS synapse_postgres.removed_rows"
            " (removed_at timestamptz DEFAULT now(), table_name text, index_name text, row jsonb)"
        )
        cursor.execute(f"ALTER TABLE synapse_postgres.removed_rows OWNER TO {owner}")
        cursor.executemany(
            "INSERT INTO synapse_postgres.removed_rows (table_name, index_name, row) VALUES (%s, %s, %s)",
            [(one.table, one.index, one.row) for one in removals],
        )
