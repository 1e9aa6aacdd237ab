# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether Synapse's Python has the client library for PostgreSQL."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import (
    Check,
    Finding,
    NotApplicable,
    Unseen,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

_SECONDS = 30


def _examine(patient: Patient) -> Iterator[Finding]:
    python = patient.synapse_python
    if not python:
        raise NotApplicable("no interpreter on this host runs Synapse")
    if not os.path.exists(python):
        raise Unseen(f"this host has no {python}")
    try:
        done = subprocess.run(
            [python, "-c", "import psycopg2"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Unseen(f"{python} had not answered within {_SECONDS} seconds") from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = words[-1] if words else "it said nothing"
        yield Finding("critical", f"{python} cannot import psycopg2: {said}", f"Install it: `{_command(python)}`.")


def _command(python: str) -> str:
    """Return the command that gives ``python`` psycopg2, as the role synapse_config does (its tasks/client_library.yml)."""
    if python.startswith("/opt/venvs/"):  # the matrix.org packages bring psycopg2 and lack libpq alone
        return "apt-get install libpq5"
    if python.startswith("/usr/bin/"):
        return "apt-get install python3-psycopg2"
    return f"{shlex.quote(python)} -m pip install 'matrix-synapse[postgres]'"


CHECK = Check(
    name="client_library",
    title="Client library",
    why="Without it Synapse does not start on PostgreSQL.",
    source="Synapse's documentation, Using Postgres, Set up client",
    examine=_examine,
)
