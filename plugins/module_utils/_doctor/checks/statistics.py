# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the planner knows anything of Synapse's tables."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# A table's size is what it has on disk: nothing else is known of one that nobody has looked at.
_UNKNOWN = """
SELECT count(*), (array_agg(c.oid::regclass::text ORDER BY pg_relation_size(c.oid) DESC))[1:3]
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(c.oid) > 65536
    AND reltuples <> 0
    AND NOT EXISTS (SELECT 1 FROM pg_statistic s WHERE s.starelid = c.oid)
"""
_UNKNOWN_TO_ALL = """
SELECT count(*), (array_agg(c.oid::regclass::text ORDER BY pg_relation_size(c.oid) DESC))[1:3]
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    AND pg_relation_size(c.oid) > 65536 AND reltuples < 0
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    may = patient.value("SELECT has_table_privilege('pg_catalog.pg_statistic', 'SELECT')")
    [(count, largest)] = patient.rows(_UNKNOWN if may else _UNKNOWN_TO_ALL)
    severity = graded(count, patient.limits)
    if severity:
        yield Finding(
            severity,
            f"{count} tables with rows were never analyzed, {', '.join(largest)} among them",
            f"Have them analyzed, which Synapse need not stop for: {patient.psql('ANALYZE')}.",
        )


CHECK = Check(
    name="statistics",
    title="Statistics for the planner",
    why="After a restore, an upgrade or a move the planner knows nothing, and takes minutes for what takes milliseconds.",
    source="PostgreSQL's manual, section 25.1.3",
    examine=_examine,
    limits={"warning": 1},
    unit="tables",
)
