# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A homeserver's SQLite database of any size: what a real Synapse wrote, copied again and again within SQLite.

A small conversation is held through the client API. Every copy of it has users, rooms, events, media and tokens of its own, so
that each copy could be talked on: person0.7 is person0 in the seventh copy, with the same password. SQLite makes the copies
by INSERT ... SELECT; the same base gives the same database. The names of users, rooms, aliases and, in rooms of version 2,
events all end with the server's name, in columns and within JSON alike, and so one replacement serves them all. (In later
versions an event's id is the hash of its content: Synapse would not read a copy.)
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import sqlite3

from support import conversation, loopback
from support.synapse import Homeserver

# A hundred copies are one size, of about 100 000 rows; so one copy is 1 % of it.
COPIES = 100

_SERVER = ":localhost"

# Columns whose numbers are Synapse's own keys and positions in streams; each copy has a range of its own.
_NUMBERS = re.compile(r"id|bump_stamp|(\w+_)?(stream_id|stream_ordering|state_group|chain_id)")

# Keys without the server's name in them.
_WORDS = ("token", "access_token", "media_id", "profiles.user_id", "user_filters.user_id", "scheduled_tasks.id")

# What a homeserver has once; positions in streams are among it, with a column Lock or in these tables.
_POSITIONS = ("stream_positions", "federation_stream_position")
_ONCE = re.compile(r"sqlite_\w+|applied_\w+|background_updates|server_\w+|worker_\w+|(event|user_directory)_search_\w+")


@dataclasses.dataclass(frozen=True)
class Base:
    """A stopped homeserver, its database as ``file``, the ``record`` of what was said on it, and the size of a copy's range."""

    server: Homeserver
    file: pathlib.Path
    record: dict
    span: int


def make(folder: pathlib.Path, python: pathlib.Path) -> Base:
    """Let the Synapse of ``python`` write a small homeserver in ``folder``; return it, stopped."""
    server = Homeserver(folder / "synapse", loopback.free_port(), python)
    server.generate()
    with server.config.open("a") as stream:
        stream.write('default_room_version: "2"\nrc_login: {address: {per_second: 10000, burst_count: 10000}}\n')
    server.start()
    try:
        record = server.converse(users=3, rooms=1, messages=70)
        _go_about(server.url, record)
        server.settle()
    finally:
        server.stop()
    with contextlib.closing(sqlite3.connect(server.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        span = 1 + max(_greatest(connection, table) for table in _copied(connection, "main"))
    shutil.copy(server.database, folder / "base.db")
    return Base(server, folder / "base.db", record, span)


def _go_about(url: str, record: dict) -> None:
    """Let the users do what clients do beside talking: keys of devices, receipts, tags, account data, messages to devices."""
    api = conversation.CLIENT
    for user, noted in record["users"].items():
        person = conversation.Homeserver(url).logged_in(user, noted["password"])
        device = person.ask("GET", f"{api}/account/whoami")["device_id"]
        algorithms = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]
        keys = {f"{kind}:{device}": "A" * 43 for kind in ("curve25519", "ed25519")}
        signatures = {user: {f"ed25519:{device}": "A" * 86}}
        public = {"user_id": user, "device_id": device, "algorithms": algorithms, "keys": keys, "signatures": signatures}
        once = {f"signed_curve25519:{number}": {"key": "A" * 43, "signatures": signatures} for number in range(20)}
        person.ask("POST", f"{api}/keys/upload", {"device_keys": public, "one_time_keys": once})
        path = f"{api}/user/{conversation.quoted(user)}"
        person.ask("PUT", f"{path}/account_data/org.example.settings", {"theme": "dark"})
        person.ask("POST", f"{path}/filter", {"room": {"timeline": {"limit": 20}}})
        for other in record["users"]:
            message = {"messages": {other: {"*": {"body": "A" * 200}}}}
            person.ask("PUT", f"{api}/sendToDevice/m.dummy/{conversation.quoted(user + other)}", message)
        for room, held in record["rooms"].items():
            read = f"{api}/rooms/{conversation.quoted(room)}/receipt/m.read"
            person.ask("POST", f"{read}/{conversation.quoted(list(held['messages'])[-3])}", {})
            person.ask("PUT", f"{path}/rooms/{conversation.quoted(room)}/tags/m.favourite", {"order": 0.5})


def write(base: Base, target: pathlib.Path, copies: int) -> None:
    """Write a database of ``copies`` copies at ``target``, the first being the base itself; WAL mode, as Synapse has it."""
    shutil.copy(base.file, target)
    grow(base, target, 1, copies)


def grow(base: Base, target: pathlib.Path, start: int, stop: int, in_use: bool = False) -> None:
    """Add the copies numbered from ``start`` to ``stop`` - 1 to the database ``target``, which has the earlier ones.

    ``in_use``: Synapse has it open.
    """
    with contextlib.closing(sqlite3.connect(target, timeout=60, isolation_level=None)) as connection:
        for setting in ("synchronous = OFF", "cache_size = -400000", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {setting}")
        if not in_use:
            connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("ATTACH ? AS base", (str(base.file),))
        connection.execute("BEGIN")
        for table in _copied(connection, "base"):
            columns, values = _row(connection, table)
            connection.execute(
                f"WITH RECURSIVE copies (copy) AS (SELECT :start UNION ALL SELECT copy + 1 FROM copies WHERE copy < :stop - 1) "
                f"INSERT INTO main.{table} ({columns}) SELECT {values} FROM copies CROSS JOIN base.{table}",
                {"start": start, "stop": stop, "span": base.span},
            )
        _advance(connection, (stop - 1) * base.span)
        connection.execute("COMMIT")
        if not in_use:
            connection.execute("PRAGMA journal_mode = WAL")


def record_of(base: Base, copy: int) -> dict:
    """Return what conversation.check() reads of the copy numbered ``copy``; files of media are not copied."""
    if copy == 0:
        return {**base.record, "media": {}}
    return {**json.loads(json.dumps(base.record).replace(_SERVER, f".{copy}{_SERVER}")), "media": {}}


def faults(path: pathlib.Path) -> list:
    """Return what SQLite finds wrong with the database: its structure, its foreign keys."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        return [said for said in found if said != "ok"] + connection.execute("PRAGMA foreign_key_check").fetchall()


def rows(path: pathlib.Path) -> int:
    """Return how many rows all tables have together; what SQLite keeps for its text searches is not counted."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _tables(connection, "main"))


def _tables(connection: sqlite3.Connection, schema: str) -> list[str]:
    found = connection.execute(f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' ORDER BY rowid")
    return [name for (name,) in found if not re.fullmatch(r"sqlite_\w+|(event|user_directory)_search_\w+", name)]


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Return the type of each column."""
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}


def _is_number(name: str, kind: str) -> bool:
    return "INT" in kind.upper() and bool(_NUMBERS.fullmatch(name))


def _copied(connection: sqlite3.Connection, schema: str) -> list[str]:
    """Return the tables whose rows each copy has."""
    tables = [name for name in _tables(connection, schema) if name not in _POSITIONS and not _ONCE.fullmatch(name)]
    return [name for name in tables if "Lock" not in _columns(connection, name)]


def _greatest(connection: sqlite3.Connection, table: str) -> int:
    """Return the greatest number in the table's columns that have ranges."""
    numbers = [name for name, kind in _columns(connection, table).items() if _is_number(name, kind)]
    found = [connection.execute(f"SELECT max({name}) FROM {table}").fetchone()[0] for name in numbers]
    return max((number or 0 for number in found), default=0)


def _row(connection: sqlite3.Connection, table: str) -> tuple[str, str]:
    """Return the table's columns, and the expressions that give a copy's values from the base's."""
    expressions = {}
    for name, kind in _columns(connection, table).items():
        if _is_number(name, kind):
            value = f'"{name}" + copy * :span'
        elif name in _WORDS or f"{table}.{name}" in _WORDS:
            value = f"\"{name}\" || '.' || copy"
        elif any(word in kind.upper() for word in ("INT", "BOOL", "BLOB", "BYTEA")):
            value = f'"{name}"'
        else:  # text, JSON, and the columns of a text search, which have no type
            value = f"replace(\"{name}\", '{_SERVER}', '.' || copy || '{_SERVER}')"
        expressions[f'"{name}"'] = value
    return ", ".join(expressions), ", ".join(expressions.values())


def _advance(connection: sqlite3.Connection, by: int) -> None:
    """Set each position in a stream to the base's, moved to the last copy's range: Synapse has nothing left to catch up on."""
    for table in _tables(connection, "base"):
        columns = _columns(connection, table)
        if table in _POSITIONS or "Lock" in columns:
            for name in (name for name, kind in columns.items() if _is_number(name, kind)):
                moved = f"(SELECT {name} + {by} FROM base.{table} AS found WHERE found.rowid = {table}.rowid)"
                connection.execute(f"UPDATE main.{table} SET {name} = {moved} WHERE {name} > 0")
