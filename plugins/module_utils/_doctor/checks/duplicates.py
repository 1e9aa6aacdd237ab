# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether rows are equal that a unique index keeps apart."""

from __future__ import annotations

import math
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import unique_indexes
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# How large a table may be to be read whole; in another locale than C all are, as far as the time for one question lasts.
_LARGEST = 64 << 20

_SORTED_BY_BYTES = "SELECT datcollate IN ('C', 'POSIX') FROM pg_database WHERE datname = current_database()"


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    largest = _LARGEST if patient.value(_SORTED_BY_BYTES) else math.inf
    indexes = [index for index in unique_indexes.present(patient.cursor, "public") if index.size <= largest]
    with unique_indexes.scans_off(patient.cursor):
        for index in indexes:
            count = patient.value(f"SELECT count(*) FROM ({index.listing}) AS duplicates")
            if count:
                shown = patient.psql(*(f"SET {name} = off" for name in unique_indexes.WITHOUT_INDEXES), index.listing)
                yield Finding(
                    "critical",
                    f"{count} values of {index.key} stand in several rows of {index.table}, which its unique index {index.name} "
                    "should forbid",
                    "With Synapse stopped and a backup taken, list them, keep one of each, and REINDEX TABLE "
                    f"{index.table}: {shown}.",
                )


CHECK = Check(
    name="duplicates",
    title="Duplicates under unique indexes",
    why="Synapse counts on there being one: users are joined twice or not at all, and a dump cannot be restored.",
    source="Synapse's documentation, Using Postgres, Fixing incorrect COLLATE or CTYPE; element-hq/synapse issue 6696",
    examine=_examine,
)
