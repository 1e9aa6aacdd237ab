# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a move, which its target keeps in a schema beside Synapse's: what was ported, from which file, by which rules."""

from __future__ import annotations

import dataclasses
import json

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import watermarks
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import guard
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

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


@dataclasses.dataclass(frozen=True)
class Record:
    """Our record of the move into a database: which file was read (its ``stamp``), whose it is, and the transaction after the
    move's last.

    ``rules`` are those of the Synapse that ported; None in a record without them. ``ported_before``: a port had ended well
    before the one that is recorded. ``schema_created`` is the state of both sides (copy_engine.state()) for which Synapse's code
    has made its tables, and the watermarks are there. ``content`` is what guard.summarize() said of the file before it was
    ported; None in a record of an earlier release. ``restored`` says of a port that has ended that this is a copy of the
    database, restored elsewhere, whose transactions have other numbers.
    """

    status: str
    stamp: str
    server_name: str
    rules: Rules | None
    ported_before: bool
    schema_created: str | None
    last_transaction: int | None
    content: dict | None
    restored: bool

    def broke_off_at(self, stamp: str) -> bool:
        """Tell whether a port of the very file of this ``stamp`` did not come to its end."""
        return self.status == "running" and self.stamp == stamp


@dataclasses.dataclass(frozen=True)
class Port:
    """A port that begins: of ``source`` into ``target``, by the ``rules`` of the installed Synapse and this ``engine``.

    ``before`` is the record that earlier ports left, None where there is none. ``ported_before``: one of them ended well, and
    what it brought is there. ``resuming``: one of this very file was killed on the way.
    """

    source: Source
    target: Target
    rules: Rules
    engine: str
    before: Record | None
    ported_before: bool
    resuming: bool

    @property
    def cursor(self) -> Cursor:
        return self.target.cursor

    @property
    def is_first(self) -> bool:
        """Whether the tables hold nothing yet that is to stay."""
        return not self.ported_before and not self.resuming


def read(cursor: Cursor) -> Record | None:
    """Return our record of the move in the connected database, None when there is none."""
    cursor.execute("SELECT to_regclass('synapse_postgres.move')")
    if only_row(cursor)[0] is None:
        return None
    # The row was last written in the very transaction that it names: end(). A restored copy's was not.
    cursor.execute(
        "SELECT status, stamp, server_name, routine, last_transaction, to_jsonb(move) -> 'content',"
        " xmin::text::bigint = last_transaction & 4294967295 AND pg_current_xact_id()::text::bigint > last_transaction"
        " FROM synapse_postgres.move"
    )
    row = cursor.fetchone()
    if row is None:
        return None
    status, stamp, server_name, routine, last_transaction, content, in_place = row
    return Record(
        status=status,
        stamp=stamp,
        server_name=server_name,
        rules=Rules.from_json(routine) if routine else None,
        ported_before=bool(routine.get("again", False)),
        schema_created=routine.get("laid"),
        last_transaction=last_transaction,
        content=content,
        restored=not in_place,
    )


def has_ported(cursor: Cursor, before: Record | None) -> bool:
    """Tell whether a port into the connected database had ended well before, by its record ``before``, and is still there."""
    ended = before is not None and (before.status == "ported" or before.ported_before)
    return ended and watermarks.exist(cursor)


def is_schema_created(cursor: Cursor, before: Record | None, state: str) -> bool:
    """Tell whether Synapse's tables are made for the engine copy, by the record ``before`` and the ``state`` of both sides."""
    return before is not None and before.schema_created == state and watermarks.exist(cursor)


def begin(port: Port, server_name: str) -> None:
    """Record that ``port`` begins, of ``server_name``'s database."""
    cursor, before = port.cursor, port.before
    cursor.execute(_RECORD)
    if before is None or before.restored:
        cursor.execute("TRUNCATE synapse_postgres.sums")
    # What the first release has kept, by other names of the sides, is of no use.
    cursor.execute("DELETE FROM synapse_postgres.sums WHERE side NOT IN ('sqlite', 'postgres')")
    if not watermarks.exist(cursor):
        cursor.execute("TRUNCATE synapse_postgres.aside")
    stamp = port.source.stamp()
    # Of a port that was killed on the way the file may hold what Synapse's code has made of it.
    known = before.content if before and before.broke_off_at(stamp) else None
    # The names in JSON are those of the first release.
    routine = {**port.rules.to_json(), "engine": port.engine, "again": port.ported_before}
    cursor.execute(
        "INSERT INTO synapse_postgres.move (status, source, stamp, server_name, routine, content, started_at)"
        " VALUES ('running', %s, %s, %s, %s, %s, now())"
        " ON CONFLICT (only_one) DO UPDATE SET status = 'running', source = excluded.source, stamp = excluded.stamp,"
        " routine = excluded.routine, content = excluded.content, last_transaction = NULL,"
        " started_at = excluded.started_at, ported_at = NULL",
        (port.source.path, stamp, server_name, json.dumps(routine), json.dumps(known or guard.summarize(port.source.path))),
    )


def schema_created(cursor: Cursor, stamp: str, state: str) -> None:
    """Record that Synapse's tables and the watermarks are made for the engine copy: while both sides have this ``state``.

    Synapse's code may have written to the source, whose ``stamp`` this is.
    """
    cursor.execute("UPDATE synapse_postgres.move SET stamp = %s, routine = routine || %s", (stamp, json.dumps({"laid": state})))


def end(cursor: Cursor, stamp: str) -> None:
    """Record that a port has ended well, of a file that has this ``stamp`` now."""
    cursor.execute(
        "UPDATE synapse_postgres.move SET status = 'ported', stamp = %s, ported_at = now(),"
        " last_transaction = pg_current_xact_id()::text::bigint",
        (stamp,),
    )


def carried(cursor: Cursor) -> None:
    """Record that the open transaction, in which we carried over what Synapse had changed on SQLite, is the move's last."""
    cursor.execute("UPDATE synapse_postgres.move SET last_transaction = pg_current_xact_id()::text::bigint")
