# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a slot of replication keeps the write-ahead log for somebody who does not come."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_INACTIVE = """
SELECT slot_name, coalesce(pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::float8 / 1048576,
    format('SELECT pg_drop_replication_slot(%L)', slot_name)
FROM pg_replication_slots WHERE NOT active ORDER BY 2 DESC
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    for name, megabytes, command in patient.rows(_INACTIVE):
        severity = graded(megabytes, patient.limits)
        if severity:
            yield Finding(
                severity,
                f"nobody uses the replication slot {name!r}, for which the server keeps {megabytes:.0f} MB of its log",
                f"Start what it is for, or remove it where that is gone: {patient.psql(command)}.",
            )


CHECK = Check(
    name="replication_slots",
    title="Replication slots that nobody uses",
    why="The server keeps its write-ahead log for it until the disk is full, and keeps old rows where the slot asks for them.",
    source="PostgreSQL's manual, view pg_replication_slots",
    examine=_examine,
    limits={"warning": 0, "critical": 10240},
    unit="MB of log",
)
