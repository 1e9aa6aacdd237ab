# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many huge pages the server will need after its next start, by its own count.

The server counts for the configuration that it is going to have, while it runs with another one: its program is asked
(postgres -C) with a data directory that holds no more than it reads for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account, _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    conf_lines,
    conf_syntax,
    quantities,
    tuning,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.conf_lines import Line
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

# The servers that count huge pages themselves, and that tell whether they have them (release notes of 15 and of 17).
COUNTING, TELLING = 150000, 170000

COUNT = "shared_memory_size_in_huge_pages"

_ASKED = ("huge_pages", "huge_page_size", "shared_buffers", "shared_memory_type")

# What the program needs of a data directory to count: src/backend/postmaster/postmaster.c, PostmasterMain().
_READ_BY_IT = ("PG_VERSION", os.path.join("global", "pg_control"), "postgresql.auto.conf")


@dataclasses.dataclass(frozen=True)
class Server:
    """The running server: its postmaster's number, its files, and since when it runs, in seconds since the epoch.

    What /proc tells of the postmaster is read as its own ``account``: root may lack the right to look into the processes of
    others (CAP_SYS_PTRACE, which containers are not given).
    """

    process: int
    data: str
    config_file: str
    block: int
    version: int
    started: float
    account: _account.Account


@dataclasses.dataclass(frozen=True)
class Demand:
    """What the server will have: ``huge_pages``, whether somebody chose it, the page size if not the kernel's, and the count.

    Sizes are in bytes; ``words`` are the program's own when it did not tell.
    """

    huge_pages: str = "try"
    chosen: bool = False
    page_size: int = 0
    shared_buffers: int = 0
    memory_type: str = "mmap"
    count: int = 0
    words: str = ""

    @property
    def wanted(self) -> bool:
        """Whether huge pages are to be had: when they were chosen, or when there is much to gain by them."""
        return self.huge_pages != "off" and (self.chosen or self.shared_buffers >= tuning.HUGE_PAGES_FROM)


def running_server(cursor: Cursor, known: dict[str, Parameter], root: str) -> Server:
    """Return the Server; Refusal when its process is not among this host's, or we may not look at it."""
    data = known["data_directory"].setting
    try:
        account = _account.owner(data)
        with _account.acting(account):
            with open(os.path.join(data, "postmaster.pid"), encoding="utf-8", errors="replace") as stream:
                process = int(stream.readline())
            seen = os.path.samefile(os.path.join(root, "proc", str(process), "cwd"), data)
    except (OSError, ValueError):
        seen = False
    if not seen:
        raise Refusal(
            f"The server's data directory {data} is not in use by a process of this host that this task may look at.",
            "Run the task on the server's own host, as root or as the server's operating system user.",
        )
    version, block = cursor.connection.server_version, int(known["block_size"].setting)
    return Server(process, data, known["config_file"].setting, block, version, _connection.started(cursor), account)


def demand(cursor: Cursor, server: Server, known: dict[str, Parameter], requests: dict[str, str], root: str) -> Demand:
    """Return what the ``server`` will have with its files as they are and the ``requests``, counted by itself where it can."""
    if server.version < COUNTING:
        return from_running(known, requests)
    return _counted(server, known, requests, conf_lines.read_with_messages(cursor), root)


def from_running(known: dict[str, Parameter], requests: dict[str, str]) -> Demand:
    """Return the Demand without a count, of a server that does not tell it: by what it has now and the ``requests``."""
    switch, buffers = known["huge_pages"], known["shared_buffers"]
    chosen = "huge_pages" in requests or switch.source != "default"
    blocks = buffers.number(requests.get("shared_buffers", buffers.setting))
    return Demand(
        huge_pages=str(switch.meaning(requests.get("huge_pages", switch.setting))),
        chosen=chosen,
        shared_buffers=int(blocks) * int(known["block_size"].setting),
    )


def _counted(server: Server, known: dict[str, Parameter], requests: dict[str, str], lines: list[Line], root: str) -> Demand:
    """Return the Demand of the ``server`` with its files (their ``lines``) as they are and the ``requests``."""
    chosen = {name.lower() for name in requests} | {line.key for line in lines}
    try:
        with _trial_folder(server, requests) as folder:
            asked = {name: _ask(server, folder, name, root) for name in (*_ASKED, COUNT)}
        return Demand(
            huge_pages=asked["huge_pages"],
            chosen="huge_pages" in chosen or known["huge_pages"].on_command_line,
            page_size=int(asked["huge_page_size"]) * quantities.KB,
            shared_buffers=int(asked["shared_buffers"]) * server.block,
            memory_type=asked["shared_memory_type"],
            count=max(int(asked[COUNT]), 0),
            words="" if int(asked[COUNT]) >= 0 else "it was built for a system without them",
        )
    except (OSError, RuntimeError, ValueError) as error:
        return dataclasses.replace(from_running(known, requests), words=str(error))


@contextlib.contextmanager
def _trial_folder(server: Server, requests: dict[str, str]) -> Iterator[str]:
    """Yield a folder that passes for the data directory, with a configuration of the server's own and ``requests``.

    Settings may hold secrets: nobody but the server's account sees into the folder.
    """
    with _account.acting(server.account):
        folder = tempfile.mkdtemp(prefix="synapse-postgres-")
        try:
            os.mkdir(os.path.join(folder, "global"), 0o700)
            for name in _READ_BY_IT:
                if os.path.exists(os.path.join(server.data, name)):
                    shutil.copyfile(os.path.join(server.data, name), os.path.join(folder, name))
            text = conf_syntax.render({"include": server.config_file, **requests}, {})
            with open(os.path.join(folder, "postgresql.conf"), "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
        except BaseException:
            shutil.rmtree(folder)
            raise
    try:
        yield folder
    finally:
        with _account.acting(server.account):
            shutil.rmtree(folder)


def _ask(server: Server, folder: str, name: str, root: str) -> str:
    """Return the value of the parameter ``name`` with the configuration in ``folder``; RuntimeError in the program's words.

    It is started as the postmaster was, with the same words before ours, which then count, and in the same environment.
    """
    process = os.path.join(root, "proc", str(server.process))
    with _account.acting(server.account):
        program = os.readlink(os.path.join(process, "exe")).replace(" (deleted)", "")
        words = _zero_ended(os.path.join(process, "cmdline"))[1:]
        variables = [entry.partition("=") for entry in _zero_ended(os.path.join(process, "environ"))]
    changed = {"config_file": f"{folder}/postgresql.conf", "data_directory": folder, "log_line_prefix": ""}
    options = ["-D", folder, *(word for key, value in changed.items() for word in ("-c", f"{key}={value}")), "-C", name]
    try:
        done = subprocess.run(
            server.account.command([program, *words, *options]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={key: value for key, _sign, value in variables},
            cwd="/",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(str(error)) from error
    answer = done.stdout.split()
    if done.returncode or not answer:
        errors = done.stderr.strip().splitlines()
        raise RuntimeError(errors[-1] if errors else f"it ended with {done.returncode}")
    return answer[-1]


def _zero_ended(path: str) -> list[str]:
    """Return the entries of a file of the kernel's that each end with a zero byte."""
    with open(path, "rb") as stream:
        return os.fsdecode(stream.read()).split("\0")[:-1]
