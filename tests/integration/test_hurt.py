# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database built to hurt (support/hurt.py) is moved, is the same on the other side, and Synapse runs on it."""

import contextlib
import copy
import json

import pytest

from support import conversation, hurt
from support import move as moves

# What hurt() has filled, ordered by nothing: columns that hold the same on both sides, booleans as numbers.
FILLED = {
    "account_data": "user_id, account_data_type, stream_id, content",
    "devices": "device_id, display_name, last_seen, ip, CAST(hidden AS integer)",
    "event_auth": "event_id, auth_id, room_id",
    "event_auth_chain_links": "origin_chain_id, origin_sequence_number, target_chain_id, target_sequence_number",
    "event_json": "event_id, room_id, internal_metadata, json, format_version",
    "events": "stream_ordering, topological_ordering, event_id, type, room_id, CAST(outlier AS integer), state_key",
    "hurt_on_both_sides": "id, note, data",
    "local_media_repository": "media_id, media_length, created_ts, upload_name, last_access_ts, user_id",
    "profiles": "user_id, displayname, avatar_url, full_user_id",
    "received_transactions": "transaction_id, origin, ts, response_code, response_json, has_been_referenced",
    "rejections": "event_id, reason, last_check",
    "room_alias_servers": "room_alias, server",
    "server_keys_json": "server_name, key_id, from_server, ts_added_ms, key_json",
    "state_groups_state": "state_group, room_id, type, state_key, event_id",
    "stream_ordering_to_exterm": "stream_ordering, room_id, event_id",
    "users": "name, password_hash, creation_ts, admin, appservice_id, user_type",
}


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    """A Move of a database that was hurt, and Synapse ran on it since."""
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        hurt.hurt(found.source)
        with found.synapse(on_sqlite=True) as url:
            conversation.check(url, homeserver[1])
        yield found


def rows(found: list) -> list:
    """Return rows with their bytes as such, in an order that does not depend on who gave them."""
    plain = [tuple(bytes(value) if isinstance(value, memoryview) else value for value in row) for row in found]
    return sorted(plain, key=repr)


def nul(row: tuple) -> bool:
    return any(isinstance(value, str) and "\0" in value for value in row)


def test_a_database_built_to_hurt_ends_running_and_equal(run, move, homeserver):
    said = copy.deepcopy(homeserver[1])
    first = run("synapse_port", move.options)
    assert first.get("finished"), first
    assert {table: told["dropped"] for table, told in first["tables"].items() if told["dropped"]} == hurt.DROPPED

    # The module makes its table on PostgreSQL, as Synapse's role; somebody changes a password on SQLite, and talks on.
    with contextlib.closing(move.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(hurt.SHARED_TABLE)
    person, other = list(said["users"])[:2]
    move.lite("UPDATE users SET password_hash = (SELECT password_hash FROM users WHERE name = ?) WHERE name = ?", other, person)
    said["users"][person]["password"] = said["users"][other]["password"]
    with move.synapse(on_sqlite=True) as url:
        conversation.check(url, said)

    second = run("synapse_port", {**move.options, "batch_size": 7})
    assert second.get("finished"), second
    verified = run("synapse_port_verify", {**move.login, "sqlite_database": str(move.source), "carry_changes": True})
    assert verified.get("equal"), verified
    assert not run("synapse_sequences", move.login)["changed"]

    for table, columns in FILLED.items():
        lite = [row for row in move.lite(f"SELECT {columns} FROM {table}") if not nul(row)]
        assert rows(lite) == rows(move.rows(f"SELECT {columns} FROM {table}")), table
    query = "SELECT user_id, fields FROM profiles WHERE fields IS NOT NULL"
    assert {user: json.loads(text) for user, text in move.lite(query)} == dict(move.rows(query))
    biggest = move.rows("SELECT max(id) FROM hurt_on_both_sides")[0][0]
    assert move.rows("SELECT nextval('hurt_on_both_sides_id_seq')") == [(biggest + 1,)]
    with move.synapse() as url:
        conversation.check(url, said)
