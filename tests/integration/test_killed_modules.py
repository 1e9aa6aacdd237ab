# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Modules that are killed on the host, whole or in part and at any moment, and progress files that are none.

One play has many hosts, each with a step of its own that is struck at a moment of its own. How many says FAULTS, see
support/faults.py: 50 for more than the usual two.
"""

import contextlib
import os
import pathlib
import signal
import sqlite3
import threading
import time

from support import faults
from support import sqlite as databases
from support.step import Play

_STRUCK = 50 if faults.TIMES > 2 else 6
# Seconds after the start of a step within which it is struck: a step that is let through needs less.
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
    """Kills one step after the other by SIGKILL: the module alone, the watchers alone, or all; each at its own moment."""

    KINDS = ((False,), (True, False), (True,), (False, True))

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.folder, self.over = folder, False
        self.begun: dict[str, float] = {}
        self.struck: list[tuple[float, tuple]] = []
        self.waiting: set[str] = set()

    def run(self) -> None:
        while not self.over:
            for step, found in processes(self.folder).items():
                if step not in self.begun and any(wrapper for _pid, wrapper in found):
                    self.begun[step] = time.monotonic()
                    self.waiting.add(step)
                number = list(self.begun).index(step) if step in self.begun else 0
                if step in self.waiting and time.monotonic() - self.begun[step] >= number * _WITHIN / _STRUCK:
                    self.strike(step, found, self.KINDS[number % len(self.KINDS)])
            time.sleep(0.005)

    def strike(self, step: str, found: list[tuple[int, bool]], kinds: tuple) -> None:
        """Kill those of the processes ``found`` of ``step`` that are of ``kinds``, in their order, if there are any."""
        for kind in kinds:
            for pid in (pid for pid, wrapper in found if wrapper is kind):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.waiting.discard(step)
        if step not in self.waiting:
            self.struck.append((time.monotonic() - self.begun[step], kinds))

    def __enter__(self) -> "Striker":
        self.start()
        return self

    def __exit__(self, *_reason) -> None:
        self.over = True
        self.join()


def test_a_module_that_is_killed_at_any_moment_is_told_of_in_our_words(tmp_path):
    source = tmp_path / "homeserver.db"
    databases.homeserver(source)
    hosts = tuple(f"host{number}" for number in range(_STRUCK))
    options = {"src": str(source), "dest": str(tmp_path / "{{ inventory_hostname }}.db"), "alone": True}
    play = Play(tmp_path, "synapse_sqlite_snapshot", options, hosts=hosts, ignore_errors=True)
    with contextlib.closing(sqlite3.connect(source)) as held, Striker(tmp_path) as striker:
        held.execute("SELECT count(*) FROM users").fetchone()  # so that a module that is not killed waits for a while
        assert play.piped("--forks", "10") == 0, play.output
    for words in ("deserialization", "MODULE FAILURE", "No start of json"):
        assert words not in play.output, play.output
    results = [play.result(host) for host in hosts]
    told = [result["msg"] for result in results if result.get("failed")]
    lost = [msg for msg in told if msg.startswith(WITHOUT_RESULT) and msg.endswith("it goes on where it stopped.")]
    refused = [msg for msg in told if "is still open in" in msg]
    assert len(lost) + len(refused) == len(results) == _STRUCK and len(striker.struck) >= _STRUCK * 0.8, (told, striker.struck)
    assert len(lost) >= _STRUCK // 2, (told, striker.struck)
    assert not play.left() and not processes(tmp_path)
