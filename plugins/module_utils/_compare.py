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

import dataclasses
import decimal
import hashlib
import itertools
import marshal
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

# How many rows of a side wait in memory for their equals on the other: some 50 MB.
_WAITING = 200_000

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
    ``mark``, where it was asked for, tells these rows from others without their sums: see lite_mark().
    """

    counts: list[int] = dataclasses.field(default_factory=lambda: [0] * BUCKETS)
    sums: list[int] = dataclasses.field(default_factory=lambda: [0] * BUCKETS)
    dropped: int = 0
    mark: str = ""

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
    """Give the SQLite connection ``lite`` the functions of its expressions, and tables on disk for Unmatched, before it is used.

    They are in SQLite's own temporary database, a file that it has removed already and nobody else can open.
    """
    lite.create_function("as_stored", 4, _as_stored)
    lite.create_function("hash_of", 1, lambda raw: None if raw is None else _hash(raw))
    lite.execute("PRAGMA temp_store = FILE")
    lite.execute("CREATE TEMP TABLE here (name TEXT, hash INTEGER, id INTEGER)")
    lite.execute("CREATE TEMP TABLE there (name TEXT, hash INTEGER, id TEXT)")
    lite.execute("CREATE INDEX temp.here_hash ON here (name, hash)")
    lite.execute("CREATE INDEX temp.there_hash ON there (name, hash)")
    lite.execute("CREATE TEMP TABLE only_here (name TEXT, key INTEGER, id INTEGER)")
    lite.execute("CREATE TEMP TABLE only_there (name TEXT, key INTEGER, id TEXT)")
    lite.execute("CREATE INDEX temp.only_here_key ON only_here (name, key)")
    lite.execute("CREATE INDEX temp.only_there_key ON only_there (name, key)")


def compare(lite, cursor, table: Table, mine: Sums | None = None) -> Sums:
    """Compare ``table``; return SQLite's sums, with the rows that only one side has in temp.only_here and temp.only_there.

    ``lite`` is a connection that went through prepare(), ``cursor`` one of PostgreSQL's; each in one transaction. ``mine`` are
    SQLite's sums where they are known. Memory does not grow with the table.
    """
    mine = mine or lite_sums(lite, cursor, table)
    buckets = mine.differing(server_sums(cursor, table))
    if buckets:
        unmatched = Unmatched(lite, table)
        unmatched.add("here", lite_rows(lite, cursor, table, buckets))
        with tempfile.TemporaryFile(dir=os.environ.get("SQLITE_TMPDIR")) as stream:
            server_rows(cursor, table, buckets, stream)
            stream.seek(0)
            unmatched.add("there", received(stream))
        unmatched.settle(cursor)
    return mine


class Unmatched:
    """Rows of ``table`` that one side has and the other has not been seen to have: at first those of all buckets that differ.

    They come in about the same order from both sides, so few of them wait at a time; those that are too many wait on disk, in
    the temporary tables of the SQLite connection ``lite``.
    """

    def __init__(self, lite, table: Table) -> None:
        self._lite, self._table, self._on_disk = lite, table, False
        self._waiting: dict[str, dict[int, list]] = {"here": {}, "there": {}}

    def add(self, side: str, rows) -> None:
        """Match ``rows`` of one side, (hash, id), with those of the other."""
        mine, theirs = (self._waiting[side], self._waiting["there" if side == "here" else "here"])
        for row, number in rows:
            equal = theirs.get(row)
            if equal is None:
                mine.setdefault(row, []).append(number)
            elif len(equal) > 1:
                equal.pop()
            else:
                del theirs[row]
            if len(mine) > _WAITING:
                self._spill()

    def _spill(self) -> None:
        self._on_disk = True
        for side, waiting in self._waiting.items():
            rows = ((self._table.name, row, number) for row, numbers in waiting.items() for number in numbers)
            self._lite.executemany(f"INSERT INTO temp.{side} VALUES (?, ?, ?)", rows)
            waiting.clear()

    def settle(self, cursor) -> None:
        """Fill temp.only_here and temp.only_there with what is left.

        A row is ``(name of the table, hash of its key or NULL, id)``: SQLite's rowid, PostgreSQL's ctid. Of rows that are equal
        those count that one side has more of.
        """
        lite, table = self._lite, self._table
        if self._on_disk:
            self._spill()
        text = "NULL"
        if table.key:
            present = " AND ".join(f"{one.lite} IS NOT NULL" for one in table.keys)
            text = f"hash_of(CASE WHEN {present} THEN CAST({lite_text(table.keys)} AS BLOB) END)"
        insert = f"INSERT INTO temp.only_here SELECT ?1, {text}, ?2 FROM {table.source} WHERE t.rowid = ?2"
        lite.executemany(insert, ((table.name, number) for number in self._left("here", "there")))
        batches = iter(self._left("there", "here"))
        while batch := list(itertools.islice(batches, _BATCH_ROWS)):
            lite.executemany("INSERT INTO temp.only_there VALUES (?, ?, ?)", _with_keys(cursor, table, batch))
        for side in ("here", "there"):
            lite.execute(f"DELETE FROM temp.{side} WHERE name = ?", (table.name,))

    def _left(self, mine: str, theirs: str):
        """Yield the ids of ``mine`` that have no equal among ``theirs``."""
        for numbers in self._waiting[mine].values():
            yield from numbers
        if self._on_disk:
            self._lite.text_factory = str
            query = (
                "SELECT id FROM (SELECT hash, id, row_number() OVER (PARTITION BY hash ORDER BY id) AS number"
                f" FROM temp.{mine} WHERE name = ?1) AS mine"
                f" WHERE number > (SELECT count(*) FROM temp.{theirs} AS theirs WHERE name = ?1 AND theirs.hash = mine.hash)"
            )
            for (number,) in self._lite.execute(query, (self._table.name,)):
                yield number


def _with_keys(cursor, table: Table, ids: list[str]) -> list[tuple]:
    """Return (name of the table, hash of the key or None, id) for PostgreSQL's rows at ``ids``."""
    if not table.key:
        return [(table.name, None, one) for one in ids]
    present = f"num_nulls({', '.join(map(_sqlite.quoted, table.key))}) = 0"
    cursor.execute(
        f"SELECT CASE WHEN {present} THEN {_server_hash(server_text(table.keys))} END, ctid::text"
        f" FROM public.{_sqlite.quoted(table.name)} WHERE ctid = ANY (%s::tid[])",
        (ids,),
    )
    return [(table.name, *row) for row in cursor]


def lite_rows(lite, cursor, table: Table, buckets: list[int], share: Share | None = None):
    """Yield ``(hash, rowid)`` of SQLite's rows in ``buckets``."""
    wanted = frozenset(buckets)
    return ((row, number) for row, number in _lite_rows(lite, cursor, table, share) if row & (BUCKETS - 1) in wanted)


def server_rows(cursor, table: Table, buckets: list[int], stream, share: Share | None = None) -> None:
    """Write PostgreSQL's rows in ``buckets`` to ``stream``, for received()."""
    query = f"SELECT {_server_hash(_server_row(table))} AS hash, ctid FROM {_server_source(table, share)} OFFSET 0"
    some = ", ".join(str(bucket) for bucket in buckets)
    cursor.copy_expert(f"COPY (SELECT * FROM ({query}) AS rows WHERE hash & {BUCKETS - 1} IN ({some})) TO STDOUT", stream)


def received(lines):
    """Yield ``(hash, ctid)`` of what server_rows() wrote."""
    for line in lines:
        row, ctid = line.decode("ascii").rstrip("\n").split("\t")
        yield int(row), ctid


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
    """Return the sums of SQLite's rows, all of them or those of ``share``; with their mark, where no column is special."""
    found, mark = Sums(), hashlib.blake2b(digest_size=32)
    counts, sums, sha256, number = found.counts, found.sums, hashlib.sha256, int.from_bytes
    if table.special:
        for row, _id in _lite_rows(lite, cursor, table, share, found):
            counts[row & (BUCKETS - 1)] += 1
            sums[row & (BUCKETS - 1)] += row
        return found
    # This loop is what verifying costs here: all else is C.
    for batch in _lite_texts(lite, table, share):
        mark.update(marshal.dumps(batch, 2))
        for (text,) in batch:
            if b"\0" in text:
                found.dropped += 1
                continue
            row = number(sha256(text).digest()[:8], "big", signed=True)
            bucket = row & (BUCKETS - 1)
            counts[bucket] += 1
            sums[bucket] += row
    found.mark = mark.hexdigest()
    return found


def lite_mark(lite, table: Table, share: Share) -> str:
    """Return what tells SQLite's rows of ``share`` from others: a digest of all that their sums are worked out from.

    It takes about half the time of the sums, and much less where the server has to be asked for these.
    """
    mark = hashlib.blake2b(digest_size=32)
    for batch in _lite_texts(lite, table, share):
        mark.update(marshal.dumps(batch, 2))
    return mark.hexdigest()


def _lite_texts(lite, table: Table, share: Share | None):
    """Yield lists of (canonical text of a row, its special columns as they are)."""
    lite.text_factory = _lenient if table.special else bytes
    asked = ", ".join([lite_text(table.plain), *(one.lite for one in table.special)])
    rows = lite.execute(f"SELECT {asked} FROM {_lite_source(table, share)} ORDER BY t.rowid")
    while batch := rows.fetchmany(_BATCH_ROWS // 4):
        yield batch


def _lite_source(table: Table, share: Share | None) -> str:
    return table.source + (f" WHERE t.rowid BETWEEN {share.low} AND {share.high}" if share else "")


def _lite_rows(lite, cursor, table: Table, share: Share | None = None, found: Sums | None = None):
    """Yield ``(hash, rowid)`` of ``table``'s rows on SQLite; count the dropped ones in ``found``."""
    asked = ", ".join([lite_text(table.plain), "t.rowid", *(one.lite for one in table.special)])
    lite.text_factory = _lenient if table.special else bytes
    rows = lite.execute(f"SELECT {asked} FROM {_lite_source(table, share)}")
    if table.special:
        for batch in _batches(_without_nul(rows, found)):
            yield from _by_server(cursor, table, batch)
        return
    for text, number in rows:
        if b"\0" not in text:
            yield _hash(text), number


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
    """Return ``(hash, rowid)`` for the rows of ``batch``, with the special columns as the server takes them.

    A row that it does not take counts as one that it does not have: its hash is that of no row there.
    """
    count = len(table.special)
    arrays = [[row[0] for row in batch]]
    arrays += [[stored(row[2 + place], "special") for row in batch] for place in range(count)]
    names = ", ".join(["plain", *(f"given{place}" for place in range(count))])
    taken = ", ".join(
        f"CAST({one.takes.format(f'given{place}')} AS text) AS special{place}" for place, one in enumerate(table.special)
    )
    query = (
        f"SELECT {_server_hash(_concat(['plain', *_special_pieces(count)]))}"
        f" FROM (SELECT number, plain, {taken} FROM unnest({', '.join(['%s::text[]'] * (count + 1))})"
        f" WITH ORDINALITY AS given({names}, number) OFFSET 0) AS rows ORDER BY number"
    )
    try:
        cursor.execute(f"SAVEPOINT batch; {query}", arrays)  # at once, for a server that is far away
        hashes = [row[0] for row in cursor]
        cursor.execute("RELEASE SAVEPOINT batch")
        return [(row, old[1]) for row, old in zip(hashes, batch)]
    except UnicodeEncodeError:  # a text that is none: nothing was sent
        pass
    except psycopg2.Error as error:
        # Class 22: no such value. Class 54: too much of it, for a search vector say. Appendix A of the manual.
        if (error.pgcode or "")[:2] not in ("22", "54"):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT batch; RELEASE SAVEPOINT batch")
    half = len(batch) // 2
    if not half:
        return [(_hash(f"not taken: {batch[0][0]}"), batch[0][1])]
    return _by_server(cursor, table, batch[:half]) + _by_server(cursor, table, batch[half:])


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
