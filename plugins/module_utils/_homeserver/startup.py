# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How Synapse is started on this host: its processes as /proc has them, its systemd units, and the files that it sees.

What runs in a container sees them by other paths: see Started.on_host().
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

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _mounts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging

MAIN = "synapse.app.homeserver"

# The programs that pip installs for Synapse's applications: [project.scripts] in its pyproject.toml. Nix wraps them.
_PROGRAMS = {"synapse_homeserver": MAIN, "synapse_worker": "synapse.app.generic_worker"}
_PROGRAMS.update({f".{name}-wrapped": app for name, app in _PROGRAMS.items()})

# Seconds; systemctl answers at once, or there is no systemd.
_PATIENCE = 30


class _Options(argparse.ArgumentParser):
    """What Synapse's own parser makes of its options: synapse/config/_base.py, load_or_generate_config()."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("-c", "--config-path", action="append", default=[])
        self.add_argument("-d", "--database-path")
        self.add_argument("-D", "--daemonize", action="store_true")
        for word in ("--config-directory", "--keys-directory", "--data-directory", "--server-name", "--report-stats"):
            self.add_argument(word)

    def error(self, message):
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Started:
    """How a process of Synapse's was started, or its ``unit`` will start one (``pid`` is None then).

    ``app`` is Synapse's Python module; ``config`` the paths of its ``--config-path`` options, as it sees them; ``folders`` where
    its relative paths may start, the likeliest first; ``database_path`` its ``--database-path``.
    """

    app: str
    config: list
    folders: list
    database_path: str | None = None
    pid: int | None = None
    unit: str | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"process {self.pid}" if self.pid else f"the unit {self.unit}"

    def files(self) -> list[str]:
        """Return the files of its configuration in their order, by paths at which they can be read on this host."""
        seen = [f"{self._root}{inside}" for path in self.config for _whole, inside in self._inside(path)[:1]]
        names = [name[len(self._root) :] for name in merging.files(seen)]
        return [self.on_host(name) or f"{self._root}{name}" for name in names]

    def on_host(self, path: str) -> str | None:
        """Return the path on this host of the file that it knows as ``path``; None where none is known.

        A container's file is looked for by the mount that it is in (proc_pid_mountinfo(5)). What is in no mount of the host's is
        out of reach as soon as the container stops. Where both have it by the same path, that is returned as it is spelled: who
        opens the file follows the links.
        """
        if not os.path.isabs(path) and not self.folders:
            return None
        for whole, inside in self._inside(path):
            with contextlib.suppress(OSError):
                wanted = os.stat(f"{self._root}{inside}")
                for candidate in (whole, inside, *self._mounted(inside)):
                    with contextlib.suppress(OSError):
                        if os.path.samestat(os.stat(candidate), wanted):
                            return candidate
        return None

    def believed(self, path: str) -> bool:
        """Tell whether the process is root's, this user's, or that of a user for whom the file at ``path`` is: by owner or group.

        Anybody can start a program by that name, with files of their own; and what it says decides where a password is written.
        """
        with open(f"/proc/{self.pid}/status", encoding="utf-8", errors="replace") as stream:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
        # The real ones: a program that is set-uid begins with options of whoever calls it.
        uid, gid = int(lines["Uid"].split()[0]), int(lines["Gid"].split()[0])
        found = os.stat(path)
        its_groups = {gid, *map(int, lines["Groups"].split())}
        return uid in (0, os.geteuid(), found.st_uid) or (found.st_gid in its_groups and bool(found.st_mode & stat.S_IRGRP))

    @property
    def apart(self) -> bool:
        """Whether it sees other files than this process does: in a container, or by what its unit hides or mounts."""
        return bool(self._root)

    def has_another(self, path: str, given: str) -> bool:
        """Tell whether it has another file as ``path`` than the one that this host has as ``given``, as far as that is seen."""
        if self.pid and os.access(f"/proc/{self.pid}/root/", os.X_OK):
            for _whole, inside in self._inside(path):
                with contextlib.suppress(OSError):
                    return not os.path.samestat(os.stat(f"{self._root}{inside}"), os.stat(given))
        return False

    @property
    def _root(self) -> str:
        if self.pid:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{self.pid}/root") != "/" or os.readlink(f"/proc/{self.pid}/ns/mnt") != _our_mounts():
                    return f"/proc/{self.pid}/root"
        return ""

    def _inside(self, path: str) -> list[tuple[str, str]]:
        """Return where ``path`` can be for it, absolute, as it is spelled and as it sees it; first where there is something."""
        found = []
        for folder in self.folders or ["/"]:
            whole = os.path.join(folder, path)
            if ".." not in whole.split("/"):  # behind a link that leads elsewhere than to the folder before
                whole = os.path.normpath(whole)
            # A link of its is not to be followed to a file of ours.
            found.append((whole, _resolved(self._root, whole) if self._root else whole))
        return sorted(found, key=lambda one: not os.path.exists(f"{self._root}{one[1]}"))

    def _mounted(self, inside: str) -> list[str]:
        """Return where on this host the file system is mounted that has ``inside``, with the rest of the path."""
        if not self._root:
            return []
        above = [mount for mount in _mounts.seen_by(self.pid) if _within(inside, mount.point) is not None]
        if not above:
            return []
        its = max(reversed(above), key=lambda mount: len(mount.point))
        if its.point == "/" and its.kind == "overlay":
            return []
        place = os.path.normpath(os.path.join(its.root, _within(inside, its.point)))
        ours = [mount for mount in _mounts.seen_by() if mount.device == its.device and _within(place, mount.root) is not None]
        return [os.path.normpath(os.path.join(mount.point, _within(place, mount.root))) for mount in ours]


def processes(path: str) -> list[Started]:
    """Return Synapse's processes on this host, those of containers too, as far as this user may look.

    Only those that are believed as to the configuration file at ``path``: see Started.believed().
    """
    found = []
    for number in sorted(int(path[6:]) for path in glob.glob("/proc/[0-9]*")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{number}/cmdline", "rb") as stream:
                words = os.fsdecode(stream.read()).split("\0")
            started = called(words, [])
            started = started and dataclasses.replace(started, folders=_folders(number), pid=number)
            if started and started.believed(path):
                found.append(started)
    return found


def units(names: list[str]) -> list[Started]:
    """Return how the systemd units ``names`` start Synapse, of those that do: ExecStart, its environment and its folder."""
    found = []
    for name in names:
        shown = _shown(name)
        variables = _environment(shown)
        for command in re.findall(r"(?:^|\s)argv\[\]=(.*?) ; ignore_errors=", shown.get("ExecStart", "")):
            words = [word for written in _words(command) for word in _given(written, variables)]
            started = called(words, [shown.get("WorkingDirectory", "").lstrip("!~-") or "/"])
            if started:
                found.append(dataclasses.replace(started, unit=name))
    return found


def called(words: list[str], folders: list[str]) -> Started | None:
    """Return what the command ``words`` starts in ``folders``, None where that is no Synapse.

    A command that has Synapse's within its own (sudo, a shell, docker run) is none: what it starts may see other files.
    """
    left = list(itertools.dropwhile(lambda word: os.path.basename(word) == "env" or "=" in word, words))
    if left and "py" in os.path.basename(left[0]):
        left = _of_python(left[1:])
    app = _PROGRAMS.get(os.path.basename(left[0])) if left else None
    if left[:1] == ["-m"] and left[1:] and left[1].startswith("synapse.app."):
        app, left = left[1], left[1:]
    with contextlib.suppress(ValueError):
        options = _Options().parse_known_args(left[1:])[0]
        return Started(app, options.config_path, folders, options.database_path) if app else None
    return None


def _of_python(words: list[str]) -> list[str]:
    """Return the ``words`` after Python's name from the program on, or from ``-m``: without options of Python's own."""
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-m":
        left = left[2 if left[0] in ("-W", "-X") else 1 :]
    return left


def _folders(pid: int) -> list[str]:
    """Return the folders that relative paths of the process may start from: a daemon has left the one that it began in.

    None are known of another user's process.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            variables = os.fsdecode(stream.read()).split("\0")
        return [os.readlink(f"/proc/{pid}/cwd"), *(variable[4:] for variable in variables if variable.startswith("PWD=/"))]
    except PermissionError:
        return []


def _shown(unit: str) -> dict[str, str]:
    """Return what systemd knows of ``unit``; nothing where there is no systemd."""
    words = ["systemctl", "show", "--property=ExecStart,Environment,EnvironmentFiles,WorkingDirectory", "--", unit]
    how = {"encoding": "utf-8", "errors": "replace", "timeout": _PATIENCE}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, **how)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _equals, value = line.partition("=")
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def _environment(shown: dict[str, str]) -> dict[str, str]:
    """Return the variables that the unit's command is given: Environment=, and the files after it (systemd.exec(5))."""
    lines = _words(shown.get("Environment", ""))
    for path in re.findall(r"(/.+?) \(ignore_errors=", shown.get("EnvironmentFiles", "")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            lines += [word for line in stream if not line.startswith(("#", ";")) for word in _words(line.strip())[:1]]
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _given(word: str, variables: dict[str, str]) -> list[str]:
    """Return what systemd makes of the ``word`` of a command: $NAME alone is as many words as it has (systemd.service(5))."""
    whole = re.fullmatch(r"\$(\w+)", word)
    return _words(variables.get(whole[1], "")) if whole else [string.Template(word).safe_substitute(variables)]


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _our_mounts() -> str:
    return os.readlink("/proc/self/ns/mnt")


def _within(path: str, folder: str) -> str | None:
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
