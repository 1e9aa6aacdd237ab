# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server has read pages whose checksum is wrong."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, NotApplicable
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_FAILURES = """
SELECT coalesce(datname, 'the server as a whole'), checksum_failures, checksum_last_failure::timestamptz(0)::text
FROM pg_stat_database WHERE checksum_failures > 0 AND (datname IS NULL OR datname = current_database())
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.setting("data_checksums") != "on":
        raise NotApplicable("the cluster has no checksums (pg_checksums --enable gives it some while it is stopped)")
    for place, count, last in patient.rows(_FAILURES):
        yield Finding(
            "critical",
            f"the server has read {count} damaged pages of {place}, the last at {last}",
            "Stop Synapse, copy the data directory as it is, and restore the last good backup on another disk; the server's log "
            "names the files. Do not let the server pass over them (zero_damaged_pages).",
        )


CHECK = Check(
    name="checksum_failures",
    title="Damaged pages",
    why="The disk or the memory gives back something else than was written: rows are lost, and more will be.",
    source="PostgreSQL's manual, section 28.2 and view pg_stat_database",
    examine=_examine,
)
