# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of a SQLite database: the one that SQLite opens it by, and others by which somebody may have written to it.

SQLite keeps the log of changes and the journal beside the name that it opens, after it has followed symbolic links
(unixFullPathname() in its os_unix.c). What was committed by another name of the same file - a hard link, a mount of the file
alone - is in another log, and nothing that opens the file by this name can read it (https://www.sqlite.org/howtocorrupt.html,
section 2.4.1). So a path is taken for that one name where it enters, once, and a file with a second name is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import shlex
import sqlite3
import stat
import time
import urllib.parse

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _mounts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# For how long (seconds) the other names of a file with hard links are looked for, before an administrator has to.
_SEARCHING = 5

# What somebody committed, or did not yet, by the name that it stands behind.
_LOGS = ("-wal", "-journal")

# What proc(5) puts behind the name of a file that is gone.
_DELETED = " (deleted)"


def uri(path: str) -> str:
    """Return the URI by which SQLite opens the file at the absolute ``path`` to read it, whatever characters it has.

    The empty authority keeps a path that begins with two slashes from being one (https://www.sqlite.org/uri.html, section 3).
    """
    return f"file://{urllib.parse.quote(os.fsencode(path))}?mode=ro"


def require_absolute(path: str) -> None:
    """Raise Refusal unless ``path`` says where a file is by itself."""
    if not os.path.isabs(path):
        raise Refusal(
            f"The path {path} of the SQLite database is not absolute.",
            "Give the whole path; where Synapse's own folder matters, only Synapse knows which file it is.",
        )
    if "\0" in path:
        raise Refusal(f"The path {path!r} of the SQLite database has a NUL character.", "No file has such a path; correct it.")


def opened(path: str) -> str:
    """Return the path of the file that SQLite opens when it is given ``path``: it names the files beside it by that.

    SQLite itself is asked. Where it cannot open the file, it is where the links lead to, and who reads it says what is wrong.
    Raises Refusal for a path that is not absolute.
    """
    require_absolute(path)
    actual = os.path.realpath(path)
    if os.path.isfile(actual):  # to open a pipe would wait for its writer
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri(path), uri=True)) as connection:
            connection.text_factory = bytes
            name = connection.execute("PRAGMA database_list").fetchone()[2]
            actual = os.path.realpath(os.fsdecode(name))  # older releases leave links to folders as they are
    return actual


@contextlib.contextmanager
def resolved(params: dict, *options: str):
    """Yield ``params`` with the paths of ``options`` as SQLite opens them, see opened().

    A Refusal within the block that names such a path tells how it was given, too. Raises Refusal for one that is not absolute.
    """
    given = {option: params[option] for option in options if params[option] is not None}
    actual = {option: opened(path) for option, path in given.items()}
    try:
        yield {**params, **actual}
    except Refusal as refusal:
        told = {leads(given[option], path) for option, path in actual.items() if path in str(refusal)}
        raise Refusal(" ".join([refusal.found, *sorted(told - {""})]), refusal.remedy, **refusal.facts) from refusal


def leads(given: str, actual: str) -> str:
    """Return the sentence that the path ``given`` leads to ``actual``, or nothing where they are the same."""
    return "" if given == actual else f"({given} leads to {actual}.)"


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that has a file open: by ``names``, as its own file system has them.

    ``writes`` is whether it may write to it by that: a backup, or who only asks SQLite, does not. ``logs`` maps the name of each
    write-ahead log that it may write to, but for those of its other databases, to (device, inode).
    """

    number: int
    command: str
    names: tuple[str, ...]
    writes: bool
    logs: dict

    def __str__(self) -> str:
        return f"process {self.number} ({self.command})"


def holders(path: str) -> list[Process]:
    """Return the processes that have the file at ``path`` open, of those that this user sees."""
    wanted, found = _identity(path), []
    for folder in sorted(glob.glob("/proc/[0-9]*"), key=lambda folder: int(folder[6:])):
        files, written = {}, set()
        for descriptor in glob.glob(f"{folder}/fd/*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                name = os.readlink(descriptor)
                files[name] = _identity(descriptor)
                if os.lstat(descriptor).st_mode & stat.S_IWUSR:  # how it was opened: proc_pid_fd(5)
                    written.add(name)
        names = [name for name, identity in files.items() if identity == wanted]
        with contextlib.suppress(OSError):
            if names:
                with open(f"{folder}/comm", encoding="utf-8", errors="replace") as stream:
                    command = stream.read().strip()
                logs = {name: files[name] for name in _logs(files, names) if name in written}
                found.append(Process(int(folder[6:]), command, tuple(names), not written.isdisjoint(names), logs))
    return found


def _logs(files: dict, names: list[str]) -> list[str]:
    """Return those of a process's open ``files`` that are logs, but for those of other databases than the one of ``names``."""
    others = {f"{_called(name)}-wal" for name in files if name not in names}
    return [name for name in files if _called(name).endswith("-wal") and _called(name) not in others]


def _called(name: str) -> str:
    """Return how the file was called that /proc tells of as ``name``."""
    return name[: -len(_DELETED)] if name.endswith(_DELETED) else name


def second(path: str) -> tuple[str, str] | None:
    """Return what is wrong with a database at ``path`` that has a second name, as (found, remedy); None where it has none.

    It is of no importance whether the log beside the other name is there now: where the other name is not known, nobody can
    tell, and where it is, whoever uses it may begin one. Only root sees what processes of others have open.
    """
    if not os.path.isfile(path):
        return None
    holding = holders(path)
    for process in holding:
        other = _other_log(path, process)
        if other:
            return (
                f"{process} has {path} open, and keeps its write-ahead log as {other}: who opens {path} does not find what is "
                "committed there.",
                "Stop it by its own means, by which it takes its log into the database, and let everything use the same path.",
            )
    mounted = _mounted_alone(path)
    if mounted:
        return _refused_mount(path, mounted, holding)
    if os.stat(path).st_nlink > 1:
        return _refused_link(path, holding)
    return None


def require_one(path: str) -> None:
    """Raise Refusal when the database at ``path`` has a second name; see second()."""
    found = second(path)
    if found:
        raise Refusal(*found)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _other_log(path: str, process: Process) -> str | None:
    """Return the name of the log that ``process`` has open for the database, where that is not the one beside ``path``."""
    ours = None
    with contextlib.suppress(OSError):
        ours = _identity(f"{path}-wal")
    return next(iter(process.logs), None) if ours not in process.logs.values() else None


def _refused_link(path: str, holding: list[Process]) -> tuple[str, str]:
    """Return what second() does for a file with more than one hard link."""
    others = {other for process in holding for other in process.names if other != path and _is_same(other, path)}
    others |= _hard_links(path)
    found = f"{path} is one file with {os.stat(path).st_nlink} names (hard links), and SQLite keeps the log beside the one used."
    found += "".join(f" {other} is another one{_beside(other)}." for other in sorted(others))
    search = f"find {shlex.quote(_file_system(path))} -xdev -samefile {shlex.quote(path)}"
    log = next((other for other in sorted(others) if _beside(other)), None)
    first = f"keep a copy of the file with its logs, take the log into the database ({_take_in(log)}), " if log else ""
    return found, f"Stop Synapse, {first}see which names there are ({search}), remove all but Synapse's, and start Synapse again."


def _hard_links(path: str) -> set[str]:
    """Return the other names of the file at ``path`` that are found within _SEARCHING seconds, those nearby first."""
    wanted, found, seen = os.stat(path), set(), set()
    deadline, begin = time.monotonic() + _SEARCHING, os.path.dirname(path)
    while True:
        left = [begin]
        while left and len(found) < wanted.st_nlink - 1 and time.monotonic() < deadline:
            folder = left.pop()
            with contextlib.suppress(OSError):
                if folder in seen or os.stat(folder).st_dev != wanted.st_dev:
                    continue
                seen.add(folder)
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
                        elif entry.inode() == wanted.st_ino and entry.path != path and _is_same(entry.path, path):
                            found.add(entry.path)
        if os.path.ismount(begin):
            return found
        begin = os.path.dirname(begin)


def _file_system(path: str) -> str:
    """Return the folder at which the file system of ``path`` begins; a hard link is on the same one."""
    folder = os.path.dirname(path)
    while not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return folder


def _take_in(name: str) -> str:
    """Return the command that takes the log beside ``name`` into the database, or back what a journal there is of."""
    return f"sqlite3 {shlex.quote(name)} 'SELECT count(*) FROM sqlite_master; PRAGMA wal_checkpoint(TRUNCATE)'"


def _is_same(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other) and not os.path.islink(one)
    return False


def _beside(name: str, root: str = "") -> str:
    """Return that a log lies beside ``name``, as words; nothing where there is none. ``root`` is where its file system begins."""
    for log in (f"{name}{suffix}" for suffix in _LOGS):
        with contextlib.suppress(OSError):
            size = os.path.getsize(root + log)
            if size:
                return f", with the log {log} of {size} bytes"
    return ""


def _refused_mount(path: str, mounted: list[tuple[int, str]], holding: list[Process]) -> tuple[str, str]:
    """Return what second() does for a file that is mounted alone: at ``mounted``, as (process that sees it, mount point)."""
    told = []
    for number, point in mounted:
        beside = _beside(point, f"/proc/{number}/root")
        who = next((process for process in holding if process.number == number), f"process {number}")
        told.append(f"{point}{beside}" if number == os.getpid() else f"{point}{beside}, as {who} sees it")
    return (
        f"The file {path} is mounted alone, without its folder: at {'; '.join(told)}. SQLite keeps the log of changes beside the "
        "name that is used, so that what was committed by one of them is not found by the other.",
        "Stop Synapse by its own means, by which it takes the log into the database; mount the folder instead of the file, let "
        "Synapse use the database in it, and start Synapse again.",
    )


def place(entries: list[_mounts.Mount], path: str) -> tuple[str, str]:
    """Return the file system (device) and the path in it where the file at ``path`` is, by the mounts ``entries``.

    The deepest mount counts, of several at one point the last.
    """
    found = max(
        (entry for entry in reversed(entries) if path == entry.point or path.startswith(entry.point.rstrip("/") + "/")),
        key=lambda entry: len(entry.point),
        default=_mounts.Mount("", "/", "/", ""),
    )
    return found.device, _below(found.root, os.path.relpath(path, found.point))


def _below(folder: str, relative: str) -> str:
    return os.path.normpath(os.path.join(folder, relative))


def _logs_place(entries: list[_mounts.Mount], path: str) -> tuple[str, str]:
    """Return place() for what SQLite keeps beside ``path``, but for the suffix."""
    device, folder = place(entries, os.path.dirname(path))
    return device, os.path.join(folder, os.path.basename(path))


def _mounted_alone(path: str) -> list[tuple[int, str]]:
    """Return where the very file at ``path`` is mounted alone, in any container: ``[(process, mount point)]``.

    A mount by which the files beside it are the same ones as here, as of a file on itself, is none.
    """
    mine: list = []
    with contextlib.suppress(OSError):
        mine = _mounts.seen_by()
    here, logs = place(mine, path), _logs_place(mine, path)
    found, looked = [], set()
    if here != logs:
        found = [
            (os.getpid(), path),
            *((os.getpid(), name) for name in _reached(mine, here) if _is_same(name, path) and name != path),
        ]
    for process in [os.getpid(), *sorted(int(folder[6:]) for folder in glob.glob("/proc/[0-9]*"))]:
        with contextlib.suppress(OSError):
            space = os.stat(f"/proc/{process}/ns/mnt").st_ino
            if space not in looked:
                looked.add(space)
                entries = _mounts.seen_by(process)
                points = [entry.point for entry in entries if (entry.device, entry.root) == here]
                found += [(process, point) for point in points if _logs_place(entries, point) != logs]
    return found


def _reached(entries: list[_mounts.Mount], there: tuple[str, str]):
    """Yield the paths by which a file at ``there``, as of place(), may be seen below the mounts ``entries``."""
    device, inside = there
    for entry in entries:
        if entry.device == device and inside.startswith(entry.root.rstrip("/") + "/"):
            yield _below(entry.point, os.path.relpath(inside, entry.root))
