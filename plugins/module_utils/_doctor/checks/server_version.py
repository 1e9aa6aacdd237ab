# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server's release is one that is still mended, and at its newest minor release."""

from __future__ import annotations

import datetime
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, graded
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# The day of a major release's last minor release: https://www.postgresql.org/support/versioning/, read in November 2026. One that
# is not here is newer than this list.
END_OF_LIFE = {
    13: datetime.date(2025, 11, 13),
    14: datetime.date(2026, 11, 12),
    15: datetime.date(2027, 11, 11),
    16: datetime.date(2028, 11, 9),
    17: datetime.date(2029, 11, 8),
    18: datetime.date(2030, 11, 14),
}


def _examine(patient: Patient) -> Iterator[Finding]:
    major = patient.version // 10000
    end = END_OF_LIFE.get(major)
    left = (end - datetime.date.today()).days if end else None
    severity = None if left is None else graded(left, patient.limits, falling=True)
    if severity:
        when = f"ended on {end}" if left is not None and left < 0 else f"ends on {end}"
        yield Finding(
            severity,
            f"the server is PostgreSQL {major}, whose support {when}",
            "Upgrade the server to a newer major release, with Synapse stopped and a backup taken (on Debian: see "
            f"`pg_upgradecluster --help`, then `pg_upgradecluster {major} main`).",
        )


CHECK = Check(
    name="server_version",
    title="Support of the server's release",
    why="A release without support gets no mends for bugs and holes, and Synapse drops it soon after.",
    source="https://www.postgresql.org/support/versioning/; Synapse's documentation, Deprecation Policy",
    examine=_examine,
    limits={"warning": 0, "notice": 90},
    unit="days until the end of support",
)
