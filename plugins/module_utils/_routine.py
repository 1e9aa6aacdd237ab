# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's own port routine, synapse_port_db: its private configuration, its run, and what it says on the way."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import glob
import json
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _homeserver, _move
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# A routine that says nothing for so long (seconds) is taken for dead; it speaks after every batch of every table.
SILENCE = 3600

# What it prints: TerminalProgress.update(), handle_table() and _convert_rows() in synapse/_scripts/synapse_port_db.py.
_PROGRESS = re.compile(r"(\w+): \d+% \((\d+)/(\d+)\)")
_ALREADY = re.compile(r".* - Table (\w+): (\d+)/(\d+) \(rows ")
_DROPPED = re.compile(r".* - DROPPING ROW: NUL value in table (\w+) ")
_DROPPED_SEARCH = re.compile(r".* - dropping search row ")

# Its exit codes, from main() there.
_EXITS = {
    2: "its configuration names no database engine",
    3: "its configuration names another engine than psycopg2",
    4: "its configuration has no database section",
    5: "the port failed",
}


@dataclasses.dataclass
class Progress:
    """How far the routine is: ``tables`` maps a name to ``{rows, total, dropped}``, counted in rows."""

    tables: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    state: str = "starting"

    def hear(self, line: str) -> None:
        """Take in one line of the routine's output."""
        numbers = _PROGRESS.fullmatch(line) or _ALREADY.match(line)
        dropped = _DROPPED.match(line)
        if numbers:
            self._table(numbers[1]).update(rows=int(numbers[2]), total=int(numbers[3]))
        elif dropped:
            self._table(dropped[1])["dropped"] += 1
        elif _DROPPED_SEARCH.match(line):
            self._table("event_search")["dropped"] += 1
        elif line.endswith("..."):
            self.state = line[:-3]

    def _table(self, name: str) -> dict[str, int]:
        return self.tables.setdefault(name, {"rows": 0, "total": 0, "dropped": 0})


def read_config(paths: list[str]) -> dict:
    """Return Synapse's configuration from ``paths``, files and folders of ``*.yaml``, later ones going before earlier ones.

    As Synapse merges its --config-path options (synapse/config/_base.py, read_config_files). Raises Refusal for a file that
    cannot be read or parsed, and where no file has a server_name or a psycopg2 ``database:`` section.
    """
    merged: dict = {}
    for path in paths:
        for name in sorted(glob.glob(os.path.join(glob.escape(path), "*.yaml"))) if os.path.isdir(path) else [path]:
            merged.update(_homeserver.parse(_homeserver.read(name), name))
    where = ", ".join(paths)
    if not isinstance(merged.get("server_name"), str):
        raise Refusal(
            f"No server_name in {where}.",
            "Give every file and folder that Synapse reads, in its order (in the role synapse_port: synapse_port_config_files).",
        )
    database = merged.get("database")
    if not isinstance(database, dict) or database.get("name") != "psycopg2" or not isinstance(database.get("args"), dict):
        raise Refusal(
            f"No database section for psycopg2 in {where}.",
            "Give the configuration that Synapse is to have on PostgreSQL; synapse_database_config writes its section.",
        )
    odd = [key for key, value in database["args"].items() if not isinstance(key, str) or not isinstance(value, (str, int, float))]
    if odd:
        raise Refusal(f"In {where}, database.args.{odd[0]} is neither text nor a number.", "Correct it, or take it out.")
    return merged


def connection_keywords(config: dict) -> dict:
    """Return libpq's keywords from ``config``'s database section: all of ``args`` but the pool's ``cp_*``."""
    return {key: value for key, value in config["database"]["args"].items() if not key.startswith("cp_")}


def private_config(config: dict, folder: str) -> dict:
    """Return the least configuration with which the routine parses: the server's name and its database.

    Modules, media stores and key files of ``config`` are left out, since the routine loads them where they may not exist;
    the signing key is one made for this run, the media store a path in ``folder``. Background updates of the new, empty
    database need no pause between them.
    """
    args = {**config["database"]["args"], "application_name": _move.ROUTINE}
    return {
        "server_name": config["server_name"],
        "database": {**config["database"], "args": args},
        "report_stats": False,
        "signing_key": "ed25519 port " + base64.b64encode(os.urandom(32)).decode("ascii").rstrip("="),
        "media_store_path": os.path.join(folder, "media"),
        "trusted_key_servers": [],
        "background_updates": {"sleep_duration_ms": 0},
    }


def require_synapse(python: str) -> str:
    """Return the version of the Synapse that the interpreter ``python`` runs; Refusal when it runs none."""
    words = "import synapse, synapse.util; print(getattr(synapse, '__version__', None) or synapse.util.SYNAPSE_VERSION)"
    try:
        done = subprocess.run([python, "-c", words], capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        raise Refusal(
            f"Synapse's Python, {python}, does not run: {error.strerror}.", "Give the path of the interpreter that runs Synapse."
        ) from error
    if done.returncode:
        raise Refusal(f"The interpreter {python} has no Synapse.", "Give the path of the interpreter that runs Synapse.")
    return done.stdout.strip()


def run(command: list[str], config: dict, sqlite_database: str, batch_size: int) -> Progress:
    """Run the routine to its end on ``sqlite_database`` and return its Progress.

    ``command`` is the routine's own, without options. All it says goes to ``<sqlite_database>.port.log`` and its state,
    as JSON, to ``<sqlite_database>.port.json``, both mode 0600. The private configuration lies in a folder beside the
    database (a container sees it there) and is removed. Raises Refusal when the routine fails or falls silent.
    """
    folder = tempfile.mkdtemp(prefix=".port-", dir=os.path.dirname(sqlite_database))
    try:
        path = os.path.join(folder, "homeserver.yaml")
        with _private(path) as stream:
            json.dump(private_config(config, folder), stream, default=str)  # JSON is YAML, with every string quoted
        words = [*command, "--sqlite-database", sqlite_database, "--postgres-config", path, "--batch-size", str(batch_size)]
        return _followed(words, folder, sqlite_database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _followed(words: list[str], folder: str, sqlite_database: str) -> Progress:
    """Run ``words`` in ``folder``, hearing and logging every line; Refusal unless they end with 0."""
    progress, last = Progress(), ""
    log = f"{sqlite_database}.port.log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with _private(log) as heard, _started(words, folder, environment) as routine:
        told = 0.0
        for line in _lines(routine):
            heard.write(line + "\n")
            progress.hear(line)
            last = line.strip() or last
            if time.monotonic() - told > 1:
                told = _tell(sqlite_database, progress)
        _tell(sqlite_database, progress)
        status = routine.wait()
    if status:
        why = f"it was ended by signal {-status}" if status < 0 else _EXITS.get(status, f"it ended with status {status}")
        raise Refusal(
            f"Synapse's port routine did not finish: {why}. Its last words: {last or 'none'}",
            f"Read {log}, mend what it names and run this again; it goes on where it stopped.",
        )
    return progress


@contextlib.contextmanager
def _started(words: list[str], folder: str, environment: dict):
    """Yield the running process and see that it does not outlive the block."""
    try:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise Refusal(
            f"The port routine {words[0]} does not start: {error.strerror}.", "Correct synapse_python or command."
        ) from error
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def _lines(process):
    """Yield the process's output line by line; Refusal when it says nothing for SILENCE seconds."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(SILENCE):
                raise Refusal(
                    f"Synapse's port routine has said nothing for {SILENCE // 60} minutes.",
                    "It was ended; look for locks in the server's log, then run this again: it goes on where it stopped.",
                )
            piece = os.read(process.stdout.fileno(), 1 << 16)
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
            if not piece:
                break
    if rest:
        yield rest.decode("utf-8", "replace")


def _tell(sqlite_database: str, progress: Progress) -> float:
    """Write ``progress`` where another process can read it whole; return when."""
    path = f"{sqlite_database}.port.json"
    with _private(f"{path}.new") as stream:
        json.dump(dataclasses.asdict(progress), stream)
    os.replace(f"{path}.new", path)
    return time.monotonic()


def _private(path: str):
    """Return a new file at ``path``, replacing what is there, that only this user can read."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8")
