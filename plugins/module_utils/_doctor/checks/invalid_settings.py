# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the server could read all lines of its settings' files."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_INVALID = """
SELECT sourcefile, sourceline, name, error FROM pg_file_settings
WHERE error IS NOT NULL AND NOT coalesce((SELECT pending_restart FROM pg_settings s WHERE s.name = pg_file_settings.name), false)
ORDER BY seqno
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    for path, line, name, error in patient.rows(_INVALID):
        yield Finding(
            "warning",
            f"the server rejects line {line} of {path}{f' ({name})' if name else ''}: {error}",
            f"Correct that line, then load the files: {patient.psql('SELECT pg_reload_conf()')}.",
        )


CHECK = Check(
    name="invalid_settings",
    title="Lines of the settings that the server rejects",
    why="With one such line no file is loaded any more, and the server does not start again.",
    source="PostgreSQL's manual, view pg_file_settings",
    examine=_examine,
)
