# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the installed Synapse can work with the version of its tables."""

from __future__ import annotations

import subprocess
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import (
    Check,
    Finding,
    NotApplicable,
    Unseen,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_SECONDS = 60
_ASK = "from synapse.storage.schema import SCHEMA_VERSION as s; print(s)"


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    installed = _installed(patient.synapse_python)
    found = patient.rows("SELECT version, (SELECT max(compat_version) FROM schema_compat_version) FROM schema_version")
    for version, compatible in found:
        if (compatible or version) > installed:
            yield Finding(
                "critical",
                f"the tables are of version {version}, which needs a Synapse of version {compatible or version} or newer, and "
                f"{patient.synapse_python} has {installed}",
                "Install the Synapse that wrote them, or a newer one; there is no way back for the tables but a backup.",
            )
        elif version < installed:
            yield Finding(
                "notice",
                f"the tables are of version {version}, and the installed Synapse's are of version {installed}",
                "Start Synapse, which brings them up to date; take a backup before.",
            )


def _installed(python: str) -> int:
    """Return the version of the tables that the Synapse of the interpreter ``python`` makes; NotApplicable, Unseen."""
    if not python:
        raise NotApplicable("no interpreter on this host runs Synapse")
    try:
        done = subprocess.run([python, "-c", _ASK], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS)
        return int(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unseen(f"{python} had not answered within {_SECONDS} seconds") from error
    except ValueError as error:
        raise Unseen(f"{python} does not say which Synapse it has") from error


CHECK = Check(
    name="schema_version",
    title="Version of Synapse's tables",
    why="Synapse refuses tables that a newer release has changed beyond what it knows.",
    source="synapse/storage/prepare_database.py",
    examine=_examine,
)
