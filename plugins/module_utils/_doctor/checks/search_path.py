# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse's role finds Synapse's tables where they are."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# What a role finds names in, as the most specific of its defaults says (manual, section 20.1.3).
_PATH = """
SELECT coalesce(substr((SELECT item FROM (SELECT *, unnest(setconfig) AS item FROM pg_db_role_setting) s
        LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
        WHERE item LIKE 'search_path=%%' AND (setrole = 0 OR rolname = %s) AND (setdatabase = 0 OR datname = current_database())
        ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1), length('search_path=') + 1),
    (SELECT boot_val FROM pg_settings WHERE name = 'search_path'))
"""
_REMEDY = "SELECT format('ALTER ROLE %%I IN DATABASE %%I SET search_path = public', %s, current_database())"
_HIDING = """
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN ('events', 'users', 'rooms', 'schema_version') AND c.relkind IN ('r', 'v', 'p') AND n.nspname = ANY (%s)
LIMIT 1
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    path = patient.value(_PATH, patient.role)
    names = [patient.role if name == "$user" else name for name in (part.strip().strip('"') for part in path.split(","))]
    remedy = f"Lead it there: {patient.psql(patient.value(_REMEDY, patient.role))}."
    if "public" not in names:
        yield Finding("critical", f"the role {patient.role!r} looks for its tables in {path}, and they are in public", remedy)
        return
    hiding = patient.value(_HIDING, names[: names.index("public")])
    if hiding:
        yield Finding(
            "critical",
            f"the schema {hiding!r}, in which the role {patient.role!r} looks first, has tables with names of Synapse's",
            remedy,
        )


CHECK = Check(
    name="search_path",
    title="Where Synapse's role looks for its tables",
    why="Synapse finds no tables, takes the database for a new one, and makes them anew beside the ones that are there.",
    source="PostgreSQL's manual, section 5.10.3",
    examine=_examine,
)
