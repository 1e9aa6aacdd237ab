# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A move of a homeserver with rows enough that the port takes some seconds, under way while something happens to it."""

import concurrent.futures
import contextlib
import sqlite3
import time

import yaml

from support import faults, modules
from support.move import USER, Move

# How many times over the rows of what was said are there, at first.
_COPIES = 30

# The tables whose rows are copied, under new keys: {table: {column: its value in copy {n}}}. Negative stream orderings are
# those of events that were fetched backwards, as from other servers; the routine carries them by a sweep of its own.
_COPIED = {
    "events": {"event_id": "event_id || '~{n}'", "stream_ordering": "stream_ordering - {n} * 100000"},
    "event_json": {"event_id": "event_id || '~{n}'"},
    "event_to_state_groups": {"event_id": "event_id || '~{n}'"},
    "event_search": {"event_id": "event_id || '~{n}'"},
    "event_auth": {"event_id": "event_id || '~{n}'"},
    "state_groups_state": {"state_key": "state_key || '~{n}'"},
    # One that the routine empties and fills again on each run.
    "event_push_actions": {"event_id": "event_id || '~{n}'"},
}


class Port:
    """The port of ``move``'s database, multiplied first: watched under way, and looked over after whatever happened."""

    def __init__(self, move: Move, engine: str = "synapse") -> None:
        self.move, self.engine, self.copies = move, engine, 1
        self.grow(_COPIES)

    def begin_anew(self) -> None:
        """Have an empty target again."""
        database = f"DATABASE {self.move.name}"
        self.move.cluster.rows(f"DROP {database} WITH (FORCE)")
        self.move.cluster.rows(f"CREATE {database} OWNER {USER} ENCODING UTF8 LOCALE 'C' TEMPLATE template0")

    def reach(self, port: int, **args) -> None:
        """Have the server reached at another ``port``, with further ``args`` for libpq."""
        text = yaml.safe_load(self.move.config.read_text())
        text["database"]["args"] |= {"port": port, **args}
        self.move.config.write_text(yaml.safe_dump(text))

    def grow(self, copies: int = 1) -> None:
        """Add ``copies`` of what was said, as if people had gone on talking."""
        with contextlib.closing(sqlite3.connect(self.move.source)) as connection:
            for table, changed in _COPIED.items():
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                for number in range(self.copies, self.copies + copies):
                    new = ", ".join(changed.get(column, column).format(n=number) for column in columns)
                    said = f"SELECT {new} FROM {table} WHERE {next(iter(changed))} NOT LIKE '%~%'"
                    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) {said}")
            connection.commit()
        self.copies += copies

    @contextlib.contextmanager
    def running(self):
        """Yield the Future of the module's result, under way; its end is waited for."""
        self._begun_before = self._begun()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.run)

    def run(self) -> dict:
        """Run the module synapse_port to its end; return its result."""
        return modules.run("synapse_port", {**self.move.options, "engine": self.engine, "batch_size": 50})

    def processes(self) -> list[int]:
        """Return the processes of the routine."""
        return faults.processes("synapse_port_db", str(self.move.source))

    def routine(self, running: concurrent.futures.Future) -> None:
        """Return as soon as the engine is at work; AssertionError when the module ends before."""
        while self._begun() == self._begun_before if self.engine == "copy" else not self.processes():
            assert not running.done(), running.result()
            time.sleep(0.01)

    def _begun(self) -> list:
        """Return when the move's latest run began, by its record."""
        there = self.move.rows("SELECT to_regclass('synapse_postgres.move')") != [(None,)]
        return self.move.rows("SELECT started_at FROM synapse_postgres.move") if there else []

    def require_nothing_left(self) -> None:
        """Fail if a run that ended left a process, a secret or half a file behind."""
        assert not faults.processes(str(self.move.source))
        left = [path.name for path in self.move.folder.iterdir()]
        assert not [name for name in left if name.startswith(".port-") or name.endswith((".new", ".partial"))], left

    def require_ported(self) -> None:
        """Run the module, and fail unless all that SQLite holds is in the target then."""
        done = self.run()
        assert not done.get("failed") and done["finished"], done
        self.require_nothing_left()
        verified = modules.run("synapse_port_verify", {"sqlite_database": str(self.move.source), **self.move.login})
        assert verified.get("equal"), verified
