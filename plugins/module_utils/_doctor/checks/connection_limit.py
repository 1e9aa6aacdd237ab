# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether all connections that Synapse may open are allowed."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_LIMITS = """
SELECT 'max_connections, but for the reserved ones,' AS what, current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int - coalesce(current_setting('reserved_connections', true), '0')::int,
    format('ALTER SYSTEM SET max_connections = %%s', %s + 20)
UNION ALL SELECT format('the limit of the role %%L', rolname), rolconnlimit, format('ALTER ROLE %%I CONNECTION LIMIT -1', rolname)
    FROM pg_roles WHERE rolname = %s AND rolconnlimit >= 0
UNION ALL SELECT format('the limit of the database %%L', datname), datconnlimit,
    format('ALTER DATABASE %%I CONNECTION LIMIT -1', datname)
    FROM pg_database WHERE datname = current_database() AND datconnlimit >= 0
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    pool = int(patient.section_args.get("cp_max", 5))
    wanted = pool * patient.processes
    for what, limit, command in patient.rows(_LIMITS, wanted, patient.role):
        if limit < wanted:
            yield Finding(
                "critical" if limit < pool else "warning",
                f"{what} is {limit}, and Synapse may open {wanted} connections (cp_max {pool}, {patient.processes} processes)",
                f"Raise it, or lower cp_max: {patient.psql(command, within='postgres')}"
                f"{', which counts from the next start of the server on' if 'SYSTEM' in command else ''}.",
            )


CHECK = Check(
    name="connection_limit",
    title="Connections against Synapse's pools",
    why="Under load Synapse's requests fail with 'too many connections', and nobody else gets in either.",
    source="Synapse's documentation, database, cp_max; PostgreSQL's manual, section 20.3.1",
    examine=_examine,
)
