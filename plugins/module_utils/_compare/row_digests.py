# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a table of SQLite and one of PostgreSQL hold the same rows, and which rows only one of them holds.

Both databases write every row as the same canonical text, in their own C code, and each text is hashed with SHA-256: by the
server on its side, by hashlib on ours. What is compared is the number and the sum of the hashes in each of BUCKETS buckets:
sums do not depend on the order of rows and count duplicates, as tables without a key have them. Only the rows of buckets
that differ are looked at one by one, and then on disk.

Half a million rows of 600 bytes, on two cores and PostgreSQL 15: the server alone wrote the canonical text in 0.4 s, hashed it
in 1.3 s by MD5 or by SHA-256, and summed in 1.6 s; to hand the text over by COPY took it 1.8 s (0.9 s in the binary format),
and left the hashing to us. So the server hashes, nothing but sums crosses the network, and both sides work at once. MD5 is no
faster, and refused where FIPS rules; hashtextextended() took half the time, but nothing in Python computes it. To compare
them took 3.0 s then, on a machine that had other work: some 165 000 rows, or 100 MB, in a second.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import itertools
import marshal
import re
import sqlite3
import struct
from typing import Any, BinaryIO, Callable, Iterable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import (
    SIZED,
    Column,
    Table,
    changed,
    lenient,
    stored,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_reader
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
except ImportError:
    pass

# How many sums a table has; with one differing row about a thousandth of the table is read again.
BUCKETS = 1024

# How many rows, and how many characters of them, go to the server at once where it must say how it stores a value.
BATCH_ROWS = 2000
_BATCH_SIZE = 1 << 20

# How many rows go into a digest at once, and how many into Rows that are not a share's.
_MARKED = 64
_CHUNK = 20_000

# What COPY writes of a hash and a ctid in its binary format: a count of fields, each with its length; before all a header.
_COPIED = struct.Struct(">hiqiIH")
_COPIED_HEADER = 19

# PostgreSQL passes no function more arguments than 100 (FUNC_MAX_ARGS).
_ARGUMENTS = 90

_INTEGER = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]+)[ \t\n\r\v\f]*")


@dataclasses.dataclass
class Sums:
    """What one side holds of a table: for each bucket the number of rows and the sum of their hashes.

    ``dropped`` counts the rows with a NUL character, which PostgreSQL cannot store and the port routine leaves out.
    """

    counts: list[int] = dataclasses.field(default_factory=lambda: [0] * BUCKETS)
    sums: list[int] = dataclasses.field(default_factory=lambda: [0] * BUCKETS)
    dropped: int = 0

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def add(self, other: Sums) -> None:
        """Count in what another part of the table holds."""
        self.counts = [one + two for one, two in zip(self.counts, other.counts)]
        self.sums = [one + two for one, two in zip(self.sums, other.sums)]
        self.dropped += other.dropped

    def differing(self, other: Sums) -> list[int]:
        """Return the buckets in which the two differ."""
        own, others = zip(self.counts, self.sums), zip(other.counts, other.sums)
        return [bucket for bucket, (one, two) in enumerate(zip(own, others)) if one != two]


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of ``table`` on one ``side``, sqlite or postgres.

    On SQLite these are the row ids from ``low`` to ``high``, on PostgreSQL the blocks from ``low`` on, up to ``high`` without it.
    """

    table: str
    side: str
    low: int
    high: int


def postgres_text(columns: list[Column]) -> str:
    """Return PostgreSQL's expression for the canonical text of ``columns``; none of them special.

    ``length in bytes:text`` for text, ``:`` for NULL; the value and ``;`` for the other types, whose text holds no semicolon.
    Needs bytea_output = hex, the default.
    """
    pieces = []
    for one in columns:
        name = identifier(one.name)
        if one.kind in ("text", "char"):
            text = f"{name}::text" if one.kind == "char" else name  # which drops the padding
            pieces += [f"octet_length({text})", "':'", text]
        else:
            pieces += [name, "';'"]
    return _concat(pieces)


def sqlite_text(columns: list[Column]) -> str:
    """Return SQLite's expression for the same text, of a row as the routine would have stored it; see prepare()."""
    return " || ".join(["''", *map(_sqlite_piece, columns)])


def prepare(sqlite: sqlite3.Connection) -> None:
    """Give the SQLite connection ``sqlite`` the functions of its expressions, before it is used."""
    sqlite.create_function("as_stored", 4, _as_stored)
    sqlite.create_function("hash_of", 1, lambda raw: None if raw is None else _hash(raw))


class Rows:
    """Rows of one side: their ``hashes`` and, one for each, their ``ids``, which are SQLite's row ids or PostgreSQL's ctids as
    numbers."""

    def __init__(self, hashes: Iterable[int] = (), ids: Iterable[int] = ()) -> None:
        self.hashes, self.ids = array.array("q", hashes), array.array("q", ids)

    def of(self, buckets: list[int]) -> Rows:
        """Return those in ``buckets``."""
        wanted = frozenset(buckets)
        if len(wanted) == BUCKETS:
            return self
        some = [(row, number) for row, number in zip(self.hashes, self.ids) if row & (BUCKETS - 1) in wanted]
        return Rows(*zip(*some)) if some else Rows()


def ctid(number: int) -> str:
    """Return the ctid that is a number in Rows as PostgreSQL writes it."""
    return f"({number >> 16},{number & 0xFFFF})"


def sqlite_rows(sqlite: sqlite3.Connection, cursor: Cursor, table: Table, share: Share | None = None) -> Iterator[Rows]:
    """Yield SQLite's rows, all of them or those of ``share``, some Rows after others."""
    found = _sqlite_rows(sqlite, cursor, table, share)
    while some := list(itertools.islice(found, _CHUNK)):
        yield Rows(*zip(*some))


def postgres_rows(cursor: Cursor, table: Table, buckets: list[int], stream: BinaryIO, share: Share | None = None) -> None:
    """Write PostgreSQL's rows in ``buckets`` to ``stream``, for received()."""
    query = f"SELECT {postgres_hash(_postgres_row(table))} AS hash, ctid FROM {_postgres_source(table, share)} OFFSET 0"
    some = ", ".join(str(bucket) for bucket in buckets)
    where = f"WHERE hash & {BUCKETS - 1} IN ({some})" if len(buckets) < BUCKETS else ""
    cursor.copy_expert(f"COPY (SELECT * FROM ({query}) AS rows {where}) TO STDOUT (FORMAT binary)", stream)


def received(stream: BinaryIO) -> Iterator[Rows]:
    """Yield what postgres_rows() wrote, some Rows after others (manual, COPY, "Binary Format")."""
    stream.read(_COPIED_HEADER)
    while some := stream.read(_COPIED.size * _CHUNK):
        # The end is a trailer that is shorter than a row.
        rows = list(_COPIED.iter_unpack(some[: len(some) // _COPIED.size * _COPIED.size]))
        yield Rows((row[2] for row in rows), (row[4] << 16 | row[5] for row in rows))


def postgres_sums(cursor: Cursor, table: Table, share: Share | None = None) -> Sums:
    """Return the sums of PostgreSQL's rows, all of them or those of ``share``."""
    # OFFSET 0 keeps the planner from writing the hash into each place that names it, and computing it again there.
    query = f"SELECT {postgres_hash(_postgres_row(table))} AS hash FROM {_postgres_source(table, share)} OFFSET 0"
    cursor.execute(f"SELECT hash & {BUCKETS - 1}, count(*), sum(hash) FROM ({query}) AS rows GROUP BY 1")
    found = Sums()
    for bucket, count, total in cursor:
        found.counts[bucket], found.sums[bucket] = count, int(total)
    return found


def sqlite_sums(
    sqlite: sqlite3.Connection, cursor: Cursor, table: Table, share: Share | None = None, rows: Rows | None = None
) -> Sums:
    """Return the sums of SQLite's rows, all of them or those of ``share``; put these rows into ``rows``, too, if it is there."""
    found = Sums()
    counts, sums = found.counts, found.sums
    # This loop is what verifying costs here: all else is C.
    for row, number in _sqlite_rows(sqlite, cursor, table, share, found):
        counts[row & (BUCKETS - 1)] += 1
        sums[row & (BUCKETS - 1)] += row
        if rows is not None:
            rows.hashes.append(row)
            rows.ids.append(number)
    return found


def sqlite_mark(sqlite: sqlite3.Connection, table: Table, share: Share) -> str:
    """Return what tells SQLite's rows of ``share`` from others: a digest of all that their sums are worked out from.

    It takes a third of the time of the sums, and much less where the server has to be asked for these.
    """
    try:
        return _mark(sqlite, table, share, str)
    except sqlite3.OperationalError:  # a text that is no UTF-8
        return _mark(sqlite, table, share, lenient)


def _mark(sqlite: sqlite3.Connection, table: Table, share: Share, texts: Callable[[bytes], str]) -> str:
    sqlite.text_factory = texts
    mark, batch = hashlib.blake2b(digest_size=32), []
    form = row_reader.Format(_typed, _large_typed, between=b";")
    for row in row_reader.read(sqlite, table, ", ".join(one.sqlite for one in table.columns), _rows(share)):
        batch.append(row)
        if len(row) == 1:
            for piece in row_reader.pieces(sqlite, table, row[0], form):
                mark.update(piece)
        if len(batch) == _MARKED:
            mark.update(marshal.dumps(batch, 2))
            batch.clear()
    mark.update(marshal.dumps(batch, 2))
    return mark.hexdigest()


def _typed(one: Column) -> str:
    # hex() has 15 digits of a real, quote() all of them, but nothing of a text after a NUL character.
    whole = f"CASE WHEN typeof({one.sqlite}) IN ('text', 'blob') THEN hex({one.sqlite}) ELSE quote({one.sqlite}) END"
    return f"typeof({one.sqlite}) || ':' || {whole}"


def _large_typed(_one: Column, kind: str, size: int, values: Iterator[bytes]) -> Iterator[bytes]:
    return itertools.chain([f"{kind} {size}:".encode()], values)


def _rows(share: Share | None, whole: bool = False) -> row_reader.Rows:
    return row_reader.Rows(share.low, share.high, whole=whole) if share else row_reader.Rows(whole=whole)


def _sqlite_rows(
    sqlite: sqlite3.Connection, cursor: Cursor, table: Table, share: Share | None = None, found: Sums | None = None
) -> Iterator[tuple[int, int]]:
    """Yield ``(hash, rowid)`` of ``table``'s rows on SQLite; count the dropped ones, with a NUL character, in ``found``."""
    wanted = ", ".join([sqlite_text(table.plain), *(one.sqlite for one in table.special)])
    sqlite.text_factory = lenient if table.special else bytes
    if table.special:
        for batch in _batches(_without_nul(row_reader.read(sqlite, table, wanted, _rows(share, whole=True)), found)):
            # Of a blob the server would make what a text that looks like it comes to.
            blobs = {row[0] for row in batch if any(isinstance(value, bytes) for value in row[2:])}
            yield from _by_server(cursor, table, [row for row in batch if row[0] not in blobs])
            yield from ((_hash(f"a blob: {row[1]}"), row[0]) for row in batch if row[0] in blobs)
        return
    sha256, number = hashlib.sha256, int.from_bytes
    for row in row_reader.read(sqlite, table, wanted, _rows(share)):
        hashed = None
        if len(row) == 1:
            hashed = _hash_of_large(sqlite, table, row[0])
        elif b"\0" not in row[1]:
            hashed = sha256(row[1])
        if hashed:
            yield number(hashed.digest()[:8], "big", signed=True), row[0]
        elif found:
            found.dropped += 1


def _hash_of_large(sqlite: sqlite3.Connection, table: Table, number: int) -> Any:
    """Return the SHA-256 of a large row's canonical text, None where it has a NUL character."""
    hashed = hashlib.sha256()
    for piece in row_reader.pieces(sqlite, table, number, row_reader.Format(_sqlite_piece, _large_piece)):
        if b"\0" in piece:
            return None
        hashed.update(piece)
    return hashed


def _large_piece(one: Column, kind: str, size: int, values: Iterator[bytes]) -> Iterator[bytes] | None:
    """Return the pieces of a large value's part of the canonical text; see row_reader.pieces()."""
    hexed = (value.hex().encode() for value in values)
    if one.kind == "bytea" and kind == "blob":
        return itertools.chain([b"\\x"], hexed, [b";"])
    if one.kind == "text" and one.type == "text":
        return itertools.chain([b"%d:" % size], values) if kind == "text" else itertools.chain([b"?blob "], hexed)
    return None


def _without_nul(rows: Iterable[tuple], found: Sums | None) -> Iterator[tuple]:
    """Yield of ``rows`` (row id, canonical text of the plain columns, *special ones) those that have no NUL character."""
    for row in rows:
        if any(isinstance(value, str) and "\0" in value for value in row):
            if found:
                found.dropped += 1
        else:
            yield row


def _hash(text: str | bytes) -> int:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big", signed=True)


def _batches(rows: Iterable[tuple]) -> Iterator[list[tuple]]:
    batch: list[tuple] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
        if len(batch) == BATCH_ROWS or size >= _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _by_server(cursor: Cursor, table: Table, batch: list[tuple]) -> list[tuple]:
    """Return ``(hash, rowid)`` for the rows of ``batch``, with the special columns as the server takes them.

    A row that it does not take counts as one that it does not have: its hash is that of no row there.
    """
    if not batch:
        return []
    count = len(table.special)
    arrays = [[row[1] for row in batch]]
    arrays += [[stored(row[2 + place], "special") for row in batch] for place in range(count)]
    names = ", ".join(["plain", *(f"given{place}" for place in range(count))])
    taken = ", ".join(
        f"CAST({one.takes.format(f'given{place}')} AS text) AS special{place}" for place, one in enumerate(table.special)
    )
    query = (
        f"SELECT {postgres_hash(_concat(['plain', *_special_pieces(count)]))}"
        f" FROM (SELECT number, plain, {taken} FROM unnest({', '.join(['%s::text[]'] * (count + 1))})"
        f" WITH ORDINALITY AS given({names}, number) OFFSET 0) AS rows ORDER BY number"
    )
    try:
        cursor.execute(f"SAVEPOINT batch; {query}", arrays)  # at once, for a server that is far away
        hashes = [row[0] for row in cursor]
        cursor.execute("RELEASE SAVEPOINT batch")
        return [(row, old[0]) for row, old in zip(hashes, batch)]
    except UnicodeEncodeError:  # a text that is none: nothing was sent
        pass
    except psycopg2.Error as error:
        # Class 22: no such value. Class 54: too much of it, for a search vector say. Appendix A of the manual.
        if (error.pgcode or "")[:2] not in ("22", "54"):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT batch; RELEASE SAVEPOINT batch")
    half = len(batch) // 2
    if not half:
        return [(_hash(f"not taken: {batch[0][1]}"), batch[0][0])]
    return _by_server(cursor, table, batch[:half]) + _by_server(cursor, table, batch[half:])


def _postgres_source(table: Table, share: Share | None = None) -> str:
    """Return what follows FROM on the server: the table, with the text of special columns as special0, special1, ..."""
    name = f"public.{identifier(table.name)}"
    if share:
        name += f" WHERE ctid >= '({share.low},0)' AND ctid < '({share.high},0)'"
    if not table.special:
        return name
    texts = ", ".join(f"{identifier(one.name)}::text AS special{place}" for place, one in enumerate(table.special))
    return f"(SELECT *, ctid, {texts} FROM {name} OFFSET 0) AS rows"


def _postgres_row(table: Table) -> str:
    if not table.special:
        return postgres_text(table.plain)
    return _concat([postgres_text(table.plain), *_special_pieces(len(table.special))])


def _special_pieces(count: int) -> list[str]:
    return [piece for place in range(count) for piece in (f"octet_length(special{place})", "':'", f"special{place}")]


def postgres_hash(text: str) -> str:
    """Return PostgreSQL's expression for the first 64 bits of the SHA-256 of ``text``, as a bigint."""
    return f"('x' || encode(substr(sha256(convert_to({text}, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint"


def _concat(pieces: list[str]) -> str:
    """Return PostgreSQL's expression for ``pieces`` one after the other, NULL as nothing."""
    calls = [f"concat({', '.join(pieces[start : start + _ARGUMENTS])})" for start in range(0, len(pieces), _ARGUMENTS)]
    return " || ".join(calls) or "''"


def _sqlite_piece(one: Column) -> str:
    name, size = one.sqlite, (SIZED.fullmatch(one.type) or {2: None})[2]
    odd = f"as_stored(CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END, typeof({name}), '{one.kind}'"
    odd += f", {size or 'NULL'})"
    if one.kind == "int":
        return f"CASE typeof({name}) WHEN 'integer' THEN {name} WHEN 'null' THEN '' ELSE {odd} END || ';'"
    if one.kind in ("bool", "bool or null"):
        null = "';'" if one.kind == "bool or null" else "'f;'"
        return f"CASE WHEN {name} = 1 THEN 't;' WHEN {name} = 0 THEN 'f;' WHEN {name} IS NULL THEN {null} ELSE {odd} END"
    if one.kind == "bytea":
        hexed = f"'\\x' || lower(hex({name}))"
        return f"CASE typeof({name}) WHEN 'blob' THEN {hexed} WHEN 'null' THEN '' ELSE {odd} END || ';'"
    if one.kind == "char":
        return f"CASE WHEN {name} IS NULL THEN ':' ELSE {odd} END"
    fits = f"typeof({name}) = 'text'" + (f" AND length({name}) <= {size}" if size else "")
    text = f"length(CAST({name} AS BLOB)) || ':' || {name}"
    return f"CASE WHEN {fits} THEN {text} WHEN {name} IS NULL THEN ':' ELSE {odd} END"


def _as_stored(value: Any, sqlite_type: str, kind: str, size: int | None) -> str | bytes:
    """Return a value's part of the canonical text where SQLite's own functions do not do: the function as_stored() there."""
    text: str = value.decode("utf-8", "surrogateescape") if sqlite_type == "text" else stored(value, kind) or ""
    if changed(value, sqlite_type, kind):
        return _never(f"{sqlite_type} {value.hex()}" if sqlite_type == "blob" else str(value) if sqlite_type != "text" else text)
    if kind == "int":
        number = _INTEGER.fullmatch(text)
        return str(int(number[1])) if number else _never(text)
    if kind == "bytea":
        return _never(text) if "\0" in text else "\\x" + text.encode("utf-8", "surrogateescape").hex()
    if kind == "char":
        text = text.rstrip(" ")
    elif size is not None and not text[size:].strip(" "):
        text = text[:size]  # what is too long by spaces alone is cut: manual, section 8.3
    raw = text.encode("utf-8", "surrogateescape")
    return b"%d:%b" % (len(raw), raw)


def _never(text: str) -> bytes:
    """Return a text that PostgreSQL has for no value, other for each ``text``; NUL in it stays to be seen."""
    return b"?" + text.encode("utf-8", "surrogateescape")
