# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_port_info with a real Synapse's database, into which is planted what the routine stumbles over."""

import contextlib
import os
import shutil
import sqlite3
import sys

import pytest
import yaml

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port_config, synapse_rules
from support import move as moves

# What is planted: SQL, the table, the row ids that are named (None: of a row that the SQL adds), words of the report, and
# whether the routine fails at it; otherwise it ports something else than what is there.
DEFECTS = {
    "too large an integer": ("UPDATE users SET admin = 40000 WHERE rowid = 2", "users", [2], "fits smallint", True),
    "a word for a number": ("UPDATE users SET creation_ts = 'soon' WHERE rowid = 3", "users", [3], "fits bigint", True),
    "a fraction": ("UPDATE destinations SET retry_interval = 1.5", "destinations", [7], "fits bigint", False),
    "a blob for a number": ("UPDATE devices SET last_seen = x'00' WHERE rowid = 1", "devices", [1], "fits bigint", True),
    "a blob for text": ("UPDATE devices SET display_name = x'00ff' WHERE rowid = 2", "devices", [2], "needs text", False),
    "a boolean of 2": ("UPDATE users SET shadow_banned = 2 WHERE rowid = 1", "users", [1], "neither 1 (true)", False),
    "too long": (
        "INSERT INTO application_services_state (as_id, state) VALUES ('a', 'longer')",
        "application_services_state",
        None,
        "longer than 5",
        True,
    ),
    "no value": ("INSERT INTO event_expiry (event_id, expiry_ts) VALUES (NULL, 1)", "event_expiry", None, "is NULL", True),
    "no bytes": ("INSERT INTO user_filters VALUES ('person0', 9, 5, '@person0:localhost')", "user_filters", None, "a blob", True),
    "a NUL in JSON": ("UPDATE profiles SET fields = '[\"\\u0000\"]' WHERE rowid = 1", "profiles", [1], "no JSON", True),
    "no UTF-8": ("UPDATE profiles SET avatar_url = CAST(x'41ff' AS TEXT) WHERE rowid = 2", "profiles", [2], "not UTF-8", True),
    "searched twice": (
        "INSERT INTO event_search (event_id, room_id, sender, key, value)"
        " SELECT event_id, room_id, sender, key, value FROM event_search WHERE rowid = 1",
        "event_search",
        None,
        "repeat the event_id",
        True,
    ),
    "an orphan": (
        "INSERT INTO event_forward_extremities VALUES ('$gone', '!r')",
        "event_forward_extremities",
        None,
        "gone",
        True,
    ),
    "a renewed token": (
        "INSERT INTO refresh_tokens (id, user_id, device_id, token, next_token_id)"
        " VALUES (1, '@a', 'D', 't', 2), (2, '@a', 'D', 'u', NULL)",
        "refresh_tokens",
        [1],
        "later rows of the same table",
        True,
    ),
    "another column": ("ALTER TABLE rooms ADD COLUMN shoe_size INTEGER", "rooms", None, "the column shoe_size", True),
    "no row ids": (
        "DROP TABLE erased_users; CREATE TABLE erased_users (user_id TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID;"
        "INSERT INTO erased_users VALUES ('@a')",
        "erased_users",
        None,
        "no row ids",
        True,
    ),
}
_GROUND = "DELETE FROM destinations; INSERT INTO destinations (rowid, destination) VALUES (7, 'example.org');"


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        yield found


def plant(move, *scripts):
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        connection.executescript(";".join(scripts))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def options(move) -> dict:
    return {**move.called, "folder": str(move.folder / "not yet" / "made")}


def traces(move) -> tuple:
    """Return what would tell that something was changed on either side."""
    # A reader of a database in WAL mode leaves its (empty) log there.
    files = {path.name for path in move.folder.iterdir()} - {"homeserver.db-wal", "homeserver.db-shm"}
    catalog = [move.rows(f"SELECT c::text FROM {table} c ORDER BY oid") for table in ("pg_class", "pg_namespace", "pg_type")]
    # Statistics of the tables themselves come and go.
    names = move.rows("SELECT oid, relname, relnamespace, relkind FROM pg_class ORDER BY oid")
    return files, move.source.read_bytes(), move.config.read_bytes(), names, catalog[1], catalog[2]


def told(found: dict) -> str:
    return "\n".join(f"{problem['found']} {problem['remedy']}" for problem in found["problems"])


def test_a_sound_homeserver_has_no_problems_and_is_left_alone(run, move, homeserver):
    before = traces(move)
    first = run("synapse_port_info", options(move))
    assert first["movable"] and not first["problems"] and not first["changed"], first
    assert first["source"]["users"] == len(homeserver[1]["users"]) and first["synapse"].count(".") == 2
    sizes = first["sizes"]
    assert sizes["sqlite"] == move.source.stat().st_size and sizes["expected_postgres"] == 2 * sizes["sqlite"]
    assert sizes["sqlite"] < sizes["snapshot"] < sizes["free"] and sizes["wal"] == 1 << 30
    assert any("user_directory" in note["found"] for note in first["notes"])
    assert traces(move) == before
    again = run("synapse_port_info", options(move), check=True)
    assert again["movable"] and traces(move) == before
    assert moves.PASSWORD not in first["output"] + again["output"]


def test_everything_planted_is_in_one_report(run, move):
    plant(
        move,
        _GROUND,
        *(defect[0] for defect in DEFECTS.values()),
        "INSERT INTO background_updates (update_name, progress_json, ordering) VALUES ('first_one', '{}', 0)",
        "INSERT INTO background_updates (update_name, progress_json, ordering) VALUES ('other_one', '{}', 1)",
        "UPDATE users SET user_type = 'a' || char(0) || 'b' WHERE rowid = 3",
        "CREATE TABLE a_modules_own (x); INSERT INTO a_modules_own VALUES (1), (2)",
    )
    before = traces(move)
    for check in (False, True):
        found = run("synapse_port_info", {**options(move), "engine": "synapse"}, check=check)
        assert not found["movable"] and traces(move) == before
        problems = found["problems"]
        for name, (_script, table, rows, words, _fails) in DEFECTS.items():
            same = [one for one in problems if one.get("table") == table and words in one["found"] + one["remedy"]]
            assert len(same) == 1, (name, told(found))
            assert rows is None or (same[0]["rows"] == rows and same[0]["count"] == len(rows)), (name, same)
        assert "first_one, other_one" in told(found) and "synapse_port_drain_background_updates" in told(found)
        assert len(problems) == len(DEFECTS) + 1, told(found)
        (nul,) = [note for note in found["notes"] if "NUL" in note["found"]]
        assert (nul["table"], nul["rows"], nul["count"]) == ("users", [3], 1) and "leaves these rows out" in nul["found"]
        (module,) = [note for note in found["notes"] if note.get("table") == "a_modules_own"]
        assert module["count"] == 2


@pytest.mark.parametrize("name", [name for name in DEFECTS if DEFECTS[name][4]])
def test_the_routine_does_fail_at_what_is_called_a_problem(move, name):
    plant(move, _GROUND, DEFECTS[name][0])
    with pytest.raises(RuntimeError):
        move.routine()


def test_a_renewed_token_is_no_problem_for_the_engine_copy(run, move):
    plant(move, DEFECTS["a renewed token"][0])
    assert run("synapse_port_info", options(move))["movable"]
    assert run("synapse_port", {**move.options, "engine": "copy"})["finished"]


def test_a_row_that_is_left_out_makes_orphans(run, move):
    plant(
        move,
        "UPDATE users SET user_type = 'a' || char(0) WHERE rowid = 1",
        "INSERT INTO users_to_send_full_presence_to VALUES ('@person0:localhost', NULL), ('@person1:localhost', NULL)",
    )
    found = run("synapse_port_info", options(move))
    (orphan,) = found["problems"]
    assert orphan["table"] == "users_to_send_full_presence_to" and orphan["count"] == 1 and "left out" in orphan["found"]


def test_what_the_file_itself_suffers_from(run, move):
    plant(move, "PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = 1", "VACUUM", "DELETE FROM users")
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events_order_room'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with move.source.open("r+b") as stream:
        stream.seek((page - 1) * size + 8)
        stream.write(os.urandom(200))
    found = run("synapse_port_info", options(move))
    for words in ("holds no users", "auto_vacuum on", "is damaged"):
        assert words in told(found), told(found)
    assert any("journal mode delete" in note["found"] for note in found["notes"])


def test_background_updates_that_will_be_drained_are_no_problem(run, move):
    plant(move, "INSERT INTO background_updates (update_name, progress_json, ordering) VALUES ('first_one', '{}', 0)")
    found = run("synapse_port_info", {**options(move), "drain_background_updates": True})
    assert found["movable"] and any("first_one" in note["found"] for note in found["notes"]), found


def test_versions_of_the_schema(run, move):
    plant(move, "UPDATE schema_version SET version = version + 1", "ALTER TABLE rooms ADD COLUMN new INTEGER")
    newer = run("synapse_port_info", options(move))
    assert [problem for problem in newer["problems"] if "knows versions up to" in problem["found"]] == newer["problems"]
    plant(move, "UPDATE schema_version SET version = version - 3")
    older = run("synapse_port_info", options(move))
    assert older["movable"] and any("on the copy" in note["found"] for note in older["notes"]), older


def test_a_target_that_does_not_serve_does_not_hide_the_rest(run, move):
    plant(move, _GROUND, DEFECTS["a fraction"][0])
    move.cluster.rows(f"DROP DATABASE {move.name}")
    move.cluster.rows(f"CREATE DATABASE {move.name} LC_COLLATE 'C.UTF-8' LC_CTYPE 'C' TEMPLATE template0")
    move.rows("CREATE SCHEMA other; CREATE TABLE public.other_things (x int)")
    before = traces(move)
    found = run("synapse_port_info", options(move))
    for words in ("LC_COLLATE is C.UTF-8, not C", "may not create anything", "not Synapse's"):
        assert words in told(found), told(found)
    assert traces(move) == before
    move.rows("DROP TABLE public.other_things; GRANT ALL ON SCHEMA public TO synapse")
    found = run("synapse_port_info", options(move))
    assert "destinations.retry_interval" in told(found) and "LC_COLLATE" in told(found), told(found)
    text = yaml.safe_load(move.config.read_text())
    text["database"]["allow_unsafe_locale"] = True
    move.config.write_text(yaml.safe_dump(text))
    assert "LC_COLLATE" not in told(run("synapse_port_info", options(move)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sqlite_database": "/nowhere/homeserver.db"}, ["cannot be read"]),
        ({"sqlite_database": __file__}, ["not a SQLite database"]),
        ({"config": ["/nowhere/homeserver.yaml"]}, ["/nowhere/homeserver.yaml"]),
        ({"synapse_python": "/nowhere/python"}, ["does not run"]),
        ({"synapse_python": sys.executable}, ["has no Synapse"]),
        (
            {"sqlite_database": "/nowhere/x.db", "config": ["/nowhere/y.yaml"], "synapse_python": "/nowhere/python"},
            ["/nowhere/x.db cannot be read", "/nowhere/y.yaml", "does not run"],
        ),
    ],
)
def test_whatever_cannot_be_looked_at_is_a_problem_beside_the_others(run, move, change, words):
    found = run("synapse_port_info", {**options(move), **change})
    assert len(found["problems"]) == len(words), found
    assert all(word in told(found) for word in words), found


def test_no_log_in_is_a_problem_and_the_server_is_not_tried_again(run, move):
    move.config.write_text(move.config.read_text().replace("word: #1", "other"))
    found = run("synapse_port_info", options(move))
    assert len(found["problems"]) == 1 and "password authentication failed" in told(found), found
    assert any("were not compared" in note["found"] for note in found["notes"]) and found["sizes"]["wal"] is None


def test_a_server_that_only_reads_is_a_problem(run, move):
    move.rows(f"ALTER ROLE synapse IN DATABASE {move.name} SET default_transaction_read_only = on")
    assert "does not let this role write" in told(run("synapse_port_info", options(move)))


def test_a_target_where_an_earlier_attempt_broke_off_is_a_problem(run, move):
    with contextlib.closing(move.connect()) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE schema_version (version int); CREATE TABLE rooms (x int)")
    found = run("synapse_port_info", options(move))
    assert "cannot make its tables" in told(found) and "earlier attempt" in told(found), found


def test_a_target_that_was_ported_to_is_looked_at_as_it_is(run, move):
    assert run("synapse_port", move.options)["finished"]
    before = traces(move)
    assert run("synapse_port_info", options(move))["movable"]
    assert traces(move) == before
    # A column that PostgreSQL has as a boolean, which the routine has not heard of.
    move.rows("ALTER TABLE rooms ADD COLUMN bold boolean")
    plant(move, "ALTER TABLE rooms ADD COLUMN Bold BOOLEAN; UPDATE rooms SET bold = 1")
    # Where the routine stopped stand other rows now.
    plant(move, "UPDATE room_memberships SET event_id = '$x' WHERE rowid = (SELECT max(rowid) FROM room_memberships)")
    found = run("synapse_port_info", options(move))
    (bold,) = [one for one in found["problems"] if one.get("table") == "rooms"]
    assert "does not know that PostgreSQL has a boolean" in bold["found"], bold
    (moved,) = [one for one in found["problems"] if one.get("table") == "room_memberships"]
    assert "VACUUM" in moved["found"] and len(moved["rows"]) == 1, moved


def test_a_target_that_synapse_lives_on_is_a_problem(run, move):
    assert run("synapse_port", move.options)["finished"]
    move.rows("INSERT INTO users (name, creation_ts) VALUES ('@new:localhost', 1)")
    assert "Synapse has written to the target database (new rows in users)" in told(run("synapse_port_info", options(move)))


def test_a_synapse_that_is_a_command_of_its_own(run, move):
    """In a container, the interpreter is another command's, and what it reads lies where the copy will be."""
    wished = options(move)
    python = wished.pop("synapse_python")
    wished["folder"] = str(move.folder)
    seen = move.folder / "seen"
    words = f'ls -ld "$(dirname "$3")" "$3" > "{seen}" 2>/dev/null; exec "$0" "$@"'
    found = run(
        "synapse_port_info", {**wished, "command": ["synapse_port_db"], "python_command": ["/bin/sh", "-c", words, python]}
    )
    assert found["movable"], found
    assert {line.split()[0] for line in seen.read_text().splitlines()} == {"drwx------", "-rw-------"}
    assert str(move.folder) in seen.read_text() and not [path for path in move.folder.iterdir() if path.name.startswith(".ask")]
    blind = ["/bin/sh", "-c", 'exec "$0" -c "$2" /nowhere/database.json ""', python]
    refused = run("synapse_port_info", {**wished, "command": ["synapse_port_db"], "python_command": blind})
    assert len(refused["problems"]) == 1 and "does not see the private file" in told(refused), refused


def test_a_disk_without_room(run, move):
    """The copy is counted against the file system that its folder will be on."""
    folder = "/dev/shm/nowhere/yet"
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    large = move.folder / "large.db"
    shutil.copy(move.source, large)
    os.truncate(large, free)  # a hole, which takes no room
    found = run("synapse_port_info", {**options(move), "sqlite_database": str(large), "folder": folder})
    assert "the file system of /dev/shm has" in told(found) and not found["movable"], told(found)


def test_the_room_of_a_copy_that_was_killed_counts_as_free(run, move):
    with (move.folder / "copy.db.partial").open("wb") as begun:
        os.posix_fallocate(begun.fileno(), 0, 3 << 30)
    status = os.statvfs(move.folder)
    free = run("synapse_port_info", {**options(move), "folder": str(move.folder)})["sizes"]["free"]
    # Others use the disk meanwhile.
    assert free - status.f_bavail * status.f_frsize > 1 << 30


def test_a_row_of_a_hundred_megabytes_is_looked_at(run, move):
    plant(move, "UPDATE event_json SET json = printf('%.*c', 100000000, 'x') WHERE rowid = 1")
    found = run("synapse_port_info", options(move))
    assert found["movable"], found


def test_room_on_the_database_host(run, move, any_cluster):
    wished = {**any_cluster.login, "login_db": move.name}
    space = run("synapse_database_info", wished)["space"]
    data = str(any_cluster.data)
    assert space["data"]["path"] == data and space["wal"]["path"] == f"{data}/pg_wal" and space["same_file_system"] is True
    assert space["data"]["size"] == move.rows("SELECT pg_database_size(current_database())")[0][0]
    assert space["data"]["free"] == space["wal"]["free"] > 0 and space["wal"]["max_wal_size"] == 1 << 30
    assert run("synapse_database_info", move.login)["space"] is None  # Synapse's role may not know


def test_a_database_host_without_room(run, move):
    def space(free: int, same: bool) -> dict:
        wal = {"path": "/log", "free": free, "max_wal_size": 1 << 30}
        return {"data": {"path": "/data", "size": 0, "free": free}, "wal": wal, "same_file_system": same}

    size = 2 * os.path.getsize(move.source)
    for free, same, words in (
        (1 << 40, True, []),
        ((1 << 30) + size - 1, True, ["PostgreSQL's data may need", "/data"]),
        ((1 << 30) - 1, False, ["PostgreSQL's write-ahead log may need", "/log"]),
    ):
        found = run("synapse_port_info", {**options(move), "space": space(free, same)})
        assert [word for word in words if word not in told(found)] == [] and found["movable"] == (not words), found
        assert "Nobody could look" not in str(found["notes"])
    assert "Nobody could look" in str(run("synapse_port_info", options(move))["notes"])


def test_synapse_makes_its_tables_on_every_server_and_none_stays(tmp_path, homeserver, cluster, monkeypatch):
    with moves.prepared(tmp_path, homeserver[0], cluster) as move:
        config = port_config.read([str(move.config)])
        before = traces(move)
        asked = synapse_rules.ask_with_target([str(move.server.python)], config, str(tmp_path))
        assert asked.refused is None and not asked.target.created
        assert asked.target.columns["users"]["shadow_banned"].type == "boolean" and asked.rules.boolean["users"]
        assert asked.target.schema_version == asked.rules.schema_version and traces(move) == before
        # Should some Synapse commit in another way than the one that is taken out, the server refuses that.
        careless = synapse_rules._PROGRAM.replace('.replace("COMMIT; BEGIN TRANSACTION;", "", 1)', "")
        assert careless != synapse_rules._PROGRAM
        monkeypatch.setattr(synapse_rules, "_PROGRAM", careless)
        asked = synapse_rules.ask_with_target([str(move.server.python)], config, str(tmp_path))
        assert asked.target is None and "unique constraint" in asked.refused and asked.rules.append_only, asked.refused
        assert traces(move) == before
