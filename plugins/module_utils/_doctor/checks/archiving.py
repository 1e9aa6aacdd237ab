# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the archiving of the write-ahead log fails."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, NotApplicable
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_FAILED = """
SELECT failed_count, last_failed_wal, extract(epoch FROM now() - last_failed_time)::float8 FROM pg_stat_archiver
WHERE last_failed_time > coalesce(last_archived_time, '-infinity')
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.setting("archive_mode") == "off":
        raise NotApplicable("archive_mode is off")
    for count, segment, seconds in patient.rows(_FAILED):
        yield Finding(
            "critical",
            f"archiving {segment} failed {seconds:.0f} seconds ago, for the {count}th time, and nothing was archived since",
            "Read in the server's log what archive_command or archive_library said, and mend that; it is tried again by itself.",
        )


CHECK = Check(
    name="archiving",
    title="Archiving of the write-ahead log",
    why="There is no way back to a moment after the last archived one, and the log fills the disk.",
    source="PostgreSQL's manual, view pg_stat_archiver",
    examine=_examine,
)
