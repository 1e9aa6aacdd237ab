# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A module of the collection run in a process of its own, with its time and its memory measured.

Memory is sampled while it runs: for each process of the module's tree, VmHWM of /proc/<pid>/status, which the kernel keeps as
the most memory that process ever had resident, so that a peak between two samples is not missed. What runs by Synapse's
interpreter is counted apart from our own processes. Of those that run at the same time the peaks are added, pages that a
forked process shares with its parent being counted twice: rather too much than too little. A process counts from its second
sample on, since a child is for a moment, before it becomes another program, its parent's double.

The same samples tell how long the routine itself ran: the longest life of a process of Synapse's.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

_INTERVAL = 0.02

_RUNNER = """
import runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module(f"ansible_collections.matrixops.synapse_postgres.plugins.modules.{sys.argv[1]}", run_name="__main__")
"""


@dataclasses.dataclass(frozen=True)
class Measured:
    """The ``result`` of a module, its wall time in ``seconds``, that of Synapse's part in it, and what ``memory`` it took.

    ``memory`` is in bytes at the peak: ``ours``, ``synapse``.
    """

    result: dict
    seconds: float
    synapse_seconds: float
    memory: dict[str, int]


def machine() -> str:
    """Return a line on the machine's processors and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{len(os.sched_getaffinity(0))} processors, {memory:.0f} GiB of memory"


class Failed(Exception):
    """A module did not do what it was measured for; the sentence says why."""


class Memory(threading.Thread):
    """Samples the process tree below ``pid`` until stop(); ``peaks`` (bytes) and ``synapse_seconds`` are the result."""

    def __init__(self, pid: int, synapse: pathlib.Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.synapse = pid, str(synapse.parent)
        self.peaks, self.synapse_seconds = {"ours": 0, "synapse": 0}, 0.0
        self._seen: dict[tuple[int, str], float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_INTERVAL):
            self._sample()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _sample(self) -> None:
        sums, now, found = {"ours": 0, "synapse": 0}, time.monotonic(), {}
        for pid in _tree(self.pid):
            try:
                program = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                status = pathlib.Path(f"/proc/{pid}/status").read_text(errors="replace")
            except OSError:  # it has ended
                continue
            key = (pid, program)
            found[key] = self._seen.get(key, now)
            if key in self._seen and "VmHWM:" in status:
                whose = "synapse" if program.startswith(self.synapse) else "ours"
                sums[whose] += 1024 * int(status.split("VmHWM:")[1].split()[0])
                if whose == "synapse":
                    self.synapse_seconds = max(self.synapse_seconds, now - found[key])
        self._seen = found
        self.peaks = {whose: max(peak, sums[whose]) for whose, peak in self.peaks.items()}


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _tree(int(child))
    return found


def run(module: str, options: dict, folder: pathlib.Path, synapse: pathlib.Path) -> Measured:
    """Run ``module`` with ``options`` by this interpreter, from the collection in ``folder``; Failed unless it succeeds.

    ``synapse`` is Synapse's interpreter.
    """
    arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_remote_tmp": str(folder), "_ansible_keep_remote_files": False}}
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", _RUNNER, module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(folder / "collections")},
        cwd=folder,
    ) as process:
        memory = Memory(process.pid, synapse)
        memory.start()
        try:
            said = process.communicate(json.dumps(arguments).encode())[0].decode(errors="replace")
        finally:
            memory.stop()
    seconds = time.monotonic() - start
    try:
        result = json.loads(said)
    except ValueError:
        raise Failed(f"{module} said no result: {said[-2000:]}") from None
    if result.get("failed"):
        raise Failed(f"{module}: {result.get('msg')}")
    return Measured(result, seconds, memory.synapse_seconds, memory.peaks)
