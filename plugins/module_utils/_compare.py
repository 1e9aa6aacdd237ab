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

import concurrent.futures
import dataclasses
import decimal
import hashlib
import os
import re
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _sqlite

try:
    import psycopg2
except ImportError:
    pass

# How many sums a table has; with one differing row about a thousandth of the table is read again.
BUCKETS = 1024

# How many rows, and how many characters of them, go to the server at once where it must say how it stores a value.
_BATCH_ROWS = 2000
_BATCH_SIZE = 1 << 20

# Rows of SQLite's, and blocks of PostgreSQL's, whose sums are worked out by one process at a time.
_SHARE_ROWS = 50_000
_SHARE_BLOCKS = 2048

# PostgreSQL passes no function more arguments than 100 (FUNC_MAX_ARGS).
_ARGUMENTS = 90

_KINDS = {"smallint": "int", "integer": "int", "bigint": "int", "text": "text", "bytea": "bytea"}
_SIZED = re.compile(r"character( varying)?(?:\((\d+)\))?")
_OCTAL = re.compile(rb"\\(\\|[0-3][0-7]{2})")
_INTEGER = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]+)[ \t\n\r\v\f]*")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table on both sides: ``name`` in PostgreSQL, ``lite``, an expression on SQLite.

    ``kind`` is how its text is compared: int, bool, bool or null, text, char, bytea, or special, for which only the server
    knows what it makes of a value; ``takes`` is the SQL by which it does, with ``{}`` for the value as text.
    """

    name: str
    lite: str
    kind: str
    type: str
    takes: str = "{}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table on both sides; ``key`` names the columns of a unique index.

    ``source`` follows FROM on SQLite, where it calls the table ``t``.
    """

    name: str
    source: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def plain(self) -> list[Column]:
        """The columns that both sides can write as text alone."""
        return [column for column in self.columns if column.kind != "special"]

    @property
    def special(self) -> list[Column]:
        return [column for column in self.columns if column.kind == "special"]

    @property
    def keys(self) -> list[Column]:
        return [column for name in self.key for column in self.columns if column.name == name]


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
        mine, theirs = zip(self.counts, self.sums), zip(other.counts, other.sums)
        return [bucket for bucket, (one, two) in enumerate(zip(mine, theirs)) if one != two]


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of ``table`` on one ``side``: here, SQLite's row ids from ``low`` to ``high``, or there, blocks up to ``high``."""

    table: str
    side: str
    low: int
    high: int


def column(name: str, lite: str, kind: str, boolean: bool, nullable: bool = False) -> Column:
    """Return the Column of the PostgreSQL type ``kind`` (as format_type() says it); ``boolean``: the routine knows it as one.

    What the routine gives to psycopg2 for a column (synapse/_scripts/synapse_port_db.py, _convert_rows) decides what is
    stored: any value of a boolean column becomes true or false, NULL too, unless _nulls.restore() brings it back: ``nullable``.
    """
    sized = _SIZED.fullmatch(kind)
    if kind == "boolean" and boolean:
        return Column(name, lite, "bool or null" if nullable else "bool", kind)
    if kind in _KINDS:
        return Column(name, lite, _KINDS[kind], kind)
    if sized:
        return Column(name, lite, "text" if sized[1] else "char", kind)
    return Column(name, lite, "special", kind, f"CAST({{}} AS {kind})")


def server_text(columns: list[Column]) -> str:
    """Return PostgreSQL's expression for the canonical text of ``columns``; none of them special.

    ``length in bytes:text`` for text, ``:`` for NULL; the value and ``;`` for the other types, whose text holds no semicolon.
    Needs bytea_output = hex, the default.
    """
    pieces = []
    for one in columns:
        name = _sqlite.quoted(one.name)
        if one.kind in ("text", "char"):
            text = f"{name}::text" if one.kind == "char" else name  # which drops the padding
            pieces += [f"octet_length({text})", "':'", text]
        else:
            pieces += [name, "';'"]
    return _concat(pieces)


def lite_text(columns: list[Column]) -> str:
    """Return SQLite's expression for the same text, of a row as the routine would have stored it; see prepare()."""
    return " || ".join(["''", *map(_lite_piece, columns)])


def stored(value: object, kind: str) -> str | None:
    """Return the text by which PostgreSQL gets the ``value`` of a column of ``kind`` from the routine, None for NULL.

    After _convert_rows and psycopg2's literals: bytes are a bytea, which a text column takes as its hexadecimal text; a
    float is a numeric, which an integer column rounds.
    """
    if kind == "bool" or (kind == "bool or null" and value is not None):
        return "true" if value else "false"
    if value is None:
        return None
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, float):
        number = decimal.Decimal(repr(value))
        if not number.is_finite():
            return "-Infinity" if value < 0 else "Infinity"
        if kind == "int":
            return str(int(number.to_integral_value(decimal.ROUND_HALF_UP)))
        return format(number + 0, "f")  # a numeric has no negative zero
    return str(value)


def prepare(lite) -> None:
    """Give the SQLite connection ``lite`` the function of lite_text(), and tables on disk for collect(), before it is used.

    They are in SQLite's own temporary database, a file that it has removed already and nobody else can open.
    """
    lite.create_function("as_stored", 4, _as_stored)
    lite.execute("PRAGMA temp_store = FILE")
    lite.execute("CREATE TEMP TABLE here (hash INTEGER, key INTEGER, id INTEGER)")
    lite.execute("CREATE TEMP TABLE there (hash INTEGER, key INTEGER, id TEXT)")
    lite.execute("CREATE TEMP TABLE only_here (name TEXT, key INTEGER, id INTEGER)")
    lite.execute("CREATE TEMP TABLE only_there (name TEXT, key INTEGER, id TEXT)")
    lite.execute("CREATE INDEX temp.only_here_key ON only_here (name, key)")
    lite.execute("CREATE INDEX temp.only_there_key ON only_there (name, key)")


def compare(lite, cursor, table: Table) -> Sums:
    """Compare ``table``; return SQLite's sums, with the rows that only one side has in temp.only_here and temp.only_there.

    ``lite`` is a connection that went through prepare(), ``cursor`` one of PostgreSQL's; each in one transaction. Memory does
    not grow with the table.
    """
    theirs, mine = _at_once(cursor, table, lambda: server_sums(cursor, table), lambda: lite_sums(lite, cursor, table))
    settle(lite, cursor, table, mine, theirs)
    return mine


def settle(lite, cursor, table: Table, mine: Sums, theirs: Sums) -> None:
    """Where the sums of the two sides differ, find the rows that only one of them has: see compare()."""
    differing = mine.differing(theirs)
    if differing:
        collect(lite, cursor, table, differing)


def shares(lite, cursor, table: Table) -> list[Share]:
    """Return the parts in which a table's sums can be worked out, apart from each other, on either side."""
    name, found = _sqlite.quoted(table.name), []
    cursor.execute("SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int", (f"public.{name}",))
    blocks = cursor.fetchone()[0]
    found += [Share(table.name, "there", start, start + _SHARE_BLOCKS) for start in range(0, blocks, _SHARE_BLOCKS)]
    low, last = lite.execute(f"SELECT min(rowid), max(rowid) FROM {name}").fetchone()
    while low is not None:
        query = f"SELECT rowid FROM {name} WHERE rowid >= ? ORDER BY rowid LIMIT 2 OFFSET {_SHARE_ROWS - 1}"
        ends = [row[0] for row in lite.execute(query, (low,))]
        found.append(Share(table.name, "here", low, ends[0] if ends else last))
        low = ends[1] if len(ends) > 1 else None
    return found


def sums(lite, cursor, table: Table, share: Share) -> Sums:
    """Return the sums of one of shares(); ``lite`` and ``cursor`` are as in compare()."""
    if share.side == "there":
        return server_sums(cursor, table, share)
    return lite_sums(lite, cursor, table, share)


def _at_once(cursor, table: Table, there, here) -> tuple:
    """Return what ``there()``, in a thread of its own, and ``here()`` return; the first asks the server only.

    Of a table with special columns ``here`` needs the server too, and waits.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        asked = other.submit(there)
        try:
            if table.special:
                asked.result()
            found = here()
        except BaseException:
            cursor.connection.cancel()
            raise
        return asked.result(), found


def collect(lite, cursor, table: Table, buckets: list[int]) -> None:
    """Fill temp.only_here and temp.only_there with the rows of ``table``'s ``buckets`` that only one side has.

    A row is ``(name of the table, hash of its key or NULL, id)``: SQLite's rowid, PostgreSQL's ctid. Of rows that are equal
    those count that one side has more of.
    """
    lite.execute("DELETE FROM temp.here")
    lite.execute("DELETE FROM temp.there")
    with tempfile.TemporaryFile(dir=os.environ.get("SQLITE_TMPDIR")) as stream:
        _at_once(
            cursor,
            table,
            lambda: cursor.copy_expert(_server_rows(table, buckets), stream),
            lambda: lite.executemany("INSERT INTO temp.here VALUES (?, ?, ?)", _wanted(lite, cursor, table, frozenset(buckets))),
        )
        stream.seek(0)
        lite.executemany("INSERT INTO temp.there VALUES (?, ?, ?)", map(_received, stream))
    for mine, theirs in (("here", "there"), ("there", "here")):
        lite.execute(
            f"INSERT INTO temp.only_{mine} SELECT ?, key, id"
            f" FROM (SELECT *, row_number() OVER (PARTITION BY hash ORDER BY id) AS number FROM temp.{mine}) AS mine"
            f" LEFT JOIN (SELECT hash, count(*) AS copies FROM temp.{theirs} GROUP BY hash) AS theirs USING (hash)"
            " WHERE number > coalesce(copies, 0)",
            (table.name,),
        )


def _wanted(lite, cursor, table: Table, buckets: frozenset):
    for row, key, number in _lite_rows(lite, cursor, table):
        if row & (BUCKETS - 1) in buckets:
            yield row, None if key is None else _hash(key), number


def _server_rows(table: Table, buckets: list[int]) -> str:
    """Return the COPY of ``hash, hash of the key, ctid`` of the rows in ``buckets``."""
    key = "NULL::bigint"
    if table.key:
        present = f"num_nulls({', '.join(map(_sqlite.quoted, table.key))}) = 0"
        key = f"CASE WHEN {present} THEN {_server_hash(server_text(table.keys))} END"
    query = f"SELECT {_server_hash(_server_row(table))} AS hash, {key} AS key, ctid FROM {_server_source(table)} OFFSET 0"
    some = ", ".join(str(bucket) for bucket in buckets)
    return f"COPY (SELECT * FROM ({query}) AS rows WHERE hash & {BUCKETS - 1} IN ({some})) TO STDOUT"


def _received(line: bytes) -> tuple:
    row, key, ctid = line.decode("ascii").rstrip("\n").split("\t")
    return int(row), None if key == "\\N" else int(key), ctid


def server_sums(cursor, table: Table, share: Share | None = None) -> Sums:
    """Return the sums of PostgreSQL's rows, all of them or those of ``share``."""
    # OFFSET 0 keeps the planner from writing the hash into each place that names it, and computing it again there.
    query = f"SELECT {_server_hash(_server_row(table))} AS hash FROM {_server_source(table, share)} OFFSET 0"
    cursor.execute(f"SELECT hash & {BUCKETS - 1}, count(*), sum(hash) FROM ({query}) AS rows GROUP BY 1")
    found = Sums()
    for bucket, count, total in cursor:
        found.counts[bucket], found.sums[bucket] = count, int(total)
    return found


def lite_sums(lite, cursor, table: Table, share: Share | None = None) -> Sums:
    """Return the sums of SQLite's rows, all of them or those of ``share``."""
    found = Sums()
    counts, sums, sha256, number = found.counts, found.sums, hashlib.sha256, int.from_bytes
    if table.special:
        for row, _key, _id in _lite_rows(lite, cursor, table, found, share):
            counts[row & (BUCKETS - 1)] += 1
            sums[row & (BUCKETS - 1)] += row
        return found
    # This loop is what verifying costs here: all else is C.
    lite.text_factory = bytes
    for (text,) in lite.execute(f"SELECT {lite_text(table.plain)} FROM {_lite_source(table, share)}"):
        if b"\0" in text:
            found.dropped += 1
            continue
        row = number(sha256(text).digest()[:8], "big", signed=True)
        bucket = row & (BUCKETS - 1)
        counts[bucket] += 1
        sums[bucket] += row
    return found


def _lite_source(table: Table, share: Share | None) -> str:
    return table.source + (f" WHERE t.rowid BETWEEN {share.low} AND {share.high}" if share else "")


def _lite_rows(lite, cursor, table: Table, found: Sums | None = None, share: Share | None = None):
    """Yield ``(hash, text of the key or None, rowid)`` of ``table``'s rows on SQLite; count the dropped ones in ``found``."""
    present = " AND ".join(f"{one.lite} IS NOT NULL" for one in table.keys)
    asked = [lite_text(table.plain), f"CASE WHEN {present} THEN {lite_text(table.keys)} END" if table.key else "NULL", "t.rowid"]
    asked += [one.lite for one in table.special]
    lite.text_factory = _lenient if table.special else bytes
    rows = lite.execute(f"SELECT {', '.join(asked)} FROM {_lite_source(table, share)}")
    if table.special:
        for batch in _batches(_without_nul(rows, found)):
            yield from _by_server(cursor, table, batch)
        return
    for text, key, number in rows:
        if b"\0" not in text:
            yield _hash(text), key, number


def _without_nul(rows, found: Sums | None):
    for row in rows:
        if any(isinstance(value, str) and "\0" in value for value in row):
            if found:
                found.dropped += 1
        else:
            yield row


def _lenient(text: bytes) -> str:
    """Decode SQLite's ``text``, which may be no UTF-8, so that nothing of it is lost."""
    return text.decode("utf-8", "surrogateescape")


def _hash(text: str | bytes) -> int:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big", signed=True)


def _batches(rows):
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
        if len(batch) == _BATCH_ROWS or size >= _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _by_server(cursor, table: Table, batch: list[tuple]) -> list[tuple]:
    """Return ``(hash, text of the key, rowid)`` for the rows of ``batch``, with the special columns as the server takes them.

    A row that it does not take counts as one that it does not have: its hash is that of no row there.
    """
    count = len(table.special)
    arrays = [[row[0] for row in batch]]
    arrays += [[stored(row[3 + place], "special") for row in batch] for place in range(count)]
    names = ", ".join(["plain", *(f"given{place}" for place in range(count))])
    taken = ", ".join(
        f"CAST({one.takes.format(f'given{place}')} AS text) AS special{place}" for place, one in enumerate(table.special)
    )
    query = (
        f"SELECT {_server_hash(_concat(['plain', *_special_pieces(count)]))}"
        f" FROM (SELECT number, plain, {taken} FROM unnest({', '.join(['%s::text[]'] * (count + 1))})"
        f" WITH ORDINALITY AS given({names}, number) OFFSET 0) AS rows ORDER BY number"
    )
    cursor.execute("SAVEPOINT batch")
    try:
        cursor.execute(query, arrays)
        hashes = [row[0] for row in cursor]
    except (psycopg2.Error, UnicodeEncodeError) as error:
        # Class 22: no such value. Class 54: too much of it, for a search vector say. Appendix A of the manual.
        if not isinstance(error, UnicodeEncodeError) and (error.pgcode or "")[:2] not in ("22", "54"):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT batch")
        if len(batch) > 1:
            half = len(batch) // 2
            return _by_server(cursor, table, batch[:half]) + _by_server(cursor, table, batch[half:])
        hashes = [_hash(f"not taken: {batch[0][0]}")]
    cursor.execute("RELEASE SAVEPOINT batch")
    return [(row, old[1], old[2]) for row, old in zip(hashes, batch)]


def _server_source(table: Table, share: Share | None = None) -> str:
    """Return what follows FROM on the server: the table, with the text of special columns as special0, special1, ..."""
    name = f"public.{_sqlite.quoted(table.name)}"
    if share:
        name += f" WHERE ctid >= '({share.low},0)' AND ctid < '({share.high},0)'"
    if not table.special:
        return name
    texts = ", ".join(f"{_sqlite.quoted(one.name)}::text AS special{place}" for place, one in enumerate(table.special))
    return f"(SELECT *, ctid, {texts} FROM {name} OFFSET 0) AS rows"


def _server_row(table: Table) -> str:
    if not table.special:
        return server_text(table.plain)
    return _concat([server_text(table.plain), *_special_pieces(len(table.special))])


def _special_pieces(count: int) -> list[str]:
    return [piece for place in range(count) for piece in (f"octet_length(special{place})", "':'", f"special{place}")]


def _server_hash(text: str) -> str:
    """Return PostgreSQL's expression for the first 64 bits of the SHA-256 of ``text``, as a bigint."""
    return f"('x' || encode(substr(sha256(convert_to({text}, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint"


def _concat(pieces: list[str]) -> str:
    """Return PostgreSQL's expression for ``pieces`` one after the other, NULL as nothing."""
    calls = [f"concat({', '.join(pieces[start : start + _ARGUMENTS])})" for start in range(0, len(pieces), _ARGUMENTS)]
    return " || ".join(calls) or "''"


def _lite_piece(one: Column) -> str:
    name, size = one.lite, (_SIZED.fullmatch(one.type) or {2: None})[2]
    odd = f"as_stored(CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END, typeof({name}), '{one.kind}'"
    odd += f", {size or 'NULL'})"
    if one.kind == "int":
        return f"CASE typeof({name}) WHEN 'integer' THEN {name} WHEN 'null' THEN '' ELSE {odd} END || ';'"
    if one.kind in ("bool", "bool or null"):
        true = f"CASE WHEN typeof({name}) IN ('integer', 'real') THEN {name} <> 0 ELSE length(CAST({name} AS BLOB)) > 0 END"
        null = f"WHEN {name} IS NULL THEN ';'" if one.kind == "bool or null" else ""
        return f"CASE {null} WHEN {true} THEN 't;' ELSE 'f;' END"
    if one.kind == "bytea":
        hexed = f"'\\x' || lower(hex({name}))"
        return f"CASE typeof({name}) WHEN 'blob' THEN {hexed} WHEN 'null' THEN '' ELSE {odd} END || ';'"
    if one.kind == "char":
        return f"CASE WHEN {name} IS NULL THEN ':' ELSE {odd} END"
    fits = f"typeof({name}) = 'text'" + (f" AND length({name}) <= {size}" if size else "")
    text = f"length(CAST({name} AS BLOB)) || ':' || {name}"
    return f"CASE WHEN {fits} THEN {text} WHEN {name} IS NULL THEN ':' ELSE {odd} END"


def _as_stored(value: object, kind_here: str, kind: str, size: int | None) -> str | bytes:
    """Return a value's part of the canonical text where SQLite's own functions do not do: the function as_stored() there."""
    text = value.decode("utf-8", "surrogateescape") if kind_here == "text" else stored(value, kind)
    if kind == "int":
        number = _INTEGER.fullmatch(text)
        return str(int(number[1])) if number else _never(text)
    if kind == "bytea":
        taken = _bytea(text.encode("utf-8", "surrogateescape"))
        return _never(text) if taken is None else "\\x" + taken.hex()
    if kind == "char":
        text = text.rstrip(" ")
    elif size is not None and not text[size:].strip(" "):
        text = text[:size]  # what is too long by spaces alone is cut: manual, section 8.3
    raw = text.encode("utf-8", "surrogateescape")
    return b"%d:%b" % (len(raw), raw)


def _never(text: str) -> bytes:
    """Return a text that PostgreSQL has for no integer and no bytea, other for each ``text``; NUL in it stays to be seen."""
    return b"?" + text.encode("utf-8", "surrogateescape")


def _bytea(text: bytes) -> bytes | None:
    """Return the bytes that bytea's input makes of ``text``, None where it refuses it: manual, section 8.4."""
    if text[:2] == b"\\x":
        try:
            return bytes.fromhex(text[2:].decode("ascii"))
        except ValueError:
            return None
    if b"\\" in _OCTAL.sub(b"", text):
        return None
    return _OCTAL.sub(lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)]), text)
