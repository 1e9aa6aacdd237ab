# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the settings of postgres_tuning_info are worth: the same Synapse-like load with the server's defaults and with ours.

For each size of memory there are some rounds of two runs, in turn (default, ours, ours, default), so that what the machine itself
does in the meantime shows as a difference between the rounds. Each run has a copy of the same data of its own, which the kernel
has nothing of in memory, and begins with a time that does not count. The load is described in load.py and sql/. Writes are
durable (fsync), as in production. The settings are what the module says of a host with that memory, these processors and a
database on an SSD, for Synapse elsewhere with one process. __main__.py runs this by an interpreter that has psycopg2.

As root the server really has no more memory than that (see groups.py). Otherwise it has the machine's, and only the settings are
of a host of that size; the output says so.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import groups, load, measured
from support import clusters

GB = 1 << 30

# A round has both in this order, the next one in the opposite.
KINDS = ("default", "ours")


@dataclasses.dataclass(frozen=True)
class Run:
    """The ``figures`` of a run by script, the ``values`` of the settings, and what the server took.

    Of each transaction the ``processor``'s milliseconds, which other programs of the machine hardly change, and the bytes
    ``read`` from the disk; ``private`` is the private memory of each backend at its most, and ``peak`` that of all in the
    control group, 0 without one; both are bytes.
    """

    figures: dict[str, load.Figures]
    values: dict[str, str]
    processor: float
    read: float
    private: list[int]
    peak: int

    @property
    def rate(self) -> float:
        """Transactions a second, of all scripts."""
        return sum(each.rate for each in self.figures.values())


class Watch(threading.Thread):
    """Looks at the private memory (RssAnon) of the load's backends below the postmaster ``pid`` every second until stop()."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most = pid, {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1):
            for child in _children(self.pid):
                with contextlib.suppress(OSError, IndexError):  # it has ended
                    title = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
                    if f" {load.USER} {load.DATABASE} ".encode() in title:
                        status = pathlib.Path(f"/proc/{child}/status").read_text()
                        taken = 1024 * int(status.split("RssAnon:")[1].split()[0])
                        self.most[child] = max(taken, self.most.get(child, 0))

    def stop(self) -> None:
        self._over.set()
        self.join()


@dataclasses.dataclass(frozen=True)
class Bench:
    """The stopped cluster ``base`` with the data of ``homes``, the ``folder`` of its copies, and how long a run is (seconds).

    ``group`` is the control group to make others in, empty where memory cannot be limited.
    """

    base: clusters.Cluster
    homes: load.Homes
    folder: pathlib.Path
    warm_up: int
    seconds: int
    group: str

    def measure(self, size: int, settings: dict[str, str], names: list[str]) -> Run:
        """Return the Run on a server with ``size`` bytes of memory and ``settings``; it tells the values of ``names``."""
        copy = dataclasses.replace(self.base, folder=self.folder / "run")
        copy.folder.mkdir()
        try:
            self._copy(copy.data)
            lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
            (copy.data / "conf.d" / "90-synapse-postgres.conf").write_text("".join(lines))
            with groups.limited(self.group, size) as group:
                _start(copy, group)
                try:
                    return self._run(copy, names, group)
                finally:
                    copy.stop("immediate")
        finally:
            shutil.rmtree(copy.folder)

    def _copy(self, data: pathlib.Path) -> None:
        """Copy the data, to the disk and out of the kernel's memory, which other groups' processes would read it from."""
        subprocess.run(["cp", "--archive", "--reflink=auto", self.base.data, data], check=True)
        for path in [path for path in data.rglob("*") if path.is_file()]:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _run(self, cluster: clusters.Cluster, names: list[str], group: str) -> Run:
        values = {name: cluster.rows(f"SHOW {name}")[0][0] for name in names}
        postmaster = int((cluster.data / "postmaster.pid").read_text().split()[0])
        watch, before = Watch(postmaster), _taken(postmaster)
        watch.start()
        try:
            figures, count = load.run(cluster, self.homes, cluster.folder, self.warm_up, self.seconds)
        finally:
            watch.stop()
        processor, read = ((now - then) / count for now, then in zip(_taken(postmaster), before))
        return Run(figures, values, 1000 * processor, read, list(watch.most.values()), groups.peak(group))


def _children(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


def _taken(postmaster: int) -> tuple[float, int]:
    """Return the processor's seconds, and the bytes read from the disk, of the server's processes, those that have ended too."""
    ticks = read = 0
    for pid in (postmaster, *_children(postmaster)):
        with contextlib.suppress(OSError):  # it has ended just now
            # The 14th to 17th fields, of which the second is a name in brackets: its own time and its ended children's.
            ticks += sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
            read += int(pathlib.Path(f"/proc/{pid}/io").read_text().split("\nread_bytes:")[1].split()[0])
    return ticks / os.sysconf("SC_CLK_TCK"), read


def _start(cluster: clusters.Cluster, group: str) -> None:
    """Start the server in the control group."""
    words = [
        cluster.installation.programs / "pg_ctl",
        "start",
        "-w",
        "-t",
        "120",
        "-D",
        cluster.data,
        "-l",
        cluster.folder / "log",
    ]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run(groups.within(group, [str(word) for word in words]), check=False, **quiet).returncode:
        raise measured.Failed(f"The server did not start: {cluster.log()[-1000:] if (cluster.folder / 'log').exists() else ''}")


def measure(bench: Bench, collections: pathlib.Path, memory: int, rounds: int) -> None:
    """Measure and show what ``memory`` (GB) makes."""
    options = {"memory": f"{memory}GB", "cpus": len(os.sched_getaffinity(0)), "connections": load.CLIENTS}
    options |= {"synapse_on_host": False, "storage": "ssd", "server_version": bench.base.major}
    done = measured.run("postgres_tuning_info", options, collections, pathlib.Path("/nowhere/python"))
    ours = done.result["settings"]
    runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            run = bench.measure(memory * GB, ours if kind == "ours" else {}, list(ours))
            print(f"{memory}GB, round {number + 1}, {kind}: {run.rate:.0f} transactions a second", flush=True)
            runs[kind].append(run)
    show(memory, runs, bench.seconds)


def show(memory: int, runs: dict[str, list[Run]], seconds: int) -> None:
    """Print the tables of one size of memory. A ratio is how many times as fast ours are: above 1 they are faster."""
    default, ours = runs["default"], runs["ours"]
    print(f"\n{memory}GB of memory, {len(ours)} rounds, {seconds} s each (milliseconds, 95 % below p95; transactions a second):")
    print(f"{'':20}{'default':^26}{'ours':^26}{'ratio of the means':>24}")
    print(f"{'':20}" + 2 * f"{'mean':>9}{'p95':>9}{'/s':>8}" + f"{'min':>8}{'median':>8}{'max':>8}")
    for name in load.SCRIPTS:
        cells = [_cells([run.figures[name] for run in runs[kind]]) for kind in KINDS]
        ratios = [one.figures[name].mean / other.figures[name].mean for one, other in zip(default, ours)]
        print(f"{name:20}{cells[0]}{cells[1]}{_spread(ratios)}")
    rates = [statistics.median(run.rate for run in runs[kind]) for kind in KINDS]
    ratios = [other.rate / one.rate for one, other in zip(default, ours)]
    print(f"{'all, a second':20}{rates[0]:26.0f}{rates[1]:26.0f}{_spread(ratios)}")
    for name, unit, words in (("processor", 1, "processor, ms each"), ("read", 1024, "read, KiB each")):
        taken = [[getattr(run, name) / unit for run in runs[kind]] for kind in KINDS]
        cells = "".join(f"{statistics.median(each):26.2f}" for each in taken)
        print(f"{words:20}{cells}{_spread([one / other if other else 1 for one, other in zip(*taken)])}")
    print(f"\n{'settings that differ':34}{'default':>10}{'ours':>10}")
    for name, value in ours[0].values.items():
        if value != default[0].values[name]:
            print(f"{name:34}{default[0].values[name]:>10}{value:>10}")
    for kind in KINDS:
        private = [taken / (1 << 20) for run in runs[kind] for taken in run.private]
        peak = max(run.peak for run in runs[kind])
        words = f"{statistics.median(private):.1f} median, {max(private):.1f} max" if private else "not seen"
        print(
            f"private memory of a backend at its most, {kind}, MiB: {words}"
            + (f"; all in the group: {peak >> 20}" if peak else "")
        )
    print(f"{memory}GB: ours to default, transactions a second, ratio of the medians: {rates[1] / rates[0]:.2f}", flush=True)


def _cells(figures: list[load.Figures]) -> str:
    middle = [statistics.median(getattr(each, name) for each in figures) for name in ("mean", "late", "rate")]
    return f"{middle[0]:9.2f}{middle[1]:9.2f}{middle[2]:8.1f}"


def _spread(ratios: list[float]) -> str:
    return "".join(f"{value:8.2f}" for value in (min(ratios), statistics.median(ratios), max(ratios)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("synapse", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--memory", nargs="+", type=int, required=True)
    parser.add_argument("--scale", type=float, required=True)
    words = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tuning-", dir=words.folder))
    tempfile.tempdir = str(folder)  # on a disk, which the system's folder for temporary files need not be
    try:
        return _measure_all(words, folder)
    except (measured.Failed, RuntimeError) as reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)


def _measure_all(words: argparse.Namespace, folder: pathlib.Path) -> int:
    installation, group = clusters.installations()[0], os.environ.get("BENCH_GROUP", "")
    load.program(installation)
    started = time.monotonic()
    with clusters.running(installation, settings="fsync = on\nunix_socket_directories = ''") as cluster:
        version = cluster.rows("SHOW server_version")[0][0]
        print(f"\nSettings for Synapse's load, on {measured.machine()}, PostgreSQL {version}", flush=True)
        homes = load.make(cluster, words.synapse, folder, words.scale)
        load.check(cluster, homes, folder)
        size = cluster.rows(f"SELECT pg_database_size('{load.DATABASE}')")[0][0] >> 20
        print(f"{homes.rooms} rooms, {size} MiB of data, made in {time.monotonic() - started:.0f} s.", flush=True)
        if not group:
            print("The memory is not limited, which takes root and a control group: only the settings differ.", flush=True)
        cluster.stop()
        bench = Bench(cluster, homes, folder, max(1, words.seconds // 3), words.seconds, group)
        for memory in words.memory:
            measure(bench, words.folder, memory, words.rounds)
    print(f"\nAll of it took {time.monotonic() - started:.0f} s.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
