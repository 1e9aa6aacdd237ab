# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a constraint was added to Synapse's tables and never checked for the rows that were there."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# Synapse adds some so itself, and validates them by a background update; this one it never validates:
# synapse/storage/schema/main/delta/74/03_membership_tables_event_stream_ordering.sql.postgres.
_OPEN = """
SELECT conname, conrelid::regclass::text, format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND NOT convalidated AND conrelid <> 0
    AND conname <> 'event_stream_ordering_fkey'
    AND NOT EXISTS (SELECT FROM background_updates) ORDER BY 2, 1
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    for name, table, command in patient.rows(_OPEN):
        yield Finding(
            "warning",
            f"the constraint {name} of {table} was never checked for the rows that were there before it",
            f"Have it checked, which Synapse need not stop for: {patient.psql(command)}.",
        )


CHECK = Check(
    name="unvalidated_constraints",
    title="Constraints that are not validated",
    why="Rows may offend them, which Synapse's next upgrade, and a restored dump, then stumble over.",
    source="PostgreSQL's manual, ALTER TABLE, VALIDATE CONSTRAINT",
    examine=_examine,
)
