# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse's role owns what Synapse alters."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_OWNER = """
SELECT rolname, format('ALTER DATABASE %%I OWNER TO %%I', datname, %s) FROM pg_database JOIN pg_roles r ON r.oid = datdba
WHERE datname = current_database() AND rolname <> %s
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    for owner, command in patient.rows(_OWNER, patient.role, patient.role):
        yield Finding(
            "warning",
            f"the database belongs to the role {owner!r}, and Synapse's is {patient.role!r}",
            f"Hand it over as the server's administrator: {patient.psql(command, within='postgres')}.",
        )
    for problem in ownership.problems(patient.cursor, patient.role, every=False):
        yield Finding("critical", problem.found, problem.remedy)


CHECK = Check(
    name="ownership",
    title="Owner of the database and of its tables",
    why="An upgrade of Synapse alters its tables, which only their owner may; it fails half-way.",
    source="PostgreSQL's manual, ALTER TABLE; Synapse's documentation, Upgrading",
    examine=_examine,
)
