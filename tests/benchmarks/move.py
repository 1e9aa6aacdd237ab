# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each step of the move from SQLite costs, in time and in memory, on homeservers of several sizes.

The steps are the modules that the playbook port runs, one after the other, on a throwaway PostgreSQL over loopback with
its settings as they come, fsync included. __main__.py runs this by an interpreter that has psycopg2.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import downtime, homeserver, measured
from benchmarks.measured import Measured
from support import clusters, conversation, link, playbooks

_PASSWORD = "the benchmark's word"

# What is done to a moved homeserver before it is moved on: one copy in a hundred is new, and rows change that the routine does
# not come back to.
_CHANGES = (
    "UPDATE users SET password_hash = password_hash || '.' WHERE rowid % 100 = 1",
    "UPDATE events SET outlier = 1 - outlier WHERE rowid % 1000 = 1",
)

# And to the tables that the routine empties and carries again on each run.
_REWRITTEN = (
    "UPDATE event_push_actions SET highlight = 1 - highlight WHERE rowid % 100 = 1",
    "UPDATE e2e_one_time_keys_json SET ts_added_ms = ts_added_ms + 1 WHERE rowid % 100 = 1",
    "DELETE FROM device_inbox WHERE rowid % 100 = 1",
)

ENGINES = ("synapse", "copy")
PREFLIGHT, SNAPSHOT, VERIFY, RESTORE = "preflight", "snapshot", "verify", "pg_restore -j2"
FIRST, SECOND = "port, first run, {}", "port, nothing new, {}"
AGAIN, GROWN, CARRY = "snapshot, 1 % new", "port, 1 % new, copy", "verify and carry over"
CHANGED = "port, 1 % changed, copy"
VERIFY_SECOND = "verify, nothing new"
FAR, FAR_SECOND, FAR_VERIFY = "port, first run, 1 ms away", "port, nothing new, 1 ms away", "verify, 1 ms away"

# How long a packet takes to a server that is far, and as long to come back.
_DELAY = 0.001
SYNAPSE = "  of it Synapse's code"


@dataclasses.dataclass
class Size:
    """A homeserver of ``size`` times 100 000 rows, what it holds, and what was measured of each step."""

    size: int
    rows: int
    mebibytes: int
    figures: dict[str, list[Measured]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    downtimes: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def seconds(self, step: str, routine: bool = False) -> list[float]:
        return [found.synapse_seconds if routine else found.seconds for found in self.figures[step]]

    def median(self, step: str, routine: bool = False) -> float:
        return statistics.median(self.seconds(step, routine))

    def memory(self, step: str, whose: str) -> float:
        """Return the most that any run of the step took, in MiB."""
        return max(found.memory[whose] for found in self.figures[step]) / (1 << 20)


class Bench:
    """One homeserver on its way: its files in ``folder``, its database on ``cluster``."""

    def __init__(self, base: homeserver.Base, folder: pathlib.Path, cluster: clusters.Cluster, collections: pathlib.Path) -> None:
        self.base, self.cluster, self.collections, self.python = base, cluster, collections, base.server.python
        self.tools = playbooks.Tools(collections / "ansible" / "bin", collections / "collections")
        self.live, self.copy, self.config = folder / "live.db", folder / "copy.db", folder / "homeserver-postgres.yaml"
        self.login = self._reached_by(cluster.port)
        self.source, self.copying = {"sqlite_database": str(self.copy)}, {"src": str(self.live), "dest": str(self.copy)}
        self.synapse = {"config": [str(self.config)], "synapse_python": str(self.python)}

    def _reached_by(self, port: int) -> dict:
        """Write the configuration of a homeserver whose database is there; return the options that lead our modules to it."""
        login = {"host": "127.0.0.1", "port": port, "user": "synapse", "password": _PASSWORD}
        database = {"name": "psycopg2", "args": {**login, "dbname": "synapse", "cp_min": 1, "cp_max": 5}}
        self.config.write_text(json.dumps({"server_name": "localhost", "database": database}))  # JSON is YAML
        return {f"login_{name}": value for name, value in login.items()} | {"login_db": "synapse"}

    def measure(self, size: int, runs: int) -> Size:
        """Measure every step ``runs`` times, in the order of a move."""
        started = time.monotonic()
        homeserver.write(self.base, self.live, size * homeserver.COPIES)
        found = Size(size, homeserver.rows(self.live), self.live.stat().st_size >> 20)
        print(f"\n{size}x: {found.rows} rows, {found.mebibytes} MiB, made in {time.monotonic() - started:.0f} s.", flush=True)
        for engine in ENGINES:
            self._measure_engine(found, engine, runs)
        self._measure_far(found, runs)
        for again in range(runs):
            found.notes.append(self._go_on(size, again))
            self._run(found, AGAIN, "synapse_sqlite_snapshot", self.copying)
            self._run(found, GROWN, "synapse_port", {**self.source, **self.synapse})
            done = self._run(found, CARRY, "synapse_port_verify", {**self.source, **self.login, "carry_changes": True})
            carried = [
                f"{name} {rows['written']} written, {rows['deleted']} deleted" for name, rows in done.result["carried"].items()
            ]
            found.notes[-1] += f"; carried over: {', '.join(carried) or 'nothing'}"
        for _again in range(runs):
            found.notes.append(f"then {self._change(_REWRITTEN)}")
            measured.run("synapse_sqlite_snapshot", self.copying, self.collections, self.python)
            self._run(found, CHANGED, "synapse_port", {**self.source, **self.synapse})
        self._restore(found, runs)
        for _again in range(runs):
            found.downtimes.append(downtime.measure(self.base, self.copy.parent, self.cluster, self.tools, size))
            print(f"{size}x downtime with 1 % new: {found.downtimes[-1]['whole']:.1f} s", flush=True)
        return found

    def _measure_engine(self, found: Size, engine: str, runs: int) -> None:
        """Measure what an engine takes for a first run, and for one to which nothing is new."""
        how = {**self.source, **self.synapse, "engine": engine}
        for _again in range(runs):
            self._empty()
            options = {"sqlite_database": str(self.live), "folder": str(self.copy.parent), **self.synapse}
            if not self._run(found, PREFLIGHT, "synapse_port_info", options).result["movable"]:
                raise measured.Failed("synapse_port_info finds that the homeserver cannot be moved.")
            self._run(found, SNAPSHOT, "synapse_sqlite_snapshot", self.copying)
            self._run(found, FIRST.format(engine), "synapse_port", how)
            self._run(found, VERIFY, "synapse_port_verify", {**self.source, **self.login})
        for again in range(runs):
            self._mark(again)
            self._run(found, SECOND.format(engine), "synapse_port", how)
            self._run(found, VERIFY_SECOND, "synapse_port_verify", {**self.source, **self.login})

    def _measure_far(self, found: Size, runs: int) -> None:
        """Measure the engine copy, and the comparison, with a server that each packet takes a while to get to."""
        with link.long(self.cluster.port, _DELAY) as port:
            login = self._reached_by(port)
            for _again in range(runs):
                self._empty()
                measured.run("synapse_sqlite_snapshot", self.copying, self.collections, self.python)
                self._run(found, FAR, "synapse_port", {**self.source, **self.synapse})
                self._run(found, FAR_VERIFY, "synapse_port_verify", {**self.source, **login})
                self._mark(0)
                self._run(found, FAR_SECOND, "synapse_port", {**self.source, **self.synapse})
        self._reached_by(self.cluster.port)

    def _restore(self, found: Size, runs: int) -> None:
        """Measure how long PostgreSQL's own tools take for the same rows, from a dump in a folder."""
        programs, place = self.cluster.installation.programs, ["--host=127.0.0.1", f"--port={self.cluster.port}"]
        words = [*place, "--username=synapse", "--jobs=2"]
        dump, environment = self.copy.with_name("dump"), {**os.environ, "PGPASSWORD": _PASSWORD}
        subprocess.run(
            [programs / "pg_dump", *words, "--format=d", f"--file={dump}", "synapse"], env=environment, check=True, timeout=600
        )
        for _again in range(runs):
            self._empty()
            start = time.monotonic()
            subprocess.run(
                [programs / "pg_restore", *words, "--dbname=synapse", "--no-comments", dump],
                env=environment,
                check=True,
                timeout=600,
            )
            found.figures.setdefault(RESTORE, []).append(Measured({}, time.monotonic() - start, 0.0, {"ours": 0, "synapse": 0}))
            print(f"{found.size}x {RESTORE}: {found.seconds(RESTORE)[-1]:.2f} s", flush=True)
        shutil.rmtree(dump)

    def _run(self, size: Size, step: str, module: str, options: dict) -> Measured:
        done = measured.run(module, options, self.collections, self.python)
        size.figures.setdefault(step, []).append(done)
        print(f"{size.size}x {step}: {done.seconds:.2f} s", flush=True)
        return done

    def _empty(self) -> None:
        """Have an empty database, and no copy."""
        self.cluster.rows("DROP DATABASE IF EXISTS synapse WITH (FORCE)")
        self.cluster.rows("CREATE DATABASE synapse OWNER synapse ENCODING UTF8 LOCALE 'C' TEMPLATE template0")
        self.copy.unlink(missing_ok=True)

    def _mark(self, number: int) -> None:
        """Change the copy without changing a row, or it would be recognised as ported and the routine not run."""
        with contextlib.closing(sqlite3.connect(self.copy)) as connection:
            connection.execute(f"PRAGMA user_version = {number + 1}")

    def _go_on(self, size: int, number: int) -> str:
        """Let 1 % more come to the homeserver, and rows change; return a sentence on it."""
        first = size * homeserver.COPIES + number * size
        before = homeserver.rows(self.live)
        changed = self._change(_CHANGES)
        homeserver.grow(self.base, self.live, first, first + size)
        return f"{homeserver.rows(self.live) - before} rows were new; {changed}"

    def _change(self, statements: tuple) -> str:
        """Let rows of the homeserver change; return what did."""
        changed = []
        with contextlib.closing(sqlite3.connect(self.live)) as connection:
            for statement in statements:
                table = statement.replace("FROM ", "").split()[1]
                changed.append(f"{connection.execute(statement).rowcount} rows of {table}")
            connection.commit()
        return f"changed: {', '.join(changed)}"


def prove(base: homeserver.Base) -> None:
    """Start Synapse on a database of size 1 and read the base's conversation and copies of it through the client API."""
    homeserver.write(base, base.server.database, homeserver.COPIES)
    wrong = homeserver.faults(base.server.database)
    if wrong:
        raise measured.Failed(f"SQLite finds fault with the database that was made: {wrong[:3]}")
    base.server.start()
    try:
        for copy in (0, 1, homeserver.COPIES - 1):
            said = conversation.check(base.server.url, homeserver.record_of(base, copy))
        print(f"A real Synapse serves the database that was made. Of the copies, too: {said}", flush=True)
    finally:
        base.server.stop()


def show(sizes: list[Size]) -> None:
    """Print the tables."""
    for found in sizes:
        print(f"\nThe move at {found.size}x: {found.rows} rows, {found.mebibytes} MiB of SQLite")
        print(f"{'':26}{'min':>9}{'median':>9}{'max':>9}  seconds{'':4}{'rows/s':>9}   runs")
        for step in found.figures:
            _line(step, found.seconds(step), found.rows)
            if "port" in step:
                _line(SYNAPSE, found.seconds(step, routine=True), found.rows)
        for note in found.notes:
            print(note)
        first, second = ({engine: found.median(step.format(engine)) for engine in ENGINES} for step in (FIRST, SECOND))
        print("Ratios of the medians:")
        print(f"first run, synapse to copy {first['synapse'] / first['copy']:.1f}")
        print(f"first run, copy to pg_restore {first['copy'] / found.median(RESTORE):.2f}")
        print(f"nothing new, copy to synapse {second['copy'] / second['synapse']:.3f}")
        far = found.median(FAR) / found.median(FIRST.format("copy")), found.median(FAR_VERIFY) / found.median(VERIFY)
        print(f"1 ms away to here, first run {far[0]:.2f}, verify {far[1]:.2f}")
        print(f"1 % new, copy, to nothing new, synapse {found.median(GROWN) / second['synapse']:.3f}")
        print(f"1 % changed, copy, to nothing new, synapse {found.median(CHANGED) / second['synapse']:.3f}")
        print(f"verify to the routine's run with nothing new {found.median(VERIFY) / second['synapse']:.3f}")
        print(f"verify, nothing new, to verify {found.median(VERIFY_SECOND) / found.median(VERIFY):.2f}")
        print("For how long the playbook has Synapse down, with 1 % new, and of what that is made:")
        for part in found.downtimes[0]:
            _line(f"downtime, {part}", [each[part] for each in found.downtimes])
    print("\nMemory at the peak of all processes together, MiB (Synapse's own code apart):")
    first, last = sizes[0], sizes[-1]
    print(f"{'':26}" + "".join(f"{found.size:>8}x" for found in sizes) + f"   {last.size}x : {first.size}x")
    for step in first.figures:
        for whose, name in (("ours", step), ("synapse", SYNAPSE)):
            if step != RESTORE and (whose == "ours" or "port" in step):
                values = [found.memory(step, whose) for found in sizes]
                grown = f"{values[-1] / values[0]:10.2f}" if values[0] else ""
                print(f"{name:26}" + "".join(f"{value:9.0f}" for value in values) + grown)
    sys.stdout.flush()


def _line(name: str, seconds: list[float], rows: int = 0) -> None:
    median = statistics.median(seconds)
    rate = f"{rows / median:9.0f}" if median and rows else ""
    print(f"{name:26}{min(seconds):9.2f}{median:9.2f}{max(seconds):9.2f}{'':13}{rate:9}{len(seconds):7}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("synapse", type=pathlib.Path)
    parser.add_argument("--sizes", nargs="+", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    words = parser.parse_args()
    installation = clusters.installations()[0]
    print(f"\nThe move from SQLite, on {measured.machine()}, PostgreSQL {installation.major}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="move-", dir=words.folder))
    try:
        base = homeserver.make(folder, words.synapse)
        prove(base)
        with clusters.running(installation, settings="fsync = on") as cluster:
            cluster.rows("CREATE ROLE synapse LOGIN PASSWORD %s", _PASSWORD)
            bench = Bench(base, folder, cluster, words.folder)
            sizes = sorted(set(words.sizes))
            show([bench.measure(size, words.runs) for size in sizes])
    except (measured.Failed, conversation.Unlike, RuntimeError) as reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
