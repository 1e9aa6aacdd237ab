# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that a move from SQLite to PostgreSQL lost nothing, and what may be carried over where something is left."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import sides
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.comparison import Comparison
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.shares import Kept
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    carry_over,
    indexes,
    move_lock,
    record,
    sequences,
    synapse_rules,
    target_checks,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, guard, holders, other_names, paths
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import listed


def verify(params: dict, check_mode: bool) -> dict:
    """Compare the databases, carry over what may be; return the result of the module synapse_port_verify.

    ``params`` are the module's. Raises Refusal, with the result as its facts, unless the databases are equal in the end.
    """
    file.require_database(params["sqlite_database"])
    other_names.require_none(params["sqlite_database"])
    source = Source.at(params["sqlite_database"])
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(source.progress("verify"))
        target = stack.enter_context(Target.opened(_connection.keywords(params), "synapse_port_verify"))
        cursor = target.cursor
        target_checks.require_home(cursor)
        ownership.require_own(cursor, reading=not params["carry_changes"])
        if params["carry_changes"]:
            stack.enter_context(move_lock.only_one(cursor, target.dbname))
            move_lock.require_unused(cursor)
        sequences.require_synapses(cursor)
        indexes.require_none_aside(cursor)
        both = stack.enter_context(sides.both(source, target, writing=params["carry_changes"] and not check_mode))
        if params["carry_changes"]:
            carry_over.require_ported_here(cursor, source)
        recorded = record.read(cursor)
        usable = recorded is not None and not recorded.restored
        kept = Kept(cursor, source.stamp(), usable=usable, keeping=not check_mode)
        comparison = Comparison(both, _rules(recorded, params, target.dbname), kept, progress)
        _require_whole(comparison)
        result = comparison.result(comparison.run())
        carried = {}
        if params["carry_changes"] and comparison.differing:
            carried = _carried(comparison, source, result["rows"], check_mode)
            result = comparison.result(result["rows"])
        if comparison.differing:
            raise _unequal(comparison, source, result["rows"])
        result["carried"] = {name: dataclasses.asdict(rows) for name, rows in carried.items()}
        result["seconds"] = comparison.seconds
        if params["original"]:
            progress.tell(f"what SQLite says of {params['original']}", result["rows"], result["rows"], now=True)
            _require_original(params["original"], source, recorded)
        return {"changed": bool(carried), **result}


def _require_whole(comparison: Comparison) -> None:
    """Raise Refusal when a table of Synapse's is on SQLite alone: no rule is for that."""
    missing = comparison.rules.missing(comparison.both.sqlite, comparison.both.postgres)
    if missing:
        raise Refusal(
            f"The target database is not whole: {len(missing)} tables of Synapse's are missing there ({', '.join(missing[:3])}).",
            "Stay on SQLite, and give the move a new, empty database (synapse_postgres_database).",
        )


def _require_original(original: str, source: Source, recorded: record.Record | None) -> None:
    """Raise Refusal unless ``source``, which was compared, is a copy of all that the database ``original`` holds.

    What it held when it was ported is ``recorded``, before Synapse's own code wrote to it.
    """
    path = paths.resolve(original)
    if path == source.path:  # no copy was compared, but the original itself
        return
    file.require_database(path)
    other_names.require_none(path)
    holders.require_closed(path)
    ported = recorded.content if recorded and recorded.stamp == source.stamp() else None
    held: dict[str, Any] = ported or guard.summarize(source.path)
    guard.require_same(original, source.path, held)


def _carried(comparison: Comparison, source: Source, rows: int, check_mode: bool) -> dict[str, carry_over.Carried]:
    """Carry over what differs, or in check mode say what would be; return it by table. So many ``rows`` were compared.

    The tables that differ, and those that refer to them, are compared again afterwards.
    """
    cursor, differing = comparison.postgres, set(comparison.differing)
    if differing - set(comparison.rules.append_only):
        raise _unequal(comparison, source, rows)
    carry_over.require_ported(cursor, source)
    planned = carry_over.planned(comparison.sqlite, [table.name for table in comparison.tables if table.name in differing])
    if check_mode:
        comparison.differing.clear()
        return planned
    written = carry_over.carry_differences(comparison, differing)
    if comparison.differing:
        raise _unequal(comparison, source, rows)
    record.carried(cursor)
    return written


def _unequal(comparison: Comparison, source: Source, rows: int) -> Refusal:
    """Return the Refusal for databases that differ, of which so many ``rows`` were compared; nothing was carried over."""
    words = [
        f"{name} ({found.missing} rows missing on PostgreSQL, {found.unexpected} that SQLite does not have,"
        f" {found.changed} of them changed)"
        for name, found in comparison.differing.items()
    ]
    remedy = (
        "Stay on SQLite. Stop Synapse, run synapse_port on a new copy and this again; if a table still differs, give the move a "
        "new, empty database."
    )
    if set(comparison.differing) <= set(comparison.rules.append_only):
        remedy = (
            "These are tables that the routine only adds to: with Synapse stopped, run synapse_port on a new copy and this "
            "with carry_changes."
        )
    return Refusal(
        f"PostgreSQL does not hold what {source.path} holds: {len(words)} tables differ: {listed(words)}.",
        remedy,
        **comparison.result(rows),
        carried={},
        seconds=comparison.seconds,
    )


def _rules(recorded: record.Record | None, params: dict, dbname: str) -> Rules:
    """Return the rules of the Synapse that ported, from the record of the move or from the installed Synapse."""
    if recorded and recorded.rules:
        return recorded.rules
    if params["synapse_python"]:
        return synapse_rules.ask([params["synapse_python"]])
    raise Refusal(
        f"The database {dbname!r} holds no record of a move, so what its Synapse ports is not known.",
        "Give synapse_python, the interpreter that runs Synapse, or port with the module synapse_port.",
    )
