# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server looks after Synapse's tables by itself."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_SWITCHED_OFF = """
SELECT c.oid::regclass::text, format('ALTER TABLE %%I.%%I RESET (autovacuum_enabled)', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r' AND 'autovacuum_enabled=false' = ANY(
    SELECT replace(lower(o), '=off', '=false') FROM unnest(c.reloptions) AS o) ORDER BY 1
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    for name in ("autovacuum", "track_counts"):
        if patient.setting(name) == "off":
            commands = patient.psql(f"ALTER SYSTEM SET {name} = on", "SELECT pg_reload_conf()")
            yield Finding("warning", f"{name} is off for the whole server", f"Switch it on: {commands}.")
    for table, command in patient.rows(_SWITCHED_OFF, "public"):
        yield Finding("warning", f"autovacuum is off for the table {table}", f"Switch it on: {patient.psql(command)}.")


CHECK = Check(
    name="autovacuum",
    title="Autovacuum",
    why="Dead rows are never removed, tables grow, and the planner goes by what was true long ago.",
    source="PostgreSQL's manual, section 25.1",
    examine=_examine,
)
