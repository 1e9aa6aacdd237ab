# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SQLite itself says that a database holds, in brief: the guard of a copy, which knows nothing of how the copy was made.

It is read through a connection as every program has one: SQLite finds the file, its log and its journal by its own rules, and
puts together what was committed. So nothing here is shared with the modules that resolve paths and copy pages, and a mistake in
those cannot be on both sides. Nothing is written to the database; SQLite makes an empty log and its index, as for every reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import marshal
import os
import sqlite3
import urllib.parse
from typing import Any, Iterable, Iterator, NamedTuple, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# So many bytes of a table are read, of its newest rows: almost all of Synapse's tables are smaller. What is lost when the last
# transactions are lost is new rows, and rows of small tables: streams, tokens, devices.
_READ = 8 << 20

# A form of values that is the same for the same values: later ones tell how often a value is referred to as well.
_FORM = 2

# Bytes from which on a row is large, and those of a value that are read at once.
_LARGE = 1 << 20
_LONG = 1 << 18

# The name under which the schema stands among the tables; each row has its place in the file, which a copy keeps.
_SCHEMA = "sqlite_master"


class Summary(NamedTuple):
    """A table in brief: its ``lowest`` and ``highest`` row ids, None in an empty table and in one without row ids.

    The ``digest`` is of the newest rows, as far as _READ bytes reach; ``whole`` says whether those are all. In a record it is a
    list of these values.
    """

    lowest: int | None
    highest: int | None
    digest: str
    whole: bool


def summarize(path: str) -> dict[str, Summary]:
    """Return ``{table: Summary}`` of the database that SQLite opens for ``path``.

    The tables are those of the file: of a virtual one those in which it is kept, and SQLite's own. Raises
    Refusal when SQLite cannot read it.
    """
    with _opened(path) as connection:
        return _summaries(connection)


def require_same(original: str, copy: str, recorded: dict[str, Sequence]) -> None:
    """Raise Refusal unless SQLite says of ``original`` what was ``recorded`` of the ``copy`` before it was ported.

    That is as of summarize(), or the same from JSON.

    Where SQLite has found a log, which a writer that was killed has left, larger tables are compared row for row; but not where
    the copy holds something else by now: Synapse's own code has finished background updates or a migration there.
    """
    with _opened(original) as connection:
        found, logged = _summaries(connection), _has_log(connection)
    copied = {name: Summary(*values) for name, values in recorded.items()}
    names = sorted({*found, *copied})
    differing = {name: _difference(name, found, copied) for name in names if found.get(name) != copied.get(name)}
    if not differing and logged and summarize(copy) == copied:
        differing = {name: f"{name}, in its older rows" for name in _read_in_part(found) if not _same_rows(original, copy, name)}
    if differing:
        count = f"{len(differing)} table{'s' * (len(differing) > 1)}"
        tables = "; ".join(list(differing.values())[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise Refusal(
            f"The copy {copy} did not hold what SQLite itself says of {original}, in {count}: {tables}.",
            "Stay on SQLite. It was written to after the copy, or the copy is not whole: see that nothing but Synapse uses it, "
            "by one path, then port a new copy.",
            differing=list(differing),
        )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """Yield a connection to the database that SQLite opens for ``path``; Refusal when it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(_uri(path), uri=True, timeout=30, isolation_level=None)) as connection:
            connection.text_factory = bytes
            yield connection
    except sqlite3.Error as error:
        raise Refusal(
            f"SQLite cannot read {path}: {error}.", "Start Synapse on it, which mends what a crash has left, and run this again."
        ) from error


def _uri(path: str) -> str:
    return f"file://{urllib.parse.quote(os.fsencode(path))}?mode=ro"


def _summaries(connection: sqlite3.Connection) -> dict[str, Summary]:
    connection.execute("BEGIN")
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND upper(sql) NOT LIKE 'CREATE VIRTUAL%'"
    names = [os.fsdecode(name) for (name,) in connection.execute(query)]
    return {name: _summary(connection, name) for name in [_SCHEMA, *names]}


def _summary(connection: sqlite3.Connection, name: str) -> Summary:
    table = _quoted(name)
    rows: Iterable[tuple[bytes, int]]
    try:
        lowest, highest = connection.execute(f"SELECT min(rowid), max(rowid) FROM {table}").fetchone()
        rows = _newest(connection, name)
    except sqlite3.OperationalError:  # WITHOUT ROWID, or SQLite cannot read it the other way either
        lowest, highest, rows = None, None, map(_shortened, connection.execute(f"SELECT * FROM {table}"))
    digest, read = hashlib.blake2b(digest_size=16), 0
    for row, size in rows:
        digest.update(row)
        read += size
        if read >= _READ:
            break
    return Summary(lowest, highest, digest.hexdigest(), read < _READ)


def _newest(connection: sqlite3.Connection, name: str) -> Iterator[tuple[bytes, int]]:
    """Yield _shortened() of the rows of ``name``, the newest first; none with a large value is in memory as a whole.

    SQLite refuses to read a row of more than _LARGE bytes, and its values are read piece by piece instead; a Python before 3.11
    cannot tell SQLite so.
    """
    table, below = _quoted(name), ""
    while True:
        try:
            with _length_limited(connection):
                for row in connection.execute(f"SELECT rowid, * FROM {table}{below} ORDER BY rowid DESC"):
                    below = f" WHERE rowid < {row[0]}"
                    yield _shortened(row)
            return
        except sqlite3.DataError:  # "string or blob too big", of this row or, as Python reads one ahead, of the next
            row_id = connection.execute(f"SELECT max(rowid) FROM {table}{below}").fetchone()[0]
        yield _shortened([row_id, *_values(connection, name, row_id)])
        below = f" WHERE rowid < {row_id}"


@contextlib.contextmanager
def _length_limited(connection: sqlite3.Connection) -> Iterator[None]:
    """Let SQLite refuse values and rows of more than _LARGE bytes within the block."""
    if not hasattr(connection, "blobopen"):
        yield
        return
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGE)
    try:
        yield
    finally:
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed, with rows left that nobody has read
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)


def _values(connection: sqlite3.Connection, name: str, row_id: int) -> Iterator[Any]:
    """Yield the values of the row ``row_id``; of a long text or blob its _Long."""
    table = _quoted(name)
    columns = [os.fsdecode(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
    for column in columns:
        query = f"FROM {table} WHERE rowid = {row_id}"
        kind = connection.execute(f"SELECT typeof({_quoted(column)}) {query}").fetchone()[0]
        if kind in (b"text", b"blob"):
            with connection.blobopen(name, column, row_id, readonly=True) as value:
                if len(value) > _LONG:
                    yield _Long.of(_in_pieces(value))
                    continue
        yield connection.execute(f"SELECT {_quoted(column)} {query}").fetchone()[0]


def _in_pieces(value: sqlite3.Blob) -> Iterator[bytes]:
    while True:
        piece = value.read(_LONG)
        if not piece:
            return
        yield piece


@dataclasses.dataclass(frozen=True)
class _Long:
    """What stands for a value of more than _LONG bytes: its digest, and its ``size`` in bytes."""

    digest: bytes
    size: int

    @classmethod
    def of(cls, pieces: Iterable[bytes]) -> _Long:
        """Return what stands for the value that ``pieces`` are of, one after another."""
        digest, size = hashlib.blake2b(digest_size=16), 0
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
        return cls(digest.digest(), size)


def _shortened(row: Iterable[Any]) -> tuple[bytes, int]:
    """Return what the values ``row`` come to, with the digest of each long one in its place, and the bytes that were read."""
    values = [_Long.of([value]) if isinstance(value, bytes) and len(value) > _LONG else value for value in row]
    text = marshal.dumps([value.digest if isinstance(value, _Long) else value for value in values], _FORM)
    return text, len(text) + sum(value.size for value in values if isinstance(value, _Long))


def _read_in_part(found: dict[str, Summary]) -> list[str]:
    """Return the tables with row ids that were not read whole."""
    return [name for name, table in found.items() if table.lowest is not None and not table.whole]


def _same_rows(original: str, copy: str, name: str) -> bool:
    """Tell whether the table ``name`` has the same rows in both, by SQLite alone."""
    with _opened(original) as connection:
        connection.execute("ATTACH ? AS copied", (_uri(copy),))
        table = _quoted(name)
        columns = [_quoted(os.fsdecode(row[1])) for row in connection.execute(f"PRAGMA main.table_info({table})")]
        same = " AND ".join(f"source.{column} IS copy.{column} COLLATE BINARY" for column in columns)
        query = (
            f"SELECT (SELECT count(*) FROM main.{table}) = (SELECT count(*) FROM copied.{table}) AND NOT EXISTS (SELECT 1"
            f" FROM main.{table} AS source LEFT JOIN copied.{table} AS copy ON copy.rowid = source.rowid"
            f" WHERE copy.rowid IS NULL OR NOT ({same}))"
        )
        return bool(connection.execute(query).fetchone()[0])


def _has_log(connection: sqlite3.Connection) -> bool:
    """Tell whether something is in the log of the database, which SQLite keeps beside the name that it has found for the file."""
    name = connection.execute("PRAGMA database_list").fetchone()[2]
    with contextlib.suppress(FileNotFoundError):
        return os.path.getsize(name + b"-wal") > 0
    return False


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _difference(name: str, found: dict[str, Summary], copied: dict[str, Summary]) -> str:
    """Return the table ``name`` with what differs, as words."""
    if name not in found or name not in copied:
        return f"{name}, which only {'the original' if name in found else 'the copy'} has"
    highest, highest_copied = found[name].highest, copied[name].highest
    if highest != highest_copied:
        return f"{name}, whose highest row id is {highest} there and was {highest_copied} in the copy"
    return f"{name}, of which rows were changed or deleted"
