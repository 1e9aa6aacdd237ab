# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where file systems are mounted, as a process sees it: /proc/PID/mountinfo, see proc_pid_mountinfo(5)."""

from __future__ import annotations

import dataclasses
import os
import re

# Blanks, line ends and backslashes of a path are written as octal numbers there.
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True)
class Mount:
    """The path ``root`` of the file system ``device`` (major:minor), of this ``kind``, is seen at ``point``."""

    device: str
    root: str
    point: str
    kind: str


def seen_by(process: int | str = "self") -> list[Mount]:
    """Return the mounts that the process of that number sees, in their order; OSError where it has ended or is another user's."""
    with open(f"/proc/{process}/mountinfo", "rb") as stream:
        return parsed(stream.read())


def parsed(content: bytes) -> list[Mount]:
    """Return the mounts of the ``content`` of a mountinfo."""
    lines = [[_plain(word) for word in line.split(b" ")] for line in content.split(b"\n") if line]
    return [Mount(line[2], line[3], line[4], line[line.index("-", 6) + 1]) for line in lines]


def locate(mounts: list[Mount], path: str) -> tuple[str, str]:
    """Return the file system (device) and the path in it where the file at ``path`` is, as who has these ``mounts`` sees it.

    The deepest mount counts, of several at one point the last.
    """
    found = max(
        (mount for mount in reversed(mounts) if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")),
        key=lambda mount: len(mount.point),
        default=Mount("", "/", "/", ""),
    )
    return found.device, os.path.normpath(os.path.join(found.root, os.path.relpath(path, found.point)))


def _plain(word: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), word))
