# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's own port routine, synapse_port_db: its private configuration, its run, and what it says on the way."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import re
import selectors
import shutil
import subprocess
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _connection, _defaults, _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import record

try:
    import psycopg2
    import psycopg2.errors
except ImportError:
    pass

# A routine that says nothing for so long (seconds) is taken for dead; it speaks after every batch of every table.
SILENCE = 3600

# How many rows it carries at a time where nothing else is said, as in its own options.
ROWS = 1000

# What it prints: TerminalProgress.update(), handle_table() and _convert_rows() in synapse/_scripts/synapse_port_db.py.
_PROGRESS = re.compile(r"(\w+): \d+% \((\d+)/(\d+)\)")
_ALREADY = re.compile(r".* - Table (\w+): (\d+)/(\d+) \(rows ")
_DROPPED = re.compile(r".* - DROPPING ROW: NUL value in table (\w+) ")
_DROPPED_SEARCH = re.compile(r".* - dropping search row ")

# An exception as Twisted words it, the innermost of a line; what comes after it is seldom worth reading.
_WHY = re.compile(r".*<class '([\w.]+)'>: ?(.*)")

# What comes after the first line of an error that PostgreSQL or libpq reports: indented, or one of the fields of section
# 20.8.2 of PostgreSQL's manual ("What to Log", log_error_verbosity).
_FURTHER = re.compile(r"\s|(DETAIL|HINT|QUERY|CONTEXT|LOCATION|STATEMENT|LINE \d+):")

# What runs by Synapse's interpreter in lay(): the routine as it is, but that no table is carried. Its own code goes on to fill
# the two tables that are no plain copies. It exits with 0 when a signal ends it half-way; a line says that it came through.
_LAY = r"""
import json
from synapse._scripts import synapse_port_db as routine

set_up, handle, tables = routine.Porter.setup_table, routine.Porter.handle_table, []


async def setup_table(self, table):
    if table in ("sent_transactions", "user_directory_stream_pos"):
        return await set_up(self, table)
    tables.append(table)
    return table, 0, 0, 1, 0


async def handle_table(self, table, *numbers):
    if table == "user_directory_stream_pos":
        await handle(self, table, *numbers)


routine.Porter.setup_table, routine.Porter.handle_table = setup_table, handle_table
routine.Progress.done = lambda self: print(json.dumps({"laid": sorted(tables)}), flush=True)
routine.main()
"""
_LAID = re.compile(r'\{"laid": .*\}')

# What update_synapse_database logs when an update fails: synapse/metrics/background_process_metrics.py.
_BACKGROUND_FAILURE = "Background process 'background_updates' threw an exception"

# The routine's exit codes, from main() there.
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
    doing: str = "starting"

    def hear(self, line: str) -> None:
        """Take in one line of the routine's output."""
        numbers = _PROGRESS.fullmatch(line) or _ALREADY.match(line)
        dropped = _DROPPED.match(line)
        if numbers:
            self.doing = numbers[1]
            self._table(numbers[1]).update(rows=int(numbers[2]), total=int(numbers[3]))
        elif dropped:
            self._table(dropped[1])["dropped"] += 1
        elif _DROPPED_SEARCH.match(line):
            self._table("event_search")["dropped"] += 1
        elif line.endswith("..."):
            self.doing = line[:-3]

    def tell(self, told: _progress.Progress) -> None:
        """Pass on to ``told`` how far all tables are, and which one it was last heard of."""
        done, total = (sum(table[key] for table in self.tables.values()) for key in ("rows", "total"))
        tables = {name: {"done": table["rows"], "total": table["total"]} for name, table in self.tables.items()}
        told.tell(doing=self.doing, done=done, total=total, tables=tables)

    def _table(self, name: str) -> dict[str, int]:
        return self.tables.setdefault(name, {"rows": 0, "total": 0, "dropped": 0})


def read_config(paths: list[str], database: dict | None = None) -> dict:
    """Return Synapse's configuration from ``paths``, files and folders of ``*.yaml``, later ones going before earlier ones.

    ``database`` is the section that it is to have in place of its own. Raises Refusal as merging.read() does, and where no file
    has a server_name or a psycopg2 ``database:`` section.
    """
    merged = merging.read(paths).config
    if database:
        merged["database"] = database
    where = ", ".join(paths)
    if not isinstance(merged.get("server_name"), str):
        raise Refusal(
            f"No server_name in {where}.",
            "Give every file and folder that Synapse reads, in its order (in the roles: synapse_postgres_config_files).",
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


def pool(config: dict) -> int:
    """Return how many sessions Synapse has at most by ``config``, in each of its processes: Twisted's adbapi has 5 by default."""
    return int(config["database"]["args"].get("cp_max") or 5)


def within(config: dict, sessions: int) -> dict:
    """Return ``config`` with a pool of so many ``sessions`` at most, and of one at least."""
    database, most = config["database"], max(1, min(pool(config), sessions))
    args = {**database["args"], "cp_min": min(int(database["args"].get("cp_min") or 3), most), "cp_max": most}
    return {**config, "database": {**database, "args": args}}


def connection_keywords(config: dict) -> dict:
    """Return libpq's keywords from ``config``'s database section: all of ``args`` but the pool's ``cp_*``."""
    return {key: value for key, value in config["database"]["args"].items() if not key.startswith("cp_")}


def without_defaults(config: dict, cursor) -> dict:
    """Return ``config`` with which Synapse's own tools leave the defaults of the role of ``cursor``, where it carries any.

    They stay where no options are taken, by a pooler.
    """
    options, libpq = _defaults.options(cursor), connection_keywords(config)
    if not options:
        return config
    # Options take the place of those of a service, which may hold the role's search_path.
    libpq = _connection.with_options(libpq, f"{options} -c search_path={_connection.MOVED}")
    if not _attempt.attempt(libpq).let_in:
        return config
    database = config["database"]
    return {**config, "database": {**database, "args": {**database["args"], "options": libpq["options"]}}}


def private_config(config: dict, folder: str) -> dict:
    """Return the least configuration with which Synapse's tools parse: the server's name and its database.

    Modules, media stores and key files of ``config`` are left out, since the tools load them where they may not exist;
    the signing key is one made for this run, the media store a path in ``folder``. Background updates need
    no pause between them, since nobody is served from the new database or the copy, and nothing ends what takes its time.
    """
    database = config["database"]
    if database["name"] == "psycopg2":
        args = {**_connection.KEEPALIVES, **database["args"], "application_name": record.ROUTINE}
        database = {**database, "args": args, "statement_timeout": 0, "idle_in_transaction_session_timeout": 0}
    return {
        "server_name": config["server_name"],
        "database": database,
        "report_stats": False,
        "signing_key": "ed25519 port " + base64.b64encode(os.urandom(32)).decode("ascii").rstrip("="),
        "media_store_path": os.path.join(folder, "media"),
        "trusted_key_servers": [],
        "background_updates": {"sleep_duration_ms": 0},
    }


def run(command: list[str], config: dict, sqlite_database: str, batch_size: int) -> Progress:
    """Run the routine to its end on ``sqlite_database`` and return its Progress.

    ``command`` is the routine's own, without options. All it says goes to ``<sqlite_database>.port.log``, mode 0600. Raises
    Refusal when the routine fails or falls silent.
    """
    progress = Progress()
    with _configured(config, sqlite_database) as path, _progress.Progress(f"{sqlite_database}.progress.json", "port") as told:

        def hear(line: str) -> None:
            progress.hear(line)
            progress.tell(told)

        words = [*command, "--sqlite-database", sqlite_database, "--postgres-config", path, "--batch-size", str(batch_size)]
        status, last = _followed(words, os.path.dirname(path), f"{sqlite_database}.port.log", hear)
    if status:
        raise _unfinished(status, last, sqlite_database)
    return progress


def lay(python: list[str], config: dict, sqlite_database: str) -> list[str]:
    """Let the routine do all but carry rows: both schemas, background updates, sequences. Return the tables it would carry.

    ``python`` runs Synapse's interpreter. What it says goes where run() has it, and so does a Refusal.
    """
    laid, progress = [], Progress()
    with _configured(config, sqlite_database) as path, _progress.Progress(f"{sqlite_database}.progress.json", "port") as told:

        def hear(line: str) -> None:
            if _LAID.fullmatch(line):
                laid.extend(json.loads(line)["laid"])
            progress.hear(line)
            progress.tell(told)

        words = [*python, "-c", _LAY, "--sqlite-database", sqlite_database, "--postgres-config", path]
        status, last = _followed(words, os.path.dirname(path), f"{sqlite_database}.port.log", hear)
    if status or not laid:
        raise _unfinished(status, last, sqlite_database)
    return laid


def _unfinished(status: int, last: str, sqlite_database: str) -> Refusal:
    """Return the Refusal for a routine that ended with ``status``, or with 0 half-way, and these ``last`` words."""
    why = f"it was ended by signal {-status}" if status < 0 else _EXITS.get(status, f"it ended with status {status}")
    return Refusal(
        f"Synapse's port routine did not finish: {why}. Its last words: {last or 'none'}",
        f"Read {sqlite_database}.port.log and the server's log, mend what they name and run this again; it goes on where it "
        "stopped.",
    )


def drain(python: list[str], config: dict, sqlite_database: str) -> None:
    """Let Synapse's own tool finish the background updates that are pending in the copy ``sqlite_database``.

    ``python`` runs Synapse's interpreter; ``config`` is Synapse's configuration, whose database is left alone. Synapse's
    documentation names the tool for just this case ("Porting from SQLite"). What it says goes to
    ``<sqlite_database>.drain.log``, mode 0600. Raises Refusal when it fails or falls silent.
    """
    log = f"{sqlite_database}.drain.log"

    def hear(line: str) -> None:
        # After a failure in the background it goes on for ever, with nothing more to do.
        if _BACKGROUND_FAILURE in line:
            raise Refusal(
                f"A background update of {sqlite_database} fails in Synapse's own tool, update_synapse_database.",
                f"Read {log}; the Synapse that made the database knows its updates: let it finish them, then run this again.",
            )

    here = {"name": "sqlite3", "args": {"database": sqlite_database}}
    with _configured({**config, "database": here}, sqlite_database) as path:
        words = [*python, "-m", "synapse._scripts.update_synapse_database", "--database-config", path, "--run-background-updates"]
        status, last = _followed(words, os.path.dirname(path), log, hear)
    if status:
        raise Refusal(
            f"Synapse's update_synapse_database did not finish the background updates of {sqlite_database} (status {status}). "
            f"Its last words: {last or 'none'}",
            f"Read {log}; or let the running Synapse finish them, then run this again.",
        )


def as_yaml(config: dict) -> str:
    """Return ``config`` as JSON, which is YAML with every string quoted, but for characters that the two escape differently.

    JSON has surrogates for an emoji, and YAML breaks a line at characters such as U+2028 (YAML 1.1, sections 5.4 and 5.6).
    """
    return re.sub("[^ -~]", lambda char: f"\\U{ord(char[0]):08X}", json.dumps(config, default=str, ensure_ascii=False))


@contextlib.contextmanager
def _configured(config: dict, sqlite_database: str):
    """Yield the path of the private configuration, in a folder beside the database: a container sees it there."""
    folder = tempfile.mkdtemp(prefix=".port-", dir=os.path.dirname(sqlite_database))
    try:
        path = os.path.join(folder, "homeserver.yaml")
        with _private(path) as stream:
            stream.write(as_yaml(private_config(config, folder)))
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _followed(words: list[str], folder: str, log: str, hear) -> tuple[int, str]:
    """Run ``words`` in ``folder``, log every line and give it to ``hear``; return the exit status and the last words on why."""
    last = _LastWords()
    with _private(log) as heard, _started(words, folder) as tool:
        for line in _lines(tool):
            heard.write(line + "\n")
            hear(line)
            last.hear(line)
        return tool.wait(), str(last)


class _LastWords:
    """What a tool that failed says of the reason: its last exception, with all that the server said, or else its last line."""

    def __init__(self) -> None:
        self._line, self._why, self._further, self._goes_on = "", None, [], False

    def hear(self, line: str) -> None:
        why = _WHY.match(line)
        self._goes_on = bool(why or (self._goes_on and line))  # what the server says ends with an empty line
        if why:
            self._why, self._further = why, []
        elif self._goes_on:
            self._further.append(line)
        if not _FURTHER.match(line):
            self._line = line or self._line

    def __str__(self) -> str:
        if not self._why:
            return self._line
        name, message = self._why.groups()
        if name.startswith("psycopg2.errors."):
            kind = getattr(psycopg2.errors, name.rpartition(".")[2], psycopg2.Error)
            return f"{name}: {_connection.without_values(kind, message, *self._further)}"
        return f"{name}: {message}"


@contextlib.contextmanager
def _started(words: list[str], folder: str):
    """Yield the running process and see that it does not outlive the block."""
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise Refusal(
            f"Synapse's tool {words[0]} does not start: {error.strerror}.", "Correct synapse_python, or the commands."
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
                    f"Synapse's tool has said nothing for {SILENCE // 60} minutes.",
                    "It was ended; look for locks in the server's log, then run this again: it goes on where it stopped.",
                )
            piece = os.read(process.stdout.fileno(), 1 << 16)
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
            if not piece:
                break
    if rest:
        yield rest.decode("utf-8", "replace")


def _private(path: str):
    """Return a new file at ``path``, replacing what is there, that only this user can read."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8")
