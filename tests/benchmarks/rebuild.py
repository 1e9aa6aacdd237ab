# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What it costs to make a database in a wrong locale anew, beside PostgreSQL's own dump and restore of the same rows.

The database sorts as English does (ICU's en-US, which every PostgreSQL of the tests has), and 40 rows are planted that a unique
index should have kept apart. __main__.py runs this by an interpreter that has psycopg2.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import homeserver, measured
from support import clusters

_PASSWORD = "the benchmark's word"
_WRONG = "ENCODING UTF8 LOCALE 'C.UTF-8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
_IPS = "user_ips (user_id, access_token, device_id, ip, user_agent, last_seen)"
_UNIQUE = (
    "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = 'user_ips_user_token_ip_unique_index'::regclass"
)

# Twenty keys with a row more of the very same and twenty with an older one.
_DUPLICATES = (
    f"INSERT INTO {_IPS} SELECT '@a:b', 't' || n, 'd', '::1', 'agent', 9 FROM generate_series(1, 40) n",
    _UNIQUE.format("false"),
    f"INSERT INTO {_IPS} SELECT '@a:b', 't' || n, 'd', '::1', 'agent', CASE WHEN n % 2 = 0 THEN 9 ELSE 5 END"
    " FROM generate_series(1, 40) n",
    _UNIQUE.format("true"),
)


class Bench:
    """A homeserver's database ``right`` on ``cluster``, and the same in another locale and with duplicates as ``wrong``."""

    def __init__(self, folder: pathlib.Path, cluster: clusters.Cluster, collections: pathlib.Path, python: pathlib.Path) -> None:
        self.folder, self.cluster, self.collections, self.python = folder, cluster, collections, python

    def prepare(self, size: int) -> int:
        """Make both databases, of ``size`` times 100 000 rows; return how many rows there are."""
        base, live = homeserver.make(self.folder, self.python), self.folder / "live.db"
        homeserver.write(base, live, size * homeserver.COPIES)
        self.cluster.rows("CREATE DATABASE right_one OWNER synapse ENCODING UTF8 LOCALE 'C' TEMPLATE template0")
        args = {"host": "127.0.0.1", "port": self.cluster.port, "user": "synapse", "password": _PASSWORD, "dbname": "right_one"}
        config = self.folder / "homeserver-postgres.yaml"
        config.write_text(json.dumps({"server_name": "localhost", "database": {"name": "psycopg2", "args": args}}))
        called = {"sqlite_database": str(live), "config": [str(config)], "synapse_python": str(self.python)}
        measured.run("synapse_port", called, self.collections, self.python)
        self.cluster.rows(f"CREATE DATABASE wrong_one OWNER synapse TEMPLATE template0 {_WRONG}")
        self.cluster.fill("wrong_one", "right_one")
        for statement in _DUPLICATES:
            self.cluster.rows(statement, dbname="wrong_one")
        return homeserver.rows(live)

    def rebuild(self) -> measured.Measured:
        """Make a copy of the wrong one anew."""
        self.cluster.rows("DROP DATABASE IF EXISTS synapse_before WITH (FORCE)")
        self.cluster.rows("DROP DATABASE IF EXISTS synapse WITH (FORCE)")
        self.cluster.rows("CREATE DATABASE synapse OWNER synapse TEMPLATE wrong_one")
        self.cluster.rows("CHECKPOINT")
        options = {**self.cluster.login, "name": "synapse", "folder": str(self.folder), "resolve_duplicates": True}
        return measured.run("synapse_database_rebuild", options, self.collections, self.python)

    def dump_and_restore(self) -> float:
        """Return the seconds that pg_dump and pg_restore take, with two jobs each, for the rows without the duplicates."""
        self.cluster.rows("DROP DATABASE IF EXISTS restored WITH (FORCE)")
        self.cluster.rows("CREATE DATABASE restored OWNER synapse ENCODING UTF8 LOCALE 'C' TEMPLATE template0")
        self.cluster.rows("CHECKPOINT")
        login = {"PGHOST": "127.0.0.1", "PGPORT": str(self.cluster.port), "PGUSER": clusters.ADMIN}
        found = {**os.environ, **login, "PGPASSWORD": clusters.ADMIN_PASSWORD}
        programs, dump = self.cluster.installation.programs, self.folder / "dump"
        start = time.monotonic()
        subprocess.run([programs / "pg_dump", "-j2", "-Fd", "-f", dump, "right_one"], env=found, check=True)
        subprocess.run([programs / "pg_restore", "-j2", "-d", "restored", dump], env=found, check=True)
        seconds = time.monotonic() - start
        shutil.rmtree(dump)
        return seconds


def show(rows: int, rebuilt: list[measured.Measured], restored: list[float]) -> None:
    """Print the figures."""
    ours, theirs = ([found.seconds for found in rebuilt], restored)
    print(f"\nA database in a wrong locale made anew: {rows} rows, 40 duplicates among them")
    for name, found in (("made anew, with the proof", ours), ("pg_dump -j2, pg_restore -j2", theirs)):
        print(f"{name:30}{min(found):9.2f}{statistics.median(found):9.2f}{max(found):9.2f}  seconds (min, median, max)")
    parts = rebuilt[-1].result["seconds"]
    print("of the last run: " + ", ".join(f"{part} {seconds} s" for part, seconds in parts.items()))
    print(f"left out: {rebuilt[-1].result['removed']}, compared: {rebuilt[-1].result['rows']} rows")
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"ratio of the medians, made anew and proved to dumped and restored: {ratio:.2f}")
    print(f"memory at the peak of all our processes: {max(found.memory['ours'] for found in rebuilt) >> 20} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("synapse", type=pathlib.Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    words = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="rebuild-", dir=words.folder))
    installation = clusters.installations()[0]
    print(f"\nA database made anew, on {measured.machine()}, PostgreSQL {installation.major}", flush=True)
    try:
        with clusters.running(installation, settings="fsync = on") as cluster:
            cluster.rows("CREATE ROLE synapse LOGIN PASSWORD %s", _PASSWORD)
            bench = Bench(folder, cluster, words.folder, words.synapse)
            rows, rebuilt, restored = bench.prepare(words.size), [], []
            for _again in range(words.runs):
                rebuilt.append(bench.rebuild())
                restored.append(bench.dump_and_restore())
                print(f"{rebuilt[-1].seconds:.1f} s, {restored[-1]:.1f} s", flush=True)
            show(rows, rebuilt, restored)
    except (measured.Failed, RuntimeError) as reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
