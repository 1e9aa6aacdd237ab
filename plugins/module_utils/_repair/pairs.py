# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions in both databases at once, several pairs of them, each for one worker at a time."""

from __future__ import annotations

import contextlib
import queue
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor


class Pairs:
    """Cursors (in the old database, in the new one), borrowed by threads."""

    def __init__(self) -> None:
        self._idle: queue.SimpleQueue[tuple[Cursor, Cursor]] = queue.SimpleQueue()

    def add(self, old: Cursor, new: Cursor) -> None:
        """Add a pair."""
        self._idle.put((old, new))

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[tuple[Cursor, Cursor]]:
        """Yield a pair that is nobody else's within the block; what it has written is committed when that ends."""
        pair = self._idle.get()
        try:
            yield pair
            for cursor in pair:
                cursor.connection.commit()
        except BaseException:
            for cursor in pair:
                with contextlib.suppress(Exception):
                    cursor.connection.rollback()
            raise
        finally:
            self._idle.put(pair)


@contextlib.contextmanager
def opened(server: Server, old: str, new: str, count: int) -> Iterator[Pairs]:
    """Yield ``count`` Pairs of sessions in the databases ``old`` and ``new``, whose text goes in UTF8, and close them."""
    with contextlib.ExitStack() as stack:
        found = Pairs()
        for _number in range(count):
            cursors = [stack.enter_context(server.within(name)) for name in (old, new)]
            for cursor in cursors:
                cursor.connection.rollback()
                cursor.connection.set_client_encoding("UTF8")
            found.add(*cursors)
        yield found
