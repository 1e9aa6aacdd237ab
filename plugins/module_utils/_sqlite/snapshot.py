# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of a SQLite database, page by page, as it is at one moment while others write to it.

SQLite's backup API makes such copies too, but each process begins with the first page: of a large database, one that is
killed near the end has done nothing. Here what a copy holds already is not written again, whoever began it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import os
import shutil
import stat
import time
from typing import BinaryIO, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, holders, pages

# The coarsest clock of a file system, in seconds: FAT's.
_TICK = 3


@dataclasses.dataclass(frozen=True)
class Written:
    """How many pages a copy has in ``total``, and how many of them were ``written``: the others were there."""

    total: int
    written: int


def require_another(source: str, target: str) -> None:
    """Raise Refusal when a copy ``target`` would replace ``source``, a side file of it, or a file that is no database."""
    if target == source or (os.path.exists(target) and os.path.samefile(source, target)):
        raise Refusal(f"The source and the copy are the same file, {source}.", "Give another dest.")
    if target in (f"{source}{suffix}" for suffix in file.SIDE_FILES):
        raise Refusal(f"{target} is SQLite's own, beside {source}.", "Give another dest.")
    if os.path.isfile(target) and os.path.getsize(target):
        with open(target, "rb") as stream:
            if stream.read(len(file.MAGIC)) != file.MAGIC:
                raise Refusal(f"{target} is there, and is no copy of a SQLite database.", "Give another dest, or remove it.")


def require_room(size: int, target: str) -> None:
    """Raise Refusal unless the file system of ``target`` has room for a copy of ``size`` bytes."""
    folder = os.path.dirname(target)
    if not os.path.isabs(target) or not os.path.isdir(folder):
        raise Refusal(
            f"The folder of the copy, {folder or target}, does not exist.", "Make it, with mode 0700, or choose another."
        )
    free = shutil.disk_usage(folder).free + reusable_bytes(target)
    if free < size:
        raise Refusal(
            f"The copy needs {size >> 20} MiB, and the file system of {folder} has {free >> 20} MiB left.",
            "Make room there, or choose a dest on another file system.",
        )


def make(source: str, target: str) -> Written | None:
    """Make the file ``target``, mode 0600, a checked copy of the database ``source``, in use or not.

    Every row keeps its row id, which VACUUM INTO does not promise. An older copy is made the new one by what differs, once the
    source is found to be whole, or else stays until the new one is. Until then that is called ``<target>.partial``, and one
    that was killed is gone on with. How far it is tells ``<target>.progress.json``. Returns None where ``target`` is a
    copy already. Raises Refusal.
    """
    partial = _partial(target)
    progress = _progress.Progress(f"{target}.progress.json", "snapshot", unit="pages")
    with progress, contextlib.ExitStack() as stack:
        rest: Iterator[pages.Piece] | None = None
        if _may_be_copy(target):
            pieces = stack.enter_context(contextlib.closing(pages.read(source)))
            rest = _from_difference(pieces, target, progress)
            if rest is None:
                file.remove(partial)
                return None
        before = file.stamp(target)
        reused = rest is not None and _reuse(source, target, progress)
        if rest is None or not reused:
            stack.close()  # or its read transaction would keep writers waiting, where there is no log
            rest = stack.enter_context(contextlib.closing(pages.read(source)))
        written = _write_checked(rest, target, progress, reused)
    file.remove_side_files(partial)
    file.remove_side_files(target)  # the log of a routine that was killed must not be applied to the new copy
    os.replace(partial, target)
    _renew_stamp(target, before)
    return written


def _may_be_copy(target: str) -> bool:
    """Tell whether something is at ``target`` that could be equal to a source: a file without a log of its own."""
    return os.path.exists(target) and not file.log_size(target)


def _reuse(source: str, target: str, progress: _progress.Progress) -> bool:
    """Take the older copy ``target`` for the new one, if it may be written to; Refusal when the source is damaged.

    Without a log, who reads the whole source to check it would keep its writers waiting; then the older copy stays until the
    new one is checked.
    """
    if os.path.exists(_partial(target)) or not _is_exclusive(target):
        return False
    with file.reading(source) as connection:
        if pages.pragma(connection, "journal_mode") != "wal":
            return False
    progress.tell("checking the source", 0, 0, now=True)
    _require_whole(source, _faults(source))
    if not _is_exclusive(target):  # somebody has opened it meanwhile
        return False
    os.rename(target, _partial(target))
    return True


def _write_checked(pieces: Iterator[pages.Piece], target: str, progress: _progress.Progress, reused: bool) -> Written:
    """Write ``pieces`` to the new copy and check it."""
    partial = _partial(target)
    try:
        with _open_private(partial) as stream:
            written = _write(pieces, stream, progress)
            progress.tell("checking the copy", written.total, written.total, now=True)
    except (OSError, Refusal) as error:
        if not reused:  # what was an older copy is gone on with by the next run
            file.remove(partial)
        if isinstance(error, Refusal):
            raise
        raise Refusal(
            f"The copy {target} cannot be written: {error.strerror}.",
            "Make room on its file system, or choose a dest on another.",
        ) from error
    try:
        _require_whole(target, _faults(partial))
    except Refusal:
        file.remove(partial)
        raise
    return written


def _renew_stamp(target: str, before: str) -> None:
    """See that the copy's stamp is another one than ``before``, whatever the resolution of the file system's clock."""
    deadline = time.monotonic() + _TICK
    while file.stamp(target) == before and time.monotonic() < deadline:
        time.sleep(0.02)
        os.utime(target)


def reusable_bytes(target: str) -> int:
    """Return the bytes on the disk of what make() goes on with: a copy ``target`` that was killed, or an older one."""
    return unfinished_bytes(glob.escape(target)) or (os.stat(target).st_blocks * 512 if _is_exclusive(target) else 0)


def unfinished_bytes(target: str) -> int:
    """Return the bytes on the disk of what make() has of copies ``target``, a pattern as of glob, that were killed."""
    return sum(os.stat(path).st_blocks * 512 for path in glob.glob(_partial(target)))  # stat(2): st_blocks


def _partial(target: str) -> str:
    """Return the path of the copy ``target`` until it is whole."""
    return f"{target}.partial"


def is_copy(source: str, target: str) -> bool:
    """Tell, without writing, whether the file ``target`` has the content of the database ``source``.

    Counters in the header are left out, see file.without_counters(). Raises Refusal when ``source`` cannot be read.
    """
    if not _may_be_copy(target):
        return False
    with contextlib.closing(pages.read(source)) as pieces:
        return _from_difference(pieces, target) is None


def _is_exclusive(target: str) -> bool:
    """Tell whether the file ``target`` is nobody's but this user's, and nobody has it open: then it may be written to."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return False
    alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()
    return alone and not file.log_size(target) and not holders.find(target)


def _from_difference(
    pieces: Iterator[pages.Piece], target: str, progress: _progress.Progress | None = None
) -> Iterator[pages.Piece] | None:
    """Return ``pieces`` from the first on in which the file ``target`` differs; None where it does not.

    The first piece of all comes with them: of its header, counters alone are no difference.
    """
    first: list[pages.Piece] = []
    with open(target, "rb", buffering=0) as stream:
        for piece in pieces:
            first = [piece] if piece.offset == 0 else first  # where the database was written to, they begin again
            copied = os.pread(stream.fileno(), len(piece.content), piece.offset)
            if copied != piece.content and (
                piece.offset or file.without_counters(copied) != file.without_counters(piece.content)
            ):
                return itertools.chain(first, [piece], pieces)
            if progress:
                progress.tell("copying", (piece.offset + len(copied)) // piece.page, piece.size // piece.page)
        return None if os.fstat(stream.fileno()).st_size == piece.size else iter(first)


@contextlib.contextmanager
def _open_private(target: str) -> Iterator[BinaryIO]:
    """Yield the file ``target``, mode 0600, made or as it was left, to read and write; on the disk at the end."""
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


def _write(pieces: Iterator[pages.Piece], stream: BinaryIO, progress: _progress.Progress) -> Written:
    """Write of ``pieces`` the pages that ``stream`` has not."""
    written = 0
    for piece in pieces:
        progress.tell("copying", piece.offset // piece.page, piece.size // piece.page)
        copied = os.pread(stream.fileno(), len(piece.content), piece.offset)
        if copied == piece.content:
            continue
        for start, end in _differing(piece, copied):
            written += (end - start) // piece.page
            rest, at = memoryview(piece.content)[start:end], piece.offset + start
            while rest:
                done = os.pwrite(stream.fileno(), rest, at)
                rest, at = rest[done:], at + done
    stream.truncate(piece.size)
    return Written(piece.size // piece.page, written)


def _differing(piece: pages.Piece, copied: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end), in bytes from the piece's beginning, of the runs of pages that are not as in ``copied``."""
    starts = range(0, len(piece.content), piece.page)
    differing = (start for start in starts if piece.content[start : start + piece.page] != copied[start : start + piece.page])
    for _first, numbered in itertools.groupby(enumerate(differing), lambda pair: pair[1] - pair[0] * piece.page):
        run = [start for _number, start in numbered]
        yield run[0], run[-1] + piece.page


def _faults(path: str) -> str:
    """Return the first thing that SQLite finds wrong with the database at ``path``, or nothing."""
    with file.reading(path) as connection:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if found == "ok" else found


def _require_whole(path: str, faults: str) -> None:
    """Raise Refusal where there are ``faults`` of the database at ``path``, see _faults()."""
    if faults:
        raise Refusal(
            f"{path} is damaged: {faults}. If it is the copy, so is its source.",
            "Restore the source from a backup, or recover it with sqlite3's .recover, before moving it.",
        )
