# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proofs that a target holds only what was ported: of this homeserver, from this file, and all of it.

The port routine empties every table that is not append-only and fills it again on each run (synapse/_scripts/
synapse_port_db.py, setup_table). A run after Synapse has written to the target would destroy what it wrote, so whether it
has is decided here, from the database itself: a file on a host can be lost or left behind.
"""

from __future__ import annotations

import sqlite3
from typing import Iterable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _defaults
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import record, user_directory, watermarks
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source, tables
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    from psycopg2 import sql
except ImportError:
    pass

# Tables that the routine only adds to and carries over in part: _setup_sent_transactions() and handle_search_table() there.
_IN_PART = {"sent_transactions", "event_search"}

# What any homeserver has as soon as somebody uses it.
_USED = ("users", "events", "rooms")

# Synapse's part of the schema public: what belongs to the role that ports. Extensions' objects belong to the superuser.
_CLEAR = """
DO $$
DECLARE found record;
BEGIN
    FOR found IN
        SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, relname AS name
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner = current_user::regrole
        AND relkind IN ('r', 'p', 'v', 'S') ORDER BY relkind = 'S'
    LOOP
        EXECUTE format('DROP %s IF EXISTS public.%I CASCADE', found.kind, found.name);
    END LOOP;
    FOR found IN
        SELECT format('public.%I(%s)', proname, pg_get_function_identity_arguments(oid)) AS name
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proowner = current_user::regrole
    LOOP
        EXECUTE 'DROP FUNCTION IF EXISTS ' || found.name || ' CASCADE';
    END LOOP;
END $$
"""


def require_home(cursor: Cursor) -> None:
    """Raise Refusal where Synapse's role, which is connected, does not work in the schema that a move knows."""
    schema = _defaults.current_schema(cursor)
    if schema == _connection.MOVED:
        return
    cursor.execute("SELECT session_user")
    role, dbname = (sql.Identifier(name).as_string(cursor) for name in (only_row(cursor)[0], cursor.connection.info.dbname))
    raise Refusal(
        f"In the target database Synapse's role works in the schema {schema or 'none'}, and a move knows only public.",
        f"Give that role the schema public there by `ALTER ROLE {role} IN DATABASE {dbname} SET search_path = public` while "
        "the schema it works in holds nothing of Synapse's, or give Synapse a database of its own.",
    )


def require_synapses(cursor: Cursor, server_name: str) -> None:
    """Raise Refusal for a target that is another homeserver's than ``server_name``'s, or another application's.

    Nor where the role may not read what is Synapse's, but belongs to another one. The cursor is the target's.
    """
    found = {name.split(".", 1)[1] for name in database.tables(cursor) if name.startswith("public.")}
    if found and "schema_version" not in found:
        raise Refusal(
            f"The target database holds {len(found)} tables that are not Synapse's, {min(found)} among them.",
            "Give Synapse a database of its own.",
        )
    ownership.require_own(cursor, reading=True)
    recorded = record.read(cursor)
    if recorded and recorded.server_name != server_name:
        raise Refusal(
            f"The target database is the homeserver {recorded.server_name}'s, and this one is {server_name}.",
            "Give each homeserver a database of its own (synapse_postgres_database).",
        )


def is_finished(cursor: Cursor, stamp: str) -> bool:
    """Tell whether the very file of this ``stamp`` was ported to the end and is there; the cursor is the target's."""
    recorded = record.read(cursor)
    ported = recorded is not None and recorded.status == "ported" and recorded.stamp == stamp
    return ported and bool(_counts(cursor, ("users",)).get("users"))


def require_only_ported(cursor: Cursor, source: Source) -> None:
    """Raise Refusal when the target holds what the routine did not write there, or what ``source`` does not explain."""
    recorded = record.read(cursor)
    if recorded and recorded.status == "ported" and recorded.restored:
        traces = ["it is a copy that was restored after the move"]
    elif recorded and recorded.status == "ported":
        traces = _written_since(cursor, recorded.last_transaction)
    elif recorded or watermarks.exist(cursor):
        traces = _unexplained(cursor, source)
    else:
        traces = [f"{count} rows in {table}" for table, count in _counts(cursor, _USED).items() if count]
    if traces:
        raise Refusal(
            f"Synapse has written to the target database ({', '.join(traces)}). "
            "Porting into it again would empty its tables and lose that.",
            "If Synapse lives on PostgreSQL already, there is nothing to do. To port another SQLite file, "
            "give it a new database.",
        )


def take_back_queued(cursor: Cursor) -> None:
    """Remove what a switch to the target queued for Synapse, where that was cut short before Synapse wrote to it."""
    recorded = record.read(cursor)
    if not recorded or recorded.status != "ported" or recorded.restored or not _exists(cursor, "background_updates"):
        return
    if user_directory.take_back(cursor, check_mode=True) and not _written_since(cursor, recorded.last_transaction):
        user_directory.take_back(cursor, check_mode=False)


def require_same_rows(cursor: Cursor, source: Source, append_only: Iterable[str]) -> None:
    """Raise Refusal when a row of ``source`` at which the routine would go on is not the one it ended with; see renumbered()."""
    for table, row in renumbered(cursor, source, append_only):
        raise renumbered_refusal(source.path, table, row)


def renumbered_refusal(path: str, table: str, row: int) -> Refusal:
    """Return the Refusal for the row id ``row`` of ``table`` in the SQLite database at ``path``, one of renumbered()'s."""
    return Refusal(
        f"The row {row} of {table} in {path} should have been ported and is not in the target: the file is another "
        "homeserver's, its rows were numbered anew by a VACUUM, or the newest deleted and their numbers given to others.",
        "Give it a new, empty database (synapse_postgres_database), and do not VACUUM the file during the move.",
    )


def renumbered(cursor: Cursor, source: Source, append_only: Iterable[str]) -> list[tuple[str, int]]:
    """Return ``(table, row id)`` of the last row of each ``append_only`` table that the routine has passed and not ported.

    It goes on by row ids, which VACUUM gives anew: later rows would be left out (matrix-org/synapse #13195). The tables are
    those that the routine only adds to, as in Rules.
    """
    passed, keys, found = watermarks.read(cursor), database.unique_keys(cursor), []
    with source.reading() as sqlite:
        for table in sorted((set(append_only) - _IN_PART) & set(passed) & set(keys)):
            key = _telling_key(sqlite, table, keys[table])
            last = _last_passed(sqlite, table, key, passed[table]) if key else None
            if key and last and not _holds(cursor, table, dict(zip(key, last[1:]))):
                found.append((table, last[0]))
    return found


def _telling_key(sqlite: sqlite3.Connection, table: str, keys: list[list[str]]) -> list[str] | None:
    """Return the first of ``keys`` that tells a row of SQLite's ``table`` from another one with its row id.

    A column INTEGER PRIMARY KEY is the row id itself (https://www.sqlite.org/lang_createtable.html, "ROWIDs").
    """
    columns = sqlite.execute(f"PRAGMA table_info({identifier(table)})").fetchall()
    primary = [(name, kind.upper()) for _place, name, kind, _required, _default, place in columns if place]
    itself = [primary[0][0]] if len(primary) == 1 and primary[0][1] == "INTEGER" else None
    names = {column[1] for column in columns}
    return next((key for key in keys if names.issuperset(key) and key != itself), None)


def _last_passed(sqlite: sqlite3.Connection, table: str, key: list[str], passed: tuple[int, int]) -> tuple | None:
    """Return the row id and the key of the last row of SQLite's ``table`` between the row ids ``passed``.

    None where none can tell. A row with a NUL character is left out by the routine.
    """
    texts = [identifier(row[1]) for row in sqlite.execute(f"PRAGMA table_info({identifier(table)})")]
    sound = " AND ".join(f"NOT (typeof({text}) = 'text' AND instr(CAST({text} AS BLOB), x'00'))" for text in texts)
    query = f"SELECT rowid, {', '.join(map(identifier, key))} FROM {identifier(table)}"
    query += f" WHERE rowid < ? AND rowid > ? AND {sound} ORDER BY rowid DESC LIMIT 1"
    last = sqlite.execute(query, passed).fetchone()
    return None if last is None or None in last else last


def _holds(cursor: Cursor, table: str, key: dict[str, object]) -> bool:
    same = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in key)
    cursor.execute(sql.SQL("SELECT 1 FROM public.{} WHERE {}").format(sql.Identifier(table), same), list(key.values()))
    return cursor.fetchone() is not None


def require_all_ported(cursor: Cursor, source: Source, rules: Rules) -> None:
    """Raise Refusal when the routine has left rows of ``source``, though it ended well.

    Ended by SIGTERM or SIGINT it exits with 0, half-way: its reactor just stops. It has ported the row ids between the two
    watermarks that it keeps of each table (handle_table() in synapse/_scripts/synapse_port_db.py).
    """
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    postgres, passed = {table for (table,) in cursor.fetchall()}, watermarks.read(cursor)
    with source.reading() as connection:
        sqlite = tables(connection)
        # Where there is no table at all, the routine has not even begun.
        left = sorted(
            table
            for table in rules.carried(sqlite, postgres or sqlite) - {"sent_transactions"}
            if table not in passed or _rows_beyond(connection, table, *passed[table])
        )
    if left:
        raise Refusal(
            f"Synapse's port routine ended before it was through: rows of {len(left)} tables are left ({', '.join(left[:3])}).",
            "It was ended from outside, perhaps; run this again: it goes on where it stopped.",
        )


def _rows_beyond(sqlite: sqlite3.Connection, table: str, forward: int, backward: int) -> bool:
    """Tell whether SQLite's ``table`` has a row that is not between the watermarks; of search entries those of events count."""
    name, joined = identifier(table), "JOIN events USING (event_id, room_id)" if table == "event_search" else ""
    query = f"SELECT EXISTS (SELECT 1 FROM {name} AS t {joined} WHERE t.rowid >= ? LIMIT 1)"
    if sqlite.execute(query, (forward,)).fetchone()[0]:
        return True
    query = f"SELECT EXISTS (SELECT 1 FROM {name} WHERE rowid <= ?)"
    return table != "event_search" and bool(sqlite.execute(query, (backward,)).fetchone()[0])


def clear_half_schema(cursor: Cursor) -> None:
    """Remove the schema that a killed run left half made, into which nothing has been ported yet.

    Synapse commits it file by file (executescript in synapse/storage/engines/postgres.py), so half of it can be neither used
    nor completed. The routine makes its table port_from_sqlite3 when the schema is whole, before it carries the first row.
    """
    recorded = record.read(cursor)
    if recorded is None or recorded.status != "running" or watermarks.exist(cursor):
        return
    if not any(_counts(cursor, _USED).values()):
        cursor.execute(_CLEAR)


def _exists(cursor: Cursor, table: str) -> bool:
    cursor.execute("SELECT to_regclass(%s)", (f"public.{table}",))
    return only_row(cursor)[0] is not None


def _counts(cursor: Cursor, names: tuple[str, ...]) -> dict[str, int]:
    counts = {}
    for table in names:
        if _exists(cursor, table):
            cursor.execute(sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table)))
            counts[table] = only_row(cursor)[0]
    return counts


def _written_since(cursor: Cursor, last_transaction: int | None) -> list[str]:
    """Return the tables of public that hold a row of a transaction later than ``last_transaction``, a full 64-bit number.

    A row's xmin is the low half of its transaction's number, so it says nothing two thousand million transactions later;
    then the target counts as written to.
    """
    cursor.execute("SELECT pg_current_xact_id()::text::bigint")
    if last_transaction is None or only_row(cursor)[0] - last_transaction >= 1 << 31:
        return ["more transactions than can be told apart"]
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    later = sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM public.{} WHERE age(xmin) < age({}::text::xid) AND NOT ({}))")
    number = sql.Literal(last_transaction % (1 << 32))
    # A switch to the target that was cut short before Synapse started leaves these, which are ours.
    ours = {"background_updates": sql.SQL(user_directory.UNTOUCHED)}
    parts = [
        later.format(sql.Literal(f"new rows in {name}"), sql.Identifier(name), number, ours.get(name, sql.SQL("false")))
        for (name,) in cursor.fetchall()
    ]
    if not parts:
        return []
    cursor.execute(sql.SQL(" UNION ALL ").join(parts))
    return [words for (words,) in cursor]


def _unexplained(cursor: Cursor, source: Source) -> list[str]:
    """Return traces of Synapse in a target whose port did not end, or was run by hand: what ``source`` does not explain.

    The user directory is never ported, only rebuilt by a running Synapse; cache invalidations are only written on
    PostgreSQL (synapse/storage/databases/main/cache.py); users and events are never renumbered.
    """
    explained = {
        "user_directory": ("count(*)", 0),
        "cache_invalidation_stream_by_instance": ("count(*)", 0),
        "users": ("count(*)", None),
        "events": ("max(stream_ordering)", None),
    }
    found = []
    with source.reading() as sqlite:
        for table, (measure, limit) in explained.items():
            if not _exists(cursor, table):
                continue
            cursor.execute(sql.SQL("SELECT {} FROM public.{}").format(sql.SQL(measure), sql.Identifier(table)))
            if limit is None:
                limit = sqlite.execute(f"SELECT {measure} FROM {table}").fetchone()[0]
            if (only_row(cursor)[0] or 0) > (limit or 0):
                found.append(f"rows in {table} that the SQLite file does not have")
    return found
