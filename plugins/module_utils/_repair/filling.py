# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The new database filled from the old one: the server's own dump of the schema, and the rows of each table by COPY.

The schema is put down in two parts, tables first and indexes, constraints and triggers when the rows are there. Between them
each table goes through a pipe from one psql to another, so that the disk holds no dump beside the two databases; a small one,
of which Synapse has many, through memory. Rows are carried in the binary form, text in UTF8 whatever the old encoding was.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import os
import subprocess
import tempfile
import threading
from typing import Callable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair import pairs
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair.programs import Programs, require
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
except ImportError:
    psycopg2 = None  # type: ignore[assignment]

# Tables with rows of their own; those of an extension's it makes itself.
_TABLES = """
SELECT c.oid::regclass::text, pg_table_size(c.oid), coalesce((SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY 2 DESC
"""

_SEQUENCES = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' ORDER BY 1"

# Bytes that the rows of a table that is being filled have taken so far, by pg_stat_progress_copy (manual, section 27.4.3).
_UNDER_WAY = "SELECT coalesce(sum(bytes_processed), 0) FROM pg_stat_progress_copy WHERE datname = %s AND command = 'COPY FROM'"

_INDEXES = """
SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%'
"""

# Tables up to so many bytes go through memory: two programs are started in the time that such a one takes.
_SMALL = 4 << 20

# Told of as ``tell(what, done, total)``.
Tell = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as SQL names it, its size in ``bytes``, and its columns that hold values of their own."""

    name: str
    bytes: int
    columns: str


@dataclasses.dataclass
class Filling:
    """``old`` and ``new`` are the databases' names, ``left_out`` the rows (table -> their ctids) that are not carried over."""

    server: Server
    programs: Programs
    old: str
    new: str
    folder: str
    left_out: dict[str, list[str]]
    workers: int

    @property
    def schema(self) -> str:
        """The file of the schema's dump."""
        return os.path.join(self.folder, "schema.dump")

    def make_tables(self) -> None:
        """Put down the old database's schema as far as the tables."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.schema)
        self.programs.run("pg_dump", self.old, "--schema-only", "-Fc", "--encoding=UTF8", "-f", self.schema)
        self.programs.run("pg_restore", self.new, "--exit-on-error", "--section=pre-data", self.schema)

    def copy_rows(self, tables: list[Table], tell: Tell) -> None:
        """Carry over the rows of ``tables``, the largest first."""
        with pairs.opened(self.server, self.old, self.new, self.workers) as sessions:
            self._copy_rows(_Carriers(self, sessions), tables, tell)

    def _copy_rows(self, carriers: _Carriers, tables: list[Table], tell: Tell) -> None:
        total, done = sum(table.bytes for table in tables), 0
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            futures = {pool.submit(carriers.carry, table): table for table in tables}
            try:
                waiting = set(futures)
                while waiting:
                    ended, waiting = concurrent.futures.wait(waiting, 1, concurrent.futures.FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                        done += futures[future].bytes
                    self.server.cursor.execute(_UNDER_WAY, (self.new,))
                    [(under_way,)] = self.server.cursor.fetchall()
                    current = next((futures[future].name for future in waiting if future.running()), "")
                    tell(current, min(total, done + int(under_way)) >> 20, total >> 20)
            except BaseException:
                carriers.end()  # those that wait have nothing to do any more
                raise

    def copy_sequences(self) -> None:
        """Set each sequence as it is in the old database."""
        with self.server.within(self.old) as cursor:
            found = sequences(cursor)
        with self.server.within(self.new) as cursor:
            for name, (value, is_called) in found.items():
                cursor.execute("SELECT setval(%s::regclass, %s, %s)", (name, value, is_called))

    def make_indexes(self, tell: Tell) -> None:
        """Put down the rest of the schema: indexes, constraints, triggers."""
        with self.server.within(self.old) as cursor:
            total = _count_indexes(cursor)
        words = ("--exit-on-error", "--section=post-data", "-j", str(self.workers), self.schema)
        with self.programs.start("pg_restore", self.new, *words, stdout=subprocess.DEVNULL) as process:
            try:
                with self.server.within(self.new, autocommit=True) as cursor:
                    said = _followed(process, lambda: tell("indexes", _count_indexes(cursor), total))
            except BaseException:
                process.terminate()
                raise
        require("pg_restore", process.returncode, said, f"in the new database {self.new!r}")
        os.unlink(self.schema)


class _Carriers:
    """Those that carry tables over, which are ended together where one of them fails."""

    def __init__(self, filling: Filling, sessions: pairs.Pairs) -> None:
        self._filling, self._sessions, self._ended = filling, sessions, False
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def carry(self, table: Table) -> None:
        """Carry the rows of ``table`` over; Refusal. Those of one emptied in the same transaction are frozen (manual, COPY)."""
        if self._ended:
            return
        left_out = self._filling.left_out.get(table.name)
        where = f" WHERE ctid <> ALL ('{{{','.join(map(identifier, left_out))}}}'::tid[])" if left_out else ""
        columns = f" ({table.columns})" if table.columns else ""
        source = f"COPY (SELECT {table.columns} FROM ONLY {table.name}{where}) TO STDOUT (FORMAT binary)"
        target = [f"TRUNCATE ONLY {table.name}", f"COPY {table.name}{columns} FROM STDIN (FORMAT binary, FREEZE)"]
        if table.bytes <= _SMALL:
            self._through_memory(table, source, *target)
        else:
            self._through_pipe(table, source, *target)

    def end(self) -> None:
        """End all that are at work, and let none begin."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()

    def _through_memory(self, table: Table, source: str, emptied: str, target: str) -> None:
        try:
            with self._sessions.borrowed() as (old, new):
                rows = io.BytesIO()
                old.copy_expert(source, rows)
                rows.seek(0)
                new.execute(emptied)
                new.copy_expert(target, rows)
        except psycopg2.Error as error:
            words = _connection.without_values(type(error), error.diag.message_primary or "")
            require("COPY", 1, f"ERROR: {words}".encode(), f"with the table {table.name}")

    def _through_pipe(self, table: Table, source: str, emptied: str, target: str) -> None:
        filling, plain = self._filling, ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", "SET client_encoding = 'UTF8'"]
        with tempfile.NamedTemporaryFile("w", dir=filling.folder, suffix=".sql", encoding="utf-8") as script:
            # Rows to leave out may be more than a command line holds.
            script.write(f"{source};\n")
            script.flush()
            with self._lock:
                if self._ended:
                    return
                first = filling.programs.start("psql", filling.old, *plain, "-f", script.name, stdout=subprocess.PIPE)
                words = [*plain, "-1", "-c", emptied, "-c", target]
                second = filling.programs.start("psql", filling.new, *words, stdin=first.stdout, stdout=subprocess.DEVNULL)
                self._running |= {first, second}
            first.stdout.close()  # type: ignore[union-attr]
            with first, second:
                said = second.communicate()[1]
                reason = first.stderr.read()  # type: ignore[union-attr]
        # Where one fails the other does too; the one that the server refused says why.
        ends = [(first.returncode, reason), (second.returncode, said)]
        for status, words_of in sorted(ends, key=lambda end: b"ERROR" not in end[1]):
            require("COPY", status, words_of, f"with the table {table.name}")


def tables(cursor: Cursor) -> list[Table]:
    """Return the tables of the connected database that hold rows, the largest first."""
    cursor.execute(_TABLES)
    return [Table(*row) for row in cursor.fetchall()]


def sequences(cursor: Cursor) -> dict[str, tuple[int, bool]]:
    """Return each sequence of the connected database with its last value, and whether nextval() goes beyond it."""
    cursor.execute(_SEQUENCES)
    found = {}
    for (name,) in cursor.fetchall():
        cursor.execute(f"SELECT last_value, is_called FROM {name}")
        found[name] = only_row(cursor)
    return found


def _count_indexes(cursor: Cursor) -> int:
    cursor.execute(_INDEXES)
    [(count,)] = cursor.fetchall()
    return int(count)


def _followed(process: subprocess.Popen, tell: Callable[[], None]) -> bytes:
    """Wait for ``process``, and ``tell`` every second; return what it said."""
    while True:
        try:
            return process.communicate(timeout=1)[1]
        except subprocess.TimeoutExpired:
            tell()
