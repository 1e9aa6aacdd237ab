# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the oldest transaction of the database is from where the server stops taking writes."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_OLDEST = """
SELECT c.oid::regclass::text, age(relfrozenxid), format('VACUUM (FREEZE) %%I.%%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 't') AND age(relfrozenxid) >= %s ORDER BY 2 DESC LIMIT 20
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    age = patient.value("SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()")
    severity = graded(age, patient.limits)
    if severity:
        old = [(table, command) for table, _age, command in patient.rows(_OLDEST, min(patient.limits.values()))]
        commands = patient.psql(*([command for _table, command in old] or ["VACUUM (FREEZE)"]))
        yield Finding(
            severity,
            f"the oldest rows of the database are {age} transactions old"
            f"{', in ' if old else ''}{', '.join(table for table, _command in old[:3])}",
            f"Find out what holds autovacuum back (an old transaction, a slot of replication), then freeze them: {commands}.",
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
