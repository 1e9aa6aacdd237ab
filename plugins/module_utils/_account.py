# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another user of the operating system's, for the part of root's work that has to be done as that user."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import sys
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

_BECOME = """
import os, sys
user, group, groups, program, *words = sys.argv[1:]
os.setgroups([int(number) for number in groups.split(",")])
os.setgid(int(group))
os.setuid(int(user))
os.execv(program, [program, *words])
"""


@dataclasses.dataclass(frozen=True)
class Account:
    """A user as the kernel knows it, and the home folder."""

    user: int
    group: int
    groups: tuple[int, ...]
    home: str

    def command(self, words: list[str]) -> list[str]:
        """Return the command that runs the program ``words`` as the account.

        Root has it run by a Python that becomes the account first: subprocess's own ``user`` came with Python 3.9.
        """
        if os.geteuid() != 0:
            return words
        numbers = [str(self.user), str(self.group), ",".join(map(str, self.groups))]
        return [sys.executable, "-I", "-S", "-c", _BECOME, *numbers, *words]


def named(name: str) -> Account:
    """Return the account ``name``; empty is who we are. Raises Refusal when there is none, or we may not become it."""
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise Refusal(
            f"This host has no operating system user {name or os.geteuid()!r}.", "Give in account one that it has."
        ) from None
    return _allowed(entry, name or entry.pw_name)


def owner(path: str) -> Account:
    """Return the account that ``path`` belongs to; Refusal when it has no name, or we may not become it."""
    number = os.stat(path).st_uid
    try:
        entry = pwd.getpwuid(number)
    except KeyError:
        raise Refusal(
            f"{path} belongs to the user with the number {number}, whom this host does not know.",
            "Run the task where the server runs, and not beside its container.",
        ) from None
    return _allowed(entry, entry.pw_name)


@contextlib.contextmanager
def acting(account: Account) -> Iterator[None]:
    """Be the ``account`` within the block: for files that it makes, and for what a server's peer authentication sees."""
    if os.geteuid() == account.user:
        yield
        return
    group, groups, home = os.getegid(), os.getgroups(), os.environ.get("HOME")
    os.setgroups(account.groups)
    os.setegid(account.group)
    os.seteuid(account.user)
    os.environ["HOME"] = account.home  # where libpq looks for certificates, and stops at a folder that it may not enter
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
        os.environ.pop("HOME")
        if home is not None:
            os.environ["HOME"] = home


def _allowed(entry: pwd.struct_passwd, name: str) -> Account:
    """Return the account of the ``entry``, called ``name`` in the Refusal where we may not become it."""
    if os.geteuid() not in (0, entry.pw_uid):
        raise Refusal(
            f"The task runs as the user with the number {os.geteuid()}, who may not act as {name}.",
            f"Run it as root (become: true), or as {name}.",
        )
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)
