# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether every index of Synapse's is valid."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_INVALID = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text,
    CASE WHEN c.relname ~ '_ccnew[0-9]*$' THEN format('DROP INDEX CONCURRENTLY %%I.%%I', n.nspname, c.relname)
    ELSE format('REINDEX INDEX CONCURRENTLY %%I.%%I', n.nspname, c.relname) END
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND NOT (i.indisvalid AND i.indisready)
    AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
ORDER BY 1
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    for index, table, command in patient.rows(_INVALID, "public"):
        yield Finding(
            "warning",
            f"the index {index} of the table {table} is invalid, and nobody is making it",
            f"Make it anew, which takes no lock that Synapse waits for: {patient.psql(command)}.",
        )


CHECK = Check(
    name="indexes",
    title="Invalid indexes",
    why="An index whose making failed costs every write and serves no question; a unique one forbids nothing.",
    source="PostgreSQL's manual, CREATE INDEX, Building Indexes Concurrently",
    examine=_examine,
)
