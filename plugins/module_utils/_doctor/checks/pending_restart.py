# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether settings wait for the server to be restarted."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    names = [name for (name,) in patient.rows("SELECT name FROM pg_settings WHERE pending_restart ORDER BY 1")]
    if names:
        yield Finding(
            "notice",
            f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} changed, which counts from the server's next start on",
            "Restart the server when Synapse may be down for a moment (on Debian: `systemctl restart postgresql`).",
        )


CHECK = Check(
    name="pending_restart",
    title="Settings that wait for a restart",
    why="The server goes by other settings than its files say; a wrong one shows at the next start, perhaps at night.",
    source="PostgreSQL's manual, view pg_settings",
    examine=_examine,
)
