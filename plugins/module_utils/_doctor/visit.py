# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session to examine the server by, in which nothing can be changed and no question takes long; or why there is none."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server, connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, system_refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port_config

# A check must not queue behind a lock of Synapse's, whose next statements would queue behind it.
_LOCK_TIMEOUT = "2s"

# The options that say as whom, or where, to log in.
_LOG_IN = ("login_args", "login_host", "login_user", "login_unix_socket")


@contextlib.contextmanager
def patient(params: dict[str, Any]) -> Iterator[Patient]:
    """Yield the Patient that the ``params`` of the module synapse_doctor_info lead to, be it without a session."""
    known = {name: params[name] for name in ("role", "config", "processes", "synapse_python")}
    with contextlib.ExitStack() as stack:
        try:
            server: Server | None = stack.enter_context(connected(_as_synapse(params), "synapse_doctor_info"))
            refusal = None
        except Refusal as error:
            server, refusal = None, error
        if server is not None:
            _restrict(server, params["timeout"])
        yield Patient(server, refusal, **known)


def _as_synapse(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``params`` with the log-in of Synapse's configuration, where there is one and they name no other; Refusal."""
    if not params["config"] or any(params[option] for option in _LOG_IN):
        return params
    section = _section(params["config"])
    if not isinstance(section, dict) or section.get("name") != "psycopg2" or not isinstance(section.get("args"), dict):
        raise Refusal(
            f"The configuration in {', '.join(params['config'])} names no PostgreSQL database.",
            "Bring Synapse onto PostgreSQL first (playbook matrixops.synapse_postgres.port), or say where its database is "
            "(login_host and the options beside it).",
            missing=["configuration"],
        )
    return {**params, "login_args": port_config.connection_keywords(section)}


def _section(paths: list[str]) -> Any:
    """Return what is at ``database`` in the configuration of the files and folders ``paths``; Refusal."""
    try:
        return merging.read(paths).config.get("database")
    except (Refusal, OSError) as error:
        told = error if isinstance(error, Refusal) else system_refusal(error)
        raise Refusal(told.found, told.remedy, missing=["configuration"]) from error


def _restrict(server: Server, timeout: int) -> None:
    """Keep the session from writing, from questions of more than ``timeout`` seconds, and find names where Synapse does."""
    server.cursor.execute(
        "SELECT set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', %s, false),"
        " set_config('lock_timeout', %s, false), set_config('search_path', %s, false)",
        (f"{timeout}s", _LOCK_TIMEOUT, _connection.MOVED),
    )
