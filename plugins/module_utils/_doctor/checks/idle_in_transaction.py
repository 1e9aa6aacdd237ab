# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a session keeps a transaction open and does nothing."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_IDLE = """
SELECT pid, usename, coalesce(nullif(application_name, ''), 'no name'), extract(epoch FROM now() - state_change)::float8
FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%%' AND pid <> pg_backend_pid()
    AND state_change < now() - make_interval(secs => %s) ORDER BY 4 DESC
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_member("pg_read_all_stats")
    for pid, role, name, seconds in patient.rows(_IDLE, min(patient.limits.values())):
        severity = graded(seconds, patient.limits)
        if severity:
            yield Finding(
                severity,
                f"the session {pid} of the role {role} ({name}) has done nothing in a transaction for {seconds:.0f} seconds",
                f"End it: {patient.psql(f'SELECT pg_terminate_backend({pid})')}.",
            )


CHECK = Check(
    name="idle_in_transaction",
    title="Transactions that are left open",
    why="It keeps its locks, and keeps vacuum from removing anything that died since.",
    source="PostgreSQL's manual, view pg_stat_activity",
    examine=_examine,
    limits={"warning": 300, "critical": 3600},
    unit="seconds",
)
