# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server lets Synapse write."""

from __future__ import annotations

import itertools
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# Our own session is read-only, so where Synapse's gets it from is asked, and not what ours has: a role's setting in the database
# goes before the role's, that before the database's, that before the one for all (manual, section 20.1.3).
_SET = """
SELECT split_part(item, '=', 2)::boolean, concat_ws(' in ',
        CASE WHEN setrole <> 0 THEN format('the role %%L', rolname) WHEN setdatabase = 0 THEN 'every role' END,
        CASE WHEN setdatabase <> 0 THEN format('the database %%L', datname) END),
    CASE WHEN setrole <> 0 THEN format('ALTER ROLE %%I', rolname) WHEN setdatabase = 0 THEN 'ALTER ROLE ALL'
        ELSE format('ALTER DATABASE %%I', datname) END
    || CASE WHEN setrole <> 0 AND setdatabase <> 0 THEN format(' IN DATABASE %%I', datname) ELSE '' END
    || ' RESET default_transaction_read_only'
FROM (SELECT *, unnest(setconfig) AS item FROM pg_db_role_setting) s
    LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE item LIKE 'default_transaction_read_only=%%'
    AND (setrole = 0 OR rolname = %s) AND (setdatabase = 0 OR datname = current_database())
ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC
"""
_SERVERS = "SELECT reset_val::boolean FROM pg_settings WHERE name = 'default_transaction_read_only'"
# A session that comes to lift it would be read-only by it as well.
_WRITE = "SET default_transaction_read_only = off"


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.value("SELECT pg_is_in_recovery()"):
        yield Finding(
            "critical",
            "the server is a standby",
            "Lead Synapse to the primary (host in its section database), or promote this one where the primary is gone: "
            f"{patient.psql('SELECT pg_promote()')}.",
        )
    found = patient.rows(_SET, patient.role)
    for _on, carrier, command in itertools.takewhile(lambda row: row[0], found):
        yield Finding(
            "critical", f"{carrier} carries default_transaction_read_only", f"Take it away: {patient.psql(_WRITE, command)}."
        )
    if not found and not patient.rows(_SET, patient.connected_role) and patient.value(_SERVERS):
        commands = ("ALTER SYSTEM SET default_transaction_read_only = off", "SELECT pg_reload_conf()")
        yield Finding(
            "critical", "the server sets default_transaction_read_only for all", f"Set it back: {patient.psql(*commands)}."
        )


CHECK = Check(
    name="read_only",
    title="Whether Synapse may write",
    why="Synapse starts, and fails with every message.",
    source="PostgreSQL's manual, section 20.11.1; element-hq/synapse issue 16490",
    examine=_examine,
)
