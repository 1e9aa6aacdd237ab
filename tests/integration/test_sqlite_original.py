# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The guard before the switch: what SQLite itself says of the original, whatever the copy that was compared is equal to."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import guard
from support import modules
from support import move as moves

# A Synapse that is killed: what it commits is in the log alone.
_KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA wal_autocheckpoint = 0")
for statement in sys.argv[2:]:
    connection.execute(statement)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path, *statements: str) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(path), *statements], check=False)
    assert os.path.getsize(f"{os.path.realpath(path)}-wal")


def written(path, *statements: str) -> None:
    """Execute ``statements`` and close the database in good order."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture(scope="module")
def ported(tmp_path_factory, homeserver, any_cluster):
    """A Move that was ported, after Synapse's tool has finished a background update on the copy; ``original`` has it pending."""
    with moves.prepared(tmp_path_factory.mktemp("ported"), homeserver[0], any_cluster) as found:
        found.lite(
            "INSERT INTO background_updates (update_name, progress_json) VALUES ('populate_user_directory_createtables', '{}')"
        )
        found.original = found.folder / "original.db"
        shutil.copy(found.source, found.original)
        done = modules.run("synapse_port", {**found.options, "drain_background_updates": True})
        assert done.get("finished"), done
        yield found


@pytest.fixture
def original(ported, tmp_path):
    """A database as the ported one was when it was copied, behind a link as the configuration names it."""
    (tmp_path / "disk").mkdir()
    shutil.copy(ported.original, tmp_path / "disk" / "homeserver.db")
    (tmp_path / "homeserver.db").symlink_to("disk/homeserver.db")
    return tmp_path / "homeserver.db"


@pytest.fixture
def verify(run, ported):
    """``verify(original, check=False)`` -> the module's result, and whether nothing was written to the original's files."""

    def verified(original, check=False):
        def sums() -> dict:
            # An empty log and its index are made by every reader.
            found = {path.name: path.read_bytes() for path in pathlib.Path(original).resolve().parent.iterdir()}
            return {name: hashlib.sha256(text).hexdigest() for name, text in found.items() if text and not name.endswith("-shm")}

        before = sums()
        options = {"sqlite_database": str(ported.source), "original": str(original), **ported.login}
        told = run("synapse_port_verify", options, check=check)
        assert sums() == before
        return told

    return verified


def test_an_original_that_the_copy_is_of_is_let_pass_though_synapses_tool_has_changed_the_copy(verify, original):
    assert verify(original)["equal"] and verify(original, check=True)["equal"]
    # Synapse closes it in good order, or reads it: nothing of that is a change.
    written(original, "PRAGMA journal_mode")
    assert verify(original)["equal"]


_LOST = [
    (killed, "INSERT INTO users (name, creation_ts) VALUES ('@last:localhost', 1)", "users, whose highest row id is"),
    (written, "UPDATE users SET admin = 1 WHERE name = '@person0:localhost'", "users, of which rows were changed or deleted"),
    (killed, "DELETE FROM room_memberships WHERE rowid = 2", "room_memberships, of which rows were changed or deleted"),
    (killed, "UPDATE event_json SET json = replace(json, 'a', 'b') WHERE rowid = 3", "event_json, of which rows"),
    (killed, "UPDATE event_search_content SET c4value = upper(c4value) WHERE docid = 1", "event_search_content, of which rows"),
    (written, "CREATE TABLE of_a_module (words TEXT)", "of_a_module, which only the original has"),
    (written, "DROP TABLE ui_auth_sessions_ips", "ui_auth_sessions_ips, which only the copy has"),
    (written, "CREATE INDEX of_a_module ON users (name)", "sqlite_master, whose highest row id is"),
    (killed, "INSERT INTO sqlite_sequence VALUES ('events', 9)", "sqlite_sequence, whose highest row id is"),
]


@pytest.mark.parametrize(("lose", "statement", "words"), _LOST)
def test_a_copy_that_lacks_the_last_transaction_is_refused_though_postgresql_equals_it(verify, original, lose, statement, words):
    lose(original, statement)
    refused = verify(original)
    assert refused.get("failed") and words in refused["msg"] and str(original) in refused["msg"], refused


def test_the_guard_reads_no_database_that_somebody_may_write_to(run, verify, original):
    with contextlib.closing(sqlite3.connect(original)) as connection:
        connection.execute("SELECT * FROM users").fetchall()
        assert f"still open in process {os.getpid()}" in verify(original)["msg"]
    (original.parent / "another.db").hardlink_to(original.resolve())
    assert "hard links" in verify(original)["msg"]


# Tables that are not read whole, in a small database


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two equal databases, original and copy, of which the guard reads 2 KiB of each table, and what the copy held."""
    monkeypatch.setattr(guard, "_READ", 2048)
    original, copy = tmp_path / "original.db", tmp_path / "copy.db"
    written(original, "CREATE TABLE large (a TEXT COLLATE NOCASE, b BLOB)", "CREATE TABLE apart (a PRIMARY KEY) WITHOUT ROWID")
    with contextlib.closing(sqlite3.connect(original)) as connection:
        connection.executemany("INSERT INTO large VALUES ('row', randomblob(?))", [(i % 60,) for i in range(1000)])
        connection.execute("PRAGMA journal_mode = WAL")
        connection.commit()
    shutil.copy(original, copy)
    return str(original), str(copy), guard.summarize(str(copy))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE large SET a = 'ROW' WHERE rowid = 3",
        "UPDATE large SET b = NULL WHERE rowid = 3",
        "UPDATE large SET b = CAST('' AS TEXT) WHERE rowid = 1",
        "DELETE FROM large WHERE rowid = 500",
        "INSERT INTO apart VALUES (1)",
    ],
)
def test_an_old_row_of_a_large_table_that_is_only_in_the_log_is_missed(pair, statement):
    original, copy, held = pair
    killed(original, "PRAGMA user_version = 1")
    guard.require_same(original, copy, held)
    killed(original, statement)
    with pytest.raises(Refusal, match=r"in 1 table: (large, in its older rows|apart, of which)"):
        guard.require_same(original, copy, held)


def test_a_copy_that_synapses_code_has_changed_is_held_against_what_it_was(pair):
    original, copy, held = pair
    written(copy, "INSERT INTO large VALUES ('drained', NULL)")
    killed(original, "PRAGMA user_version = 1")
    guard.require_same(original, copy, held)
    killed(original, "INSERT INTO large VALUES ('last', NULL)")
    with pytest.raises(Refusal, match="large, whose highest row id is 1001 there and was 1000 in the copy"):
        guard.require_same(original, copy, held)


def test_large_rows_are_told_alike_however_they_are_read_and_a_byte_in_the_middle_counts(tmp_path, monkeypatch):
    path = tmp_path / "large.db"
    written(path, "CREATE TABLE large (id INTEGER PRIMARY KEY, words TEXT, content BLOB)")
    for number in (-3, 1, 2, 9):
        written(path, f"INSERT INTO large VALUES ({number}, 'small', NULL)")
        written(path, f"INSERT INTO large VALUES ({number + 20}, printf('%.*c', {1 + number % 2}300000, 'x'), zeroblob(700000))")
    told = guard.summarize(path)
    for limit in (1 << 19, 1 << 30):
        monkeypatch.setattr(guard, "_LARGE", limit)
        assert guard.summarize(path) == told
    assert told["large"][:2] == (-3, 29)
    written(path, "UPDATE large SET content = CAST(zeroblob(350000) || x'01' || zeroblob(349999) AS BLOB) WHERE id = 17")
    assert guard.summarize(path)["large"].digest != told["large"].digest
