# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How Synapse is started on this host: its processes as /proc has them, its systemd units, and the files that it sees.

What runs in a container sees them by other paths: see Invocation.host_path().
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import itertools
import os
import re
import shlex
import stat
import string
import subprocess
from typing import NoReturn

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _mounts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging

MAIN = "synapse.app.homeserver"

# The programs that pip installs for Synapse's applications: [project.scripts] in its pyproject.toml. Nix wraps them.
_PROGRAMS = {"synapse_homeserver": MAIN, "synapse_worker": "synapse.app.generic_worker"}
_PROGRAMS.update({f".{name}-wrapped": app for name, app in _PROGRAMS.items()})

# Seconds; systemctl answers at once, or there is no systemd.
_TIMEOUT = 30


class _Options(argparse.ArgumentParser):
    """What Synapse's own parser makes of its options: synapse/config/_base.py, load_or_generate_config()."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("-c", "--config-path", action="append", default=[])
        self.add_argument("-d", "--database-path")
        self.add_argument("-D", "--daemonize", action="store_true")
        for word in ("--config-directory", "--keys-directory", "--data-directory", "--server-name", "--report-stats"):
            self.add_argument(word)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Invocation:
    """How a process of Synapse's was started, or its ``unit`` will start one (``pid`` is None then).

    ``app`` is Synapse's Python module; ``config_paths`` the paths of its ``--config-path`` options, as it sees them;
    ``working_folders`` where its relative paths may start, the likeliest first; ``database_path`` its ``--database-path``.
    """

    app: str
    config_paths: list[str]
    working_folders: list[str]
    database_path: str | None = None
    pid: int | None = None
    unit: str | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"process {self.pid}" if self.pid else f"the unit {self.unit}"

    def config_files(self) -> list[str]:
        """Return the files of its configuration in their order, by paths at which they can be read on this host."""
        seen = [f"{self._root}{inside}" for path in self.config_paths for _whole, inside in self._resolutions(path)[:1]]
        names = [name[len(self._root) :] for name in merging.files(seen)]
        return [self.host_path(name) or f"{self._root}{name}" for name in names]

    def host_path(self, path: str) -> str | None:
        """Return the path on this host of the file that it knows as ``path``; None where none is known.

        A container's file is looked for by the mount that it is in (proc_pid_mountinfo(5)). What is in no mount of the host's is
        out of reach as soon as the container stops. Where both have it by the same path, that is returned as it is spelled: who
        opens the file follows the links.
        """
        if not os.path.isabs(path) and not self.working_folders:
            return None
        for whole, inside in self._resolutions(path):
            with contextlib.suppress(OSError):
                wanted = os.stat(f"{self._root}{inside}")
                for candidate in (whole, inside, *self._mount_paths(inside)):
                    with contextlib.suppress(OSError):
                        if os.path.samestat(os.stat(candidate), wanted):
                            return candidate
        return None

    def is_trusted_with(self, path: str) -> bool:
        """Tell whether the process is root's, this user's, or that of a user for whom the file at ``path`` is: by owner or group.

        Anybody can start a program by that name, with files of their own; and what it says decides where a password is written.
        """
        with open(f"/proc/{self.pid}/status", encoding="utf-8", errors="replace") as stream:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
        # The real ones: a program that is set-uid begins with options of whoever calls it.
        uid, gid = int(lines["Uid"].split()[0]), int(lines["Gid"].split()[0])
        found = os.stat(path)
        groups = {gid, *map(int, lines["Groups"].split())}
        return uid in (0, os.geteuid(), found.st_uid) or (found.st_gid in groups and bool(found.st_mode & stat.S_IRGRP))

    @property
    def is_isolated(self) -> bool:
        """Whether it sees other files than this process does: in a container, or by what its unit hides or mounts."""
        return bool(self._root)

    def has_another_file(self, path: str, given: str) -> bool:
        """Tell whether it has another file as ``path`` than the one that this host has as ``given``, as far as that is seen."""
        if self.pid and os.access(f"/proc/{self.pid}/root/", os.X_OK):
            for _whole, inside in self._resolutions(path):
                with contextlib.suppress(OSError):
                    return not os.path.samestat(os.stat(f"{self._root}{inside}"), os.stat(given))
        return False

    @property
    def _root(self) -> str:
        if self.pid:
            with contextlib.suppress(OSError):
                if (
                    os.readlink(f"/proc/{self.pid}/root") != "/"
                    or os.readlink(f"/proc/{self.pid}/ns/mnt") != _own_mount_namespace()
                ):
                    return f"/proc/{self.pid}/root"
        return ""

    def _resolutions(self, path: str) -> list[tuple[str, str]]:
        """Return where ``path`` can be for it, absolute, as it is spelled and as it sees it; first where there is something."""
        found = []
        for folder in self.working_folders or ["/"]:
            whole = os.path.join(folder, path)
            if ".." not in whole.split("/"):  # behind a link that leads elsewhere than to the folder before
                whole = os.path.normpath(whole)
            # A link of its is not to be followed to a file of ours.
            found.append((whole, _resolved(self._root, whole) if self._root else whole))
        return sorted(found, key=lambda one: not os.path.exists(f"{self._root}{one[1]}"))

    def _mount_paths(self, inside: str) -> list[str]:
        """Return where on this host the file system is mounted that has ``inside``, with the rest of the path."""
        if not self._root or self.pid is None:
            return []
        above = [mount for mount in _mounts.seen_by(self.pid) if _relative_to(inside, mount.point) is not None]
        if not above:
            return []
        container = max(reversed(above), key=lambda mount: len(mount.point))
        if container.point == "/" and container.kind == "overlay":
            return []
        # The path within the file system, which the host may have mounted as well, or a folder of it.
        place = os.path.normpath(os.path.join(container.root, _relative_to(inside, container.point) or ""))
        found = []
        for mount in _mounts.seen_by():
            rest = _relative_to(place, mount.root) if mount.device == container.device else None
            if rest is not None:
                found.append(os.path.normpath(os.path.join(mount.point, rest)))
        return found


def processes(path: str) -> list[Invocation]:
    """Return Synapse's processes on this host, those of containers too, as far as this user may look.

    Only those that are trusted with the configuration file at ``path``: see Invocation.is_trusted_with().
    """
    found = []
    for number in sorted(int(path[6:]) for path in glob.glob("/proc/[0-9]*")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{number}/cmdline", "rb") as stream:
                words = os.fsdecode(stream.read()).split("\0")
            invocation = parse_command(words, [])
            if invocation:
                invocation = dataclasses.replace(invocation, working_folders=_working_folders(number), pid=number)
                if invocation.is_trusted_with(path):
                    found.append(invocation)
    return found


def units(names: list[str]) -> list[Invocation]:
    """Return how the systemd units ``names`` start Synapse, of those that do: ExecStart, its environment and its folder."""
    found = []
    for name in names:
        properties = _unit_properties(name)
        variables = _unit_environment(properties)
        for command in re.findall(r"(?:^|\s)argv\[\]=(.*?) ; ignore_errors=", properties.get("ExecStart", "")):
            words = [word for written in _split(command) for word in _expanded(written, variables)]
            invocation = parse_command(words, [properties.get("WorkingDirectory", "").lstrip("!~-") or "/"])
            if invocation:
                found.append(dataclasses.replace(invocation, unit=name))
    return found


def parse_command(words: list[str], working_folders: list[str]) -> Invocation | None:
    """Return what the command ``words`` starts in ``working_folders``, None where that is no Synapse.

    A command that has Synapse's within its own (sudo, a shell, docker run) is none: what it starts may see other files.
    """
    left = list(itertools.dropwhile(lambda word: os.path.basename(word) == "env" or "=" in word, words))
    if left and "py" in os.path.basename(left[0]):
        left = _without_python_options(left[1:])
    app = _PROGRAMS.get(os.path.basename(left[0])) if left else None
    if left[:1] == ["-m"] and left[1:] and left[1].startswith("synapse.app."):
        app, left = left[1], left[1:]
    with contextlib.suppress(ValueError):
        options = _Options().parse_known_args(left[1:])[0]
        return Invocation(app, options.config_path, working_folders, options.database_path) if app else None
    return None


def _without_python_options(words: list[str]) -> list[str]:
    """Return the ``words`` after Python's name from the program on, or from ``-m``: without options of Python's own."""
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-m":
        left = left[2 if left[0] in ("-W", "-X") else 1 :]
    return left


def _working_folders(pid: int) -> list[str]:
    """Return the folders that relative paths of the process may start from: a daemon has left the one that it began in.

    None are known of another user's process.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            variables = os.fsdecode(stream.read()).split("\0")
        return [os.readlink(f"/proc/{pid}/cwd"), *(variable[4:] for variable in variables if variable.startswith("PWD=/"))]
    except PermissionError:
        return []


def _unit_properties(unit: str) -> dict[str, str]:
    """Return what systemd knows of ``unit``; nothing where there is no systemd."""
    words = ["systemctl", "show", "--property=ExecStart,Environment,EnvironmentFiles,WorkingDirectory", "--", unit]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _equals, value = line.partition("=")
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def _unit_environment(properties: dict[str, str]) -> dict[str, str]:
    """Return the variables that the unit's command is given: Environment=, and the files after it (systemd.exec(5))."""
    lines = _split(properties.get("Environment", ""))
    for path in re.findall(r"(/.+?) \(ignore_errors=", properties.get("EnvironmentFiles", "")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            lines += [word for line in stream if not line.startswith(("#", ";")) for word in _split(line.strip())[:1]]
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _expanded(word: str, variables: dict[str, str]) -> list[str]:
    """Return what systemd makes of the ``word`` of a command: $NAME alone is as many words as it has (systemd.service(5))."""
    whole = re.fullmatch(r"\$(\w+)", word)
    return _split(variables.get(whole[1], "")) if whole else [string.Template(word).safe_substitute(variables)]


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _own_mount_namespace() -> str:
    return os.readlink("/proc/self/ns/mnt")


def _relative_to(path: str, folder: str) -> str | None:
    """Return the rest of ``path`` below ``folder``, None where it is not in there."""
    if path == folder or folder == "/":
        return path[len(folder) :]
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else None


def _resolved(root: str, path: str) -> str:
    """Return the absolute ``path`` of a process whose root folder is ``root``, without links; one that leads up stays within."""
    done, left, links = "/", [part for part in path.split("/") if part], 0
    while left:
        part = left.pop(0)
        if part == "..":
            done = os.path.dirname(done)
        elif part != ".":
            whole = os.path.join(done, part)
            if links < 40 and os.path.islink(f"{root}{whole}"):
                links += 1
                target = os.readlink(f"{root}{whole}")
                done = "/" if target.startswith("/") else done
                left = [each for each in target.split("/") if each] + left
            else:
                done = whole
    return done
