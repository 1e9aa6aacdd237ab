# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse is told to accept a locale that its database does not have."""

from __future__ import annotations

import shlex
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding, NotApplicable
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    if patient.section.get("allow_unsafe_locale") is not True:
        return
    if database.current(patient.cursor).unfit_for_synapse():
        raise NotApplicable("the database has another locale than C, which is reported by itself")
    yield Finding(
        "notice",
        f"{patient.section_path} has allow_unsafe_locale on, and the database has the locale C",
        f"Take the line out of the section: `sed -i '/^ *allow_unsafe_locale: *true *$/d' {shlex.quote(patient.section_path)}`.",
    )


CHECK = Check(
    name="unsafe_locale_allowed",
    title="A switch that is no longer needed",
    why="With it Synapse would start on a database of a wrong locale, as one that was restored carelessly, without a word.",
    source="synapse/storage/engines/postgres.py, check_database",
    examine=_examine,
)
