# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who only reads Synapse's SQLite database stands in the way of nothing; and a host may show no process at all."""

import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import holders
from support import needs, sqlite


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "homeserver.db"
    sqlite.homeserver(path)
    return path


def test_a_backup_that_reads_the_database_and_another_ones_log_does_not_stop_the_move(run, database, tmp_path, monkeypatch):
    (tmp_path / "of another.db-wal").write_text("x")
    options = {"src": str(database), "dest": str(tmp_path / "copy.db"), "alone": True}
    with open(database, "rb"), open(tmp_path / "of another.db-wal", "rb"):
        assert run("synapse_sqlite_snapshot", options)["changed"]
    monkeypatch.setattr(holders, "CLOSING", 0)
    with open(database, "r+b"), pytest.raises(Refusal, match=f"still open in process {os.getpid()}"):
        holders.require_closed(str(database))


def test_the_log_of_a_database_that_was_deleted_is_not_taken_for_synapses(run, database, tmp_path):
    other = tmp_path / "other.db"
    script = (
        "import sqlite3, sys, time; one, other = (sqlite3.connect(path, isolation_level=None) for path in sys.argv[1:]);"
        "one.execute('SELECT * FROM users').fetchall(); other.execute('PRAGMA journal_mode = WAL');"
        "other.execute('CREATE TABLE t (a)'); print(flush=True); time.sleep(60)"
    )
    # The other database is in WAL mode alone, so that of both logs only its own is there.
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    with subprocess.Popen([sys.executable, "-c", script, database, other], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for name in (other, f"{other}-wal", f"{other}-shm"):
            os.unlink(name)
        assert run("synapse_sqlite_info", {"path": str(database)})["problems"] == []
        process.kill()


_WITHOUT_PROC = """
import sys; sys.path[:0] = [sys.argv[1]]
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import guard, holders, other_names
original, copy = sys.argv[2:]
guard._READ = 0
print(other_names.find(original), holders.find(original))
try:
    guard.require_same(original, copy, guard.summarize(copy))
except Refusal as refusal:
    print(refusal)
"""


def test_the_guard_finds_an_old_row_in_the_log_where_there_is_no_proc(database, tmp_path):
    needs.root()
    needs.mounts()
    copy = shutil.copy(database, tmp_path / "copy.db")
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA journal_mode = WAL');"
        "c.execute('UPDATE events SET body = NULL WHERE rowid = 1'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, database], check=False)
    assert done.returncode == -signal.SIGKILL and os.path.getsize(f"{database}-wal")
    collections = pathlib.Path(__file__).parents[2] / ".cache" / "collections"
    command = 'mount -t tmpfs none /proc && exec "$@"'
    words = [sys.executable, "-c", _WITHOUT_PROC, str(collections), str(database), copy]
    told = subprocess.run(["unshare", "-m", "sh", "-c", command, "sh", *words], capture_output=True, text=True, check=False)
    assert told.stdout.startswith("None []\n") and "events, in its older rows" in told.stdout, told
