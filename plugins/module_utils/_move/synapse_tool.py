# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tool of Synapse's as a process: the private configuration that it is given, its lines as they come, and why it failed."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import subprocess
import tempfile
from typing import IO, Callable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port_config

try:
    import psycopg2
    import psycopg2.errors
except ImportError:
    pass

# A tool that says nothing for so long (seconds) is taken for dead; the routine speaks after every batch of every table.
SILENCE = 3600

# An exception as Twisted words it, the innermost of a line; what comes after it is seldom worth reading.
_EXCEPTION = re.compile(r".*<class '([\w.]+)'>: ?(.*)")

# What comes after the first line of an error that PostgreSQL or libpq reports: indented, or one of the fields of section
# 20.8.2 of PostgreSQL's manual ("What to Log", log_error_verbosity).
_CONTINUATION = re.compile(r"\s|(DETAIL|HINT|QUERY|CONTEXT|LOCATION|STATEMENT|LINE \d+):")


@contextlib.contextmanager
def private_configuration(server_name: str, section: dict, sqlite_database: str) -> Iterator[str]:
    """Yield the path of the private configuration, in a folder beside ``sqlite_database``: a container sees it there."""
    folder = tempfile.mkdtemp(prefix=".port-", dir=os.path.dirname(sqlite_database))
    try:
        path = os.path.join(folder, "homeserver.yaml")
        with _private_file(path) as stream:
            stream.write(port_config.as_yaml(port_config.private(server_name, section, folder)))
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(command: list[str], folder: str, log: str, on_line: Callable[[str], None]) -> tuple[int, str]:
    """Run ``command`` in ``folder``; return its exit status (the negative signal that ended it) and its last words on why.

    Every line goes to ``log``, mode 0600, and to ``on_line``. Raises Refusal where it does not start or falls silent.
    """
    last = LastWords()
    with _private_file(log) as stream, _started(command, folder) as process:
        for line in _lines(process):
            stream.write(line + "\n")
            on_line(line)
            last.add(line)
        return process.wait(), str(last)


class LastWords:
    """What a tool that failed says of the reason: its last exception, with all that the server said, or else its last line."""

    def __init__(self) -> None:
        self._line = ""
        self._exception: re.Match[str] | None = None
        self._continuation: list[str] = []
        self._is_continued = False

    def add(self, line: str) -> None:
        """Take in one more line of the tool's output."""
        exception = _EXCEPTION.match(line)
        self._is_continued = bool(exception or (self._is_continued and line))  # what the server says ends with an empty line
        if exception:
            self._exception, self._continuation = exception, []
        elif self._is_continued:
            self._continuation.append(line)
        if not _CONTINUATION.match(line):
            self._line = line or self._line

    def __str__(self) -> str:
        if not self._exception:
            return self._line
        name, message = self._exception.groups()
        if name.startswith("psycopg2.errors."):
            kind = getattr(psycopg2.errors, name.rpartition(".")[2], psycopg2.Error)
            return f"{name}: {_connection.without_values(kind, message, *self._continuation)}"
        return f"{name}: {message}"


@contextlib.contextmanager
def _started(command: list[str], folder: str) -> Iterator[subprocess.Popen]:
    """Yield the running process and see that it does not outlive the block."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise Refusal(
            f"Synapse's tool {command[0]} does not start: {error.strerror}.", "Correct synapse_python, or the commands."
        ) from error
    if process.stdout is None:
        raise AssertionError("the process was started with a pipe")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def _lines(process: subprocess.Popen) -> Iterator[str]:
    """Yield the process's output line by line; Refusal when it says nothing for SILENCE seconds."""
    output, rest = process.stdout, b""
    if output is None:
        raise AssertionError("the process was started with a pipe")
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(SILENCE):
                raise Refusal(
                    f"Synapse's tool has said nothing for {SILENCE // 60} minutes.",
                    "It was ended; look for locks in the server's log, then run this again: it goes on where it stopped.",
                )
            piece = os.read(output.fileno(), 1 << 16)
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
            if not piece:
                break
    if rest:
        yield rest.decode("utf-8", "replace")


def _private_file(path: str) -> IO[str]:
    """Return a new file at ``path``, replacing what is there, that only this user can read."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8")
