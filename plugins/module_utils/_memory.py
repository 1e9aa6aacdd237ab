# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The memory and the processors that this host, or the container that it is, has to give."""

from __future__ import annotations

import os
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal


def usable(root: str = "/") -> int:
    """Return the bytes of memory that processes here can use: the host's, or the least limit of our control groups.

    ``root`` is the folder in which /proc and /sys are. The host's memory is MemTotal of /proc/meminfo (proc(5)); limits
    are ``memory.max`` of cgroup v2 and ``memory.limit_in_bytes`` of v1 (the kernel's admin-guide, cgroup-v2 and cgroup-v1),
    in our group and in every group above it. Raises Refusal when the host does not tell.
    """
    text = _text(os.path.join(root, "proc/meminfo"))
    found = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    if not found:
        raise Refusal("This host does not tell its memory in /proc/meminfo.", "Give it with the option memory.")
    return min([int(found[1]) * 1024, *_limits(root)])


def processors() -> int:
    """Return how many processors processes here may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limits(root: str, process: str, controller: str, name: str, split_name: str) -> list[int]:
    """Return what limits the ``process`` (a number, or self) in its control group and in every group above it.

    ``name`` is the limit's file in cgroup v2, ``split_name`` the one in v1, where each ``controller`` has groups of its own.
    A group without a limit says "max", or v1's largest number.
    """
    found = []
    for line in _text(os.path.join(root, "proc", process, "cgroup")).splitlines():
        _number, controllers, group = line.split(":", 2)
        if not controllers:
            mount, file = "sys/fs/cgroup", name
        elif controller in controllers.split(","):
            mount, file = f"sys/fs/cgroup/{controller}", split_name
        else:
            continue
        # Within a container the path can be the host's; the mount then has our group for its root.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            limit = _text(os.path.join(root, mount, *parts[:depth], file)).strip()
            found += [int(limit)] if limit.isdigit() else []
    return found


def _limits(root: str) -> list[int]:
    """Return the limits of our control groups in bytes."""
    return limits(root, "self", "memory", "memory.max", "memory.limit_in_bytes")


def _text(path: str) -> str:
    """Return what the file holds, nothing when there is none or it may not be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""
