# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_port_verify after a real port: equal, whatever differs is named, and changes are carried over to where they may be."""

import json
import shutil
import sys

import pytest

from support import modules
from support import move as moves

# What Synapse's database has not after a conversation, and a port changes or leaves behind; after each the rule it falls under.
SEED = [
    # Every byte, text where PostgreSQL has a bytea, and JSON that PostgreSQL writes in its own way.
    "INSERT INTO user_filters (user_id, full_user_id, filter_id, filter_json)"
    " VALUES ('person0', '@person0:localhost', 0, x'00015c7f80ff27'), ('person0', '@person0:localhost', 1, '{\"a\":\"é\"}')",
    'UPDATE profiles SET fields = \'{"m.tz": "Europe/London", "b":[1.50,1e3,{}], "a":"\\u00e9"}\' WHERE user_id = \'person0\'',
    # nul
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25) INSERT INTO user_daily_visits"
    " SELECT '@person0:localhost', 'D', i, 'a' || char(0) || i FROM n",
    "INSERT INTO user_daily_visits VALUES ('@person1:localhost', 'D', 1, 'whole'), ('@person1:localhost', 'D', 1, 'whole')",
    "INSERT INTO event_search SELECT event_id, room_id, sender, 'content.body', 'a' || char(0) FROM events"
    " WHERE type = 'm.room.power_levels'",
    # no_event
    "INSERT INTO event_search VALUES ('$gone', '!gone:localhost', '@person0:localhost', 'content.body', 'gone')",
    # left_behind
    "CREATE TABLE of_a_module (words TEXT)",
    "INSERT INTO of_a_module VALUES ('one'), ('two')",
    # ignored
    "INSERT INTO ui_auth_sessions VALUES ('secret session', 1, '{}', '{}', '/', 'POST', 'x')",
]

# (where, statement, table, missing, unexpected, changed): one difference each.
TAMPERED = [
    ("there", "DELETE FROM event_json WHERE event_id = (SELECT max(event_id) FROM event_json)", "event_json", 1, 0, 0),
    ("there", "INSERT INTO users (name, creation_ts) VALUES ('@late:localhost', 1)", "users", 0, 1, 0),
    ("there", "UPDATE users SET admin = 1 - admin WHERE name = '@person0:localhost'", "users", 1, 1, 1),
    ("there", "UPDATE users SET shadow_banned = NOT shadow_banned WHERE name = '@person0:localhost'", "users", 1, 1, 1),
    ("there", "UPDATE users SET consent_version = '' WHERE name = '@person0:localhost'", "users", 1, 1, 1),
    ("there", "UPDATE events SET depth = depth + 1", "events", None, None, None),
    ("there", "UPDATE user_filters SET filter_json = set_byte(filter_json, 5, 254) WHERE filter_id = 0", "user_filters", 1, 1, 1),
    ("there", "UPDATE user_filters SET filter_json = filter_json || '\\x00' WHERE filter_id = 1", "user_filters", 1, 1, 1),
    ("there", "UPDATE profiles SET fields = jsonb_set(fields, '{b,0}', '1.5') WHERE user_id = 'person0'", "profiles", 1, 1, 1),
    ("there", "INSERT INTO user_daily_visits SELECT * FROM user_daily_visits LIMIT 1", "user_daily_visits", 0, 1, 0),
    ("there", "DELETE FROM user_daily_visits WHERE ctid = '(0,1)'", "user_daily_visits", 1, 0, 0),
    ("there", "UPDATE event_search SET vector = vector || to_tsvector('x') WHERE ctid = '(0,1)'", "event_search", 1, 1, 1),
    ("there", "UPDATE event_search SET stream_ordering = 0 WHERE ctid = '(0,1)'", "event_search", 1, 1, 1),
    ("there", "DELETE FROM event_search WHERE ctid = '(0,1)'", "event_search", 1, 0, 0),
    ("there", "UPDATE user_directory_stream_pos SET stream_id = 1", "user_directory_stream_pos", 0, 1, 0),
    ("there", "UPDATE appservice_stream_position SET stream_ordering = 17", "appservice_stream_position", 1, 1, 1),
    ("here", "DELETE FROM state_groups_state WHERE rowid = 2", "state_groups_state", 0, 1, 0),
    ("here", "UPDATE events SET processed = 0 WHERE stream_ordering = 5", "events", 1, 1, 1),
    ("here", "UPDATE users SET password_hash = upper(password_hash) WHERE name = '@person1:localhost'", "users", 1, 1, 1),
    ("here", "INSERT INTO room_tags VALUES ('@person0:localhost', '!r:localhost', 'm.favourite', '{}')", "room_tags", 1, 0, 0),
    ("here", "UPDATE event_search SET value = value || ' whales' WHERE rowid = 3", "event_search", 1, 1, 1),
    ("here", "UPDATE user_filters SET filter_json = x'00015c7f80fe27' WHERE filter_id = 0", "user_filters", 1, 1, 1),
    ("here", "UPDATE profiles SET fields = '[]' WHERE user_id = 'person0'", "profiles", 1, 1, 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def ported(tmp_path_factory, homeserver, any_cluster):
    """A Move that has been ported with everything in SEED; its database is the template of each test's."""
    with moves.prepared(tmp_path_factory.mktemp("ported"), homeserver[0], any_cluster) as found:
        for statement in SEED:
            found.lite(statement)
        done = modules.run("synapse_port", found.options)
        assert done.get("finished"), done
        yield found


@pytest.fixture
def move(tmp_path, ported):
    """A Move into a database where it has been ported already."""
    with moves.prepared(tmp_path, ported.server, ported.cluster, ported.name) as found:
        shutil.copy(ported.source, found.source)
        yield found


@pytest.fixture
def verify(run, move):
    """``verify(check=False, **options)`` -> the module's result for ``move``."""

    def verified(check=False, **options):
        result = run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login, **options}, check=check)
        for table, column in (("users", "password_hash"), ("access_tokens", "token")):
            for (secret,) in move.lite(f"SELECT {column} FROM {table}"):
                assert secret is None or secret not in result["output"]
        assert moves.PASSWORD not in result["output"]
        return result

    return verified


def test_a_port_is_equal_and_every_expected_difference_is_counted(move, verify):
    found = verify()
    assert found["equal"] and not found["changed"] and not found["tables"], found
    rules = {(one["table"], one["rule"]): one for one in found["expected"]}
    counted = {key: one["rows"] for key, one in rules.items()}
    assert counted["user_daily_visits", "nul"] == 25
    assert rules["user_daily_visits", "nul"]["examples"][0].startswith("rowid=")
    assert len(rules["user_daily_visits", "nul"]["examples"]) == 20
    assert counted["event_search", "nul"] == 2
    assert counted["event_search", "no_event"] == 1
    assert counted["of_a_module", "left_behind"] == 2
    assert counted["ui_auth_sessions", "ignored"] == 1
    assert counted["user_directory", "ignored"] == 3
    assert counted["applied_schema_deltas", "bookkeeping"] > 1
    assert counted["port_from_sqlite3", "bookkeeping"] > 1
    assert counted["user_directory_stream_pos", "stream_position"] == 1
    assert {rule for _table, rule in counted} == {
        "nul", "no_event", "left_behind", "ignored", "bookkeeping", "stream_position", "sqlite",
    }  # fmt: skip
    assert all(one["why"] and one["rows"] for one in found["expected"])
    compared = sum(move.rows(f'SELECT count(*) FROM "{name}"')[0][0] for (name,) in move.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN ('schema_version',"
        " 'applied_schema_deltas', 'port_from_sqlite3', 'user_directory_stream_pos')"))  # fmt: skip
    assert found["rows"] == compared
    progress = json.loads((move.folder / "homeserver.db.progress.json").read_text())
    assert progress["step"] == "verify" and progress["done"] == compared
    assert not [path for path in move.folder.iterdir() if "etilqs" in path.name]


@pytest.mark.parametrize(
    ("where", "statement", "table", "missing", "unexpected", "changed"), TAMPERED, ids=lambda value: str(value)[:60]
)
def test_a_difference_is_found_and_named(move, verify, where, statement, table, missing, unexpected, changed):
    rows = move.lite("SELECT count(*) FROM events")[0][0]
    move.rows(statement) if where == "there" else move.lite(statement)
    found = verify()
    assert found["failed"] and not found["equal"], found
    assert f"1 tables differ: {table} (" in found["msg"]
    numbers = found["tables"][table]
    told = [numbers["missing"], numbers["unexpected"], numbers["changed"]]
    assert told == ([rows] * 3 if missing is None else [missing, unexpected, changed]), found
    assert 1 <= len(numbers["examples"]) <= 5


@pytest.mark.parametrize(
    ("table", "key", "shown"),
    [
        ("login_tokens (token, user_id, expiry_ts) VALUES ('tell-nobody', '@person0:localhost', 1)", "login_tokens", "rowid=1"),
        ("room_aliases (room_alias, room_id) VALUES ('#ünï:localhost', '!r')", "room_aliases", "room_alias=#ünï:localhost"),
        ("blocked_rooms (room_id, user_id) VALUES (CAST(x'21ff' AS TEXT), '@a')", "blocked_rooms", "room_id=!\ufffd"),
    ],
)
def test_rows_are_shown_by_their_keys_unless_these_are_secret(move, verify, table, key, shown):
    move.lite(f"INSERT INTO {table}")
    found = verify()
    assert found["tables"][key]["examples"] == [shown], found
    assert "tell-nobody" not in found["output"]


def test_tables_that_are_new_on_postgresql_are_listed(move, verify):
    move.rows("CREATE TABLE empty_one (x int); CREATE TABLE other_one AS SELECT 1 AS x")
    move.rows("GRANT SELECT ON empty_one, other_one TO synapse")
    expected = verify()["expected"]
    assert [(one["table"], one["rows"]) for one in expected if one["rule"] == "only_postgresql"] == [("other_one", 1)]


def test_columns_that_one_side_has_are_listed(move, verify):
    move.rows("ALTER TABLE rooms ADD COLUMN theirs int DEFAULT 7")
    move.lite("ALTER TABLE topics ADD COLUMN ours TEXT") if move.lite(
        "SELECT 1 FROM sqlite_master WHERE name = 'topics'"
    ) else None
    move.lite("ALTER TABLE users ADD COLUMN mine TEXT DEFAULT 'x'")
    found = verify()
    assert found["equal"], found
    expected = {(one["table"], one["rule"]): one for one in found["expected"]}
    assert expected["rooms", "only_postgresql_column"]["rows"] == 2
    assert "theirs" in expected["rooms", "only_postgresql_column"]["why"]
    assert expected["users", "only_sqlite_column"]["rows"] == 3


def test_of_sent_transactions_the_last_of_each_destination_must_be_there(move, verify):
    definition = "CREATE TABLE sent_transactions (id bigint, transaction_id text, destination text, ts bigint)"
    values = "(1, 'a', 'one.example', 1), (2, 'b', 'one.example', 2), (3, 'a', 'two.example', 3)"
    move.lite(definition)
    move.lite(f"INSERT INTO sent_transactions VALUES {values}")
    move.rows(f"{definition}; GRANT SELECT ON sent_transactions TO synapse; INSERT INTO sent_transactions VALUES {values}")
    move.rows("DELETE FROM sent_transactions WHERE id = 1")
    found = verify()
    assert found["equal"], found
    assert [one["rows"] for one in found["expected"] if one["rule"] == "sent_transactions"] == [1]
    move.rows("DELETE FROM sent_transactions WHERE id = 2")
    assert verify()["tables"]["sent_transactions"]["missing"] == 1
    move.rows("INSERT INTO sent_transactions VALUES (2, 'b', 'one.example', 2), (9, 'z', 'one.example', 2)")
    assert verify()["tables"]["sent_transactions"]["unexpected"] == 1


# What Synapse does to rows that the routine has ported: -> (written, deleted) by table.
CHANGES = {
    "UPDATE users SET password_hash = 'a new\thash \\ N', approved = 0 WHERE name = '@person0:localhost'": {"users": (1, 0)},
    "UPDATE events SET outlier = 1, rejection_reason = 'é' WHERE stream_ordering IN (5, 6)": {"events": (2, 0)},
    "UPDATE event_json SET json = '{}' WHERE rowid IN (10, 11, 12)": {"event_json": (3, 0)},
    "UPDATE local_media_repository SET last_access_ts = 99, safe_from_quarantine = 1": {"local_media_repository": (1, 0)},
    "UPDATE event_search SET value = 'ships in harbours' WHERE rowid IN (4, 5)": {"event_search": (2, 0)},
    "DELETE FROM event_search WHERE rowid = 7": {"event_search": (0, 1)},
    # Tables without a key: one row of several gone, one changed.
    "DELETE FROM event_auth WHERE rowid = 3": {"event_auth": (0, 1)},
    "UPDATE presence_stream SET state = 'busy' WHERE rowid = (SELECT min(rowid) FROM presence_stream)": {
        "presence_stream": (1, 1)
    },
}

# A purged event, whose children go with it.
PURGED = (
    "event_edges",
    "event_json",
    "event_to_state_groups",
    "event_search",
    "event_auth",
    "stream_ordering_to_exterm",
    "events",
)


def purge(move) -> None:
    query = "SELECT event_id FROM events WHERE type = 'm.room.message' ORDER BY stream_ordering LIMIT 1 OFFSET 8"
    event = move.lite(query)[0][0]
    for table in (*PURGED, "event_txn_id_device_id"):
        move.lite(f"DELETE FROM {table} WHERE event_id = ?", event)
    assert move.rows("SELECT 1 FROM event_edges WHERE event_id = %s", event)


def test_changes_since_the_first_run_are_carried_over(run, move, verify):
    wanted = {}
    for statement, numbers in CHANGES.items():
        move.lite(statement)
        for table, (written, deleted) in numbers.items():
            one = wanted.setdefault(table, {"written": 0, "deleted": 0})
            one["written"] += written
            one["deleted"] += deleted
    purge(move)
    for table in PURGED:
        if table != "event_auth":  # only state has rows there
            wanted.setdefault(table, {"written": 0, "deleted": 0})["deleted"] += 1
    move.lite("INSERT INTO users (name, creation_ts) VALUES ('@late:localhost', 1)")
    assert run("synapse_port", move.options)["finished"]
    unequal = verify()
    assert set(unequal["tables"]) == set(wanted), unequal
    state = move.rows("SELECT * FROM users ORDER BY name")

    checked = verify(check=True, carry_changes=True)
    assert checked["equal"] and checked["changed"] and checked["carried"] == wanted, checked
    assert move.rows("SELECT * FROM users ORDER BY name") == state
    assert verify()["failed"]

    done = verify(carry_changes=True)
    assert done["equal"] and done["changed"] and done["carried"] == wanted and not done["tables"], done
    assert move.rows("SELECT password_hash, approved FROM users WHERE name = '@person0:localhost'") == [
        ("a new\thash \\ N", False)
    ]
    assert len(move.rows("SELECT 1 FROM event_search WHERE vector @@ to_tsquery('english', 'ship & harbour')")) == 2
    assert verify()["equal"]
    again = verify(carry_changes=True)
    assert again["equal"] and not again["changed"] and not again["carried"]

    # What we carried over is no trace of Synapse's: the move may go on.
    move.lite("UPDATE users SET admin = 1")
    assert run("synapse_port", move.options)["finished"]
    assert verify(carry_changes=True)["carried"] == {"users": {"written": 4, "deleted": 0}}


def changed(run, move) -> None:
    move.lite("UPDATE users SET password_hash = 'tell-nobody'")
    assert run("synapse_port", move.options)["finished"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP SCHEMA synapse_postgres CASCADE", "no record of a move"),
        ("UPDATE synapse_postgres.move SET status = 'running'", "has not ended"),
        ("UPDATE synapse_postgres.move SET source = source", "restored after the move"),
        ("INSERT INTO device_inbox VALUES ('@person0:localhost', 'D', 99, '{}', 'master')", "new rows in device_inbox"),
        ("UPDATE users SET admin = admin", "new rows in users"),
    ],
)
def test_nothing_is_carried_over_what_is_not_ours(run, move, verify, statement, words):
    changed(run, move)
    move.rows(statement)
    before = move.rows("SELECT * FROM users ORDER BY name")
    for check in (True, False):
        refused = verify(check=check, carry_changes=True)
        assert refused["failed"] and words in refused["msg"], refused
    assert move.rows("SELECT * FROM users ORDER BY name") == before


def test_nothing_is_carried_while_synapse_is_connected(run, move, verify):
    changed(run, move)
    session = move.connect()
    refused = verify(carry_changes=True)
    session.close()
    assert refused["failed"] and "connected to the target database" in refused["msg"], refused
    assert verify(carry_changes=True)["equal"]


def test_nothing_is_carried_from_a_file_that_was_not_ported(run, move, verify):
    move.lite("UPDATE users SET password_hash = 'tell-nobody-else'")
    for check in (True, False):
        refused = verify(check=check, carry_changes=True)
        assert refused["failed"] and "what was ported" in refused["msg"], refused


def test_a_difference_that_the_routine_does_not_explain_stops(run, move, verify):
    changed(run, move)
    # As the routine's own would be: in its last transaction's place.
    with move.connect() as session, session.cursor() as cursor:
        cursor.execute("BEGIN; DELETE FROM access_tokens WHERE id = (SELECT min(id) FROM access_tokens)")
        cursor.execute("UPDATE synapse_postgres.move SET last_transaction = pg_current_xact_id()::text::bigint; COMMIT")
    session.close()
    for check in (True, False):
        refused = verify(check=check, carry_changes=True)
        assert refused["failed"] and set(refused["tables"]) == {"users", "access_tokens"}, refused
    assert not move.rows("SELECT 1 FROM users WHERE password_hash = 'tell-nobody'")


def test_what_cannot_be_carried_leaves_everything_as_it_was(run, move, verify):
    changed(run, move)
    move.rows("ALTER TABLE users ADD CONSTRAINT odd CHECK (password_hash <> 'tell-nobody')")
    refused = verify(carry_changes=True)
    assert refused["failed"] and "23514" in refused["msg"], refused
    assert not move.rows("SELECT 1 FROM users WHERE password_hash = 'tell-nobody'")
    move.rows("ALTER TABLE users DROP CONSTRAINT odd")
    assert verify(carry_changes=True)["equal"]


def test_a_carry_that_does_not_make_them_equal_is_undone(run, move, verify):
    changed(run, move)
    move.rows(
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.user_type = ''odd''; RETURN NEW; END';"
        "CREATE TRIGGER odd BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION odd()"
    )
    refused = verify(carry_changes=True)
    assert refused["failed"] and list(refused["tables"]) == ["users"] and not refused["carried"], refused
    assert not move.rows("SELECT 1 FROM users WHERE password_hash = 'tell-nobody' OR user_type = 'odd'")


def test_without_a_record_the_installed_synapse_is_asked(move, verify):
    move.rows("DROP SCHEMA synapse_postgres CASCADE")
    refused = verify()
    assert refused["failed"] and "no record of a move" in refused["msg"] and "synapse_python" in refused["msg"]
    assert verify(synapse_python=str(move.server.python))["equal"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sqlite_database": "/nowhere/homeserver.db"}, "cannot be read"),
        ({"sqlite_database": "homeserver.db"}, "not absolute"),
        ({"sqlite_database": __file__}, "not a SQLite database"),
        ({"login_db": "nowhere"}, "No connection"),
        ({"login_db": "postgres"}, "is not Synapse's"),
    ],
)
def test_bad_input_is_refused(run, move, options, words):
    login = {**move.login, "login_user": move.cluster.login["login_user"], "login_password": move.cluster.login["login_password"]}
    refused = run("synapse_port_verify", {"sqlite_database": str(move.source), **login, **options})
    assert refused["failed"] and words in refused["msg"], refused


def test_an_interpreter_without_synapse_cannot_say_what_is_ported(run, move):
    move.rows("DROP SCHEMA IF EXISTS synapse_postgres CASCADE")  # the record of a move
    refused = run("synapse_port_verify", {"sqlite_database": str(move.source), **move.login, "synapse_python": sys.executable})
    assert refused["failed"] and "has no Synapse" in refused["msg"], refused
