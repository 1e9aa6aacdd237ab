# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The server that a module administers: its session there, and the way to the server's other databases."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _diagnosis
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor


@dataclasses.dataclass(frozen=True)
class Server:
    """``cursor`` is of the administrator's session, ``libpq`` the keywords by which it was made, ``module`` who made it."""

    cursor: Cursor
    libpq: dict[str, object] = dataclasses.field(repr=False)
    module: str

    @property
    def place(self) -> str:
        """Where the server is, as a person would say it."""
        return _diagnosis.place(self.libpq)

    @contextlib.contextmanager
    def within(self, database: str, autocommit: bool = False) -> Iterator[Cursor]:
        """Yield a cursor of another session, in ``database``, for what its catalog alone tells; see _connection."""
        with _connection.connected({**self.libpq, "dbname": database}, autocommit, self.module) as connection:
            with connection.cursor() as cursor:
                yield cursor


@contextlib.contextmanager
def connected(params: dict, module: str, autocommit: bool = True) -> Iterator[Server]:
    """Yield the Server that the connection options in a module's ``params`` lead to; see _connection.connected()."""
    libpq = _connection.keywords(params)
    with _connection.connected(libpq, autocommit, module) as connection, connection.cursor() as cursor:
        yield Server(cursor, libpq, module)
