# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse can read its configuration, and which section database counts."""

from __future__ import annotations

import os
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, Unseen
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging


def _examine(patient: Patient) -> Iterator[Finding]:
    missing = [path for path in patient.config if not os.path.exists(path)]
    if missing or not patient.config:
        raise Unseen(f"this host has no {', '.join(missing) or 'configuration of Synapse that was named'}")
    try:
        merged = merging.read(patient.config)
        merging.database(merged)
    except Refusal as refusal:
        yield Finding("critical", refusal.found, refusal.remedy)
        return
    holders = merged.holders.get("database", [])
    if len(holders) > 1:
        yield Finding(
            "notice",
            f"the section database stands in {', '.join(holders)}, and the last one counts",
            f"Take it out of {', '.join(holders[:-1])}.",
        )


CHECK = Check(
    name="configuration",
    title="Synapse's configuration",
    why="Synapse does not start with a file that it cannot read; of two sections the one that is edited may "
    "not be the one that counts.",
    source="Synapse's documentation, Configuration",
    examine=_examine,
)
