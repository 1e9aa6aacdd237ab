# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the database has the encoding and the locale that Synapse insists on, and its indexes the order that it says."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import (
    Check,
    Finding,
    NotApplicable,
    Unseen,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient


def _examine(patient: Patient) -> Iterator[Finding]:
    problems, warnings = database.locale_problems(patient.cursor, _is_allowed(patient))
    for severity, words in (("critical", problems), ("warning", warnings)):
        if words:
            yield Finding(severity, "; ".join(words), database.how_to_recreate(patient.cursor, patient.database))


def _is_allowed(patient: Patient) -> bool:
    """Tell whether Synapse is told to accept another locale, as far as its configuration can be seen."""
    try:
        return patient.section.get("allow_unsafe_locale") is True
    except (NotApplicable, Unseen):
        return False


CHECK = Check(
    name="locale",
    title="Encoding and locale",
    why="In another encoding Synapse cannot store all text; with another locale it refuses the database, and "
    "an upgrade of the system may change the order of its indexes, which then let duplicates in.",
    source="Synapse's documentation, Using Postgres; synapse/storage/engines/postgres.py",
    examine=_examine,
)
