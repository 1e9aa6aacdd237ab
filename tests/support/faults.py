# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What befalls a move: the random moments of it, servers that are killed or restarted, and a disk that runs full."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

import psycopg2

from support import clusters

# How often each kind of fault is repeated; `make faults` asks for 20.
TIMES = int(os.environ.get("FAULTS", "2"))

# How often those are that end a run in a way which others end it in, too.
FEW = max(2, TIMES // 5)

# How often whole plays are killed, which takes longest; test_playbooks.py kills some at chosen moments besides.
PLAYS = TIMES if TIMES > 2 else 1

# The engines of the kinds of fault that end a run by its connection, as a server that is killed does. Synapse's own routine meets
# that one in every run of the tests, and the others where faults are repeated.
ENGINES = ("copy", "synapse") if TIMES > 2 else ("copy",)


def moments(times: int = TIMES) -> list[float]:
    """Return random moments as parts of a whole run, ascending: one in each of ``times`` equal pieces of it.

    The seed is printed, and taken from the environment's FAULTS_SEED to do it all again.
    """
    seed = os.environ.get("FAULTS_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"FAULTS_SEED={seed}")
    chance = random.Random(seed)
    return [(number + chance.random()) / times for number in range(times)]


def processes(*words: str) -> list[int]:
    """Return the running processes whose command lines hold all of ``words``."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if all(word.encode() in line for word in words):
                found.append(int(path.parent.name))
    return found


def kill_postmaster(cluster: clusters.Cluster, _database: str) -> bool:
    """Kill the server's first process; the others end when they notice."""
    os.kill(int((cluster.data / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGKILL)
    return True


def kill_backend(cluster: clusters.Cluster, database: str) -> bool:
    """Kill one process that serves a session in ``database``, if there is one: the server ends all sessions and recovers."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    sessions = [pid for (pid,) in cluster.rows(query, database)]
    if sessions:
        os.kill(random.choice(sessions), signal.SIGKILL)
    return bool(sessions)


def restart_fast(cluster: clusters.Cluster, _database: str) -> bool:
    cluster.stop("fast")
    cluster.start()
    return True


def restart_immediate(cluster: clusters.Cluster, _database: str) -> bool:
    cluster.stop("immediate")
    cluster.start()
    return True


def revive(cluster: clusters.Cluster, seconds: float = 60) -> None:
    """Return when the server, whatever became of it, answers again; what the dead one left is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            cluster.rows("SELECT 1")
            return
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, cluster.log()[-2000:]
        with contextlib.suppress(RuntimeError):
            cluster.start()
        time.sleep(0.1)


class Disk:
    """A small file system of its own in ``folder``, as only root may make one; it can be filled and emptied again."""

    def __init__(self, megabytes: int) -> None:
        self.folder, self.megabytes = pathlib.Path(tempfile.mkdtemp(prefix="synapse-postgres-disk-")), megabytes
        self.ballast = self.folder / "ballast"

    def __enter__(self) -> "Disk":
        options = f"size={self.megabytes}m,mode=0755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True, timeout=20)
        return self

    def __exit__(self, *_reason) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True, timeout=20)
        self.folder.rmdir()

    def fill(self, left: int = 0) -> None:
        """Take all room but ``left`` bytes, though others write there meanwhile."""
        with self.ballast.open("ab") as stream:
            while (room := os.fstatvfs(stream.fileno())).f_bavail * room.f_frsize > left:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(stream.fileno(), stream.tell(), room.f_bavail * room.f_frsize - left)
                stream.seek(0, os.SEEK_END)

    def empty(self) -> None:
        """Give the room back."""
        self.ballast.unlink()
