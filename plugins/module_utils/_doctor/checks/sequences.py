# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether every sequence of Synapse's is at or past its table and its stream."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import sequences


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    for name, moved in sequences.mend(patient.cursor, check_mode=True).sequences.items():
        ahead = "stream_positions" in moved.because
        # Never back, whoever has drawn from it meanwhile.
        command = f"SELECT setval('public.{name}', greatest({moved.after}, last_value)) FROM public.{name}"
        yield Finding(
            "critical" if ahead else "warning",
            f"the sequence {name} is at {moved.before}, and {moved.because}",
            f"With Synapse and its workers stopped, move it forward to {moved.after}: {patient.psql(command)} (or all, by the "
            "playbook matrixops.synapse_postgres.repair_sequences).",
        )


CHECK = Check(
    name="sequences",
    title="Sequences against tables and streams",
    why="Synapse refuses to start where a stream is ahead of its sequence; a sequence behind its table gives a number out twice.",
    source="synapse/storage/util/sequence.py; element-hq/synapse issues 19467 and 18544",
    examine=_examine,
)
