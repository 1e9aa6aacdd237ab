# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse's role may log in, now and in the near future."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_ROLE = """
SELECT rolcanlogin, (extract(epoch FROM nullif(rolvaliduntil, 'infinity') - now()) / 86400)::float8, rolvaliduntil::text,
    format('ALTER ROLE %%I LOGIN', rolname), format('ALTER ROLE %%I VALID UNTIL %%L', rolname, 'infinity')
FROM pg_roles WHERE rolname = %s
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    for may, days, until, login, lasting in patient.rows(_ROLE, patient.role):
        if not may:
            yield Finding(
                "critical", f"the role {patient.role!r} may not log in", f"Let it: {patient.psql(login, within='postgres')}."
            )
        severity = None if days is None else graded(days, patient.limits, falling=True)
        if severity:
            yield Finding(
                severity,
                f"the password of the role {patient.role!r} is valid until {until}",
                f"Let it be valid for ever, or give another one: {patient.psql(lasting, within='postgres')}.",
            )


CHECK = Check(
    name="password",
    title="Log-in and password of Synapse's role",
    why="Sessions that are open go on, and from Synapse's next one on it is refused like a wrong password.",
    source="PostgreSQL's manual, CREATE ROLE",
    examine=_examine,
    limits={"critical": 0, "warning": 14},
    unit="days that the password is valid",
)
