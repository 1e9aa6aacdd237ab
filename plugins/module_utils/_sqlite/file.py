# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A SQLite database as a file: the connection that reads it, its side files, what tells its states apart."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import other_names, paths

# The first bytes of every SQLite 3 database: https://www.sqlite.org/fileformat2.html, section 1.3.
MAGIC = b"SQLite format 3\0"

# Files that SQLite keeps beside a database; those of an older copy must not meet a newer one.
SIDE_FILES = ("-wal", "-shm", "-journal")

# Bytes of the header that count changes and name the writer's version, not content (section 1.3: offsets 24, 40, 92, 96).
_COUNTERS = (slice(24, 28), slice(40, 44), slice(92, 100))


@contextlib.contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """Yield a connection that cannot write to the SQLite database at ``path``; Refusal when it is damaged or locked."""
    try:
        with contextlib.closing(sqlite3.connect(paths.uri(path), uri=True, timeout=30, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        other_names.require_none(path)  # or its log and its index are not of one name
        raise Refusal(f"SQLite cannot read {path}: {error}.", _remedy(path)) from error


def _remedy(path: str) -> str:
    """Return what to do about the database at ``path`` that SQLite cannot read."""
    folder = os.path.dirname(os.path.realpath(path))
    if _is_wal(path) and not os.access(folder, os.W_OK):
        return (
            f"It is in the mode WAL, in which who reads it, too, makes files beside it, and {folder} may not be written to: run "
            "this as root or as Synapse's own user, and where that file system is read-only, give a copy elsewhere."
        )
    if _size(f"{path}-journal"):
        # Who only reads may not take back what a writer that was killed has begun (https://www.sqlite.org/lockingv3.html).
        return (
            f"{path}-journal may be of a transaction that was cut off: start Synapse, which takes it back, or run, as its "
            f"user, `sqlite3 {_words.shell(path)} 'PRAGMA quick_check'`."
        )
    return f"Check that the file is whole: `sqlite3 {_words.shell(path)} 'PRAGMA quick_check'`."


def _is_wal(path: str) -> bool:
    """Tell whether the header of the database at ``path`` says WAL (fileformat2.html, section 1.3.3: offsets 18 and 19)."""
    try:
        with open(path, "rb") as stream:
            return stream.read(20)[18:] == b"\2\2"
    except OSError:
        return False


def require_utf8(connection: sqlite3.Connection) -> None:
    """Raise Refusal when the database keeps its texts in UTF-16: their bytes are then not those that PostgreSQL gets."""
    encoding = connection.execute("PRAGMA encoding").fetchone()[0]
    if encoding != "UTF-8":
        raise Refusal(f"The SQLite database's text is {encoding}, not UTF-8.", "Synapse makes no such file; give its own.")


def require_database(path: str) -> None:
    """Raise Refusal unless ``path`` is a file that starts as every SQLite database does."""
    paths.require_absolute(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refusal(f"{path} is not a file.", "Give the path of Synapse's SQLite database.")
        with open(path, "rb") as stream:
            start = stream.read(len(MAGIC))
    except OSError as error:
        raise Refusal(
            f"The SQLite database {path} cannot be read: {error.strerror}.",
            "Give the path from database.args.database in homeserver.yaml, and run as a user who may read it.",
        ) from error
    if start != MAGIC:
        raise Refusal(
            f"{path} is not a SQLite database: it {'is empty' if not start else 'does not start as one'}.",
            "Give the path from database.args.database in homeserver.yaml.",
        )


def log_size(path: str) -> int:
    """Return the size in bytes of the write-ahead log beside the database at ``path``; its content goes into a copy as well."""
    return _size(f"{path}-wal")


def _size(path: str) -> int:
    """Return the bytes of the file at ``path``, 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.getsize(path)
    return 0


def stamp(path: str) -> str:
    """Return what changes when somebody writes to the database at ``path`` or its log, or puts another file in its place."""
    found = []
    for name in (path, f"{path}-wal"):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name)
            if status.st_size:  # every reader makes an empty log anew
                found.append(f"{status.st_ino}:{status.st_size}:{status.st_ctime_ns}")
    return " ".join(found)


def autoincrement_values(path: str) -> dict[str, int]:
    """Return the number that each AUTOINCREMENT column of the database at ``path`` has last given out, by its table."""
    with reading(path) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
            return {}
        return dict(connection.execute("SELECT name, seq FROM sqlite_sequence WHERE typeof(seq) = 'integer'"))


def without_counters(start: bytes | bytearray) -> bytes:
    """Return the first bytes of a database with the header's counters as zeros, which differ between equal databases."""
    cleared = bytearray(start)
    for counter in _COUNTERS:
        cleared[counter] = bytes(counter.stop - counter.start)
    return bytes(cleared)


def remove(path: str) -> None:
    """Remove the database at ``path`` with what SQLite keeps beside it; nothing there is no error."""
    remove_side_files(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_side_files(path: str) -> None:
    """Remove what SQLite keeps beside the database at ``path``; nothing there is no error."""
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
