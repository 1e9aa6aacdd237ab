# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pages of a database in use against SQLite's own backup API, in every state that a log can be in and under way."""

import concurrent.futures
import contextlib
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, pages

# Executes each line that it reads, as SQL, and answers with what it gave; locks are kept by process, so it is one of its own.
_SESSION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("PRAGMA wal_autocheckpoint = 0")
for line in sys.stdin:
    print(connection.execute(line).fetchall(), flush=True)
"""

# Moves amounts between accounts, so that their sum is always the same, lets the database grow and empties the log now and then.
_WRITER = """
import random, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute(f"PRAGMA wal_autocheckpoint = {sys.argv[2]}")
chance = random.Random(1)
while True:
    connection.execute("BEGIN IMMEDIATE")
    for _again in range(chance.randrange(1, 40)):
        amount, giver, taker = chance.randrange(100), chance.randrange(1, 2000), chance.randrange(1, 2000)
        connection.execute("UPDATE account SET held = held - ? WHERE id = ?", (amount, giver))
        connection.execute("UPDATE account SET held = held + ?, filler = randomblob(900) WHERE id = ?", (amount, taker))
    connection.execute("INSERT INTO growth VALUES (randomblob(?))", (chance.randrange(20000),))
    connection.execute("UPDATE total SET rows = rows + 1")
    connection.execute("COMMIT")
    print(flush=True)
    if not chance.randrange(20):  # most of which wait for readers, of their own will
        connection.execute("PRAGMA busy_timeout = 20").fetchall()
        connection.execute(f"PRAGMA wal_checkpoint({chance.choice(['PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'])})").fetchall()
        connection.execute("PRAGMA busy_timeout = 30000").fetchall()
"""


class Session:
    """A process that has the database at ``path`` open."""

    def __init__(self, path: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SESSION, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *statements: str) -> str:
        """Execute each of ``statements``; return the rows of the last as text."""
        for statement in statements:
            self.process.stdin.write(statement + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, statement
        return answer.strip()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_reason) -> None:
        self.process.kill()
        self.process.communicate()


def made(path: pathlib.Path, page: int = 4096, mode: str = "WAL") -> pathlib.Path:
    """Return ``path`` with a new database of some MiB."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, held INTEGER, filler BLOB)")
        connection.execute("CREATE TABLE growth (content BLOB)")
        connection.execute("CREATE TABLE total (rows INTEGER)")
        connection.execute("INSERT INTO total VALUES (0)")
        connection.executemany("INSERT INTO account VALUES (NULL, 1000, randomblob(?))", [(i % 3000,) for i in range(2000)])
        connection.execute("COMMIT")
    return path


def backup(path: pathlib.Path) -> bytes:
    """Return what SQLite's backup API makes of the database, but for its header's counters."""
    copy = path.with_name("backup.db")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    content = copy.read_bytes()
    copy.unlink()
    return file.without_counters(content)


def read(path: pathlib.Path, pause: float = 0) -> bytes:
    """Return what our pieces make of the database, but for its header's counters; ``pause`` seconds after each."""
    content = b""
    for piece in pages.read(str(path)):
        content = (content[: piece.offset] + piece.content)[: piece.size]
        time.sleep(pause)
    return file.without_counters(content)


# What a process does before the copy; those in a pair are of a second one, which stays in its transaction.
_CHANGE = "UPDATE account SET held = held + 1, filler = randomblob(2000) WHERE id % 7 = 0"
_MORE = "INSERT INTO growth SELECT filler FROM account"
_LOOK = ("BEGIN", "SELECT count(*) FROM account")
_STATES = {
    "at rest": [],
    "all in the log": [_CHANGE],
    "grown in the log": [_CHANGE, _MORE],
    "twice in the log": [_CHANGE, _CHANGE, _MORE, _CHANGE],
    "taken over": [_CHANGE, "PRAGMA wal_checkpoint(PASSIVE)"],
    "log begun again": [_CHANGE, _MORE, "PRAGMA wal_checkpoint(RESTART)", _CHANGE],
    "log emptied": [_CHANGE, "PRAGMA wal_checkpoint(TRUNCATE)"],
    "partly taken over": [_CHANGE, _LOOK, _MORE, _CHANGE, "PRAGMA wal_checkpoint(PASSIVE)"],
    "shrunk in the log": [_MORE, "PRAGMA wal_checkpoint(TRUNCATE)", "DELETE FROM growth", "VACUUM"],
    "begun by another": [_CHANGE, ("BEGIN IMMEDIATE", "INSERT INTO growth VALUES (1)")],
    "without a log": ["PRAGMA journal_mode = DELETE", _CHANGE],
    "without a log, in use": ["PRAGMA journal_mode = DELETE", _CHANGE, ("BEGIN IMMEDIATE", "INSERT INTO growth VALUES (1)")],
}


@pytest.mark.parametrize("page", [512, 4096, 65536])
@pytest.mark.parametrize("done", _STATES.values(), ids=_STATES.keys())
def test_pages_are_those_of_the_backup_api(tmp_path, page, done):
    path = made(tmp_path / "homeserver.db", page)
    with Session(path) as first, Session(path) as second:
        for statements in done:
            if isinstance(statements, tuple):
                second(*statements)
            else:
                first(statements)
        expected = backup(path)
        assert read(path) == expected
        assert first("PRAGMA quick_check") == "[('ok',)]"


def test_the_states_are_what_they_are_called(tmp_path):
    path = made(tmp_path / "homeserver.db")
    with Session(path) as first, Session(path) as second:
        first(_CHANGE)
        second(*_LOOK)
        first(_MORE, _CHANGE)
        _busy, frames, taken = eval(first("PRAGMA wal_checkpoint(PASSIVE)"))[0]
        assert 0 < taken < frames
        before = path.stat().st_size
        second("COMMIT")
        first("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size > before and path.with_name("homeserver.db-wal").stat().st_size == 0


def test_a_log_whose_writer_was_killed_is_read(tmp_path):
    path = made(tmp_path / "homeserver.db")
    with Session(path) as first:
        first(_CHANGE, _MORE)
    assert path.with_name("homeserver.db-wal").stat().st_size > 0
    killed = tmp_path / "killed"
    killed.mkdir()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", killed)
    assert read(killed / path.name) == backup(path)


@contextlib.contextmanager
def written(path: pathlib.Path, autocheckpoint: int = 50):
    """Have a process write to the database all the time; yield the list of its commits, which grows."""
    words = [sys.executable, "-c", _WRITER, str(path), str(autocheckpoint)]
    commits: list[str] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        listening = threading.Thread(target=lambda: commits.extend(iter(writer.stdout.readline, "")))
        listening.start()
        try:
            while not commits:
                time.sleep(0.01)
            yield commits
            assert writer.poll() is None, "the writer ended"
        finally:
            writer.kill()
            listening.join()


def balance(path: pathlib.Path) -> int:
    """Fail unless the copy at ``path`` is one moment's content; return how many commits it has."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT sum(held) FROM account").fetchall() == [(2_000_000,)]
        (rows,) = connection.execute("SELECT rows FROM total").fetchone()
        assert connection.execute("SELECT count(*) FROM growth").fetchall() == [(rows,)]
    return rows


@pytest.mark.parametrize("page", [1024, 4096])
def test_pages_that_are_read_slowly_are_of_one_moment_though_the_log_is_emptied_all_the_time(tmp_path, page):
    path, copy = made(tmp_path / "homeserver.db", page), tmp_path / "copy.db"
    meanwhile = 0
    with written(path) as commits:
        for number in range(12):
            before = len(commits)
            content = read(path, pause=0.005 * (number % 4))
            meanwhile += len(commits) - before
            copy.write_bytes(content)
            assert balance(copy) >= before
    assert meanwhile > 20, "the writer was kept waiting"


def test_pages_without_a_log_that_somebody_writes_to_all_the_time_are_refused(tmp_path, monkeypatch):
    path = made(tmp_path / "homeserver.db", mode="DELETE")
    monkeypatch.setattr(pages, "_TURN", 4)
    with written(path), pytest.raises(Refusal, match="written to faster than it can be copied"):
        read(path, pause=0.005)


@pytest.mark.parametrize("statement", [_MORE, "PRAGMA journal_mode = WAL"], ids=["written", "given a log"])
def test_pages_without_a_log_are_read_again_when_somebody_wrote(tmp_path, monkeypatch, statement):
    path = made(tmp_path / "homeserver.db", mode="DELETE")
    monkeypatch.setattr(pages, "_TURN", 4)
    content, offsets, writing = b"", [], None
    with Session(path) as session, concurrent.futures.ThreadPoolExecutor(1) as pool:
        for piece in pages.read(str(path)):
            offsets.append(piece.offset)
            content = (content[: piece.offset] + piece.content)[: piece.size]
            if len(offsets) == 3:
                writing = pool.submit(session, statement)
            time.sleep(0.05)
        writing.result()
        assert offsets.count(0) == 2
        assert file.without_counters(content) == backup(path)
