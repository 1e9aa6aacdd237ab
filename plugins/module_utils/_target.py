# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The PostgreSQL database that is moved to, and the sessions that we have there."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _sessions
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor


@dataclasses.dataclass(frozen=True)
class Target:
    """The database of ``cursor``, whose session autocommits and is there throughout; ``libpq``'s keywords lead to others."""

    cursor: Cursor
    libpq: dict[str, object] = dataclasses.field(repr=False)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, libpq: dict[str, object], what: str) -> Iterator[Target]:
        """Yield the Target that ``libpq``'s keywords lead to; ``what`` and the Refusals are those of _connection.connected()."""
        with _connection.connected(libpq, True, what, _connection.MOVED) as connection, connection.cursor() as cursor:
            yield cls(cursor, libpq)

    @property
    def dbname(self) -> str:
        return self.cursor.connection.info.dbname

    @contextlib.contextmanager
    def connected(self, what: str, autocommit: bool = True) -> Iterator[Cursor]:
        """Yield the cursor of another session, one transaction unless ``autocommit``: see _connection.connected()."""
        with _connection.connected(self.libpq, autocommit, what, _connection.MOVED) as connection:
            with connection.cursor() as cursor:
                yield cursor

    def workers(self) -> int:
        """Return how many sessions may be opened now; Refusal where there is none: see _sessions.workers()."""
        return _sessions.workers(self.cursor)
