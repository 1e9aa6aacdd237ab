# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether what the server has confirmed outlives a crash."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_SEVERITIES = {"fsync": "critical", "full_page_writes": "critical"}


def _examine(patient: Patient) -> Iterator[Finding]:
    for name, severity in _SEVERITIES.items():
        if patient.setting(name) == "off":
            commands = patient.psql(f"ALTER SYSTEM SET {name} = on", "SELECT pg_reload_conf()")
            yield Finding(severity, f"{name} is off", f"Switch it on: {commands}.")


CHECK = Check(
    name="durability",
    title="Durability",
    why="After a crash of the system the database may be beyond repair.",
    source="PostgreSQL's manual, section 20.5.1",
    examine=_examine,
)
