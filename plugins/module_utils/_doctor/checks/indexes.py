# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether every index of Synapse's is valid."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import invalid_indexes
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    for index, table, command in patient.rows(invalid_indexes.INVALID, "public"):
        yield Finding(
            "warning",
            f"the index {index} of the table {table} is invalid, and nobody is making it",
            f"Make it anew, which takes no lock that Synapse waits for: {patient.psql(command)}.",
        )


CHECK = Check(
    name="indexes",
    title="Invalid indexes",
    why="An index whose making failed costs every write and serves no question; a unique one forbids nothing.",
    source="PostgreSQL's manual, CREATE INDEX, Building Indexes Concurrently",
    examine=_examine,
)
