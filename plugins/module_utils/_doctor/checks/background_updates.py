# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse has work of its own left to do in the background."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    names = [name for (name,) in patient.rows("SELECT update_name FROM background_updates ORDER BY ordering, update_name")]
    if names:
        yield Finding(
            "notice",
            f"{len(names)} background updates are pending: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
            "Let Synapse run until they are done; never delete their rows. Where one does not get on, Synapse's log says why.",
        )


CHECK = Check(
    name="background_updates",
    title="Pending background updates",
    why="Until they are done, Synapse works with old indexes and columns, and its next release may refuse the database.",
    source="synapse/storage/background_updates.py",
    examine=_examine,
)
