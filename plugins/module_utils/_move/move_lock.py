# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is at work on the target of a move: the lock of moves, other sessions of Synapse's role, a routine that goes on alone."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

try:
    import psycopg2
except ImportError:
    pass

# What the routine's sessions are called in pg_stat_activity, so that one that outlived its parent is recognised.
ROUTINE = "matrixops.synapse_postgres routine"

# One move at a time into a database: the key of an advisory lock, "synapsepg" without its vowels in ASCII.
_LOCK = 0x736E707370
_LOCK_WAIT = 15.0

# So that the server, too, notices a link that fell silent, and ends the session: sooner than a next run waits for it.
NOTICE_SILENCE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 12000"
)


@contextlib.contextmanager
def only_one(cursor: Cursor, dbname: str) -> Iterator[None]:
    """Hold the lock of moves into the connected database ``dbname`` within the block; Refusal when another one keeps it."""
    cursor.execute(NOTICE_SILENCE)
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
        if only_row(cursor)[0]:
            break
        if time.monotonic() > deadline:
            raise Refusal(f"Another move into the database {dbname!r} is under way.", "Wait until it has ended.")
        time.sleep(0.5)
    # An end by an exception closes the connection, which gives the lock back as well.
    yield
    cursor.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def require_unused(cursor: Cursor) -> None:
    """Raise Refusal when the role has another session in the target: Synapse, or a routine that outlived its parent."""
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        cursor.execute(
            "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND pid <> pg_backend_pid()"
            " AND coalesce(backend_type, 'client backend') = 'client backend'"
        )
        sessions = cursor.fetchall()
        if not sessions:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    pid, name = sessions[0]
    if name == ROUTINE:
        raise Refusal(
            f"An earlier run of the port routine is still at work on the target (server process {pid}).", "Wait for it."
        )
    raise Refusal(
        f"Somebody is connected to the target database with Synapse's role (server process {pid}, {name or 'unnamed'}).",
        "If it is Synapse, it lives there already; otherwise end that session.",
    )


def end_routine(cursor: Cursor) -> None:
    """End the sessions of a routine that its parent cannot reach, in a container: then it ends, too."""
    with contextlib.suppress(psycopg2.Error):  # a server that is gone has ended them itself
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND usename = current_user AND datname = current_database()",
            (ROUTINE,),
        )
