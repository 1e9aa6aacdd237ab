# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make a homeserver's SQLite database one that is hard to move: what Synapse, its modules and SQLite allow, and few expect.

Synapse runs on the result as before, and PostgreSQL can store all of it except what DROPPED counts.
"""

import contextlib
import json
import pathlib
import sqlite3

# Texts that something between two databases takes for something else.
TEXTS = (
    "\\N",
    "\\.",
    "\\\\",
    "ends with \\",
    "\\x41 \\101 \\n",
    "two\nlines",
    "\r\n\r",
    "a\ttab",
    'it\'s "quoted" `so`',
    "%s %(name)s %%",
    "{} {0} {{ name }} {% raw %}",
    "'; DROP TABLE users; --",
    "$$ $1 ?1 :name",
    "🐘🔑 𝔘𝔫𝔦 e\u0301 \u202ertl",
    "\x01\x1b\x7f\x85\u2028\ufeff\ufffe\U0010ffff",
    " ",
    "NULL",
    "x" * 100_000,
)

# The table of the module that has one on PostgreSQL too, as that module would make it there.
SHARED_TABLE = "CREATE TABLE hurt_on_both_sides (id bigserial PRIMARY KEY, note text, data bytea)"

# How many rows, in which tables, hold a NUL character: the routine leaves them out, since PostgreSQL cannot store one.
DROPPED = {"devices": 1, "local_media_repository": 2, "rejections": 1, "room_alias_servers": 1}

_BLOBS = (bytes(range(256)), b"", b"\\N", b"\\x41", b"\0", b"\xff\xfe", bytes(range(255, -1, -1)) * 4096)
_BIGGEST, _SMALLEST = 2**63 - 1, -(2**63)
_HUGE = 20_000_000


def hurt(path: pathlib.Path) -> None:
    """Put all of it into the database at ``path``, of a homeserver that has a user and a room and does not run."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        user, room = _one(connection, "SELECT name FROM users"), _one(connection, "SELECT room_id FROM rooms")
        _texts(connection, user)
        _blobs(connection)
        _events(connection, room)
        _row_ids(connection)
        _numbers_and_nulls(connection, user)
        _nuls(connection, user)
        _duplicates(connection)
        _modules(connection)
        _streams(connection)
        connection.commit()


def _one(connection, query: str):
    return connection.execute(f"{query} ORDER BY rowid LIMIT 1").fetchone()[0]


def _add(connection, table: str, **values: object) -> None:
    names, places = ", ".join(values), ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(values.values()))


def _media(connection, media_id: str, name, user: str, **values: object) -> None:
    common = {"media_type": "text/plain", "media_length": 1, "created_ts": 1, "safe_from_quarantine": 0, "authenticated": 1}
    _add(connection, "local_media_repository", media_id=media_id, upload_name=name, user_id=user, **{**common, **values})


def _texts(connection, user: str) -> None:
    """TEXTS, the empty text and none at all, in tables that the routine copies once and in tables that it copies each time."""
    for number, text in enumerate((*TEXTS, "", None)):
        _media(connection, f"hurt{number}", text, user)
        ghost, host = f"hurt{number}", user.partition(":")[2]
        fields = json.dumps({"b": text, "a": [1, 2.5, None, {}]}, ensure_ascii=number % 2 == 0)
        _add(connection, "profiles", user_id=ghost, full_user_id=f"@{ghost}:{host}", displayname=text, fields=fields)
        _add(connection, "devices", user_id=user, device_id=f"HURT{number}", display_name=text, hidden=0)
        content = json.dumps({"text": text}, ensure_ascii=number % 2 == 0)
        kind = f"org.example.hurt{number}"
        _add(connection, "account_data", user_id=user, account_data_type=kind, stream_id=number + 2, content=content)
    for text in TEXTS:
        _add(connection, "rejections", event_id=f"${text}", reason=text, last_check=text)


def _blobs(connection) -> None:
    for number, blob in enumerate((*_BLOBS, None)):
        common = {"transaction_id": f"hurt{number}", "origin": "hurt.example", "ts": 1, "has_been_referenced": 0}
        _add(connection, "received_transactions", **common, response_code=200, response_json=blob)
    for number, blob in enumerate(_BLOBS):
        key = {"key_id": f"ed25519:hurt{number}", "from_server": "hurt.example", "ts_added_ms": 1, "ts_valid_until_ms": 1}
        _add(connection, "server_keys_json", server_name="hurt.example", **key, key_json=blob)


def _events(connection, room: str) -> None:
    """Outliers with the negative stream orderings, hence row ids, of backfilled events; one of them is huge."""
    for number in (1, 2, 3, 1000):
        event, content = f"$hurt{number}", {"body": "huge " * (_HUGE // 5) if number == 3 else "small"}
        common = {"event_id": event, "room_id": room}
        _add(
            connection,
            "events",
            **common,
            stream_ordering=-number,
            topological_ordering=number,
            depth=number,
            type="org.example.hurt",
            processed=1,
            outlier=1,
            contains_url=0,
            origin_server_ts=1,
            received_ts=1,
            sender="@hurt:hurt.example",
            instance_name="master",
        )
        whole = {"type": "org.example.hurt", "room_id": room, "sender": "@hurt:hurt.example", "content": content}
        text = json.dumps({**whole, "depth": number, "origin_server_ts": 1, "prev_events": [], "auth_events": []})
        _add(connection, "event_json", **common, internal_metadata='{"outlier": true}', json=text, format_version=3)


def _row_ids(connection) -> None:
    """Row ids below, at and far above where SQLite begins to count, in tables that keep them to themselves."""
    for row in (-(2**40), -1000, -7, -1, 0, 2**40):
        _add(connection, "rejections", rowid=row, event_id=f"$row{row}", reason="hurt", last_check="1")
        _add(connection, "stream_ordering_to_exterm", rowid=row, stream_ordering=1, room_id=f"!row{row}", event_id="$hurt")
        _add(connection, "room_alias_servers", rowid=row, room_alias=f"#row{row}:hurt.example", server="hurt.example")


def _numbers_and_nulls(connection, user: str) -> None:
    for number, value in enumerate((_BIGGEST, _SMALLEST, 2**53 + 1, 0, -1, None)):
        _media(connection, f"number{number}", "number", user, created_ts=value, last_access_ts=value)
    for number, value in enumerate((2**31 - 1, -(2**31))):
        _media(connection, f"length{number}", "length", user, media_length=value)
    unsaid = dict.fromkeys(("shadow_banned", "approved", "password_hash"))
    _add(connection, "users", name=f"@hurt:{user.partition(':')[2]}", creation_ts=1, **unsaid)
    _add(connection, "users", name=f"@hurt2:{user.partition(':')[2]}", creation_ts=1, password_hash="", user_type="")


def _nuls(connection, user: str) -> None:
    """What DROPPED counts."""
    for number, text in enumerate(("a\0b", "\0")):
        _media(connection, f"nul{number}", text, user)
    _add(connection, "devices", user_id=user, device_id="HURTNUL", display_name="a\0", hidden=0)
    _add(connection, "rejections", event_id="$nul", reason="\0a", last_check="1")
    _add(connection, "room_alias_servers", room_alias="#nul:hurt.example", server="a\0b")


def _duplicates(connection) -> None:
    """Rows that are there twice and three times, where no key forbids it."""
    for table in ("event_auth", "event_auth_chain_links", "state_groups_state", "stream_ordering_to_exterm"):
        for _time in range(2):
            connection.execute(f"INSERT INTO {table} SELECT DISTINCT * FROM {table} LIMIT 3")
    for _time in range(3):
        _add(connection, "room_alias_servers", room_alias="#thrice:hurt.example", server="hurt.example")


def _modules(connection) -> None:
    """Tables of third parties' modules: one that only SQLite has, and one that is to be on PostgreSQL too: SHARED_TABLE."""
    connection.execute('CREATE TABLE "a module\'s ""own"" %s table" ("a column" TEXT, "select" BLOB)')
    connection.execute('INSERT INTO "a module\'s ""own"" %s table" VALUES (?, ?)', ("\\N", _BLOBS[0]))
    connection.execute("CREATE TABLE hurt_on_both_sides (id INTEGER PRIMARY KEY, note TEXT, data BLOB)")
    for number, text in enumerate(TEXTS):
        values = {"id": 10 * number - 20, "note": text, "data": _BLOBS[number % len(_BLOBS)]}
        _add(connection, "hurt_on_both_sides", **values)


def _streams(connection) -> None:
    """Streams whose newest rows have been deleted: their positions are ahead of their tables (element-hq/synapse #19467)."""
    for stream, position in (("receipts", 50), ("account_data", 500), ("backfill", -1200), ("presence_stream", 5000)):
        connection.execute(
            "INSERT INTO stream_positions (stream_name, instance_name, stream_id) VALUES (?, 'master', ?)"
            " ON CONFLICT (stream_name, instance_name) DO UPDATE SET stream_id = excluded.stream_id",
            (stream, position),
        )
