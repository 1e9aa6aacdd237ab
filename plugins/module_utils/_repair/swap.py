# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases that change their names together, at a moment when nobody can be at work in them.

ALTER DATABASE … RENAME takes a lock by which nobody can connect any more, then waits five seconds for those who are connected
(RenameDatabase() in src/backend/commands/dbcommands.c, CountOtherDBBackends() in storage/ipc/procarray.c). So a session of ours
goes on keeping writers off the tables until the lock is there and nobody else is, and is closed only then: no row can be
written to what becomes the old database. All names change in one transaction, or none.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Callable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair import blockers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Connection, Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier, listed

try:
    import psycopg2
except ImportError:
    psycopg2 = None  # type: ignore[assignment]

_LOCKED = """
SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND locktype = 'object' AND classid = 'pg_catalog.pg_database'::regclass
    AND mode = 'AccessExclusiveLock' AND granted)
"""

# How long the lock may take; who holds it off is at work on the database as a whole, as a backup is.
_PATIENCE = 30.0


@dataclasses.dataclass(frozen=True)
class Guard:
    """Our session in a database, by which nobody writes there, and what ends it."""

    connection: Connection
    end: Callable[[], None]


def rename(server: Server, renames: list[tuple[str, str]], more: list[str], guard: Guard | None = None) -> None:
    """Give databases their names anew, (old, new) in ``renames``, and run the statements ``more`` in the same transaction.

    ``guard`` is of the first of them; Refusal where somebody else is there, with all names as they were.
    """
    statements = [f"ALTER DATABASE {identifier(old)} RENAME TO {identifier(new)}" for old, new in renames] + more
    with _connection.connected({**server.libpq, "dbname": "postgres"}, False, server.module) as connection:
        mover = _Mover(connection, statements)
        mover.start()
        try:
            _wait_for_lock(server.cursor, connection, mover)
            if mover.is_alive():
                ours = [guard.connection.info.backend_pid] if guard else []
                blockers.require_unused(server.cursor, renames[0][0], ours)
        except BaseException:
            connection.cancel()
            mover.join()
            raise
        if guard:
            guard.end()
        mover.join()
        if mover.error is not None:
            connection.rollback()
            raise _refusal(server.cursor, mover.error, [old for old, _new in renames])


class _Mover(threading.Thread):
    """Runs ``statements`` and ends with the transaction committed, or with an ``error``."""

    def __init__(self, connection: Connection, statements: list[str]) -> None:
        super().__init__(daemon=True)
        self._session, self._statements = connection, statements
        self.error: psycopg2.Error | None = None

    def run(self) -> None:
        try:
            with self._session.cursor() as cursor:
                for statement in self._statements:
                    cursor.execute(statement)
            self._session.commit()
        except psycopg2.Error as error:
            self.error = error


def _wait_for_lock(cursor: Cursor, connection: Connection, mover: _Mover) -> None:
    """Wait until ``connection`` keeps everybody from connecting, or its transaction has ended."""
    deadline = time.monotonic() + _PATIENCE
    while mover.is_alive():
        cursor.execute(_LOCKED, (connection.info.backend_pid,))
        [(locked,)] = cursor.fetchall()
        if locked:
            return
        if time.monotonic() > deadline:
            raise Refusal(
                "The database's name cannot be changed: somebody is at work on the database as a whole.",
                "See pg_stat_activity for a CREATE, ALTER or DROP DATABASE, then run this again.",
            )
        time.sleep(0.01)


def _refusal(cursor: Cursor, error: psycopg2.Error, names: list[str]) -> Refusal:
    if error.pgcode != "55006":
        return _connection.server_refusal(error)
    found = [words for name in names for words in blockers.sessions(cursor, name, [])]
    return Refusal(
        f"The database {names[0]!r} could not be renamed, since it is in use{' by ' + listed(found) if found else ''}.",
        "Stop Synapse and all its workers, on every host, and whatever else connects there, then run this again.",
    )
