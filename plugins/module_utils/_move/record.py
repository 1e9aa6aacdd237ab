# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of a move at its target: our own record in a schema beside Synapse's, and the traces Synapse leaves.

The port routine empties every table that is not append-only and fills it again on each run (synapse/_scripts/
synapse_port_db.py, setup_table). A run after Synapse has written to the target would destroy what it wrote, so whether it
has is decided here, from the database itself: a file on a host can be lost or left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _defaults
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import synapse_rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, guard
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

# What the routine's sessions are called in pg_stat_activity, so that one that outlived its parent is recognised.
ROUTINE = "matrixops.synapse_postgres routine"

# One move at a time into a database: the key of an advisory lock, "synapsepg" without its vowels in ASCII.
_LOCK = 0x736E707370
_LOCK_WAIT = 15.0

# So that the server, too, notices a link that fell silent, and ends the session: sooner than a next run waits for it.
NOTICE_SILENCE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 12000"
)

# Tables that the routine only adds to and carries over in part: _setup_sent_transactions() and handle_search_table() there.
_IN_PART = {"sent_transactions", "event_search"}

_RECORD = """
CREATE SCHEMA IF NOT EXISTS synapse_postgres;
CREATE TABLE IF NOT EXISTS synapse_postgres.move (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    status text NOT NULL CHECK (status IN ('running', 'ported')),
    source text NOT NULL,
    stamp text NOT NULL,
    server_name text NOT NULL,
    routine jsonb NOT NULL,
    last_transaction bigint,
    started_at timestamptz NOT NULL,
    ported_at timestamptz
);
ALTER TABLE synapse_postgres.move ADD COLUMN IF NOT EXISTS content jsonb;
COMMENT ON TABLE synapse_postgres.move IS 'How Synapse''s data came here from SQLite; kept so that it is never overwritten.';
CREATE TABLE IF NOT EXISTS synapse_postgres.sums (
    table_name text,
    side text,
    low bigint,
    high bigint NOT NULL,
    mark text NOT NULL,
    since bigint,
    stamp text,
    dropped bigint NOT NULL,
    sums bytea NOT NULL,
    PRIMARY KEY (table_name, side, low)
);
CREATE TABLE IF NOT EXISTS synapse_postgres.aside (
    stage int NOT NULL,
    table_name text,
    name text,
    definition text NOT NULL,
    parent text,
    PRIMARY KEY (table_name, name)
);
COMMENT ON TABLE synapse_postgres.aside IS 'Indexes and constraints that the move has dropped, and makes again when it ends.';
COMMENT ON TABLE synapse_postgres.sums IS 'What was compared already in the move from SQLite; of no use when it has ended.';
"""


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


@dataclasses.dataclass(frozen=True)
class Record:
    """Our record of the move into a database: which file was read (its ``stamp``), whose it is, and the transaction after the
    move's last.

    ``routine`` is what the Synapse that ported decides, as synapse_rules.ask() returns it, with the ``engine`` that ported last,
    whether a port had ended well before (``again``), and the state for which all was ``laid`` for the engine copy. ``here`` is
    False in a copy of the database that was restored elsewhere, whose transactions have other numbers. ``content`` is what
    guard.summarize() said of the file before it was ported; None in a record of an earlier release.
    """

    status: str
    stamp: str
    server_name: str
    routine: dict
    last_transaction: int | None
    content: dict | None
    here: bool

    def broke_off_at(self, stamp: str) -> bool:
        """Tell whether a port of the very file of this ``stamp`` did not come to its end."""
        return self.status == "running" and self.stamp == stamp


@contextlib.contextmanager
def only_one(cursor, dbname: str):
    """Hold the lock of moves into the connected ``database`` within the block; Refusal when another one keeps it."""
    cursor.execute(NOTICE_SILENCE)
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
        if cursor.fetchone()[0]:
            break
        if time.monotonic() > deadline:
            raise Refusal(f"Another move into the database {dbname!r} is under way.", "Wait until it has ended.")
        time.sleep(0.5)
    # An end by an exception closes the connection, which gives the lock back as well.
    yield
    cursor.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def read(cursor) -> Record | None:
    """Return our record of the move in the connected database, None when there is none."""
    cursor.execute("SELECT to_regclass('synapse_postgres.move')")
    if cursor.fetchone()[0] is None:
        return None
    # The row was last written in the very transaction that it names: end(). A restored copy's was not.
    cursor.execute(
        "SELECT status, stamp, server_name, routine, last_transaction, to_jsonb(move) -> 'content',"
        " xmin::text::bigint = last_transaction & 4294967295 AND pg_current_xact_id()::text::bigint > last_transaction"
        " FROM synapse_postgres.move"
    )
    row = cursor.fetchone()
    return Record(*row[:6], bool(row[6])) if row else None


def is_again(cursor, before: Record | None) -> bool:
    """Tell whether a port into the connected database had ended well before, by its record ``before``, and is still there."""
    ended = before is not None and (before.status == "ported" or before.routine.get("again", False))
    return ended and _exists(cursor, "port_from_sqlite3")


def is_laid(cursor, before: Record | None, state: str) -> bool:
    """Tell whether all is laid for the engine copy, by the record ``before`` and the ``state`` of both sides: laid()."""
    known = before.routine if before else {}
    return known.get("laid") == state and _exists(cursor, "port_from_sqlite3")


def begin(cursor, source: str, server_name: str, routine: dict, before: Record | None) -> None:
    """Record that the file ``source``, ``server_name``'s database, is about to be ported; ``before`` is the record until now.

    ``routine`` is what the Synapse that ports decides: see Record.
    """
    cursor.execute(_RECORD)
    if before is None or not before.here:
        cursor.execute("TRUNCATE synapse_postgres.sums")
    if not _exists(cursor, "port_from_sqlite3"):
        cursor.execute("TRUNCATE synapse_postgres.aside")
    stamp = file.stamp(source)
    # Of a port that was killed on the way the file may hold what Synapse's code has made of it.
    known = before.content if before and before.broke_off_at(stamp) else None
    cursor.execute(
        "INSERT INTO synapse_postgres.move (status, source, stamp, server_name, routine, content, started_at)"
        " VALUES ('running', %s, %s, %s, %s, %s, now())"
        " ON CONFLICT (only_one) DO UPDATE SET status = 'running', source = excluded.source, stamp = excluded.stamp,"
        " routine = excluded.routine, content = excluded.content, last_transaction = NULL,"
        " started_at = excluded.started_at, ported_at = NULL",
        (source, stamp, server_name, json.dumps(routine), json.dumps(known or guard.summarize(source))),
    )


def laid(cursor, source: str, state: str) -> None:
    """Record that all is laid for the engine copy, by Synapse's code, and the borders: while both sides have this ``state``.

    Synapse's code may have written to ``source``.
    """
    cursor.execute(
        "UPDATE synapse_postgres.move SET stamp = %s, routine = routine || %s",
        (file.stamp(source), json.dumps({"laid": state})),
    )


def end(cursor, stamp: str) -> None:
    """Record that a port has ended well, of a file that has this ``stamp`` now."""
    cursor.execute(
        "UPDATE synapse_postgres.move SET status = 'ported', stamp = %s, ported_at = now(),"
        " last_transaction = pg_current_xact_id()::text::bigint",
        (stamp,),
    )


def carried(cursor) -> None:
    """Record that the open transaction, in which we carried over what Synapse had changed on SQLite, is the move's last."""
    cursor.execute("UPDATE synapse_postgres.move SET last_transaction = pg_current_xact_id()::text::bigint")


def require_all_ported(cursor, source: str, routine: dict) -> None:
    """Raise Refusal when the routine has left rows of ``source``, though it ended well; ``routine`` is as in Record.

    Ended by SIGTERM or SIGINT it exits with 0, half-way: its reactor just stops. It has ported the row ids between the two
    borders that it keeps of each table (handle_table() in synapse/_scripts/synapse_port_db.py).
    """
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    there, borders = {table for (table,) in cursor.fetchall()}, reached(cursor)
    with file.reading(source) as connection:
        here = {table for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        # Where there is no table at all, the routine has not even begun.
        left = sorted(
            table
            for table in synapse_rules.carried(here, there or here, routine) - {"sent_transactions"}
            if table not in borders or _rows_beyond(connection, table, *borders[table])
        )
    if left:
        raise Refusal(
            f"Synapse's port routine ended before it was through: rows of {len(left)} tables are left ({', '.join(left[:3])}).",
            "It was ended from outside, perhaps; run this again: it goes on where it stopped.",
        )


def reached(cursor) -> dict[str, tuple[int, int]]:
    """Return ``{table: (forward, backward)}``: the routine has passed the row ids between the two."""
    if not _exists(cursor, "port_from_sqlite3"):
        return {}
    cursor.execute("SELECT table_name, forward_rowid, backward_rowid FROM public.port_from_sqlite3")
    return {table: (forward, backward) for table, forward, backward in cursor.fetchall()}


def _rows_beyond(connection, table: str, forward: int, backward: int) -> bool:
    """Tell whether SQLite's ``table`` has a row that is not between the borders; of search entries those of events count."""
    name, joined = identifier(table), ""
    if table == "event_search":
        joined, backward = "JOIN events USING (event_id, room_id)", None
    query = f"SELECT EXISTS (SELECT 1 FROM {name} AS t {joined} WHERE t.rowid >= ? LIMIT 1)"
    if connection.execute(query, (forward,)).fetchone()[0]:
        return True
    query = f"SELECT EXISTS (SELECT 1 FROM {name} WHERE rowid <= ?)"
    return backward is not None and bool(connection.execute(query, (backward,)).fetchone()[0])


def end_routine(cursor) -> None:
    """End the sessions of a routine that its parent cannot reach, in a container: then it ends, too."""
    with contextlib.suppress(psycopg2.Error):  # a server that is gone has ended them itself
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND usename = current_user AND datname = current_database()",
            (ROUTINE,),
        )


def require_synapses(cursor, server_name: str) -> None:
    """Raise Refusal for a target that is another homeserver's than ``server_name``'s, or another application's.

    Nor where the role may not read what is Synapse's, but belongs to another one. The cursor is the target's.
    """
    tables = {name.split(".", 1)[1] for name in database.tables(cursor) if name.startswith("public.")}
    if tables and "schema_version" not in tables:
        raise Refusal(
            f"The target database holds {len(tables)} tables that are not Synapse's, {min(tables)} among them.",
            "Give Synapse a database of its own.",
        )
    ownership.require_own(cursor, reading=True)
    found = read(cursor)
    if found and found.server_name != server_name:
        raise Refusal(
            f"The target database is the homeserver {found.server_name}'s, and this one is {server_name}.",
            "Give each homeserver a database of its own (synapse_postgres_database).",
        )


def is_finished(cursor, stamp: str) -> bool:
    """Tell whether the very file of this ``stamp`` was ported to the end and is there; the cursor is the target's."""
    found = read(cursor)
    ported = found is not None and found.status == "ported" and found.stamp == stamp
    return ported and bool(_counts(cursor, ("users",)).get("users"))


def require_home(cursor) -> None:
    """Raise Refusal where Synapse's role, which is connected, does not work in the schema that a move knows."""
    schema = _defaults.current_schema(cursor)
    if schema == _connection.MOVED:
        return
    cursor.execute("SELECT session_user")
    role, dbname = (sql.Identifier(name).as_string(cursor) for name in (cursor.fetchone()[0], cursor.connection.info.dbname))
    raise Refusal(
        f"In the target database Synapse's role works in the schema {schema or 'none'}, and a move knows only public.",
        f"Give that role the schema public there by `ALTER ROLE {role} IN DATABASE {dbname} SET search_path = public` while "
        "the schema it works in holds nothing of Synapse's, or give Synapse a database of its own.",
    )


def require_only_ported(cursor, source: str) -> None:
    """Raise Refusal when the target holds what the routine did not write there, or what ``source`` does not explain."""
    found = read(cursor)
    if found and found.status == "ported" and not found.here:
        traces = ["it is a copy that was restored after the move"]
    elif found and found.status == "ported":
        traces = _written_since(cursor, found.last_transaction)
    elif found or _exists(cursor, "port_from_sqlite3"):
        traces = _unexplained(cursor, source)
    else:
        traces = [f"{count} rows in {table}" for table, count in _counts(cursor, ("users", "events", "rooms")).items() if count]
    if traces:
        raise Refusal(
            f"Synapse has written to the target database ({', '.join(traces)}). "
            "Porting into it again would empty its tables and lose that.",
            "If Synapse lives on PostgreSQL already, there is nothing to do. To port another SQLite file, "
            "give it a new database.",
        )


def require_same_rows(cursor, source: str, append_only: list[str]) -> None:
    """Raise Refusal when a row of ``source`` at which the routine would go on is not the one it ended with; see renumbered()."""
    for table, row in renumbered(cursor, source, append_only):
        raise renumbered_refusal(source, table, row)


def renumbered_refusal(source: str, table: str, row: int) -> Refusal:
    """Return the Refusal for the row id ``row`` of ``table`` in ``source``, one of renumbered()'s."""
    return Refusal(
        f"The row {row} of {table} in {source} should have been ported and is not in the target: the file is another "
        "homeserver's, its rows were numbered anew by a VACUUM, or the newest deleted and their numbers given to others.",
        "Give it a new, empty database (synapse_postgres_database), and do not VACUUM the file during the move.",
    )


def renumbered(cursor, source: str, append_only: list[str]) -> list[tuple[str, int]]:
    """Return ``(table, row id)`` of the last row of each ``append_only`` table that the routine has passed and not ported.

    It goes on by row ids, which VACUUM gives anew: later rows would be left out (matrix-org/synapse #13195). The tables are
    those that the routine only adds to, as in Record.routine.
    """
    borders, keys, found = reached(cursor), database.unique_keys(cursor), []
    with file.reading(source) as connection:
        for table in sorted((set(append_only) - _IN_PART) & set(borders) & set(keys)):
            key = _telling_key(connection, table, keys[table])
            last = _last_passed(connection, table, key, *borders[table]) if key else None
            if last and not _holds(cursor, table, dict(zip(key, last[1:]))):
                found.append((table, last[0]))
    return found


def _telling_key(connection, table: str, keys: list[list[str]]) -> list[str] | None:
    """Return the first of ``keys`` that tells a row of SQLite's ``table`` from another one with its row id.

    A column INTEGER PRIMARY KEY is the row id itself (https://www.sqlite.org/lang_createtable.html, "ROWIDs").
    """
    columns = connection.execute(f"PRAGMA table_info({identifier(table)})").fetchall()
    primary = [(name, kind.upper()) for _place, name, kind, _required, _default, place in columns if place]
    itself = [primary[0][0]] if len(primary) == 1 and primary[0][1] == "INTEGER" else None
    names = {column[1] for column in columns}
    return next((key for key in keys if names.issuperset(key) and key != itself), None)


def _last_passed(connection, table: str, key: list[str], forward: int, backward: int) -> tuple | None:
    """Return the row id and the key of the last row of SQLite's ``table`` between the borders, None where none can tell.

    A row with a NUL character is left out by the routine.
    """
    texts = [identifier(row[1]) for row in connection.execute(f"PRAGMA table_info({identifier(table)})")]
    sound = " AND ".join(f"NOT (typeof({text}) = 'text' AND instr(CAST({text} AS BLOB), x'00'))" for text in texts)
    query = f"SELECT rowid, {', '.join(map(identifier, key))} FROM {identifier(table)}"
    query += f" WHERE rowid < ? AND rowid > ? AND {sound} ORDER BY rowid DESC LIMIT 1"
    last = connection.execute(query, (forward, backward)).fetchone()
    return None if last is None or None in last else last


def _holds(cursor, table: str, key: dict) -> bool:
    same = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in key)
    cursor.execute(sql.SQL("SELECT 1 FROM public.{} WHERE {}").format(sql.Identifier(table), same), list(key.values()))
    return cursor.fetchone() is not None


def clear_half_schema(cursor) -> None:
    """Remove the schema that a killed run left half laid, into which nothing has been ported yet.

    Synapse commits it file by file (executescript in synapse/storage/engines/postgres.py), so half of it can be neither used
    nor completed. The routine makes its table port_from_sqlite3 when the schema is whole, before it carries the first row.
    """
    found = read(cursor)
    if found is None or found.status != "running" or _exists(cursor, "port_from_sqlite3"):
        return
    if not any(_counts(cursor, ("users", "events", "rooms")).values()):
        cursor.execute(_CLEAR)


def require_unused(cursor) -> None:
    """Raise Refusal when the role has another session in the target: Synapse, or a routine that outlived its parent."""
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        cursor.execute(
            "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND pid <> pg_backend_pid()"
            " AND coalesce(backend_type, 'client backend') = 'client backend'"
        )
        sessions = cursor.fetchall()
        if not sessions:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    pid, name = sessions[0]
    if name == ROUTINE:
        raise Refusal(
            f"An earlier run of the port routine is still at work on the target (server process {pid}).", "Wait for it."
        )
    raise Refusal(
        f"Somebody is connected to the target database with Synapse's role (server process {pid}, {name or 'unnamed'}).",
        "If it is Synapse, it lives there already; otherwise end that session.",
    )


def _exists(cursor, table: str) -> bool:
    cursor.execute("SELECT to_regclass(%s)", (f"public.{table}",))
    return cursor.fetchone()[0] is not None


def _counts(cursor, tables: tuple) -> dict[str, int]:
    counts = {}
    for table in tables:
        if _exists(cursor, table):
            cursor.execute(sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table)))
            counts[table] = cursor.fetchone()[0]
    return counts


def _written_since(cursor, last_transaction: int) -> list[str]:
    """Return the tables of public that hold a row of a transaction later than ``last_transaction``, a full 64-bit number.

    A row's xmin is the low half of its transaction's number, so it says nothing two thousand million transactions later;
    then the target counts as written to.
    """
    cursor.execute("SELECT pg_current_xact_id()::text::bigint")
    if cursor.fetchone()[0] - last_transaction >= 1 << 31:
        return ["more transactions than can be told apart"]
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    later = sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM public.{} WHERE age(xmin) < age({}::text::xid))")
    number = sql.Literal(last_transaction % (1 << 32))
    parts = [later.format(sql.Literal(f"new rows in {name}"), sql.Identifier(name), number) for (name,) in cursor.fetchall()]
    if not parts:
        return []
    cursor.execute(sql.SQL(" UNION ALL ").join(parts))
    return [words for (words,) in cursor]


def _unexplained(cursor, source: str) -> list[str]:
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
    with file.reading(source) as connection:
        for table, (measure, limit) in explained.items():
            if not _exists(cursor, table):
                continue
            cursor.execute(sql.SQL("SELECT {} FROM public.{}").format(sql.SQL(measure), sql.Identifier(table)))
            if limit is None:
                limit = connection.execute(f"SELECT {measure} FROM {table}").fetchone()[0]
            if (cursor.fetchone()[0] or 0) > (limit or 0):
                found.append(f"rows in {table} that the SQLite file does not have")
    return found
