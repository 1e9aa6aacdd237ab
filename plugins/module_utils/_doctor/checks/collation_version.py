# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the locale that the indexes were made with is still the one that the system has."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, NotApplicable
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# Only a locale that sorts by the system's rules has a version; the columns came with PostgreSQL 15.
_DATABASE = """
SELECT datcollversion, pg_database_collation_actual_version(oid),
    format('REINDEX DATABASE %I', datname), format('ALTER DATABASE %I REFRESH COLLATION VERSION', datname)
FROM pg_database WHERE datname = current_database()
    AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) AND datcollversion IS NOT NULL
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.version < 150000:
        raise NotApplicable("the server records no version of a database's collation before PostgreSQL 15")
    for recorded, actual, reindex, refresh in patient.rows(_DATABASE):
        yield Finding(
            "warning",
            f"the database's indexes were made with version {recorded} of its collation, and the system has {actual or 'none'}",
            "With Synapse stopped, look for duplicates, then make the indexes anew and record the version: "
            f"{patient.psql(reindex, refresh)}.",
        )


CHECK = Check(
    name="collation_version",
    title="Version of the collation",
    why="An index in the order of an older collation misses rows, and a unique one lets duplicates in.",
    source="PostgreSQL's manual, ALTER COLLATION and section 24.2.2",
    examine=_examine,
)
