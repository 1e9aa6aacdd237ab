# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A port of one SQLite file from its beginning to its record: what is looked at, which engine carries, what is done after it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Callable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import nulls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    copy_engine,
    move_lock,
    port_config,
    preflight,
    record,
    sequences,
    synapse_port_db,
    synapse_rules,
    target_checks,
    watermarks,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.port_config import PortConfig
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.record import Port
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target

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


def port(params: dict, check_mode: bool) -> dict:
    """Port what is not ported yet; return the result of the module synapse_port, whose ``params`` these are. Raises Refusal."""
    held = contents.inspect(params["sqlite_database"])
    contents.require_movable(params["sqlite_database"], held, params["drain_background_updates"])
    config = port_config.read(params["config"])
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(Source.held(params["sqlite_database"]))
        target = stack.enter_context(Target.opened(config.keywords, "synapse_port"))
        cursor = target.cursor
        database.require_fit(cursor, config.allows_unsafe_locale)
        target_checks.require_home(cursor)
        with move_lock.only_one(cursor, target.dbname):
            target_checks.require_synapses(cursor, config.server_name)
            if not check_mode:
                target_checks.take_back_queued(cursor)
            if target_checks.is_finished(cursor, source.stamp()):
                return {"changed": False, "finished": True}
            target_checks.require_only_ported(cursor, source)
            ownership.require_own(cursor)
            move_lock.require_unused(cursor)
            begun = _begun(source, target, params)
            if not check_mode and not begun.resuming:
                copy_engine.complete(source, target)
            target_checks.require_same_rows(cursor, source, begun.rules.append_only)
            if check_mode:
                return {"changed": True, "finished": False}
            config = config.without_defaults(cursor)
            target_checks.clear_half_schema(cursor)
            record.begin(begun, config.server_name)
            if held.background_updates:
                synapse_port_db.finish_background_updates(synapse_rules.python_words(params), config, source.path)
            return _to_the_end(begun, params, config)


def _begun(source: Source, target: Target, params: dict) -> Port:
    """Return the port as it begins. The engine copy carries only by rules that it knows."""
    cursor, before = target.cursor, record.read(target.cursor)
    rules = synapse_rules.ask(synapse_rules.python_words(params), before.rules if before else None)
    engine = params["engine"] if copy_engine.knows(rules) else "synapse"
    resuming = (
        before is not None
        and engine == "copy"
        and record.is_schema_created(cursor, before, copy_engine.state(source, cursor, rules))
        and before.broke_off_at(source.stamp())
    )
    return Port(source, target, rules, engine, before, record.has_ported(cursor, before), resuming)


def _to_the_end(begun: Port, params: dict, config: PortConfig) -> dict:
    """Carry everything over and do what the routine leaves undone; record that all is there; return the module's result."""
    cursor, source = begun.cursor, begun.source
    started = time.monotonic()
    sequences.mend(cursor)  # the routine opens the target as Synapse does, which refuses one that lags
    try:
        progress = _carried_over(begun, params, config)
    except BaseException:
        move_lock.end_routine(cursor)
        raise
    target_checks.require_all_ported(cursor, source, begun.rules)
    restored = nulls.restore(cursor, source, begun.rules)
    mended = sequences.mend(cursor)
    _analyze(begun.target)
    if source.is_replaced():
        raise Refusal(
            f"{source.path} was replaced while it was ported: another run has made a newer copy.", "Run this again with that one."
        )
    record.end(cursor, source.stamp())
    return {
        "changed": True,
        "finished": True,
        "engine": begun.engine,
        "tables": progress.tables,
        "restored": restored,
        "sequences": mended.as_results(),
        "seconds": round(time.monotonic() - started, 1),
        "log": f"{source.path}.port.log",
    }


def _carried_over(begun: Port, params: dict, config: PortConfig) -> synapse_port_db.Progress:
    """Let the engine that was chosen carry the rows over."""
    # The session by which Synapse's code looks at the database first may not have ended for the server when it opens its pool.
    config = config.limited_to(begun.target.workers() - 1)
    carry = _by_copy if begun.engine == "copy" else _by_routine
    return carry(begun, params, config)


def _by_routine(begun: Port, params: dict, config: PortConfig) -> synapse_port_db.Progress:
    """Let Synapse's own routine carry the rows over, once nothing is left at which it would fail."""
    source = begun.source
    copy_engine.begin_anew(source, begun.target)
    known = synapse_rules.ask_with_target(synapse_rules.python_words(params), config, source.folder)
    preflight.require_carried(source, known, config.keywords, watermarks.read(begun.cursor))
    command = params["command"] or [params["synapse_python"], "-m", "synapse._scripts.synapse_port_db"]
    return synapse_port_db.run(command, config, source.path, params["batch_size"] or synapse_port_db.ROWS)


def _by_copy(begun: Port, params: dict, config: PortConfig) -> synapse_port_db.Progress:
    """Carry the rows over by COPY, once Synapse's own code has made the schema."""
    cursor, source = begun.cursor, begun.source
    state = copy_engine.state(source, cursor, begun.rules)
    is_created = record.is_schema_created(cursor, begun.before, state)
    if not is_created:
        copy_engine.begin_anew(source, begun.target)
        names = synapse_port_db.create_schema(synapse_rules.python_words(params), config, source.path)
        copy_engine.require_same_tables(begun, names)
        state = copy_engine.state(source, cursor, begun.rules)
    progress = copy_engine.copy(begun, state, params["batch_size"] or copy_engine.ROWS)
    if is_created:  # Synapse's code has set no sequence in this run
        sequences.mend(cursor, given_out=source.autoincrement_values())
    return progress


@dataclasses.dataclass(frozen=True)
class _Analysis:
    """Tables whose statistics are to be made, ``table`` and ``others``."""

    table: str
    others: tuple[str, ...]


def _analyze(target: Target) -> None:
    """Give the planner statistics of the tables that need it, several at a time: each large one, and all of the others."""
    target.cursor.execute(_TO_ANALYZE)
    names = [name for (name,) in target.cursor.fetchall()]
    groups = [*([name] for name in names[:_LARGEST]), names[_LARGEST:]]
    tasks = iter([_Analysis(group[0], tuple(group[1:])) for group in groups if group])
    if names:
        _workers.work(lambda: _analyzing(target), lambda: next(tasks, None), lambda _one, _answer: None, target.workers())


@contextlib.contextmanager
def _analyzing(target: Target) -> Iterator[Callable[[_Analysis], None]]:
    """Yield the function that analyzes the tables of an _Analysis, by a session of its own."""
    with target.connected("routine") as cursor:
        cursor.execute("SET synchronous_commit = off")

        def analyze(one: _Analysis) -> None:
            names = sql.SQL(", ").join(sql.Identifier("public", name) for name in (one.table, *one.others))
            cursor.execute(sql.SQL("ANALYZE {}").format(names))

        yield analyze
