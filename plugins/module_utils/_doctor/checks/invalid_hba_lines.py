# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server could read all lines of pg_hba.conf."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_file_rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    for row in hba_file_rules.rows(patient.cursor):
        if row.is_rejected:
            yield Finding(
                "critical",
                f"the server rejects line {row.line} of {row.file}: {row.error}",
                f"Correct that line, then load the files: {patient.psql('SELECT pg_reload_conf()')}.",
            )


CHECK = Check(
    name="invalid_hba_lines",
    title="Lines of pg_hba.conf that the server rejects",
    why="No change of the file counts until it is mended, and after its next start the server lets nobody in.",
    source="PostgreSQL's manual, view pg_hba_file_rules",
    examine=_examine,
)
