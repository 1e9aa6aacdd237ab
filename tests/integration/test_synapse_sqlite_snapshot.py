# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_sqlite_snapshot and synapse_sqlite_info on real files, some of them being written to."""

import contextlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file
from support import modules, needs, sqlite

_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=1)
number = 0
while True:
    number += 1
    connection.execute("BEGIN")
    connection.execute("INSERT INTO users VALUES (?)", (f"@new{number}:test",))
    connection.execute("INSERT INTO events VALUES (?, zeroblob(2000))", (f"$new{number}",))
    connection.execute("COMMIT")
    print(number, flush=True)
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "homeserver.db"
    sqlite.homeserver(path)
    return path


@contextlib.contextmanager
def writing(path):
    """Run a process that writes a user and an event in each transaction; it fails if it is ever blocked for a second."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "1\n"
        yield writer
        assert writer.poll() is None, "the writer was blocked"
    finally:
        writer.kill()
        writer.communicate()


def content(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall() for table in ("users", "events")
        }


def test_a_copy_keeps_row_ids_is_private_and_is_not_made_again(run, source, tmp_path):
    options = {"src": str(source), "dest": str(tmp_path / "copy.db")}
    assert run("synapse_sqlite_snapshot", options, check=True)["changed"] and not (tmp_path / "copy.db").exists()
    first = run("synapse_sqlite_snapshot", options)
    assert first["changed"] and first["source"]["users"] == 2
    copy = tmp_path / "copy.db"
    inode, mode = copy.stat().st_ino, copy.stat().st_mode & 0o777
    assert mode == 0o600 and content(copy) == content(source)
    for check in (True, False):
        assert not run("synapse_sqlite_snapshot", options, check=check)["changed"]
    assert copy.stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == ["copy.db", "copy.db.progress.json"]
    progress = json.loads((tmp_path / "copy.db.progress.json").read_text())
    pages = copy.stat().st_size // 4096
    assert (progress["unit"], progress["done"], progress["total"]) == ("pages", pages, pages)


def test_a_change_to_the_source_makes_a_new_copy(run, source, tmp_path):
    options = {"src": str(source), "dest": str(tmp_path / "copy.db")}
    run("synapse_sqlite_snapshot", options)
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.execute("INSERT INTO users VALUES ('@third:test')")
        connection.commit()
        assert run("synapse_sqlite_snapshot", options, check=True)["changed"]
        assert run("synapse_sqlite_snapshot", options)["changed"]
    assert len(content(tmp_path / "copy.db")["users"]) == 3


def test_a_database_in_use_is_copied_at_one_moment_and_its_writer_is_not_blocked(run, source, tmp_path):
    with writing(source):
        for _again in range(3):
            assert run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "copy.db")})["changed"]
            rows = content(tmp_path / "copy.db")
            users = sum(name.startswith("@new") for rowid, name in rows["users"])
            events = sum(name.startswith("$new") for rowid, name, body in rows["events"])
            assert users == events > 0


def test_an_older_copy_becomes_the_new_one_by_what_differs(run, large, tmp_path):
    options, copy = {"src": str(large), "dest": str(tmp_path / "copy.db")}, tmp_path / "copy.db"
    assert run("synapse_sqlite_snapshot", options)["pages"]["written"] > 40_000
    before, stamp = copy.stat(), file.stamp(str(copy))
    with contextlib.closing(sqlite3.connect(large)) as connection:
        connection.execute("UPDATE users SET name = '@renamed:test' WHERE rowid = 1")
        connection.commit()
    pages = run("synapse_sqlite_snapshot", options)["pages"]
    assert 0 < pages["written"] < 10 and copy.stat().st_ino == before.st_ino, pages
    assert content(copy) == content(large) and file.stamp(str(copy)) != stamp
    assert not run("synapse_sqlite_snapshot", options)["changed"]


@pytest.mark.parametrize("way", ["open", "linked", "somebody's"])
def test_an_older_copy_that_is_not_ours_alone_stays_as_it_is(run, source, tmp_path, way):
    options, copy = {"src": str(source), "dest": str(tmp_path / "copy.db")}, tmp_path / "copy.db"
    run("synapse_sqlite_snapshot", options)
    before, other = copy.read_bytes(), tmp_path / "other"
    if way == "somebody's":
        needs.root()
        os.chown(copy, 1, 1)
    if way == "linked":
        other.hardlink_to(copy)
    with copy.open("rb") if way == "open" else contextlib.nullcontext() as held:
        # One that is equal is left alone, and check mode knows.
        for check in (True, False):
            assert not run("synapse_sqlite_snapshot", options, check=check)["changed"]
        with contextlib.closing(sqlite3.connect(source)) as connection:
            connection.execute("INSERT INTO users VALUES ('@third:test')")
            connection.commit()
        assert run("synapse_sqlite_snapshot", options)["changed"]
        assert content(copy) == content(source)
        assert held is None or held.read() == before
        assert way != "linked" or other.read_bytes() == before


def test_a_log_left_by_a_killed_routine_does_not_meet_the_new_copy(run, source, tmp_path):
    options = {"src": str(source), "dest": str(tmp_path / "copy.db")}
    run("synapse_sqlite_snapshot", options)
    with writing(tmp_path / "copy.db") as writer:
        time.sleep(0.3)
        writer.send_signal(signal.SIGSTOP)
    assert (tmp_path / "copy.db-wal").stat().st_size > 0
    assert run("synapse_sqlite_snapshot", options)["changed"]
    assert content(tmp_path / "copy.db") == content(source)


def test_reading_as_root_leaves_a_database_its_owner_can_write(run, source, tmp_path):
    if os.geteuid() != 0:
        account = None
    else:
        account = "nobody"
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents:
            if "pytest-" in parent.name or "popen-" in parent.name:
                parent.chmod(0o755)
        owner = pwd.getpwnam(account)
        data = tmp_path / "data"
        data.mkdir()
        shutil.move(source, data / source.name)
        source = data / source.name
        for path in (data, source):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "copy.db")})
    run("synapse_sqlite_info", {"path": str(source)})
    words = f"import sqlite3; c = sqlite3.connect({str(source)!r}); c.execute('DELETE FROM users'); c.commit()"
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    subprocess.run([python, "-c", words], user=account, cwd="/", check=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(b"-----BEGIN" * 99), "does not start as one"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000), "SQLite cannot read"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close(), "no table"),
    ],
    ids=["missing", "empty", "text", "folder", "garbage", "another program's"],
)
def test_what_is_no_homeserver_database_is_refused(run, tmp_path, make, words):
    path = tmp_path / "given.db"
    make(path)
    for check in (True, False):
        refused = run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db")}, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert not (tmp_path / "copy.db").exists() and not (tmp_path / "copy.db.partial").exists()


@pytest.fixture
def large(source):
    with contextlib.closing(sqlite3.connect(source)) as connection:
        rows = ((f"$large{number}",) for number in range(400))
        connection.executemany("INSERT INTO events VALUES (?, randomblob(500000))", rows)
        connection.commit()
    return source


def test_a_copy_that_was_killed_is_gone_on_with(run, large, tmp_path):
    copy, begun = tmp_path / "copy.db", tmp_path / "copy.db.partial"
    options = {"src": str(large), "dest": str(copy)}
    with modules.started("synapse_sqlite_snapshot", options) as module:
        while not begun.exists() or begun.stat().st_size < large.stat().st_size // 3:
            assert module.poll() is None, module.communicate()
            time.sleep(0.001)
        module.kill()
    done = begun.stat().st_size // 4096
    # Meanwhile Synapse goes on, and changes what was copied.
    with contextlib.closing(sqlite3.connect(large)) as connection:
        connection.execute("UPDATE users SET name = '@renamed:test' WHERE rowid = 1")
        connection.execute("INSERT INTO events VALUES ('$later', 'later')")
        connection.commit()
    resumed = run("synapse_sqlite_snapshot", options)
    pages = resumed["pages"]
    assert resumed["changed"] and pages["total"] == copy.stat().st_size // 4096
    assert 0 < pages["written"] < pages["total"] - 0.8 * done, (pages, done)
    assert not begun.exists() and copy.stat().st_mode & 0o777 == 0o600
    assert content(copy) == content(large)
    assert not run("synapse_sqlite_snapshot", options)["changed"]


def test_what_lies_in_the_place_of_a_killed_copy_is_no_part_of_a_new_one(run, source, tmp_path):
    begun = tmp_path / "copy.db.partial"
    begun.write_bytes(b"SQLite format 3\0" + os.urandom(40_000_000))
    begun.chmod(0o644)
    begun.with_name("copy.db.partial-wal").write_bytes(os.urandom(100_000))
    run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "copy.db")})
    copy = tmp_path / "copy.db"
    assert copy.stat().st_mode & 0o777 == 0o600 and content(copy) == content(source)
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.db", "copy.db.progress.json"]


@pytest.mark.parametrize("link", [pathlib.Path.symlink_to, pathlib.Path.hardlink_to])
def test_a_link_in_the_place_of_a_killed_copy_is_not_written_through(run, source, tmp_path, link):
    other = tmp_path / "other"
    other.write_text("somebody's")
    link(tmp_path / "copy.db.partial", other)
    run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "copy.db")})
    assert other.read_text() == "somebody's" and content(tmp_path / "copy.db") == content(source)


def test_a_damaged_database_is_refused_and_the_older_copy_stays(run, source, tmp_path):
    options = {"src": str(source), "dest": str(tmp_path / "copy.db")}
    run("synapse_sqlite_snapshot", options)
    before = content(tmp_path / "copy.db")
    size = source.stat().st_size
    with source.open("r+b") as stream:
        stream.seek(size // 2 // 4096 * 4096)
        stream.write(b"\xff" * 4096)
    refused = run("synapse_sqlite_snapshot", options)
    assert refused["failed"] and "damaged" in refused["msg"], refused
    assert content(tmp_path / "copy.db") == before and not (tmp_path / "copy.db.partial").exists()


@pytest.mark.parametrize(
    ("dest", "words"), [("missing/copy.db", "does not exist"), ("homeserver.db", "the same file"), ("/proc/copy.db", "room")]
)
def test_a_copy_that_has_no_place_is_refused(run, source, tmp_path, dest, words):
    refused = run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / dest)})
    assert refused["failed"] and words in refused["msg"]


def test_info_names_everything_that_stands_in_the_way(run, tmp_path):
    path = tmp_path / "homeserver.db"
    assert run("synapse_sqlite_info", {"path": str(path)})["exists"] is False
    sqlite.homeserver(path, users=0, auto_vacuum=True, pending=("populate_something",))
    told = run("synapse_sqlite_info", {"path": str(path)})
    assert (told["users"], told["auto_vacuum"], told["background_updates"]) == (0, True, ["populate_something"])
    assert [word in problem for word, problem in zip(("no users", "auto_vacuum", "populate_something"), told["problems"])] == [
        True
    ] * 3


def test_info_wants_an_absolute_path_and_bears_a_homeserver_killed_at_its_first_start(run, tmp_path):
    assert "is not absolute" in run("synapse_sqlite_info", {"path": "homeserver.db"})["msg"]
    path = tmp_path / "homeserver.db"
    sqlite.homeserver(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM schema_version")
        connection.commit()
    told = run("synapse_sqlite_info", {"path": str(path)})
    assert told["schema_version"] is None and told["users"] == 2


def test_a_database_that_somebody_has_open_is_not_copied_for_the_last_time(run, source, tmp_path):
    options = {"src": str(source), "dest": str(tmp_path / "copy.db"), "alone": True}
    with writing(source) as writer:
        refused = run("synapse_sqlite_snapshot", options)
        assert refused["failed"] and f"is still open in process {writer.pid}" in refused["msg"], refused
        assert not (tmp_path / "copy.db").exists()
    assert run("synapse_sqlite_snapshot", options)["changed"]


def test_a_process_that_is_about_to_end_is_waited_for(run, source, tmp_path):
    script = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM users').fetchall(); time.sleep(3)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(source)]):
        options = {"src": str(source), "dest": str(tmp_path / "copy.db"), "alone": True}
        assert run("synapse_sqlite_snapshot", options)["changed"]
