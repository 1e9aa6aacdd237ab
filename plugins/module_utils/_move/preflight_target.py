# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why the target would not take a move: the server, its sessions, the database and what is in it already."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import (
    _connection,
    _defaults,
    _diagnosis,
    _sessions,
    _workers,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import target_checks
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.port_config import PortConfig
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import Report
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier


@dataclasses.dataclass(frozen=True)
class TargetState:
    """What a log-in as Synapse's role told of the target.

    ``max_wal_size`` in bytes; ``config`` is that by which Synapse looks at its tables there, None where they would be in a
    schema that a move does not know; ``is_unfit`` where a problem was reported.
    """

    max_wal_size: int
    config: PortConfig | None = None
    is_unfit: bool = False


def report_target(report: Report, source: Source | None, config: PortConfig) -> TargetState | None:
    """Report what is wrong with the target that ``config`` names; return its state, None when Synapse's role cannot log in.

    ``source`` is None where it is not known what is to be moved there.
    """
    before = len(report.problems)
    keywords = config.keywords
    state = None
    with report.catching_refusals(), _connection.connected(
        keywords, True, "synapse_port_info", _connection.MOVED
    ) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery(), pg_size_bytes(current_setting('max_wal_size'))")
        is_standby, max_wal_size = only_row(cursor)
        state = TargetState(max_wal_size)
        connection.set_session(readonly=True)
        _report_defaults(report, cursor, _diagnosis.place(keywords), is_standby)
        report_database(report, cursor, connection.info.dbname, config.allows_unsafe_locale)
        _report_sessions(report, cursor, config.pool_size)
        with report.catching_refusals():
            target_checks.require_home(cursor)
            state = dataclasses.replace(state, config=config.without_defaults(cursor))
            target_checks.require_synapses(cursor, config.server_name)
            if source:
                target_checks.require_only_ported(cursor, source)
            ownership.require_own(cursor)
    return state and dataclasses.replace(state, is_unfit=len(report.problems) > before)


def _report_defaults(report: Report, cursor: Cursor, server: str, is_standby: bool) -> None:
    """Report what Synapse would meet in every session, though the move leaves it."""
    found = f"The server at {server} does not let this role write"
    if is_standby:
        report.problem(f"{found}: it is a standby.", "Give the address of the primary.")
    elif _defaults.begins_read_only(cursor):
        reset = _defaults.reset_command(cursor, "default_transaction_read_only")
        report.problem(
            f"{found}: every transaction of the role begins with default_transaction_read_only = on.",
            f"Take that away where it is set (psql's \\drds tells): {reset}.",
        )
    timeouts = _defaults.session_timeouts(cursor)
    if timeouts:
        values = ", ".join(f"{name} = {value}" for name, value in timeouts.items())
        report.note(
            f"Every session of this role begins with {values}. The move goes by none of these, but Synapse will.",
            "See that they are meant for Synapse; psql's \\drds tells which the role and the database carry.",
        )


def _report_sessions(report: Report, cursor: Cursor, pool: int) -> None:
    """Report where the role may not have as many sessions as a move has at once, and then Synapse, by pools of ``pool`` each.

    ``cursor`` is of one that ends before the move begins.
    """
    room = _sessions.of(cursor)
    free = room.left + 1
    # The move's own, as in _sessions.LEAST, with all of its workers; and Synapse's tools beside the one that keeps the lock.
    wanted = max(_sessions.LEAST - 1 + _workers.size(), 1 + pool)
    if free < _sessions.LEAST:
        report.problem(
            f"{room.limit}, of which {max(free, 0)} are free, and a move needs {_sessions.LEAST} at least.",
            room.raised(wanted - free),
        )
    elif free < wanted:
        report.note(
            f"{room.limit}, of which {free} are free: the move makes do with them, in more time than with {wanted}, and each "
            f"process of Synapse's may open {pool} (cp_max).",
            room.raised(wanted - free),
        )


def report_database(report: Report, cursor: Cursor, name: str, allow_unsafe_locale: bool) -> None:
    """Report what Synapse or the routine cannot work with in the connected database ``name``."""
    with report.catching_refusals():
        for warning in database.require_fit(cursor, allow_unsafe_locale):
            report.note(warning, "Nothing is to be done before the move.")
    cursor.execute(
        "SELECT current_user, has_database_privilege(current_database(), 'CREATE'), to_regnamespace('public') IS NOT NULL,"
        " coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), false),"
        " has_database_privilege(current_database(), 'TEMPORARY'),"
        " (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database())"
    )
    role, in_database, has_schema, in_schema, temporary, owner = only_row(cursor)
    quoted = identifier(role)
    if not temporary:
        report.problem(
            f"The role {role} may not make temporary tables in the database {name}, and a move brings some rows there by them.",
            f"Allow it, as the database's owner, by `GRANT TEMPORARY ON DATABASE {identifier(name)} TO {quoted}`.",
        )
    if not in_database:
        report.problem(
            f"The role {role} may not create anything in the database {name}, which belongs to {owner}.",
            f"Give it to Synapse's role by `ALTER DATABASE {identifier(name)} OWNER TO {quoted}`, or by the module "
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
