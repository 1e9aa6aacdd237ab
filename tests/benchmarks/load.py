# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A load as Synapse puts on its database: a homeserver of any size, and what is asked of it, by pgbench.

Synapse itself makes the schema, all indexes of its background updates included; sql/fill.sql fills it, and says with what. At
scale 1 it is about 2 GB, most of it state_groups_state, events and event_json as on real homeservers.

Each script of sql/ is one thing that Synapse does, and says why it asks what it asks. The queries were written for this load
from the schema; values are put into them by the client, as psycopg2 does, transactions are REPEATABLE READ, as Synapse's are,
and there are as many clients as Synapse's pool has connections. The weights are of a homeserver whose users read much more than
they write, and are in federated rooms.

A paragraph of a script is one statement, so that check() can tell a query's beginning and end.
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import time

from benchmarks import measured
from support import clusters, loopback
from support.synapse import Homeserver

_SQL = pathlib.Path(__file__).with_name("sql")

# How often each script runs, in a hundred.
SCRIPTS = {
    "state_resolution": 4,
    "state_filtered": 25,
    "insert_message": 22,
    "insert_member": 6,
    "room_list": 3,
    "sync": 15,
    "paginate": 18,
    "members": 7,
}

# Synapse's cp_max, as it comes.
CLIENTS = 10

USER, PASSWORD, DATABASE = "synapse", "the load's word", "synapse"

# The server's settings while the database is made, which is not what is measured.
_FILLING = """fsync = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 32GB
autovacuum = off
shared_buffers = 512MB
work_mem = 512MB
maintenance_work_mem = 512MB
"""

_INDEXES = """
SELECT i.indexrelid::regclass::text, c.relname, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (%s)
    AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid)
ORDER BY c.relname
"""


@dataclasses.dataclass(frozen=True)
class Homes:
    """What the scripts have to know of the homeserver: how many ``rooms`` there are, and how many users of its own."""

    rooms: int
    locals: int


@dataclasses.dataclass(frozen=True)
class Figures:
    """How one script did in one run: its time in milliseconds, as mean and 95th percentile, and how many ended a second."""

    mean: float
    late: float
    rate: float


def make(cluster: clusters.Cluster, python: pathlib.Path, folder: pathlib.Path, scale: float) -> Homes:
    """Make the database on ``cluster``, whose schema the Synapse of ``python`` makes; the server is left running, at rest."""
    cluster.stop()
    settings = cluster.data / "conf.d" / "filling.conf"
    settings.write_text(_FILLING)
    cluster.start()
    _make_schema(cluster, python, folder)
    homes = _fill(cluster, scale)
    cluster.rows("VACUUM (ANALYZE)", dbname=DATABASE)
    cluster.rows("CHECKPOINT")
    cluster.stop()
    settings.unlink()
    cluster.start()
    return homes


def _make_schema(cluster: clusters.Cluster, python: pathlib.Path, folder: pathlib.Path) -> None:
    cluster.rows(f"CREATE ROLE {USER} LOGIN PASSWORD %s", PASSWORD)
    cluster.rows(f"CREATE DATABASE {DATABASE} OWNER {USER} ENCODING UTF8 LOCALE 'C' TEMPLATE template0")
    server = Homeserver(folder / "synapse", loopback.free_port(), python)
    server.generate()
    login = {"host": "127.0.0.1", "port": cluster.port, "user": USER, "password": PASSWORD, "dbname": DATABASE}
    section = {"name": "psycopg2", "args": {**login, "cp_min": 1, "cp_max": 5}}
    with server.config.open("a") as stream:
        stream.write(f"\ndatabase: {json.dumps(section)}\n")  # JSON is YAML, and the later of two keys wins
    words = ["-m", "synapse._scripts.update_synapse_database", "--database-config", server.config, "--run-background-updates"]
    done = subprocess.run([python, *words], cwd=server.folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise measured.Failed(f"Synapse made no schema: {done.stderr.strip().splitlines()[-1:]}")


def _fill(cluster: clusters.Cluster, scale: float) -> Homes:
    """Fill Synapse's tables, their indexes apart, which are built afterwards; two at a time."""
    text = (_SQL / "fill.sql").read_text().replace(":scale", str(scale))
    first, rest = text.split("-- Next: ", 1)
    rest, last = rest.split("-- Last: ", 1)
    tables = [statement for statement in rest.split("\n\n")[1:] if statement.strip()]
    names = [re.search(r"INSERT INTO (\w+)", statement)[1] for statement in tables]
    indexes = cluster.rows(_INDEXES, names, dbname=DATABASE)
    cluster.rows(first, dbname=DATABASE)
    for name, _table, _definition in indexes:
        cluster.rows(f"DROP INDEX {name}", dbname=DATABASE)
    with concurrent.futures.ThreadPoolExecutor(2) as crew:
        # Triggers and foreign keys would look at what is right by its making.
        quick = "SET session_replication_role = replica; "
        list(crew.map(lambda statement: cluster.rows(quick + statement, dbname=DATABASE), tables))
        list(crew.map(lambda index: cluster.rows(index[2], dbname=DATABASE), indexes))
    cluster.rows(last.split("\n", 1)[1], dbname=DATABASE)
    homes = cluster.rows("SELECT (SELECT count(*) FROM load_rooms), (SELECT count(*) FROM users)", dbname=DATABASE)[0]
    cluster.rows("DROP FUNCTION load_user, load_event; DROP TABLE load_rooms, load_events, load_state", dbname=DATABASE)
    return Homes(*homes)


def program(installation: clusters.Installation) -> pathlib.Path:
    """Return the installation's pgbench; Failed where there is none."""
    found = installation.programs / "pgbench"
    if not found.exists():
        raise measured.Failed(
            f"The PostgreSQL in {installation.programs} has no pgbench, which puts the load on the server; "
            "install the distribution's PostgreSQL (Debian: postgresql)."
        )
    return found


def check(cluster: clusters.Cluster, homes: Homes, folder: pathlib.Path, times: int = 3) -> None:
    """Run each script some ``times``, counting what its queries return; Failed when one fails or returns nothing."""
    for name in SCRIPTS:
        checked = folder / f"{name}.sql"
        checked.write_text(_counted((_SQL / f"{name}.sql").read_text()))
        _bench(cluster, homes, folder, [f"--file={checked}", "--client=1", f"--transactions={times}"])


def _counted(script: str) -> str:
    """Return a script whose queries divide by how many rows they return; those with \\gset see to one row themselves."""
    paragraphs = script.split("\n\n")
    for place, paragraph in enumerate(paragraphs):
        statement = paragraph.strip()
        if statement.startswith(("SELECT", "WITH")) and statement.endswith(";"):
            paragraphs[place] = f"SELECT 1 / count(*) FROM ({statement[:-1]}) AS returned;"
    return "\n\n".join(paragraphs)


def run(
    cluster: clusters.Cluster, homes: Homes, folder: pathlib.Path, warm_up: int, seconds: int
) -> tuple[dict[str, Figures], int]:
    """Put the load on the server for ``warm_up`` and then ``seconds``, which count; return the Figures of each script.

    And how often a script ran in the whole time.
    """
    logs = folder / f"log-{time.monotonic_ns()}"
    logs.mkdir()
    files = [f"--file={_SQL / name}.sql@{weight}" for name, weight in SCRIPTS.items()]
    words = [*files, f"--client={CLIENTS}", "--jobs=2", f"--time={warm_up + seconds}", "--log", "--random-seed=6"]
    _bench(cluster, homes, logs, words)
    found: dict[str, list[float]] = {name: [] for name in SCRIPTS}
    lines = [line.split() for path in logs.iterdir() for line in path.read_text().splitlines()]
    ended = max((int(line[4]) + int(line[5]) / 1e6 for line in lines), default=0)
    names = list(SCRIPTS)
    for _client, _number, microseconds, script, *when in lines:
        if int(when[0]) + int(when[1]) / 1e6 > ended - seconds:
            found[names[int(script)]].append(int(microseconds) / 1000)
    for name, each in found.items():
        if len(each) < 2:
            raise measured.Failed(f"The script {name} ran {len(each)} times in {seconds} s: give it more seconds.")
    return {name: _figures(each, seconds) for name, each in found.items()}, len(lines)


def _figures(milliseconds: list[float], seconds: int) -> Figures:
    late = statistics.quantiles(milliseconds, n=20)[-1]
    return Figures(statistics.fmean(milliseconds), late, len(milliseconds) / seconds)


def _bench(cluster: clusters.Cluster, homes: Homes, folder: pathlib.Path, words: list[str]) -> None:
    """Run pgbench in ``folder``; Failed with its words when a query fails."""
    login = ["--host=127.0.0.1", f"--port={cluster.port}", f"--username={USER}", "--no-vacuum"]
    known = [f"--define={field.name}={getattr(homes, field.name)}" for field in dataclasses.fields(homes)]
    command = [program(cluster.installation), *login, *known, *words, DATABASE]
    environment = {"PGPASSWORD": PASSWORD, "PGAPPNAME": "load"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if re.search("error|fatal|ERROR|FATAL", line)]
    if done.returncode or complaints:
        raise measured.Failed(f"pgbench ended with {done.returncode}: {(complaints or done.stderr.splitlines()[-1:])[:3]}")
