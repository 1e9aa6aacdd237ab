# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the oldest transaction of the database is from where the server stops taking writes."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# A table is frozen with what it stores out of line.
_OLDEST = """
SELECT c.oid::regclass::text, format('VACUUM (FREEZE) %%I.%%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
WHERE c.relkind IN ('r', 'm') AND greatest(age(c.relfrozenxid), age(t.relfrozenxid)) >= %s
ORDER BY greatest(age(c.relfrozenxid), age(t.relfrozenxid)) DESC LIMIT %s
"""

# With more old tables than so many, the whole database is frozen.
_LISTED = 10


def _examine(patient: Patient) -> Iterator[Finding]:
    age = patient.value("SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()")
    severity = graded(age, patient.limits)
    if severity:
        old = patient.rows(_OLDEST, min(patient.limits.values()), _LISTED + 1)
        commands = [command for _table, command in old] if len(old) <= _LISTED else ["VACUUM (FREEZE)"]
        yield Finding(
            severity,
            f"the oldest rows of the database are {age} transactions old, in {', '.join(table for table, _command in old[:3])}",
            f"Find out what holds autovacuum back (a transaction, a replication slot), then freeze: {patient.psql(*commands)}.",
        )


CHECK = Check(
    name="wraparound",
    title="Age of the oldest rows",
    why="At 2 billion transactions the server takes no more writes, and Synapse stands still.",
    source="PostgreSQL's manual, section 25.1.5",
    examine=_examine,
    limits={"warning": 500000000, "critical": 1500000000},
    unit="transactions",
)
