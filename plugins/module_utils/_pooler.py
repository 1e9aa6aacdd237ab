# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a pooler in between hands a session on as it was left, with all that was SET in it.

PgBouncer does so with pool_mode transaction or statement, after each transaction, and with an empty server_reset_query. What
is set there for our work would meet Synapse's: by a search_path of ours it finds none of its tables.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Connection

try:
    import psycopg2
except ImportError:
    pass

# A parameter of ours, which changes nothing wherever it stays.
_MARK = "synapse_postgres.mark"

# How many connections are made to meet a session for the second time. Most poolers give back the one that was used last.
_TRIES = 10


def keeps_session_state(connection: Connection, libpq: dict[str, Any]) -> bool:
    """Tell whether what a session of ``libpq``'s keywords sets would stay for the next one, whose ever that is.

    ``connection`` is such a one, and commits every statement. A server tells each session's process in the protocol (manual,
    section 55.2.1); a pooler, which gives one connection many of these, tells a number of its own there. Where no session is met
    again that question has no answer, and the answer is yes.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        [(process,)] = cursor.fetchall()
        if process == connection.info.backend_pid:
            return False
    token = secrets.token_hex()
    marked: set[int] = set()
    for _try in range(_TRIES):
        with contextlib.closing(psycopg2.connect(**libpq)) as other:
            other.autocommit = True
            with other.cursor() as cursor:
                # One question, as the next may meet another session.
                cursor.execute(
                    "SELECT pg_catalog.current_setting(%(mark)s, true), pg_catalog.pg_backend_pid(),"
                    " pg_catalog.set_config(%(mark)s, %(token)s, false)",
                    {"mark": _MARK, "token": token},
                )
                [(found, process, _token)] = cursor.fetchall()
        if found == token:
            return True
        if process in marked:
            return False
        marked.add(process)
    return True
