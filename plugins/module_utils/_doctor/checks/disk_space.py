# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server's file systems have room."""

from __future__ import annotations

import os
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database_facts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, Unseen, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    found = database_facts.space(patient.cursor)
    if found is None:
        raise Unseen("where the server's files are is not known here: it takes the server's own host, and a superuser")
    # The file system of the log may be the tables'.
    for path in dict.fromkeys([found["data"]["path"], *([] if found["same_file_system"] else [found["wal"]["path"]])]):
        status = os.statvfs(path)
        share = 100 * status.f_bavail / max(status.f_blocks, 1)
        severity = graded(share, patient.limits, falling=True)
        if severity:
            yield Finding(
                severity,
                f"the file system of {path} has {share:.0f} % left, {status.f_bavail * status.f_frsize >> 20} MB",
                "Make room there, or give it a larger disk. What takes the room inside the database: "
                + patient.psql(
                    "SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' "
                    "ORDER BY pg_total_relation_size(oid) DESC LIMIT 10"
                )
                + ".",
            )


CHECK = Check(
    name="disk_space",
    title="Free room",
    why="A server whose log has no room stops at once, and Synapse with it.",
    source="PostgreSQL's manual, section 27.6",
    examine=_examine,
    limits={"warning": 5, "critical": 2},
    unit="percent of the file system that are free",
)
