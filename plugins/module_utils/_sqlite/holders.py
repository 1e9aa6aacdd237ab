# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which processes have a SQLite database open, by /proc (proc_pid_fd(5)); only root sees those of other users."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import stat
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# How long (seconds) a process that was stopped may take to close its database.
CLOSING = 15

# What proc(5) puts behind the name of a file that is gone.
_DELETED = " (deleted)"


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
    logs: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        return f"process {self.number} ({self.command})"


def find(path: str) -> list[Process]:
    """Return the processes that have the file at ``path`` open, of those that this user sees."""
    wanted, found = identity(path), []
    for number in process_numbers():
        files, written = _open_files(number)
        names = [name for name, opened in files.items() if opened == wanted]
        with contextlib.suppress(OSError):
            if names:
                with open(f"/proc/{number}/comm", encoding="utf-8", errors="replace") as stream:
                    command = stream.read().strip()
                logs = {name: files[name] for name in _logs(files, names) if name in written}
                found.append(Process(number, command, tuple(names), not written.isdisjoint(names), logs))
    return found


def require_closed(path: str) -> None:
    """Raise Refusal when a process may write to the database at ``path`` after CLOSING seconds, since it has it open.

    Who only reads it, as a backup does, takes nothing from the copy.
    """
    deadline = time.monotonic() + CLOSING
    while True:
        found = [process for process in find(path) if process.writes]
        if not found:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    raise Refusal(
        f"{path} is still open in {', '.join(map(str, found))}: what is written there after the copy would be lost.",
        "Stop that, too. All of Synapse's processes must be among those that the play stops: its workers as well "
        "(in the roles: synapse_postgres_service_units).",
    )


def identity(path: str) -> tuple[int, int]:
    """Return the device and the inode of the file that ``path`` leads to."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def process_numbers() -> list[int]:
    """Return the numbers of all processes that /proc shows, the lowest first."""
    return sorted(int(folder[6:]) for folder in glob.glob("/proc/[0-9]*"))


def _open_files(number: int) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Return the files that a process has open, ``{name: (device, inode)}``, and the names of those that it may write to."""
    files, written = {}, set()
    for descriptor in glob.glob(f"/proc/{number}/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            name = os.readlink(descriptor)
            files[name] = identity(descriptor)
            if os.lstat(descriptor).st_mode & stat.S_IWUSR:  # how it was opened: proc_pid_fd(5)
                written.add(name)
    return files, written


def _logs(files: dict[str, tuple[int, int]], names: list[str]) -> list[str]:
    """Return those of a process's open ``files`` that are logs, but for those of other databases than the one of ``names``."""
    others = {f"{_plain(name)}-wal" for name in files if name not in names}
    return [name for name in files if _plain(name).endswith("-wal") and _plain(name) not in others]


def _plain(name: str) -> str:
    """Return how the file was called that /proc tells of as ``name``."""
    return name[: -len(_DELETED)] if name.endswith(_DELETED) else name
