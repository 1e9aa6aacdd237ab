# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sequences of Synapse's database: which tables and which stream each one serves, and how one that lags is mended.

Synapse refuses to start when a position in stream_positions is ahead of its sequence, even where the very same check would
have mended a sequence behind its table (synapse/storage/util/sequence.py, check_consistency). The port routine sets
sequences by the tables and copies stream_positions as it is, and some sequences it does not set at all.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

try:
    from psycopg2 import sql
except ImportError:
    pass


@dataclasses.dataclass(frozen=True)
class Use:
    """What takes its numbers from a sequence: columns as (table, column), and the stream by its name in stream_positions.

    A sequence that is not ``positive`` serves numbers that go down from -1.
    """

    columns: tuple[tuple[str, str], ...]
    stream: str | None = None
    positive: bool = True


# From every MultiWriterIdGenerator and build_sequence_generator in synapse/storage/databases, 1.139 to 1.163. user_id_seq,
# which has no column of numbers, is _generated_users()'s.
KNOWN = {
    "account_data_sequence": Use(
        (("room_account_data", "stream_id"), ("room_tags_revisions", "stream_id"), ("account_data", "stream_id")),
        "account_data",
    ),
    "application_services_txn_id_seq": Use((("application_services_txns", "txn_id"),)),
    "cache_invalidation_stream_seq": Use((("cache_invalidation_stream_by_instance", "stream_id"),), "caches"),
    "device_inbox_sequence": Use((("device_inbox", "stream_id"), ("device_federation_outbox", "stream_id")), "to_device"),
    "device_lists_sequence": Use(
        (
            ("device_lists_stream", "stream_id"),
            ("user_signature_stream", "stream_id"),
            ("device_lists_outbound_pokes", "stream_id"),
            ("device_lists_changes_in_room", "stream_id"),
            ("device_lists_remote_pending", "stream_id"),
            ("device_lists_changes_converted_stream_position", "stream_id"),
        ),
        "device_lists_stream",
    ),
    "e2e_cross_signing_keys_sequence": Use((("e2e_cross_signing_keys", "stream_id"),), "e2e_cross_signing_keys"),
    "event_auth_chain_id": Use((("event_auth_chains", "chain_id"),)),
    "events_backfill_stream_seq": Use(
        (("events", "stream_ordering"), ("ex_outlier_stream", "event_stream_ordering")), "backfill", positive=False
    ),
    "events_stream_seq": Use(
        (
            ("events", "stream_ordering"),
            ("current_state_delta_stream", "stream_id"),
            ("ex_outlier_stream", "event_stream_ordering"),
        ),
        "events",
    ),
    "presence_stream_sequence": Use((("presence_stream", "stream_id"),), "presence_stream"),
    "profile_updates_sequence": Use((("profile_updates", "stream_id"),), "profile_updates"),
    "push_rules_stream_sequence": Use((("push_rules_stream", "stream_id"),), "push_rules_stream"),
    "pushers_sequence": Use((("pushers", "id"), ("deleted_pushers", "stream_id")), "pushers"),
    "quarantined_media_id_seq": Use((("quarantined_media_changes", "stream_id"),), "quarantined_media"),
    "receipts_sequence": Use((("receipts_linearized", "stream_id"),), "receipts"),
    "state_group_id_seq": Use((("state_groups", "id"),)),
    "sticky_events_sequence": Use((("sticky_events", "stream_id"),), "sticky_events"),
    "thread_subscriptions_sequence": Use((("thread_subscriptions", "stream_id"),), "thread_subscriptions"),
    "un_partial_stated_event_stream_sequence": Use(
        (("un_partial_stated_event_stream", "stream_id"),), "un_partial_stated_event_stream"
    ),
    "un_partial_stated_room_stream_sequence": Use(
        (("un_partial_stated_room_stream", "stream_id"),), "un_partial_stated_room_stream"
    ),
    "user_id_seq": Use(()),
}


@dataclasses.dataclass(frozen=True)
class Moved:
    """A sequence that was brought from ``before`` to ``after``, the numbers last given out, and why."""

    before: int
    after: int
    because: str


@dataclasses.dataclass(frozen=True)
class Mended:
    """The ``sequences`` that were moved, and the names of those of the schema public that nothing is known of."""

    sequences: dict[str, Moved]
    unknown: list[str]

    def as_results(self) -> dict[str, dict]:
        """Return ``{name: {before, after, because}}``, as modules return it."""
        return {name: dataclasses.asdict(moved) for name, moved in self.sequences.items()}


# A gap up to this is closed by drawing the numbers, which nobody who draws at the same time can turn back.
_DRAWN = 10000

# The columns from which the routine sets sequences, each to the number after the last one.
NUMBERED = {column for use in KNOWN.values() for column in use.columns}


def is_synapses(cursor: Cursor) -> bool:
    """Tell whether the connected database holds a schema of Synapse's, be it that the role may look into it or not."""
    return "public" in database.synapse_schemas(cursor)


def require_synapses(cursor: Cursor) -> None:
    """Raise Refusal unless the connected database holds a schema of Synapse's."""
    if is_synapses(cursor):
        return
    name, others = cursor.connection.info.dbname, database.synapse_schemas(cursor)
    if others:
        raise Refusal(
            f"In the database {name!r} Synapse's tables are in the schema {', '.join(others)}, and only public is known here.",
            "Leave its sequences to Synapse, which goes by its role's search_path.",
        )
    raise Refusal(
        f"The database {name!r} is not Synapse's: it has no schema_version in the schema public.",
        "Give the database that homeserver.yaml names (login_db).",
    )


def mend(cursor: Cursor, check_mode: bool = False, given_out: dict[str, int] | None = None) -> Mended:
    """Bring every sequence of the connected database forward to its tables and its stream position; never back.

    ``given_out`` are numbers that tables had given out on SQLite: the sequence of a table's own column is brought there, too.
    With ``check_mode`` what is returned would be moved. A database without Synapse's schema has no sequences, of either kind. The
    connection must autocommit.
    """
    if not is_synapses(cursor):
        return Mended({}, [])
    owners, moved = _owners(cursor), {}
    for name, (reached, claims) in _positions(cursor, owners, _columns(cursor)).items():
        for table, _column in owners[name]:
            if given_out and table in given_out:
                claims.append((given_out[table], f"SQLite had given it out in {table}"))
        wanted, because = max(claims, default=(reached, ""))
        if wanted > reached:
            moved[name] = Moved(reached, wanted, because)
            if not check_mode:
                advance(cursor, name, wanted - reached, wanted)
    unknown = [name for name, owner in owners.items() if name not in KNOWN and not owner]
    return Mended(moved, unknown)


def advance(cursor: Cursor, name: str, gap: int, wanted: int) -> None:
    """Move the sequence ``name`` over ``gap`` numbers to ``wanted``, or farther if others have drawn from it meanwhile."""
    sequence = sql.SQL("public.{}").format(sql.Identifier(name))
    named = sql.Literal(sequence.as_string(cursor))
    if gap <= _DRAWN:
        draw = sql.SQL("SELECT max(nextval({})) FROM generate_series(1, {})")
        cursor.execute(draw.format(named, sql.Literal(gap)))
    else:
        # Between the reading and the setting nobody draws as many as the gap is wide.
        leap = sql.SQL("SELECT setval({}, greatest(last_value, {})) FROM {}")
        cursor.execute(leap.format(named, sql.Literal(wanted), sequence))


def _columns(cursor: Cursor) -> set[tuple[str, str]]:
    """Return the (table, column) of every table in the schema public: another release of Synapse's has others."""
    cursor.execute(
        "SELECT c.relname, a.attname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped"
    )
    return set(cursor.fetchall())


def _owners(cursor: Cursor) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return every sequence of the schema public and, in a tuple, the (table, column) that owns it: a serial or identity one.

    The tuple is empty where there is none, or where the sequence is no plain count of whole numbers upwards.
    """
    cursor.execute(
        "SELECT s.relname, t.relname, a.attname FROM pg_catalog.pg_class s"
        " JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid"
        " LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid"
        "  AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') AND q.seqincrement = 1"
        " LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
        "  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)"
        " LEFT JOIN pg_catalog.pg_class t ON t.oid = a.attrelid"
        " WHERE s.relkind = 'S' AND s.relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return {name: ((table, column),) if table else () for name, table, column in cursor.fetchall()}


def _positions(
    cursor: Cursor, owners: dict[str, tuple[tuple[str, str], ...]], present: set[tuple[str, str]]
) -> dict[str, tuple[int, list[tuple[int, str]]]]:
    """Return, for each sequence, the number that it has last given out, and [(number, why)] that it must have reached.

    ``present`` are the columns that this database has: _columns(). All of it is one question, for servers that are far away.
    """
    parts = [part for name, owner in owners.items() for part in _questions(name, KNOWN.get(name, Use(owner)), present)]
    if not parts:
        return {}
    cursor.execute(sql.SQL(" UNION ALL ").join(parts))
    found: dict[str, tuple[int, list]] = {name: (0, []) for name in owners}
    for name, why, number, called in cursor:
        if why is not None:
            found[name][1].append((number, why))
            continue
        stream = KNOWN[name].stream if name in KNOWN else None
        if stream and not called:
            # A stream begins at last_value even if that was not given out: clients that synced before the row which gets it
            # never see that row (element-hq/synapse #18712). The routine leaves sequences so, by ALTER SEQUENCE RESTART.
            why = f"Synapse starts the stream {stream} there, and would show nobody what got that number next"
            found[name][1].append((number, why))
        found[name] = (number if called else number - 1, found[name][1])
    return found


def _questions(name: str, use: Use, present: set[tuple[str, str]]) -> Iterator[sql.Composed]:
    """Yield SELECTs of (sequence, why, number, called): of ``name``'s own state, without a why, and of what it serves."""
    named, state = sql.Literal(name), sql.SQL("SELECT {}, NULL, last_value, is_called FROM public.{}")
    yield state.format(named, sql.Identifier(name))
    claim = sql.SQL("SELECT {}, {}, coalesce({}, 0)::bigint, NULL FROM public.{}")
    for table, column in use.columns:
        if (table, column) in present:
            extreme = sql.SQL("max({})" if use.positive else "-min({})").format(sql.Identifier(column))
            yield claim.format(named, sql.Literal(f"{table}.{column} has reached it"), extreme, sql.Identifier(table))
    if use.stream and ("stream_positions", "stream_id") in present:
        # How far any writer of the stream is; one that is not positive has its positions negated there too.
        farthest = sql.SQL("max(stream_id)" if use.positive else "max(abs(stream_id))")
        of_stream = sql.SQL(" WHERE stream_name = {}").format(sql.Literal(use.stream))
        why = sql.Literal(f"stream_positions has the stream {use.stream} there")
        yield claim.format(named, why, farthest, sql.Identifier("stream_positions")) + of_stream
    if name == "user_id_seq" and ("users", "name") in present:
        # After find_max_generated_user_id_localpart in synapse/storage/databases/main/registration.py; but numbers that no
        # sequence can have given out, such as long ones people chose, are passed over.
        yield sql.SQL(
            "SELECT {}, 'a user of that number exists', coalesce(max(number), 0)::bigint, NULL FROM"
            " (SELECT substring(name FROM '^@([0-9]+):')::numeric AS number FROM public.users) AS users"
            " WHERE number < 9223372036854775807"
        ).format(named)
