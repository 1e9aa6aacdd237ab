# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SQLite database that is moved, as the file that it really is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file


@dataclasses.dataclass(frozen=True)
class Source:
    """The SQLite database at ``path``, which was resolved at the entry; ``inode`` is the file's that was there then."""

    path: str
    inode: int

    @classmethod
    def at(cls, path: str) -> Source:
        """Return the Source at ``path``; OSError when nothing is there."""
        return cls(path, os.stat(path).st_ino)

    @classmethod
    @contextlib.contextmanager
    def held(cls, path: str) -> Iterator[Source]:
        """Yield the Source at ``path``, with the file open until the block ends: who would write a newer copy over it finds us.

        It is to be closed after SQLite's connections: a process that closes a file loses its locks on it
        (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        """
        with open(path, "rb") as stream:
            yield cls(path, os.fstat(stream.fileno()).st_ino)

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)

    def stamp(self) -> str:
        """Return what tells the present state of the file from another: see file.stamp()."""
        return file.stamp(self.path)

    def is_replaced(self) -> bool:
        """Tell whether another file has come into its place."""
        return os.stat(self.path).st_ino != self.inode

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Return the context of a connection that cannot write: see file.reading()."""
        return file.reading(self.path)

    def autoincrement_values(self) -> dict[str, int]:
        """Return the number that each AUTOINCREMENT column has last given out, by its table."""
        return file.autoincrement_values(self.path)

    def progress(self, step: str, unit: str = "rows") -> _progress.Progress:
        """Return the Progress of ``step``, which is told beside the file."""
        return _progress.Progress(f"{self.path}.progress.json", step, unit)


def tables(sqlite: sqlite3.Connection) -> set[str]:
    """Return the names of all tables of the database, virtual ones and SQLite's own too."""
    return {name for (name,) in sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
