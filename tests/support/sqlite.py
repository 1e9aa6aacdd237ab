# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""SQLite databases with the few tables by which one of Synapse's is known; for what needs no Synapse."""

import contextlib
import pathlib
import sqlite3


def homeserver(path: pathlib.Path, users: int = 2, auto_vacuum: bool = False, pending: tuple = (), wal: bool = True) -> None:
    """Write a database at ``path`` with ``users`` users and pending background updates; WAL mode as Synapse has it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if auto_vacuum:
            connection.execute("PRAGMA auto_vacuum = 1")
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            "CREATE TABLE users (name TEXT); CREATE TABLE events (event_id TEXT, body BLOB);"
            "CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (93);"
            "CREATE TABLE background_updates (update_name TEXT);"
        )
        connection.executemany("INSERT INTO users VALUES (?)", [(f"@user{i}:test",) for i in range(users)])
        connection.executemany("INSERT INTO background_updates VALUES (?)", [(name,) for name in pending])
        connection.executemany("INSERT INTO events VALUES (?, randomblob(900))", [(f"$event{i}",) for i in range(5000)])
        connection.execute("DELETE FROM events WHERE rowid % 3 = 0")
        connection.commit()
