# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A port of one SQLite file from its beginning to its record: what is looked at, which engine carries, what is done after it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _sessions, _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import nulls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    copy_engine,
    preflight,
    record,
    sequences,
    synapse_port_db,
    synapse_rules,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file

try:
    from psycopg2 import sql
except ImportError:
    pass

# Tables that are analyzed each by itself.
_LARGEST = 12

# The tables where a tenth has changed since the planner had its statistics, as autovacuum would find them in a while.
_TO_ANALYZE = """
SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'public'
    AND (coalesce(last_analyze, last_autoanalyze) IS NULL OR n_mod_since_analyze > 0.1 * n_live_tup)
ORDER BY pg_table_size(relid) DESC
"""


@dataclasses.dataclass(frozen=True)
class _Begun:
    """A port that has begun: of the file ``source``, which has this ``inode``, into the database of ``cursor``, which ``libpq``'s
    keywords lead to as well.

    ``routine`` is what the installed Synapse decides, with the ``engine`` and whether a port ended well ``again``, as in
    record.Record; ``before`` is the record that earlier ports left. ``goes_on``: one of this very file was killed on the way.
    """

    source: str
    inode: int
    cursor: object
    libpq: dict
    routine: dict
    before: record.Record | None
    goes_on: bool


def port(params: dict, check_mode: bool) -> dict:
    """Port what is not ported yet; return the result of the module synapse_port, whose ``params`` these are. Raises Refusal."""
    source = params["sqlite_database"]
    facts = file.inspect(source)
    file.require_movable(source, facts, params["drain_background_updates"])
    config = synapse_port_db.read_config(params["config"])
    target = synapse_port_db.connection_keywords(config)
    with contextlib.ExitStack() as stack:
        # Who looks for the file's holders, to write a newer copy over it, finds us. To be closed after SQLite's connections: a
        # process that closes a file loses its locks on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        inode = os.fstat(stack.enter_context(open(source, "rb")).fileno()).st_ino
        connection = stack.enter_context(_connection.connected(target, True, "synapse_port", _connection.MOVED))
        cursor = stack.enter_context(connection.cursor())
        database.require_fit(cursor, bool(config["database"].get("allow_unsafe_locale")))
        record.require_home(cursor)
        with record.only_one(cursor, connection.info.dbname):
            record.require_synapses(cursor, config["server_name"])
            if record.is_finished(cursor, file.stamp(source)):
                return {"changed": False, "finished": True}
            record.require_only_ported(cursor, source)
            ownership.require_own(cursor)
            record.require_unused(cursor)
            begun = _begun(cursor, target, params, inode)
            if not check_mode and not begun.goes_on:
                copy_engine.complete(cursor, target, source)
            record.require_same_rows(cursor, source, begun.routine["append_only"])
            if check_mode:
                return {"changed": True, "finished": False}
            config = synapse_port_db.without_defaults(config, cursor)
            record.clear_half_schema(cursor)
            record.begin(cursor, source, config["server_name"], begun.routine, begun.before)
            if facts["background_updates"]:
                synapse_port_db.drain(synapse_rules.python_words(params), config, source)
            return _to_the_end(begun, params, config)


def _begun(cursor, target: dict, params: dict, inode: int) -> _Begun:
    """Return the port as it begins. The engine copy carries only by rules that it knows."""
    source, before = params["sqlite_database"], record.read(cursor)
    routine = synapse_rules.ask(synapse_rules.python_words(params), known=before and before.routine)
    routine.pop("laid", None)
    routine["engine"] = params["engine"] if copy_engine.knows(routine) else "synapse"
    routine["again"] = record.is_again(cursor, before)
    goes_on = (
        routine["engine"] == "copy"
        and record.is_laid(cursor, before, copy_engine.state(cursor, source, routine))
        and before.broke_off_at(file.stamp(source))
    )
    return _Begun(source, inode, cursor, target, routine, before, goes_on)


def _to_the_end(begun: _Begun, params: dict, config: dict) -> dict:
    """Carry everything over and do what the routine leaves undone; record that all is there; return the module's result."""
    cursor, source, routine = begun.cursor, begun.source, begun.routine
    started = time.monotonic()
    sequences.mend(cursor)  # the routine opens the target as Synapse does, which refuses one that lags
    try:
        progress = _carried_over(begun, params, config)
    except BaseException:
        record.end_routine(cursor)
        raise
    record.require_all_ported(cursor, source, routine)
    restored = nulls.restore(cursor, source, routine)
    mended = sequences.mend(cursor)
    _analyze(cursor, begun.libpq)
    if os.stat(source).st_ino != begun.inode:
        raise Refusal(
            f"{source} was replaced while it was ported: another run has made a newer copy.", "Run this again with that one."
        )
    record.end(cursor, file.stamp(source))
    return {
        "changed": True,
        "finished": True,
        "engine": routine["engine"],
        "tables": progress.tables,
        "restored": restored,
        "sequences": mended["sequences"],
        "seconds": round(time.monotonic() - started, 1),
        "log": f"{source}.port.log",
    }


def _carried_over(begun: _Begun, params: dict, config: dict) -> synapse_port_db.Progress:
    """Let the engine that was chosen carry the rows over."""
    cursor, source, routine = begun.cursor, begun.source, begun.routine
    # The session by which Synapse's code looks at the database first may not have ended for the server when it opens its pool.
    config = synapse_port_db.within(config, _sessions.workers(cursor) - 1)
    if routine["engine"] == "synapse":
        copy_engine.begin_anew(cursor, begun.libpq, source)
        known = synapse_rules.ask(synapse_rules.python_words(params), config, os.path.dirname(source))
        preflight.require_carried(source, known, config, record.reached(cursor))
        command = params["command"] or [params["synapse_python"], "-m", "synapse._scripts.synapse_port_db"]
        return synapse_port_db.run(command, config, source, params["batch_size"] or synapse_port_db.ROWS)
    state = copy_engine.state(cursor, source, routine)
    is_laid = record.is_laid(cursor, begun.before, state)
    if not is_laid:
        copy_engine.begin_anew(cursor, begun.libpq, source)
        tables = synapse_port_db.lay(synapse_rules.python_words(params), config, source)
        copy_engine.require_same_tables(cursor, source, routine, tables)
        state = copy_engine.state(cursor, source, routine)
    progress = copy_engine.copy(
        cursor, begun.libpq, source, routine, state, begun.goes_on, params["batch_size"] or copy_engine.ROWS
    )
    if is_laid:  # Synapse's code has set no sequence in this run
        sequences.mend(cursor, given_out=file.given_out(source))
    return progress


@dataclasses.dataclass(frozen=True)
class _Analysis:
    """Tables whose statistics are to be made, ``table`` and ``others``."""

    table: str
    others: tuple[str, ...]


def _analyze(cursor, libpq: dict) -> None:
    """Give the planner statistics of the tables that need it, several at a time: each large one, and all of the others."""
    cursor.execute(_TO_ANALYZE)
    names = [name for (name,) in cursor.fetchall()]
    groups = [*([name] for name in names[:_LARGEST]), names[_LARGEST:]]
    tasks = iter([_Analysis(group[0], tuple(group[1:])) for group in groups if group])
    if names:
        _workers.work(lambda: _analyst(libpq), lambda: next(tasks, None), lambda _one, _answer: None, _sessions.workers(cursor))


@contextlib.contextmanager
def _analyst(libpq: dict):
    """Yield the function that analyzes the tables of an _Analysis, by a connection of its own."""
    way = _connection.connected(libpq, autocommit=True, what="routine", schema=_connection.MOVED)
    with way as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")

        def analyze(one: _Analysis) -> None:
            names = sql.SQL(", ").join(sql.Identifier("public", name) for name in (one.table, *one.others))
            cursor.execute(sql.SQL("ANALYZE {}").format(names))

        yield analyze
