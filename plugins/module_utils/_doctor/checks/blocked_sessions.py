# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether sessions wait long for a lock that another one holds."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_BLOCKED = """
SELECT w.pid, extract(epoch FROM now() - min(l.waitstart))::float8, pg_blocking_pids(w.pid)
FROM pg_stat_activity w JOIN pg_locks l ON l.pid = w.pid AND NOT l.granted
WHERE w.datname = current_database() AND w.wait_event_type = 'Lock' AND l.waitstart IS NOT NULL GROUP BY w.pid ORDER BY 2 DESC
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_member("pg_read_all_stats")
    for pid, seconds, blockers in patient.rows(_BLOCKED):
        severity = graded(seconds, patient.limits)
        if severity and blockers:
            ends = "; ".join(f"SELECT pg_terminate_backend({blocker})" for blocker in sorted(set(blockers)))
            yield Finding(
                severity,
                f"the session {pid} has waited {seconds:.0f} seconds for a lock of {', '.join(map(str, sorted(set(blockers))))}",
                f"See what that one does, and end it: {patient.psql(ends)}.",
            )


CHECK = Check(
    name="blocked_sessions",
    title="Sessions that wait for a lock",
    why="What waits for a lock makes others wait behind it, until all of Synapse's sessions do.",
    source="PostgreSQL's manual, view pg_locks and function pg_blocking_pids",
    examine=_examine,
    limits={"warning": 30, "critical": 300},
    unit="seconds",
)
