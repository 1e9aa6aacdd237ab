# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server lets us in at all."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, Unseen
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.no_session is not None:
        if "missing" in patient.no_session.facts:  # the client library or the configuration: other checks'
            raise Unseen(patient.no_session.found)
        yield Finding("critical", patient.no_session.found, patient.no_session.remedy)


CHECK = Check(
    name="connection",
    title="Connection to the server",
    why="Without it Synapse neither starts nor serves, and nothing else of the server can be seen.",
    source="Synapse's documentation, Using Postgres; PostgreSQL's manual, section 34.1",
    examine=_examine,
    everywhere=True,
)
