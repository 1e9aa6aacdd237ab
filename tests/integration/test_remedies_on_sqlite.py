# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told to be done on SQLite about rows that no move carries: with their very ids, it runs as printed, and helps."""

import contextlib
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight_report
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents
from support import commands, sqlite
from support import move as moves

# Twice as many rows as the ids that are told at once, but one; a search entry too many and one too low; a token that refers to
# a later one.
MENDED = """
INSERT INTO event_forward_extremities WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 39)
    SELECT '$gone' || i, '!r' FROM n;
INSERT INTO event_search (event_id, room_id, sender, key, value)
    SELECT event_id, room_id, sender, key, value FROM event_search WHERE rowid = 1;
INSERT INTO event_search (rowid, event_id, room_id, sender, key, value)
    SELECT -7, event_id, room_id, sender, 'content.x', 'x' FROM events WHERE type = 'm.room.power_levels' LIMIT 1;
INSERT INTO refresh_tokens (id, user_id, device_id, token, next_token_id)
    VALUES (1, '@a', 'D', 't', 2), (2, '@a', 'D', 'u', NULL);
"""


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        yield found


def problems(run, move) -> list:
    return run("synapse_port_info", {**move.called, "folder": str(move.folder), "engine": "synapse"})["problems"]


def test_rows_that_no_move_carries_were_to_be_deleted_by_a_command_with_dots_for_their_ids(run, move):
    with contextlib.closing(sqlite3.connect(move.source)) as connection:
        connection.executescript(MENDED + "UPDATE users SET admin = 40000 WHERE rowid = 2;")
    found = problems(run, move)
    told = {one["table"]: one["remedy"] for one in found}
    assert told.keys() == {"event_forward_extremities", "event_search", "refresh_tokens", "users"} and len(found) == 5, found
    assert "first 20" in told["event_forward_extremities"] and "first" not in told["refresh_tokens"]
    for one in found:
        commands.run(one["remedy"])
    left = problems(run, move)
    assert [(one["table"], one["count"]) for one in left] == [("users", 1), ("event_forward_extremities", 19)], left
    # What a person has to decide on is only shown.
    commands.run(left[1]["remedy"])
    move.lite("UPDATE users SET admin = 0 WHERE rowid = 2")
    assert problems(run, move) == []
    assert move.lite("SELECT count(*) FROM event_search WHERE key = 'content.x' AND rowid > 0") == [(1,)]


# A transaction that is so large that it is in the file, and ended by SIGKILL.
_CUT_OFF = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("CREATE TABLE large AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999)"
                   " SELECT randomblob(999) AS x FROM n")
os.kill(os.getpid(), 9)
"""


def test_a_transaction_that_was_cut_off_is_taken_back_by_the_command_that_is_told(tmp_path):
    path = tmp_path / "it's.db"
    sqlite.homeserver(path, wal=False)
    subprocess.run([sys.executable, "-c", _CUT_OFF, path], check=False)
    with pytest.raises(Refusal, match="was cut off") as refused:
        contents.inspect(str(path))
    commands.run(refused.value.remedy)
    assert contents.inspect(str(path)).users == 2


def test_names_of_files_tables_and_columns_are_quoted_in_a_command_for_sqlite(tmp_path):
    path = tmp_path / 'it\'s; a "file".db'
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript('CREATE TABLE "a""b\'c" ("x y"); INSERT INTO "a""b\'c" VALUES (1), (2), (3)')
        commands.run(preflight_report.correction_remedy(str(path), "a\"b'c", ["x y"], [1, 3]))
        commands.run(preflight_report.deletion_command(str(path), "a\"b'c", [1, 3], 2))
        assert connection.execute('SELECT "x y" FROM "a""b\'c"').fetchall() == [(2,)]
