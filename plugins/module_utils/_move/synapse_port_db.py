# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's own port routine, synapse_port_db: its run, and what it says on the way; and its tool for background updates."""

from __future__ import annotations

import dataclasses
import json
import os
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _progress
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import synapse_tool
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.port_config import PortConfig

# How many rows it carries at a time where nothing else is said, as in its own options.
ROWS = 1000

# What it prints: TerminalProgress.update(), handle_table() and _convert_rows() in synapse/_scripts/synapse_port_db.py.
_PROGRESS = re.compile(r"(\w+): \d+% \((\d+)/(\d+)\)")
_ALREADY = re.compile(r".* - Table (\w+): (\d+)/(\d+) \(rows ")
_DROPPED = re.compile(r".* - DROPPING ROW: NUL value in table (\w+) ")
_DROPPED_SEARCH = re.compile(r".* - dropping search row ")

# What runs by Synapse's interpreter in create_schema(): the routine as it is, but that no table is carried. Its own code goes on
# to fill the two tables that are no plain copies. It exits with 0 when a signal ends it half-way; a line says that it came
# through.
_CREATE_SCHEMA = r"""
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
routine.Progress.done = lambda self: print(json.dumps({"schema_created": sorted(tables)}), flush=True)
routine.main()
"""
_SCHEMA_CREATED = re.compile(r'\{"schema_created": .*\}')

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
    """How far the routine is: ``tables`` maps a name to ``{rows, total, dropped}``, counted in rows.

    ``activity`` is the table that it was last heard of, or what it does.
    """

    tables: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    activity: str = "starting"

    def add_line(self, line: str) -> None:
        """Take in one line of the routine's output."""
        numbers = _PROGRESS.fullmatch(line) or _ALREADY.match(line)
        dropped = _DROPPED.match(line)
        if numbers:
            self.activity = numbers[1]
            self._table(numbers[1]).update(rows=int(numbers[2]), total=int(numbers[3]))
        elif dropped:
            self._table(dropped[1])["dropped"] += 1
        elif _DROPPED_SEARCH.match(line):
            self._table("event_search")["dropped"] += 1
        elif line.endswith("..."):
            self.activity = line[:-3]

    def publish(self, progress: _progress.Progress) -> None:
        """Write to the file of ``progress`` how far all tables are."""
        done, total = (sum(table[key] for table in self.tables.values()) for key in ("rows", "total"))
        tables = {name: {"done": table["rows"], "total": table["total"]} for name, table in self.tables.items()}
        progress.tell(self.activity, done, total, tables)

    def _table(self, name: str) -> dict[str, int]:
        return self.tables.setdefault(name, {"rows": 0, "total": 0, "dropped": 0})


@dataclasses.dataclass
class _SchemaProgress(Progress):
    """How far the routine is that carries nothing; ``to_carry`` are the tables that it would carry, once it came through."""

    to_carry: list[str] = dataclasses.field(default_factory=list)

    def add_line(self, line: str) -> None:
        if _SCHEMA_CREATED.fullmatch(line):
            self.to_carry = json.loads(line)["schema_created"]
        super().add_line(line)


def run(command: list[str], config: PortConfig, sqlite_database: str, batch_size: int) -> Progress:
    """Run the routine to its end on ``sqlite_database`` and return its Progress.

    ``command`` is the routine's own, without options. All it says goes to ``<sqlite_database>.port.log``, mode 0600. Raises
    Refusal when the routine fails or falls silent.
    """
    progress = Progress()
    status, last = _run([*command, "--batch-size", str(batch_size)], config, sqlite_database, progress)
    if status:
        raise _unfinished(status, last, sqlite_database)
    return progress


def create_schema(python: list[str], config: PortConfig, sqlite_database: str) -> list[str]:
    """Let the routine do all but carry rows: both schemas, background updates, sequences. Return the tables it would carry.

    ``python`` runs Synapse's interpreter. What it says goes where run() has it, and so does a Refusal.
    """
    progress = _SchemaProgress()
    status, last = _run([*python, "-c", _CREATE_SCHEMA], config, sqlite_database, progress)
    if status or not progress.to_carry:
        raise _unfinished(status, last, sqlite_database)
    return progress.to_carry


def _run(command: list[str], config: PortConfig, sqlite_database: str, progress: Progress) -> tuple[int, str]:
    """Run ``command`` with the routine's options, and keep ``progress`` with it; return as synapse_tool.run() does."""
    with synapse_tool.private_configuration(config.server_name, config.section, sqlite_database) as path, _progress.Progress(
        f"{sqlite_database}.progress.json", "port"
    ) as published:

        def on_line(line: str) -> None:
            progress.add_line(line)
            progress.publish(published)

        options = ["--sqlite-database", sqlite_database, "--postgres-config", path]
        return synapse_tool.run([*command, *options], os.path.dirname(path), f"{sqlite_database}.port.log", on_line)


def _unfinished(status: int, last: str, sqlite_database: str) -> Refusal:
    """Return the Refusal for a routine that ended with ``status``, or with 0 half-way, and these ``last`` words."""
    why = f"it was ended by signal {-status}" if status < 0 else _EXITS.get(status, f"it ended with status {status}")
    return Refusal(
        f"Synapse's port routine did not finish: {why}. Its last words: {last or 'none'}",
        f"Read {sqlite_database}.port.log and the server's log, mend what they name and run this again; it goes on where it "
        "stopped.",
    )


def finish_background_updates(python: list[str], config: PortConfig, sqlite_database: str) -> None:
    """Let Synapse's own tool finish the background updates that are pending in the copy ``sqlite_database``.

    ``python`` runs Synapse's interpreter; the database of ``config`` is left alone. Synapse's documentation names the tool for
    just this case ("Porting from SQLite"). What it says goes to ``<sqlite_database>.drain.log``, mode 0600. Raises Refusal when
    it fails or falls silent.
    """
    log = f"{sqlite_database}.drain.log"

    def on_line(line: str) -> None:
        # After a failure in the background it goes on for ever, with nothing more to do.
        if _BACKGROUND_FAILURE in line:
            raise Refusal(
                f"A background update of {sqlite_database} fails in Synapse's own tool, update_synapse_database.",
                f"Read {log}; the Synapse that made the database knows its updates: let it finish them, then run this again.",
            )

    section = {"name": "sqlite3", "args": {"database": sqlite_database}}
    with synapse_tool.private_configuration(config.server_name, section, sqlite_database) as path:
        tool = [*python, "-m", "synapse._scripts.update_synapse_database"]
        status, last = synapse_tool.run(
            [*tool, "--database-config", path, "--run-background-updates"], os.path.dirname(path), log, on_line
        )
    if status:
        raise Refusal(
            f"Synapse's update_synapse_database did not finish the background updates of {sqlite_database} (status {status}). "
            f"Its last words: {last or 'none'}",
            f"Read {log}; or let the running Synapse finish them, then run this again.",
        )
