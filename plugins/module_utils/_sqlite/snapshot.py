# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of a SQLite database, page by page, as it is at one moment while others write to it.

SQLite's backup API makes such copies too, but each process begins with the first page: of a large database, one that is
killed near the end has done nothing. Here the pages are read by the documented formats of the file and its log, under a read
transaction of SQLite's own, and what a copy holds already is not written again, whoever began it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import os
import stat
import struct
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, paths

# Bytes that are read at once, a multiple of every page size.
_PIECE = 1 << 18

# How many pieces of a database without a log are read before its writers have their turn.
_STEP = 64

# How often a copy of a database without a log starts again because it was written to.
RESTARTS = 20

# How often a read transaction is begun until no commit falls into its beginning.
_ATTEMPTS = 1000

# The coarsest clock of a file system, in seconds: FAT's.
_TICK = 3

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


def make(source: str, target: str) -> dict | None:
    """Make the file ``target``, mode 0600, a checked copy of the database ``source``, in use or not.

    Every row keeps its row id, which VACUUM INTO does not promise. An older copy is made the new one by what differs, once the
    source is found to be whole, or else stays until the new one is. Until then that is called ``<target>.partial``, and one
    that was killed is gone on with. How far it is tells ``<target>.progress.json``. Returns ``{total, written}``, both in
    pages; None where ``target`` is a copy already. Raises Refusal.
    """
    fresh = _partial(target)
    progress = _progress.Progress(f"{target}.progress.json", "snapshot", unit="pages")
    with progress, contextlib.ExitStack() as stack:
        rest = None
        if _may_be_copy(target):
            found = stack.enter_context(contextlib.closing(pieces(source)))
            rest = _from_difference(found, target, progress)
            if rest is None:
                file.remove(fresh)
                return None
        before = file.stamp(target)
        reused = rest is not None and _reuse(source, target, progress)
        if not reused:
            stack.close()  # or its read transaction would keep writers waiting, where there is no log
            rest = stack.enter_context(contextlib.closing(pieces(source)))
        pages = _made(rest, target, progress, reused)
    file.remove_side_files(fresh)
    file.remove_side_files(target)  # the log of a routine that was killed must not be applied to the new copy
    os.replace(fresh, target)
    _renew_stamp(target, before)
    return pages


def _may_be_copy(target: str) -> bool:
    return os.path.exists(target) and not file.log_size(target)


def _reuse(source: str, target: str, progress: _progress.Progress) -> bool:
    """Take the older copy ``target`` for the new one, if it may be written to; Refusal when the source is damaged.

    Without a log, who reads the whole source to check it would keep its writers waiting; then the older copy stays until the
    new one is checked.
    """
    if os.path.exists(_partial(target)) or not _is_ours(target):
        return False
    with file.reading(source) as connection:
        if _pragma(connection, "journal_mode") != "wal":
            return False
    progress.tell("checking the source", 0, 0, now=True)
    _require_whole(source, _faults(source))
    if not _is_ours(target):  # somebody has opened it meanwhile
        return False
    os.rename(target, _partial(target))
    return True


def _made(found, target: str, progress: _progress.Progress, reused: bool) -> dict:
    """Write the Pieces ``found`` to the new copy and check it; return ``{total, written}`` in pages."""
    fresh = _partial(target)
    try:
        with _opened(fresh) as stream:
            pages = _write(found, stream, progress)
            progress.tell("checking the copy", pages["total"], pages["total"], now=True)
    except (OSError, Refusal) as error:
        if not reused:  # what was an older copy is gone on with by the next run
            file.remove(fresh)
        if isinstance(error, Refusal):
            raise
        raise Refusal(
            f"The copy {target} cannot be written: {error.strerror}.",
            "Make room on its file system, or choose a dest on another.",
        ) from error
    try:
        _require_whole(target, _faults(fresh))
    except Refusal:
        file.remove(fresh)
        raise
    return pages


def _renew_stamp(target: str, before: str) -> None:
    """See that the copy's stamp is another one than ``before``, whatever the resolution of the file system's clock."""
    deadline = time.monotonic() + _TICK
    while file.stamp(target) == before and time.monotonic() < deadline:
        time.sleep(0.02)
        os.utime(target)


def held(target: str) -> int:
    """Return the bytes on the disk of what make() goes on with: a copy ``target`` that was killed, or an older one."""
    return begun(glob.escape(target)) or (os.stat(target).st_blocks * 512 if _is_ours(target) else 0)


def begun(target: str) -> int:
    """Return the bytes on the disk of what make() has of copies ``target``, a pattern as of glob, that were killed."""
    return sum(os.stat(path).st_blocks * 512 for path in glob.glob(_partial(target)))  # stat(2): st_blocks


def _partial(target: str) -> str:
    return f"{target}.partial"


def is_copy(source: str, target: str) -> bool:
    """Tell, without writing, whether the file ``target`` has the content of the database ``source``.

    Counters in the header are left out, see file.uncounted(). Raises Refusal when ``source`` cannot be read.
    """
    if not _may_be_copy(target):
        return False
    with contextlib.closing(pieces(source)) as found:
        return _from_difference(found, target) is None


def _is_ours(target: str) -> bool:
    """Tell whether the file ``target`` is nobody's but this user's, and nobody has it open: then it may be written to."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return False
    alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()
    return alone and not file.log_size(target) and not paths.holders(target)


def _from_difference(found, target: str, progress: _progress.Progress | None = None):
    """Return the Pieces ``found`` from the first on in which the file ``target`` differs; None where it does not.

    The first piece of all comes with them: of its header, counters alone are no difference.
    """
    first = None
    with open(target, "rb", buffering=0) as stream:
        for piece in found:
            first = piece if piece.offset == 0 else first
            there = os.pread(stream.fileno(), len(piece.content), piece.offset)
            if there != piece.content and (piece.offset or file.uncounted(there) != file.uncounted(piece.content)):
                return itertools.chain([first, piece], found)
            if progress:
                progress.tell("copying", (piece.offset + len(there)) // piece.page, piece.size // piece.page)
        return None if os.fstat(stream.fileno()).st_size == piece.size else iter([first])


@dataclasses.dataclass(frozen=True)
class Piece:
    """Pages of ``page`` bytes each: ``content`` begins at byte ``offset`` of a database that has ``size`` bytes."""

    offset: int
    content: bytes
    page: int
    size: int


def pieces(path: str):
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
                if _pragma(connection, "journal_mode") != "wal":
                    whole = yield from _steps(path, connection, database)
                    if whole:
                        return
                yield from _logged(path, connection, database, files)
    except OSError as error:
        raise Refusal(
            f"{path} cannot be read: {error.strerror}.", "See what the host's log says of its disk (journalctl -k)."
        ) from error


def _steps(path: str, connection, database: int):
    """Yield the Pieces of a database without a log; return whether that is all, or it was given a log meanwhile."""
    offset, changes, restarts = 0, None, -1
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
        for _piece in range(_STEP):
            if offset < size:
                yield Piece(offset, _pages(database, offset, size), page, size)
                offset += _PIECE
        connection.execute("ROLLBACK")
        if offset >= size:
            return True


def _logged(path: str, connection, database: int, files: contextlib.ExitStack):
    """Yield the Pieces of a database with a log, from the one or the other; ``files`` closes what is opened for it."""
    index = _begin_at_one_moment(path, connection, files)
    page, size = _dimensions(connection)
    frames: dict[int, int] = {}
    if index and index.backfilled < index.last:
        log = _descriptor(files, f"{path}-wal")
        frames = index.frames(path, log, page)
    for offset in range(0, size, _PIECE):
        content = _pages(database, offset, size)
        if frames:
            for position in range(0, len(content), page):
                at = frames.get((offset + position) // page + 1)
                if at is not None:
                    content[position : position + page] = os.pread(log, page, at)
        yield Piece(offset, content, page, size)


class _Index:
    """What the log's index says: ``last``, the number of the last frame that was committed, and ``backfilled``, that of the last
    frame whose page the database file has; both count from 1, and 0 is none."""

    def __init__(self, shared: int) -> None:
        """``shared`` is the descriptor of the index, the database's ``-shm`` file."""
        told = os.pread(shared, 2 * _INDEX_HEADER.size + _BACKFILLED.size, 0)
        self.header, second = told[: _INDEX_HEADER.size], told[_INDEX_HEADER.size : 2 * _INDEX_HEADER.size]
        # They differ while somebody commits.
        self.whole = len(told) == 2 * _INDEX_HEADER.size + _BACKFILLED.size and self.header == second
        if self.whole:
            self.version, self.last, _size, self.salts = _INDEX_HEADER.unpack(self.header)
            (self.backfilled,) = _BACKFILLED.unpack_from(told, 2 * _INDEX_HEADER.size)

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


def _begin_at_one_moment(path: str, connection, files: contextlib.ExitStack) -> _Index | None:
    """Begin a read transaction and return the _Index as the transaction sees it; None where there is no log.

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
        before = _Index(shared)
        _begin(connection)
        index, after = _Index(shared), _Index(shared)
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


def _begin(connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()


def _pragma(connection, name: str):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _dimensions(connection) -> tuple[int, int]:
    """Return the sizes of a page and of the whole database in bytes, as the running transaction sees them."""
    page = _pragma(connection, "page_size")
    return page, page * _pragma(connection, "page_count")


def _pages(database: int, offset: int, size: int) -> bytearray:
    """Return _PIECE bytes of the file from ``offset`` on, up to ``size``; what only the log has is zero."""
    length = min(_PIECE, size - offset)
    content = bytearray(os.pread(database, length, offset))
    return content + bytes(length - len(content))


@contextlib.contextmanager
def _opened(target: str):
    """Yield the file ``target``, made or as it was left, to read and write; on the disk at the end."""
    file.remove_side_files(target)  # of a check that was killed
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(target)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.unlink(target)  # no copy of ours: it would be somebody else's file that is written to
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        os.fchmod(descriptor, 0o600)
        yield stream
        os.fsync(descriptor)


def _write(found, stream, progress: _progress.Progress) -> dict:
    """Write of the Pieces ``found`` the pages that ``stream`` has not; return ``{total, written}`` in pages."""
    written = 0
    for piece in found:
        progress.tell("copying", piece.offset // piece.page, piece.size // piece.page)
        there = os.pread(stream.fileno(), len(piece.content), piece.offset)
        if there == piece.content:
            continue
        for start, end in _differing(piece, there):
            written += (end - start) // piece.page
            rest, at = memoryview(piece.content)[start:end], piece.offset + start
            while rest:
                done = os.pwrite(stream.fileno(), rest, at)
                rest, at = rest[done:], at + done
    stream.truncate(piece.size)
    return {"total": piece.size // piece.page, "written": written}


def _differing(piece: Piece, there: bytes):
    """Yield (start, end), in bytes from the piece's beginning, of the runs of pages that are not as ``there``."""
    starts = range(0, len(piece.content), piece.page)
    pages = (start for start in starts if piece.content[start : start + piece.page] != there[start : start + piece.page])
    for _run, run in itertools.groupby(enumerate(pages), lambda numbered: numbered[1] - numbered[0] * piece.page):
        run = [start for _number, start in run]
        yield run[0], run[-1] + piece.page


def _faults(path: str) -> str:
    """Return the first thing that SQLite finds wrong with the database at ``path``, or nothing."""
    with file.reading(path) as connection:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if found == "ok" else found


def _require_whole(path: str, faults: str) -> None:
    if faults:
        raise Refusal(
            f"{path} is damaged: {faults}. If it is the copy, so is its source.",
            "Restore the source from a backup, or recover it with sqlite3's .recover, before moving it.",
        )
