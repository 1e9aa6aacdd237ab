# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of Synapse's tables is rows that nobody sees any more."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# Autovacuum begins at 50 rows and a fifth of the table; of a small one a few are soon a large part.
_DEAD = """
SELECT relid::regclass::text, n_dead_tup, round(100.0 * n_dead_tup / (n_live_tup + n_dead_tup))::int,
    format('VACUUM (ANALYZE) %I.%I', schemaname, relname)
FROM pg_stat_user_tables WHERE schemaname = 'public' AND n_dead_tup >= 50000 ORDER BY n_dead_tup DESC LIMIT 10
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    for table, dead, part, command in patient.rows(_DEAD):
        severity = graded(part, patient.limits)
        if severity:
            yield Finding(
                severity,
                f"{dead} rows of {table}, {part} % of it, are dead, and autovacuum has not taken them away",
                "Find out what holds it back (a transaction, a replication slot, autovacuum_vacuum_scale_factor), then vacuum, "
                f"which Synapse need not stop for: {patient.psql(command)}.",
            )


CHECK = Check(
    name="dead_rows",
    title="Dead rows in Synapse's tables",
    why="Every question reads past them, and the table and its indexes grow without end.",
    source="PostgreSQL's manual, section 25.1.2 and view pg_stat_all_tables",
    examine=_examine,
    limits={"warning": 40},
    unit="percent of a table's rows",
)
