# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file that is to be replaced by a new one in its place: what keeps that from being done, and what has to go over to it.

Ansible's atomic_move() takes mode, owner and SELinux context over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _mounts, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# ioctl_iflags(2): FS_IOC_GETFLAGS, FS_IMMUTABLE_FL, FS_APPEND_FL; and the letters of chattr(1).
_GET_FLAGS = 0x80086601
_LOCKS = {0x10: "i", 0x20: "a"}


def require_replaceable(path: str) -> None:
    """Raise Refusal where another file cannot be put in the place of ``path``, whoever asks for it.

    Its file system is read-only, it or its folder is locked by an attribute, or it is mounted as a single file.
    """
    folder = os.path.dirname(path)
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise Refusal(
            f"{path} is on a file system that is mounted read-only.",
            "Mount that for writing, or change the file where its content comes from.",
        )
    for locked in (path, folder):
        letter = _lock(locked)
        if letter:
            raise Refusal(
                f"{locked} is protected by the attribute {letter} (see lsattr), so that nobody can replace {path}.",
                f"If that is no longer meant, remove it by `chattr -{letter} {_words.shell(locked)}`, then run this again.",
            )
    if _is_mounted(path):
        raise Refusal(
            f"{path} is mounted as a single file, as into a container, and cannot be replaced from within.",
            "Run the task on the host, and give the path that the file has there.",
        )


def keep_attributes(path: str, new: str) -> None:
    """Give the file ``new`` the access control list and the users' attributes of the file at ``path``, which it will replace."""
    try:
        names = os.listxattr(path)
    except OSError:  # the file system knows none
        return
    for name in names:
        if name == "system.posix_acl_access" or name.startswith("user."):
            os.setxattr(new, name, os.getxattr(path, name))


def other_names(path: str) -> str:
    """Return a warning where the file at ``path`` has another name, by a hard link, that would keep the old content; else ""."""
    found = os.stat(path)
    if found.st_nlink < 2:
        return ""
    return f"{path} had {found.st_nlink} names (hard links to the inode {found.st_ino}); the others keep the old content."


def _lock(path: str) -> str:
    """Return the letter of the attribute that keeps ``path`` from being replaced; "" where there is none or none is known."""
    flags = bytearray(struct.calcsize("l"))
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        finally:
            os.close(descriptor)
    found = struct.unpack("l", flags)[0]
    return next((letter for flag, letter in _LOCKS.items() if found & flag), "")


def _is_mounted(path: str) -> bool:
    """Tell whether this process sees a mount at ``path`` itself."""
    with contextlib.suppress(OSError):
        return path in {mount.point for mount in _mounts.seen_by()}
    return False
