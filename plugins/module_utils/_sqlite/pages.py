# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pages of a SQLite database as it is at one moment, while others write to it.

They are read by the documented formats of the file and its log, under a read transaction of SQLite's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import struct
from typing import Any, Generator, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file

# Bytes that are read at once, a multiple of every page size.
_PIECE = 1 << 18

# How many pieces of a database without a log are read before its writers have their turn.
_TURN = 64

# How often a copy of a database without a log starts again because it was written to.
RESTARTS = 20

# How often a read transaction is begun until no commit falls into its beginning.
_ATTEMPTS = 1000

# The log's index: https://www.sqlite.org/walformat.html, section 2.1. Two copies of a header, then how much of the log is in the
# database file already. Version, change counter, flags and page size are passed over.
_INDEX_HEADER = struct.Struct("=I12xII8x8s8x")
_INDEX_VERSION = 3007000
_BACKFILLED = struct.Struct("=I")

# The log itself: https://www.sqlite.org/fileformat2.html, sections 4.1 and 4.2. A frame starts with its page's number, then
# the database's size after a commit, then the salts of the log it belongs to.
_LOG_HEADER = 32
_FRAME_HEADER = 24
_FRAME = struct.Struct(">I4x8s")

# Where the database's header (section 1.3) has the version that says who reads it, 2 for a database with a log, and the
# counter of the changes to one without.
_READ_VERSION = 18
_CHANGES = slice(24, 28)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Pages of ``page`` bytes each: ``content`` begins at byte ``offset`` of a database that has ``size`` bytes."""

    offset: int
    content: bytes | bytearray
    page: int
    size: int


def read(path: str) -> Generator[Piece, None, None]:
    """Yield the Pieces of the database at ``path`` in their order, all as they are at one moment; nobody is kept from writing.

    In WAL mode one read transaction gives that (https://www.sqlite.org/wal.html, section 2.2). In the other modes it would
    keep writers waiting, so they have their turn after some pieces, and when they changed something all begins again at
    offset 0. Raises Refusal when the database is damaged, locked, or written to faster than it is read.
    """
    try:
        with contextlib.ExitStack() as files:
            # A process that closes a file loses its locks on it, SQLite's as well (https://www.sqlite.org/howtocorrupt.html,
            # section 2.2): ours are closed after SQLite's connection.
            database = _descriptor(files, path)
            with file.reading(path) as connection:
                if pragma(connection, "journal_mode") != "wal":
                    complete = yield from _without_log(path, connection, database)
                    if complete:
                        return
                yield from _with_log(path, connection, database, files)
    except OSError as error:
        raise Refusal(
            f"{path} cannot be read: {error.strerror}.", "See what the host's log says of its disk (journalctl -k)."
        ) from error


def _without_log(path: str, connection: sqlite3.Connection, database: int) -> Generator[Piece, None, bool]:
    """Yield the Pieces of a database without a log; return whether that is all, or it was given a log meanwhile."""
    offset, restarts = 0, -1
    changes: bytes | None = None
    while True:
        _begin(connection)
        header = os.pread(database, 100, 0)
        if header[_READ_VERSION] > 1:
            connection.execute("ROLLBACK")
            return False
        if header[_CHANGES] != changes:
            offset, changes, restarts = 0, header[_CHANGES], restarts + 1
        if restarts > RESTARTS:
            raise Refusal(
                f"{path} is written to faster than it can be copied; the copy started again {RESTARTS} times.",
                "Stop Synapse for the copy, or switch the database to WAL (PRAGMA journal_mode=WAL), as Synapse itself does.",
            )
        page, size = _dimensions(connection)
        for _number in range(_TURN):
            if offset < size:
                yield Piece(offset, _from_file(database, offset, size), page, size)
                offset += _PIECE
        connection.execute("ROLLBACK")
        if offset >= size:
            return True


def _with_log(path: str, connection: sqlite3.Connection, database: int, files: contextlib.ExitStack) -> Iterator[Piece]:
    """Yield the Pieces of a database with a log, from the one or the other; ``files`` closes what is opened for it."""
    index = _begin_with_index(path, connection, files)
    page, size = _dimensions(connection)
    frames: dict[int, int] = {}
    if index and index.backfilled < index.last:
        log = _descriptor(files, f"{path}-wal")
        frames = index.frames(path, log, page)
    for offset in range(0, size, _PIECE):
        content = _from_file(database, offset, size)
        if frames:
            for position in range(0, len(content), page):
                at = frames.get((offset + position) // page + 1)
                if at is not None:
                    content[position : position + page] = os.pread(log, page, at)
        yield Piece(offset, content, page, size)


class _LogIndex:
    """What the log's index says: ``last``, the number of the last frame that was committed, and ``backfilled``, that of the last
    frame whose page the database file has; both count from 1, and 0 is none."""

    def __init__(self, shared: int) -> None:
        """``shared`` is the descriptor of the index, the database's ``-shm`` file."""
        content = os.pread(shared, 2 * _INDEX_HEADER.size + _BACKFILLED.size, 0)
        self.header, second = content[: _INDEX_HEADER.size], content[_INDEX_HEADER.size : 2 * _INDEX_HEADER.size]
        # They differ while somebody commits.
        self.whole = len(content) == 2 * _INDEX_HEADER.size + _BACKFILLED.size and self.header == second
        if self.whole:
            self.version, self.last, _size, self.salts = _INDEX_HEADER.unpack(self.header)
            (self.backfilled,) = _BACKFILLED.unpack_from(content, 2 * _INDEX_HEADER.size)

    def frames(self, path: str, log: int, page: int) -> dict[int, int]:
        """Return where in ``log`` each page is that the database file has not: ``{page number: offset}``."""
        found = {}
        for number in range(self.backfilled, self.last):
            at = _LOG_HEADER + number * (_FRAME_HEADER + page)
            start = os.pread(log, _FRAME.size, at)
            if len(start) < _FRAME.size or start[-8:] != self.salts:
                raise _unreadable_log(path, f"its frame {number + 1} of {self.last} is of another log")
            found[_FRAME.unpack(start)[0]] = at + _FRAME_HEADER
        return found


def _begin_with_index(path: str, connection: sqlite3.Connection, files: contextlib.ExitStack) -> _LogIndex | None:
    """Begin a read transaction and return the _LogIndex as the transaction sees it; None where there is no log.

    Until its end nobody writes over the frames and pages that it sees: a checkpoint goes no further than the last of them, and
    the log does not begin again while one of them is in it alone (section 2.3.1 of walformat.html, WAL_READ_LOCK).
    """
    if not file.log_size(path):
        _begin(connection)
        if not file.log_size(path):
            return None
        connection.execute("ROLLBACK")
    try:
        # SQLite keeps an index of its own in memory where it may not write to the common one.
        shared = _descriptor(files, f"{path}-shm", os.O_RDWR)
    except OSError as error:
        raise _unreadable_log(path, f"{path}-shm cannot be opened: {error.strerror}") from error
    for _attempt in range(_ATTEMPTS):
        before = _LogIndex(shared)
        _begin(connection)
        index, after = _LogIndex(shared), _LogIndex(shared)
        # The third look: who begins the log again changes the header first, and then what is backfilled.
        if index.whole and before.header == index.header == after.header:
            if index.version != _INDEX_VERSION:
                raise _unreadable_log(path, f"its index has the version {index.version}")
            return index
        connection.execute("ROLLBACK")
    raise _unreadable_log(path, "it is written to without a pause")


def _unreadable_log(path: str, why: str) -> Refusal:
    return Refusal(
        f"The write-ahead log of {path} cannot be read beside those who write to it: {why}.",
        "Run this as root or as Synapse's own user; or stop Synapse, which takes the log into the database, and run it again.",
    )


def _descriptor(files: contextlib.ExitStack, path: str, access: int = os.O_RDONLY) -> int:
    """Return a descriptor of the file at ``path`` that ``files`` closes."""
    descriptor = os.open(path, access)
    files.callback(os.close, descriptor)
    return descriptor


def _begin(connection: sqlite3.Connection) -> None:
    """Begin a read transaction: it sees the database as it is from its first SELECT on."""
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    """Return the one value of SQLite's PRAGMA ``name``."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _dimensions(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the sizes of a page and of the whole database in bytes, as the running transaction sees them."""
    page = pragma(connection, "page_size")
    return page, page * pragma(connection, "page_count")


def _from_file(database: int, offset: int, size: int) -> bytearray:
    """Return _PIECE bytes of the file from ``offset`` on, up to ``size``; what only the log has is zero."""
    length = min(_PIECE, size - offset)
    content = bytearray(os.pread(database, length, offset))
    return content + bytes(length - len(content))
