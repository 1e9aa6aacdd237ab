# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The memory and the processors that this host, the container that it is, or the server's control group has to give.

``root`` is the folder in which /proc and /sys are. Limits of control groups are those of our own group, or of a process's,
and of every group above it (the kernel's admin-guide, cgroup-v2 and cgroup-v1).
"""

from __future__ import annotations

import os
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# Where version 2 has its groups: on hosts with both versions it is mounted below version 1's.
_VERSION_2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


def usable(root: str = "/") -> int:
    """Return the bytes of memory that processes here can use: the host's, or the least limit of our control groups.

    The host's memory is MemTotal of /proc/meminfo (proc(5)). Raises Refusal when the host does not tell.
    """
    total = numbers(root).get("MemTotal")
    if total is None:
        raise Refusal("This host does not tell its memory in /proc/meminfo.", "Give it with the option memory.")
    return min([total * 1024, *_memory_limits(root, "self")])


def numbers(root: str) -> dict[str, int]:
    """Return the numbers of /proc/meminfo: kB, or pages of HugePages_Total and its like."""
    text = text_of(os.path.join(root, "proc/meminfo"))
    return {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+)(?: kB)?$", text, re.MULTILINE)}


def limit(data_directory: str, root: str = "/") -> int | None:
    """Return the bytes that the control groups of the server of ``data_directory`` leave it, None where they do not limit it.

    That is what MemoryMax of its service becomes. A server that does not run has no group.
    """
    process = _postmaster(data_directory)
    return min(_memory_limits(root, process), default=None) if process else None


def processors(data_directory: str | None = None, root: str = "/") -> int:
    """Return how many processors' time can be had: as many as processes here may run on, or the least quota.

    Quotas are those of our control groups and of the ones of the server of ``data_directory``, if it runs: CPUQuota of its
    service.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    server = _postmaster(data_directory) if data_directory else ""
    return max(1, min([allowed, *_quotas(root, "self"), *(_quotas(root, server) if server else [])]))


def text_of(path: str) -> str:
    """Return what the file holds, nothing when there is none or it may not be read.

    Names of folders are in such files too, in whatever encoding they were given.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def limits(root: str, process: str, controller: str, names: tuple, split_names: tuple) -> list[int]:
    """Return the limits that the control groups of ``process`` (a number, or self) set to what it takes of ``controller``.

    ``names`` are the files of such limits in version 2, ``split_names`` the ones in version 1, where each controller has groups
    of its own. A group without a limit says "max", or version 1's largest number.
    """
    found = []
    for folder, version in _groups(root, process, controller):
        for name in names if version == 2 else split_names:
            text = text_of(os.path.join(folder, name)).strip()
            found += [int(text)] if text.isdigit() and int(text) < 1 << 60 else []
    return found


def _postmaster(data_directory: str) -> str:
    """Return the number of the process that is the server of ``data_directory``, empty when none runs."""
    number = text_of(os.path.join(data_directory, "postmaster.pid")).split("\n")[0].strip()
    return number if number.isdigit() else ""


def _quotas(root: str, process: str) -> list[int]:
    """Return the quotas of the control groups of ``process`` in processors, a part of one as a whole one."""
    found = []
    for folder, version in _groups(root, process, "cpu"):
        if version == 2:
            words = text_of(os.path.join(folder, "cpu.max")).split()
        else:
            words = [text_of(os.path.join(folder, f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            found.append(-(-int(words[0]) // int(words[1])))
    return found


def _memory_limits(root: str, process: str) -> list[int]:
    """Return the limits of memory in bytes. Above memory.high a server is slowed down and its memory taken away."""
    return limits(root, process, "memory", ("memory.max", "memory.high"), ("memory.limit_in_bytes",))


def _groups(root: str, process: str, controller: str) -> list[tuple[str, int]]:
    """Return the folders, each with its version of control groups, that may limit what ``process`` takes of ``controller``."""
    found = []
    for line in text_of(os.path.join(root, "proc", process, "cgroup")).splitlines():
        _number, controllers, group = line.split(":", 2)
        if not controllers:
            mounts, version = _VERSION_2, 2
        elif controller in controllers.split(","):
            mounts, version = (f"sys/fs/cgroup/{controller}", f"sys/fs/cgroup/{controllers}"), 1
        else:
            continue
        # Within a container the path can be the host's; the mount then has our group for its root.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mount in dict.fromkeys(mounts):
            found += [(os.path.join(root, mount, *parts[:depth]), version) for depth in range(len(parts) + 1)]
    return found
