# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Modules that are killed on the host, whole or in part and at any moment, and a way to the host that is cut for a while.

One play has many hosts, each with a step of its own that is struck at a moment of its own. How many says FAULTS, see
support/faults.py: 50 in two plays for more than the usual two.
"""

import contextlib
import math
import os
import pathlib
import shutil
import signal
import sqlite3
import threading
import time

import pytest

from support import faults
from support import sqlite as databases
from support.step import Play

_STRUCK = 25 if faults.TIMES > 2 else 5
# Seconds within which a step is struck: a module that is not held up needs less.
_WITHIN = 1.5
_MODULE = b"AnsiballZ_synapse_sqlite_snapshot.py"
WITHOUT_RESULT = "The module has ended on the host without a result: "


def processes(folder: pathlib.Path) -> dict[str, list[tuple[int, bool]]]:
    """Return the processes of each step in the background below ``folder``: (its number, whether it is async_wrapper)."""
    found: dict[str, list[tuple[int, bool]]] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            for word in words:
                if word.endswith(_MODULE) and word.startswith(bytes(folder)):
                    wrapper = any(other.endswith(b"async_wrapper.py") for other in words)
                    found.setdefault(os.path.dirname(word.decode()), []).append((int(path.parent.name), wrapper))
                    break
    return found


class Striker(threading.Thread):
    """Kills one step after the other by SIGKILL: the module alone, the watchers alone, or all; each at its own moment.

    A moment counts from when the module is seen, for one of five from when async_wrapper is, which starts it.
    """

    KINDS = ((False,), (True, False), (True,), (False, True), (True,))

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.folder, self.over, self.struck = folder, False, 0
        self.waiting: dict[str, float] = {}

    def run(self) -> None:
        while not self.over:
            for step, found in processes(self.folder).items():
                seen = {wrapper for _pid, wrapper in found}
                number = list(self.waiting).index(step) if step in self.waiting else len(self.waiting)
                if step not in self.waiting and True in seen and (False in seen or number % 5 == 4):
                    self.waiting[step] = time.monotonic() + number * _WITHIN / _STRUCK
                if time.monotonic() >= self.waiting.get(step, math.inf):
                    self.strike(step, found, self.KINDS[number % 5])
            time.sleep(0.005)

    def strike(self, step: str, found: list[tuple[int, bool]], kinds: tuple) -> None:
        """Kill those of the processes ``found`` of ``step`` that are of ``kinds``, in their order, if there are any."""
        for kind in kinds:
            for pid in (pid for pid, wrapper in found if wrapper is kind):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.waiting[step] = math.inf
        self.struck += self.waiting[step] == math.inf

    def __enter__(self) -> "Striker":
        self.start()
        return self

    def __exit__(self, *_reason) -> None:
        self.over = True
        self.join()


@pytest.mark.parametrize("held", [True, False], ids=["held up", "not held up"])
def test_a_module_that_is_killed_at_any_moment_is_told_of_in_our_words(tmp_path, held):
    """One that is held up waits for the source to be closed, in vain in the end; the other may be through when it is struck."""
    source = tmp_path / "homeserver.db"
    databases.homeserver(source)
    hosts = tuple(f"host{number}" for number in range(_STRUCK))
    options = {"src": str(source), "dest": str(tmp_path / "{{ inventory_hostname }}.db"), "alone": True}
    play = Play(tmp_path, "synapse_sqlite_snapshot", options, hosts=hosts, ignore_errors=True)
    with contextlib.closing(sqlite3.connect(source)) as holder, Striker(tmp_path) as striker:
        holder.execute("SELECT count(*) FROM users").fetchone()
        if not held:
            holder.close()
        assert play.piped("--forks", "10") == 0, play.output
    for words in ("deserialization", "MODULE FAILURE", "No start of json"):
        assert words not in play.output, play.output
    results = {host: play.result(host) for host in hosts}
    lost = [host for host in hosts if results[host].get("msg", "").startswith(WITHOUT_RESULT)]
    for host in set(hosts) - set(lost):
        told = results[host]
        assert "is still open in" in told["msg"] if held else (tmp_path / f"{host}.db").exists() and told["changed"], told
    assert striker.struck >= _STRUCK * (0.8 if held else 0.2) and len(lost) >= striker.struck // 2, (striker.struck, results)
    assert len(play.left()) <= _STRUCK // 5  # nobody knows the file of an async_wrapper that was killed before it told of it


_SHAKY = """
import pathlib
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import local

DOCUMENTATION = local.DOCUMENTATION.replace("name: local", "name: shaky")
_FOLDER = pathlib.Path(__file__).parents[1]

class Connection(local.Connection):
    transport = "shaky"

    def exec_command(self, *words, **more):
        if (_FOLDER / "cut").exists():
            (_FOLDER / "refused").touch()
            raise AnsibleConnectionFailure("the way to the host is cut")
        return super().exec_command(*words, **more)
"""


def test_a_way_to_the_host_that_is_cut_for_a_while_ends_nothing(tmp_path):
    """The connection of the tests, which fails while a file says so; what Ansible keeps on the host has gone meanwhile."""
    source, cut = tmp_path / "homeserver.db", tmp_path / "cut"
    databases.homeserver(source)
    (tmp_path / "connection_plugins").mkdir()
    (tmp_path / "connection_plugins" / "shaky.py").write_text(_SHAKY)
    options = {"src": str(source), "dest": str(tmp_path / "copy.db"), "alone": True}
    play = Play(tmp_path, "synapse_sqlite_snapshot", options)
    play.variables["ansible_connection"] = "shaky"
    holder = sqlite3.connect(source, check_same_thread=False)
    holder.execute("SELECT count(*) FROM users").fetchone()

    def befall() -> None:
        while not [step for step, found in processes(tmp_path).items() if {wrapper for _pid, wrapper in found} == {False, True}]:
            time.sleep(0.05)
        step = next(iter(processes(tmp_path)))
        cut.touch()
        while not (tmp_path / "refused").exists():
            time.sleep(0.05)
        for folder in (tmp_path / "ansible" / "tmp").iterdir():
            if folder != pathlib.Path(step):
                shutil.rmtree(folder)
        holder.close()
        cut.unlink()

    thread = threading.Thread(target=befall, daemon=True)
    thread.start()
    assert play.piped("-vv") == 0, play.output
    thread.join(10)
    assert (tmp_path / "refused").exists() and not cut.exists() and "the way to the host is cut" in play.output, play.output
    assert play.result()["changed"] and (tmp_path / "copy.db").exists() and not play.left()


def test_a_module_that_is_killed_where_the_background_cannot_be_used_is_told_of_in_the_same_words(tmp_path):
    source = tmp_path / "homeserver.db"
    databases.homeserver(source)
    options = {"src": str(source), "dest": str(tmp_path / "copy.db"), "alone": True}
    play = Play(tmp_path, "synapse_sqlite_snapshot", options, ignore_errors=True)
    play.variables["ansible_async_dir"] = "/proc/nowhere"

    def befall() -> None:
        while not (found := processes(tmp_path)) or any(wrapper for pids in found.values() for _pid, wrapper in pids):
            time.sleep(0.05)
        os.kill(next(iter(found.values()))[0][0], signal.SIGKILL)

    with contextlib.closing(sqlite3.connect(source)) as holder:
        holder.execute("SELECT count(*) FROM users").fetchone()
        threading.Thread(target=befall, daemon=True).start()
        assert play.piped() == 0, play.output
    assert play.result()["msg"].startswith(f"{WITHOUT_RESULT}it was ended by signal 9."), play.output
