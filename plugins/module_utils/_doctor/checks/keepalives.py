# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse notices that a connection across the network has died."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    host = patient.remote_host
    missing = [f"keepalives_{name}" for name in ("idle", "interval", "count") if f"keepalives_{name}" not in patient.section_args]
    if missing:
        yield Finding(
            "notice",
            f"Synapse connects to {host} across a network, and {patient.section_path} lacks {', '.join(missing)}",
            "Add keepalives_idle: 10, keepalives_interval: 10 and keepalives_count: 3 under args (in the roles: "
            "synapse_postgres_keepalives), and restart Synapse.",
        )


CHECK = Check(
    name="keepalives",
    title="Keep-alives across a network",
    why="A connection that a firewall dropped is noticed after two hours only, and requests hang meanwhile.",
    source="Synapse's documentation, Using Postgres; PostgreSQL's manual, section 34.1.2",
    examine=_examine,
)
