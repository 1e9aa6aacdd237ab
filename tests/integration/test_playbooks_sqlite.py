# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The move of a homeserver whose database is a link to another disk, and whose Synapse is killed rather than stopped."""

import contextlib
import pathlib
import sqlite3
import sys

import pytest

from support import playbooks
from support.talk import lives_on, require_all_there

# What the play calls to stop Synapse: a user registers, and Synapse is killed before anything takes that out of its log.
_STOP = """#!{python}
import os, pathlib, signal, sys, time
sys.path.insert(0, {tests!r})
from support import conversation
person = conversation.Homeserver({url!r})
person.registered(f"last{{time.time_ns()}}", "a word", conversation.secret_of(pathlib.Path({config!r})))
pid = int(pathlib.Path({folder!r}, "homeserver.pid").read_text())
os.kill(pid, signal.SIGKILL)
while os.path.exists(f"/proc/{{pid}}"):
    time.sleep(0.05)
"""

# Synapse's routine, before which somebody writes to the database when Synapse is stopped: nothing listens.
_ROUTINE = """#!/bin/sh
{python} - <<'END' || exit 1
import socket, sqlite3
with socket.socket() as probe:
    if probe.connect_ex(("127.0.0.1", {port})):
        connection = sqlite3.connect({database!r})
        connection.execute("UPDATE users SET consent_version = 'late' WHERE name = '@person1:localhost'")
        connection.commit()
        connection.close()
END
exec {synapse} -m synapse._scripts.synapse_port_db "$@"
"""


@pytest.fixture
def site(tmp_path, homeserver, any_cluster):
    """A Site whose homeserver.db is a link to another folder."""
    made = playbooks.Site(tmp_path, any_cluster, playbooks.copied(homeserver[0], tmp_path / "synapse"))
    (tmp_path / "disk").mkdir()
    made.server.database.rename(tmp_path / "disk" / "real.db")
    made.server.database.symlink_to("../disk/real.db")
    made.variables["synapse_postgres_service_manager"] = "command"
    made.variables["synapse_postgres_service_commands"] = {
        "start": f"{made.server.python} -m synapse._scripts.synctl start {made.server.config}",
        "stop": script(made, "stop", _STOP),
        "status": f"sh -c 'kill -0 $(cat {made.server.folder}/homeserver.pid)'",
    }
    yield made
    made.close()


def script(site, name: str, text: str) -> str:
    """Write the executable ``name``; return its path."""
    path = site.folder / name
    server = site.server
    words = {"url": server.url, "config": str(server.config), "folder": str(server.folder), "port": server.port}
    words |= {"python": sys.executable, "synapse": server.python, "database": str(server.database)}
    path.write_text(text.format(tests=str(pathlib.Path(__file__).parents[1]), **words))
    path.chmod(0o755)
    return str(path)


def users(site) -> set:
    with contextlib.closing(sqlite3.connect(site.server.database)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM users")}


def test_a_synapse_behind_a_link_that_is_killed_is_moved_with_its_last_transaction_or_not_at_all(site, homeserver):
    site.server.start()
    site.prepare()
    before, log = site.server.config.read_bytes(), site.folder / "disk" / "real.db-wal"

    # What nobody copied stops the cut-over before the switch, though PostgreSQL equals the copy.
    routine = {
        "synapse_port_engine": "synapse",
        "synapse_port_command": [script(site, "routine", _ROUTINE)],
        "synapse_port_python_command": [str(site.server.python)],
    }
    failed = site.play("port", fails=True, **routine)
    assert not failed.missing(
        "did not hold what SQLite itself says of",
        "users, of which rows were changed or deleted",
        "Synapse runs on SQLite again, with everything it had",
    )
    assert lives_on(site) == "sqlite3" and site.server.config.read_bytes() == before and not site.old.exists()

    moved = site.play("port")
    assert not moved.missing("This homeserver lives on PostgreSQL now", f"(a link to {site.folder}/disk/real.db)")
    assert log.stat().st_size, "the test is of what is in the log alone"
    there = {name for (name,) in site.rows("SELECT name FROM users")}
    assert there == users(site) and len(there) == len(homeserver[1]["users"]) + 2
    require_all_there(site, homeserver[1], [])
