# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""For how long a homeserver of any size is down when the playbook ``port`` moves it, with 1 % new since the copy was ported.

    python3 downtime.py FOLDER     what the play runs to stop Synapse: the rows come, and then it is stopped

A real Synapse serves the database, the play moves it, and the rows come at the last moment before it is stopped. The seconds
are from the beginning of the stop until Synapse answers on PostgreSQL; afterwards people log in and read there what was new.
"""

import contextlib
import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import homeserver, measured
from support import clusters, conversation, playbooks

# How long (seconds) Synapse may take to see to what it does now and then.
_SETTLED = 300

# The role's notes in its report, and what they are called here.
_PARTS = {
    "The SQLite database is copied": "copy",
    "The copy is ported": "port",
    "Every row is compared": "compare",
    "The configuration is switched and Synapse started": "switch and start",
}


def measure(
    base: homeserver.Base, folder: pathlib.Path, cluster: clusters.Cluster, tools: playbooks.Tools, size: int
) -> dict[str, float]:
    """Return the seconds of a move's downtime, ``whole`` and of each part; the homeserver is as before then."""
    server, before = base.server, base.server.config.read_text()
    homeserver.write(base, server.database, size * homeserver.COPIES)
    site = playbooks.Site(folder, cluster, server, tools)
    site.prepare()
    first = size * homeserver.COPIES
    told = {"base": str(base.file), "span": base.span, "copies": [first, first + size], "database": str(server.database)}
    stop = [str(server.python), "-m", "synapse._scripts.synctl", "stop", str(server.config)]
    (folder / "stop.json").write_text(json.dumps({**told, "stop": stop}))
    server.start()
    try:
        _settle(server.database)
        start = " ".join([*stop[:-2], "start", stop[-1]])
        commands = {"start": start, "stop": f"{sys.executable} {__file__} {folder}"}
        site.play("port", synapse_postgres_service_manager="command", synapse_postgres_service_commands=commands)
        for copy in (0, first, first + size - 1):
            conversation.check(server.url, homeserver.record_of(base, copy))
        return _seconds(server.folder / "port-to-postgres" / "port-report.json", float((folder / "stopped").read_text()))
    finally:
        site.close()
        server.config.write_text(before)
        (folder / "stopped").unlink(missing_ok=True)
        site.old.unlink(missing_ok=True)
        shutil.rmtree(server.folder / "port-to-postgres", ignore_errors=True)


def _settle(database: pathlib.Path) -> None:
    """Return when Synapse has summed up the push actions of all events, which it does for every copy of the base once."""
    query = "SELECT stream_ordering >= (SELECT max(stream_ordering) FROM events) FROM event_push_summary_stream_ordering"
    deadline = time.monotonic() + _SETTLED
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        while not connection.execute(query).fetchone()[0]:
            if time.monotonic() > deadline:
                raise measured.Failed(f"Synapse has not summed up its push actions within {_SETTLED} s.")
            time.sleep(0.5)


def _seconds(report: pathlib.Path, begun: float) -> dict[str, float]:
    """Return how long each part took, by the report's timeline, and the whole since ``begun``."""
    timeline = [note for note in json.loads(report.read_text())["timeline"] if note["at"] >= begun]
    ends = [*(note["at"] for note in timeline[1:]), timeline[-1]["at"]]
    parts = {_PARTS[note["what"]]: end - note["at"] for note, end in zip(timeline, ends) if note["what"] in _PARTS}
    return {"whole": timeline[-1]["at"] - begun, "stop": timeline[0]["at"] - begun, **parts}


def main(folder: pathlib.Path) -> int:
    told = json.loads((folder / "stop.json").read_text())
    base = homeserver.Base(None, pathlib.Path(told["base"]), {}, told["span"])
    homeserver.grow(base, pathlib.Path(told["database"]), *told["copies"], in_use=True)
    (folder / "stopped").write_text(str(time.time()))
    return subprocess.run(told["stop"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
