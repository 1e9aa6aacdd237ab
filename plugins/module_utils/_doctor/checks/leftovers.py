# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a finished move or a repair has left in the database or beside it."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# A database that is kept says in its comment since when; see _repair/rebuild.py.
_DATABASES = r"""
SELECT datname, pg_size_pretty(pg_database_size(oid)), format('DROP DATABASE %I', datname),
    current_date - substring(shobj_description(oid, 'pg_database') FROM 'kept as it was until (\d{4}-\d\d-\d\d)')::date
FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE 'matrixops.synapse_postgres: kept as it was until ____-__-__,%'
    AND datname LIKE replace(left(current_database(), 50), '_', '\_') || '%' AND has_database_privilege(oid, 'CONNECT')
"""
_MOVE = """
SELECT format('%s and %s', to_regclass('public.port_from_sqlite3'), to_regclass('synapse_postgres.sums')),
    pg_size_pretty(pg_total_relation_size('public.port_from_sqlite3') + pg_total_relation_size('synapse_postgres.sums')),
    (SELECT current_date - ported_at::date FROM synapse_postgres.move WHERE status = 'ported')
WHERE to_regclass('public.port_from_sqlite3') IS NOT NULL AND to_regclass('synapse_postgres.sums') IS NOT NULL
"""
_HAS_MOVED = "SELECT to_regclass('synapse_postgres.move') IS NOT NULL AND has_schema_privilege('synapse_postgres', 'USAGE')"
_CLEAN = ("DROP TABLE public.port_from_sqlite3", "TRUNCATE synapse_postgres.sums")


def _examine(patient: Patient) -> Iterator[Finding]:
    for name, size, command, days in patient.rows(_DATABASES):
        severity = graded(days, patient.limits)
        if severity:
            yield Finding(
                severity,
                f"the database {name!r}, which a repair kept {days} days ago, takes {size}",
                f"When all is well, drop it: {patient.psql(command, within='postgres')}.",
            )
    if patient.value("SELECT to_regclass('synapse_postgres.move') IS NOT NULL") and patient.value(_HAS_MOVED):
        for tables, size, days in patient.rows(_MOVE):
            severity = graded(days, patient.limits) if days is not None else None
            if severity:
                yield Finding(
                    severity,
                    f"{tables}, by which the move from SQLite {days} days ago could be gone on with, take {size}",
                    f"Synapse lives here now, so take them away: {patient.psql(*_CLEAN)}.",
                )


CHECK = Check(
    name="leftovers",
    title="Left-overs of a move or a repair",
    why="They take room, and a dump takes them along.",
    source="synapse/_scripts/synapse_port_db.py; the module synapse_database_rebuild",
    examine=_examine,
    limits={"notice": 30},
    unit="days since it ended",
)
