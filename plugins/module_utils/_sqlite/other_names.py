# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the file of a SQLite database has a second name, by which something else may be committed to it.

What was committed by another name of the same file - a hard link, a mount of the file alone - is in another log, and nothing that
opens the file by this name can read it (https://www.sqlite.org/howtocorrupt.html, section 2.4.1). So such a file is refused.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _mounts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import holders

# For how long (seconds) the other names of a file with hard links are looked for, before an administrator has to.
_SEARCHING = 5

# What somebody committed, or did not yet, by the name that it stands behind.
_LOGS = ("-wal", "-journal")


def find(path: str) -> tuple[str, str] | None:
    """Return what is wrong with a database at ``path`` that has a second name, as (found, remedy); None where it has none.

    It is of no importance whether the log beside the other name is there now: where the other name is not known, nobody can
    tell, and where it is, whoever uses it may begin one. Only root sees what processes of others have open.
    """
    if not os.path.isfile(path):
        return None
    holding = holders.find(path)
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


def require_none(path: str) -> None:
    """Raise Refusal when the database at ``path`` has a second name; see find()."""
    found = find(path)
    if found:
        raise Refusal(*found)


def _other_log(path: str, process: holders.Process) -> str | None:
    """Return the name of the log that ``process`` has open for the database, where that is not the one beside ``path``."""
    with contextlib.suppress(OSError):
        if holders.identity(f"{path}-wal") in process.logs.values():
            return None
    return next(iter(process.logs), None)


def _refused_link(path: str, holding: list[holders.Process]) -> tuple[str, str]:
    """Return what find() does for a file with more than one hard link."""
    others = {other for process in holding for other in process.names if other != path and _is_same_file(other, path)}
    others |= _hard_links(path)
    found = f"{path} is one file with {os.stat(path).st_nlink} names (hard links), and SQLite keeps the log beside the one used."
    found += "".join(f" {other} is another one{_with_log(other)}." for other in sorted(others))
    search = f"find {shlex.quote(_mount_point(path))} -xdev -samefile {shlex.quote(path)}"
    logged = next((other for other in sorted(others) if _with_log(other)), None)
    first = ""
    if logged:
        first = f"keep a copy of the file with its logs, take the log into the database ({_checkpoint_command(logged)}), "
    return found, f"Stop Synapse, {first}see which names there are ({search}), remove all but Synapse's, and start Synapse again."


def _hard_links(path: str) -> set[str]:
    """Return the other names of the file at ``path`` that are found within _SEARCHING seconds, those nearby first."""
    wanted = os.stat(path)
    found: set[str] = set()
    searched: set[str] = set()
    deadline, top = time.monotonic() + _SEARCHING, os.path.dirname(path)
    while True:
        left = [top]
        while left and len(found) < wanted.st_nlink - 1 and time.monotonic() < deadline:
            folder = left.pop()
            with contextlib.suppress(OSError):
                if folder in searched or os.stat(folder).st_dev != wanted.st_dev:
                    continue
                searched.add(folder)
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
                        elif entry.inode() == wanted.st_ino and entry.path != path and _is_same_file(entry.path, path):
                            found.add(entry.path)
        if os.path.ismount(top):
            return found
        top = os.path.dirname(top)


def _mount_point(path: str) -> str:
    """Return the folder at which the file system of ``path`` begins; a hard link is on the same one."""
    folder = os.path.dirname(path)
    while not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return folder


def _checkpoint_command(name: str) -> str:
    """Return the command that takes the log beside ``name`` into the database, or back what a journal there is of."""
    return f"sqlite3 {shlex.quote(name)} 'SELECT count(*) FROM sqlite_master; PRAGMA wal_checkpoint(TRUNCATE)'"


def _is_same_file(one: str, other: str) -> bool:
    """Tell whether both names are of one file, ``one`` by itself and not as a symbolic link."""
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other) and not os.path.islink(one)
    return False


def _with_log(name: str, root: str = "") -> str:
    """Return that a log lies beside ``name``, as words; nothing where there is none. ``root`` is where its file system begins."""
    for log in (f"{name}{suffix}" for suffix in _LOGS):
        with contextlib.suppress(OSError):
            size = os.path.getsize(root + log)
            if size:
                return f", with the log {log} of {size} bytes"
    return ""


def _refused_mount(path: str, mounted: list[tuple[int, str]], holding: list[holders.Process]) -> tuple[str, str]:
    """Return what find() does for a file that is mounted alone: at ``mounted``, as (process that sees it, mount point)."""
    commands = {process.number: str(process) for process in holding}
    points = []
    for number, point in mounted:
        name = f"{point}{_with_log(point, f'/proc/{number}/root')}"
        seen_by = commands.get(number, f"process {number}")
        points.append(name if number == os.getpid() else f"{name}, as {seen_by} sees it")
    return (
        f"The file {path} is mounted alone, without its folder: at {'; '.join(points)}. SQLite keeps the log of changes beside "
        "the name that is used, so that what was committed by one of them is not found by the other.",
        "Stop Synapse by its own means, by which it takes the log into the database; mount the folder instead of the file, let "
        "Synapse use the database in it, and start Synapse again.",
    )


def _mounted_alone(path: str) -> list[tuple[int, str]]:
    """Return where the very file at ``path`` is mounted alone, in any container: ``[(process, mount point)]``.

    A mount by which the files beside it are the same ones as here, as of a file on itself, is none.
    """
    own: list[_mounts.Mount] = []
    with contextlib.suppress(OSError):
        own = _mounts.seen_by()
    location, logs = _mounts.locate(own, path), _location_of_logs(own, path)
    found, namespaces = [], set()
    if location != logs:
        found.append((os.getpid(), path))
        found += [(os.getpid(), name) for name in _paths_of(own, location) if _is_same_file(name, path) and name != path]
    for process in [os.getpid(), *holders.process_numbers()]:
        with contextlib.suppress(OSError):
            namespace = os.stat(f"/proc/{process}/ns/mnt").st_ino
            if namespace not in namespaces:
                namespaces.add(namespace)
                mounts = _mounts.seen_by(process)
                points = [mount.point for mount in mounts if (mount.device, mount.root) == location]
                found += [(process, point) for point in points if _location_of_logs(mounts, point) != logs]
    return found


def _location_of_logs(mounts: list[_mounts.Mount], path: str) -> tuple[str, str]:
    """Return the location of what SQLite keeps beside ``path``, but for the suffix; see _mounts.locate()."""
    device, folder = _mounts.locate(mounts, os.path.dirname(path))
    return device, os.path.join(folder, os.path.basename(path))


def _paths_of(mounts: list[_mounts.Mount], location: tuple[str, str]) -> Iterator[str]:
    """Yield the paths by which the file at ``location``, see _mounts.locate(), may be seen below the ``mounts``."""
    device, inside = location
    for mount in mounts:
        if mount.device == device and inside.startswith(mount.root.rstrip("/") + "/"):
            yield os.path.normpath(os.path.join(mount.point, os.path.relpath(inside, mount.root)))
