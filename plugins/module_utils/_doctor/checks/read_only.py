# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server lets Synapse write."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# Our own session is read-only, so where a session gets it from is asked, and not what ours has.
_SET = """
SELECT coalesce(rolname, ''), coalesce(datname, ''),
    CASE WHEN s.setrole = 0 THEN format('ALTER DATABASE %%I RESET default_transaction_read_only', datname)
    WHEN s.setdatabase = 0 THEN format('ALTER ROLE %%I RESET default_transaction_read_only', rolname)
    ELSE format('ALTER ROLE %%I IN DATABASE %%I RESET default_transaction_read_only', rolname, datname) END
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE coalesce(rolname, %s) = %s AND coalesce(datname, current_database()) = current_database()
    AND EXISTS (SELECT 1 FROM unnest(setconfig) c WHERE lower(c) IN (
        'default_transaction_read_only=on', 'default_transaction_read_only=true', 'default_transaction_read_only=1',
        'default_transaction_read_only=yes'))
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.value("SELECT pg_is_in_recovery()"):
        yield Finding(
            "critical",
            "the server is a standby",
            "Lead Synapse to the primary (host in its section database), or promote this one where the primary is gone: "
            f"{patient.psql('SELECT pg_promote()')}.",
        )
    for role, name, command in patient.rows(_SET, patient.role, patient.role):
        place = " and ".join(filter(None, [role and f"the role {role!r}", name and f"the database {name!r}"]))
        yield Finding("critical", f"{place} carries default_transaction_read_only", f"Take it away: {patient.psql(command)}.")


CHECK = Check(
    name="read_only",
    title="Whether Synapse may write",
    why="Synapse starts, and fails with every message.",
    source="PostgreSQL's manual, section 20.11.1; element-hq/synapse issue 16490",
    examine=_examine,
)
