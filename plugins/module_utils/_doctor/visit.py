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
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# A check must not queue behind a lock of Synapse's, whose next statements would queue behind it.
_LOCK_TIMEOUT = "2s"


@contextlib.contextmanager
def patient(params: dict[str, Any]) -> Iterator[Patient]:
    """Yield the Patient that the ``params`` of the module synapse_doctor_info lead to, be it without a session.

    Raises Refusal where the Python that runs this has no psycopg2: then nothing was tried.
    """
    _connection.require_psycopg2()
    known = {name: params[name] for name in ("role", "config", "processes", "synapse_python")}
    with contextlib.ExitStack() as stack:
        try:
            server: Server | None = stack.enter_context(connected(params, "synapse_doctor_info"))
            refusal = None
        except Refusal as error:
            server, refusal = None, error
        if server is not None:
            _restrict(server, params["timeout"])
        yield Patient(server, refusal, **known)


def _restrict(server: Server, timeout: int) -> None:
    """Keep the session from writing, from questions of more than ``timeout`` seconds, and find names where Synapse does."""
    server.cursor.execute(
        "SELECT set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', %s, false),"
        " set_config('lock_timeout', %s, false), set_config('search_path', %s, false)",
        (f"{timeout}s", _LOCK_TIMEOUT, _connection.MOVED),
    )
