# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the user directory, which a move leaves empty, is going to be made."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import user_directory


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    state = user_directory.read(patient.cursor)
    if state.is_forgotten:
        yield Finding(
            "warning",
            f"the user directory is empty, {state.users} users should be in it, and nothing is going to add them",
            "Have Synapse make it, and restart Synapse: the playbook matrixops.synapse_postgres.repair_user_directory, or "
            f"{patient.psql(user_directory.queue_statement())}.",
        )


CHECK = Check(
    name="user_directory",
    title="User directory",
    why="The search for users finds nobody, and invitations have to be typed in full.",
    source="synapse/handlers/user_directory.py; synapse/_scripts/synapse_port_db.py",
    examine=_examine,
)
