# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a prepared transaction was left behind in Synapse's database."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_PREPARED = """
SELECT gid, extract(epoch FROM now() - prepared)::float8, format('ROLLBACK PREPARED %L', gid)
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    for name, seconds, command in patient.rows(_PREPARED):
        severity = graded(seconds / 3600, patient.limits)
        if severity:
            yield Finding(
                severity,
                f"the transaction {name!r}, prepared {seconds / 3600:.0f} hours ago, is neither committed nor rolled back",
                f"Roll it back, unless its program will finish it (Synapse prepares none): {patient.psql(command)}.",
            )


CHECK = Check(
    name="prepared_transactions",
    title="Prepared transactions",
    why="It holds its locks and keeps vacuum from removing anything, across restarts.",
    source="PostgreSQL's manual, PREPARE TRANSACTION",
    examine=_examine,
    limits={"warning": 1, "critical": 24},
    unit="hours",
)
