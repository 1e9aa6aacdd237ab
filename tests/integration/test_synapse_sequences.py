# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_sequences on databases that Synapse's own routine has ported: what lags is mended, the rest is left, and it starts."""

import contextlib
import json
import subprocess

import pytest
from psycopg2 import sql

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import sequences
from support import conversation
from support import move as moves

STREAMS = {name: use for name, use in sequences.KNOWN.items() if use.stream}


@pytest.fixture(scope="module")
def ported(tmp_path_factory, homeserver, cluster):
    """A Move that the routine has made and nobody has mended; the template of every test's database."""
    with moves.prepared(tmp_path_factory.mktemp("ported"), homeserver[0], cluster) as found:
        found.routine()
        yield found


@pytest.fixture
def move(tmp_path, ported):
    """A Move of a test's own, as the routine left it."""
    with moves.prepared(tmp_path, ported.server, ported.cluster, template=ported.name) as found:
        yield found


def mended(run, move) -> dict:
    """Run the module until nothing is left to do; return what it moved, once it was seen to have foretold it."""
    before = states(move)
    foretold = run("synapse_sequences", move.login, check=True)
    assert states(move) == before
    done = run("synapse_sequences", move.login)
    for key in ("changed", "sequences", "unknown", "diff"):
        assert done[key] == foretold[key]
    assert done["changed"] == bool(done["sequences"])
    after = states(move)
    for name, found in done["sequences"].items():
        last, called = before.pop(name)
        assert found["before"] == last - (not called) < found["after"]
        assert after.pop(name) == (found["after"], True)
        assert done["diff"]["before"][name] == found["before"] and done["diff"]["after"][name] == found["after"]
    assert after == before
    assert not run("synapse_sequences", move.login)["changed"]
    return done["sequences"]


def states(move) -> dict:
    """Return each sequence's last_value and is_called."""
    found = {}
    with contextlib.closing(move.cluster.connect(dbname=move.name)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'")
        for (name,) in cursor.fetchall():
            cursor.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name)))
            found[name] = cursor.fetchone()
    return found


def put(move, table: str, column: str, number: int) -> None:
    """Put ``number`` into ``table``: in a new row with whatever else it needs made up, or in the only row it may have."""
    fill = {"boolean": "false", "jsonb": "{}"}
    with contextlib.closing(move.cluster.connect(dbname=move.name)) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # no foreign keys
        cursor.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
            " AND is_nullable = 'NO' AND is_identity = 'NO' AND column_name <> %s",
            (table, column),
        )
        needed = {name: fill.get(kind, str(number)) for name, kind in cursor.fetchall()}
        if "lock" in needed:
            cursor.execute(f"UPDATE {table} SET {column} = %s", (number,))
        else:
            places = ", ".join(["%s"] * (len(needed) + 1))
            cursor.execute(
                f"INSERT INTO {table} ({', '.join([column, *needed])}) OVERRIDING SYSTEM VALUE VALUES ({places})",
                (number, *needed.values()),
            )


def test_every_sequence_reaches_each_of_its_tables(run, move):
    mended(run, move)
    rounds = max(len(use.columns) for use in sequences.KNOWN.values())
    assert rounds == 6
    for number in range(rounds):
        behind = {name: use for name, use in sequences.KNOWN.items() if len(use.columns) > number}
        wanted = 1000 * (number + 1)
        for use in behind.values():
            put(move, *use.columns[number], wanted if use.positive else -wanted)
        found = mended(run, move)
        assert set(found) == set(behind)
        for name, use in behind.items():
            table, column = use.columns[number]
            assert found[name]["after"] == wanted and found[name]["because"].startswith(f"{table}.{column} "), found[name]


def test_every_sequence_reaches_its_stream_however_far(run, move):
    mended(run, move)
    for wanted in (500, 3_000_000_000):
        for use in STREAMS.values():
            for writer, number in (("master", wanted), ("writer2", wanted - 7)):
                move.rows(
                    "INSERT INTO stream_positions VALUES (%s, %s, %s)"
                    " ON CONFLICT (stream_name, instance_name) DO UPDATE SET stream_id = excluded.stream_id",
                    *(use.stream, writer, number if use.positive else -number),
                )
        found = mended(run, move)
        assert {name: one["after"] for name, one in found.items()} == dict.fromkeys(STREAMS, wanted)
        assert all("stream_positions has the stream" in one["because"] for one in found.values())


def test_a_number_that_is_next_is_not_one_that_was_given_out(run, move):
    mended(run, move)
    for name, use in sequences.KNOWN.items():
        for column in use.columns[:1]:
            put(move, *column, 700 if use.positive else -700)
            move.rows(f"ALTER SEQUENCE {name} RESTART WITH 700")
    numbered = {name for name, use in sequences.KNOWN.items() if use.columns}
    found = mended(run, move)
    assert {name: (one["before"], one["after"]) for name, one in found.items()} == dict.fromkeys(numbered, (699, 700))
    # Past its table, a sequence is right as it is, unless Synapse would start its stream there.
    for name in numbered:
        move.rows(f"ALTER SEQUENCE {name} RESTART WITH 701")
    found = mended(run, move)
    assert {name: (one["before"], one["after"]) for name, one in found.items()} == dict.fromkeys(STREAMS, (700, 701))
    assert all("starts the stream" in one["because"] for one in found.values())


def test_what_is_ahead_stays(run, move):
    for name in states(move):
        move.rows(f"SELECT setval('{name}', 1000000)")
    assert mended(run, move) == {}


def test_guests_get_numbers_that_nobody_has(run, move):
    mended(run, move)
    for name in ("@41:localhost", "@7:localhost", "@99x:localhost", f"@{'9' * 30}:localhost", f"@{2**63 - 1}:localhost"):
        move.rows("INSERT INTO users (name, creation_ts) VALUES (%s, 1)", name)
    found = mended(run, move)
    assert list(found) == ["user_id_seq"] and found["user_id_seq"]["after"] == 41
    assert move.rows("SELECT nextval('user_id_seq')") == [(42,)]


def test_columns_own_sequences_and_the_rest_is_unknown(run, move):
    mended(run, move)
    columns = {
        "sliding_sync_connections": "connection_key",
        "sliding_sync_connection_positions": "connection_position",
        "sliding_sync_connection_required_state": "required_state_id",
        "state_groups_pending_deletion": "sequence_number",
        "instance_map": "instance_id",
        '"a module\'s %s ""table"""': '"the ""Id"""',
    }
    move.rows('CREATE TABLE "a module\'s %s ""table""" ("the ""Id""" serial)')
    for table, column in columns.items():
        if table == "instance_map":
            move.rows("INSERT INTO instance_map VALUES (60, 'writer2')")
        elif '"' in table:
            move.rows(f"INSERT INTO {table} VALUES (60)")
        else:
            put(move, table, column, 60)
    admin = {**move.cluster.login, "login_db": move.name}
    done = run("synapse_sequences", admin)
    assert {found["after"] for found in done["sequences"].values()} == {60} and len(done["sequences"]) == len(columns)
    assert done["unknown"] == []

    move.rows("CREATE SEQUENCE nobodys; CREATE TABLE down (id integer); INSERT INTO down VALUES (70)")
    move.rows("CREATE SEQUENCE downwards INCREMENT -1 OWNED BY down.id; CREATE SCHEMA other; CREATE SEQUENCE other.sequence")
    before = states(move)
    done = run("synapse_sequences", admin)
    assert not done["changed"] and done["unknown"] == ["downwards", "nobodys"]
    assert [name for name in done["unknown"] if name in str(done["warnings"])] == ["downwards", "nobodys"]
    assert states(move) == before


def test_another_release_has_other_tables_and_sequences(run, move):
    mended(run, move)
    move.rows("DROP TABLE sticky_events, profile_updates, stream_positions CASCADE; DROP SEQUENCE quarantined_media_id_seq")
    put(move, "receipts_linearized", "stream_id", 90)
    assert list(mended(run, move)) == ["receipts_sequence"]


def test_who_draws_meanwhile_is_never_turned_back(move):
    move.rows("SELECT setval('receipts_sequence', 100)")
    with contextlib.closing(move.connect()) as connection, connection.cursor() as cursor:
        # By the time of these it is known no longer how far the sequence is.
        sequences.advance(cursor, "receipts_sequence", gap=3, wanted=10)
        assert move.rows("SELECT last_value FROM receipts_sequence") == [(103,)]
        sequences.advance(cursor, "receipts_sequence", gap=50000, wanted=50)
        assert move.rows("SELECT last_value FROM receipts_sequence") == [(103,)]


def test_a_database_of_somebody_else_is_refused_and_nothing_to_mend(run, move):
    for check in (True, False):
        refused = run("synapse_sequences", move.cluster.login, check=check)
        assert refused["failed"] and "'postgres' is not Synapse's" in refused["msg"] and "login_db" in refused["msg"], refused
    with contextlib.closing(move.cluster.connect()) as connection, connection.cursor() as cursor:
        assert sequences.mend(cursor) == sequences.Mended({}, [])


def test_who_may_not_is_told_so(run, move):
    move.rows("CREATE ROLE stranger LOGIN PASSWORD 'a word'")
    try:
        login = {**move.login, "login_user": "stranger", "login_password": "a word"}
        before = states(move)
        for check in (True, False):
            refused = run("synapse_sequences", login, check=check)
            assert refused["failed"] and "belong to the role 'synapse'" in refused["msg"], refused
        assert states(move) == before
        refused = run("synapse_sequences", {**login, "login_password": "another"})
        assert refused["failed"] and "login_password" in refused["msg"] and "another" not in refused["output"]
    finally:
        move.rows("DROP ROLE stranger")


_STARTED = """
import json, sys, yaml
from synapse._scripts.update_synapse_database import MockHomeserver
from synapse.config.homeserver import HomeServerConfig
from synapse.storage.util.sequence import PostgresSequenceGenerator as Generator

built, checked = [], []
build, check = Generator.__init__, Generator.check_consistency

def note_build(self, name):
    built.append(name)
    build(self, name)

def note_check(self, db_conn, table, id_column, stream_name=None, positive=True):
    checked.append([self._sequence_name, table, id_column, stream_name, positive])
    check(self, db_conn, table, id_column, stream_name, positive)

Generator.__init__, Generator.check_consistency = note_build, note_check
config = HomeServerConfig()
config.parse_config_dict(yaml.safe_load(open(sys.argv[1])), "", "")
MockHomeserver(config).setup()
print(json.dumps({"built": built, "checked": checked}))
"""


def test_synapse_uses_its_sequences_as_we_know_it_to(run, move):
    words = [move.server.python, "-c", _STARTED, move.config]
    done = subprocess.run(words, capture_output=True, text=True, cwd=move.folder, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    known = sequences.KNOWN.items()
    assert {tuple(one) for one in found["checked"]} == {
        (name, *column, use.stream, use.positive) for name, use in known for column in use.columns
    }
    assert set(found["built"]) == set(sequences.KNOWN)
    assert run("synapse_sequences", move.login)["unknown"] == []


def test_synapse_starts_where_positions_are_ahead_of_their_tables(run, tmp_path, homeserver, any_cluster):
    """The case of element-hq/synapse #19467: the newest rows of two streams had been deleted before the port."""
    server, said = homeserver
    with moves.prepared(tmp_path, server, any_cluster) as move:
        move.lite("DELETE FROM presence_stream WHERE stream_id > 2")
        ahead = move.lite("SELECT stream_id FROM stream_positions WHERE stream_name = 'presence_stream'")[0][0]
        assert ahead > 3
        move.lite("INSERT INTO stream_positions (stream_name, instance_name, stream_id) VALUES ('account_data', 'master', 9)")
        move.routine()
        for _time in range(2):
            # Neither Synapse nor the routine itself opens what the routine has left.
            with pytest.raises(RuntimeError, match="inconsistent"), move.synapse():
                pass
            with pytest.raises(RuntimeError, match="inconsistent"):
                move.routine()
            found = mended(run, move)
            assert found["presence_stream_sequence"]["before"] == 2
            assert found["presence_stream_sequence"]["after"] == ahead
            assert found["account_data_sequence"]["after"] == 9
            move.routine()
        mended(run, move)
        with move.synapse() as url:
            assert not run("synapse_sequences", move.login)["changed"]
            first_is_seen(url, said)
            conversation.check(url, said)
            assert not run("synapse_sequences", move.login)["changed"]


def first_is_seen(url: str, said: dict) -> None:
    """Say something, as the first thing after the move, and see that it reaches somebody who synced before."""
    user, room = next(iter(said["users"])), next(iter(said["rooms"]))
    person = conversation.Homeserver(url).logged_in(user, said["users"][user]["password"])
    path = f"{conversation.CLIENT}/sync?timeout=0"
    since = person.ask("GET", path)["next_batch"]
    message = {"msgtype": "m.text", "body": "Moved."}
    sent = f"{conversation.CLIENT}/rooms/{conversation.quoted(room)}/send/m.room.message/first"
    event = person.ask("PUT", sent, message)["event_id"]
    person.ask("PUT", f"{conversation.CLIENT}/user/{conversation.quoted(user)}/account_data/org.example.first", {"first": True})
    news = person.ask("GET", f"{path}&since={since}")
    assert event in [one["event_id"] for one in news["rooms"]["join"][room]["timeline"]["events"]], news
    assert {"type": "org.example.first", "content": {"first": True}} in news["account_data"]["events"], news
