# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse's connections across a network are encrypted, and to whom."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    host, mode = patient.remote_host, str(patient.section_args.get("sslmode") or "prefer")
    remedy = (
        "Have the server's certificate verified (in the roles: synapse_postgres_sslmode: verify-full, which makes a certificate, "
        "too)."
    )
    if mode in ("disable", "allow", "prefer"):
        yield Finding("warning", f"Synapse's connections to {host} need not be encrypted (sslmode {mode})", remedy)
    elif mode == "require":
        yield Finding("notice", f"Synapse takes any certificate that {host} shows (sslmode require)", remedy)


CHECK = Check(
    name="encryption",
    title="Encryption across a network",
    why="Who is in between reads the messages that are not encrypted end to end, and with a certificate that "
    "is not verified stands in for the server.",
    source="PostgreSQL's manual, section 34.19.1",
    examine=_examine,
)
