# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The playbooks on homeservers whose configuration is several files, or a container's, with a real Synapse started that way."""

import pathlib
import subprocess

import pytest
import yaml

from support import commands, needs, playbooks

STOP = """\
pid=$(cat pid) || exit 0
kill $pid
while grep -q 'State:.[^Z]' /proc/$pid/status; do sleep 0.2; done
"""


class Unlisted(playbooks.Site):
    """A Site whose Synapse is started by a script, with the options ``words``, and answers at a Unix socket alone."""

    def __init__(self, folder, cluster, server, wrapper: str, words: list) -> None:
        super().__init__(folder, cluster, server)
        del self.variables["synapse_postgres_client_url"]
        config = yaml.safe_load(server.config.read_text())
        (listener,) = config["listeners"]
        listener["path"] = str(server.folder / "main.sock")
        del listener["port"], listener["bind_addresses"], config["log_config"]
        server.config.write_text(yaml.safe_dump(config))
        scripts = {
            "start": f"{wrapper} {server.python} -m synapse.app.homeserver {' '.join(words)} >output 2>&1 & echo $! >pid",
            "stop": STOP,
            "status": "grep -q 'State:.[^Z]' /proc/$(cat pid)/status",
        }
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\ncd {server.folder}\n{script}\n")
            (folder / name).chmod(0o755)
        commands = {name: str(folder / name) for name in scripts}
        self.variables |= {"synapse_postgres_service_manager": "command", "synapse_postgres_service_commands": commands}

    def run(self, name: str) -> None:
        """Start or stop Synapse, as the plays do."""
        subprocess.run([self.folder / name], check=True, timeout=60)

    def runs(self) -> bool:
        return subprocess.run([self.folder / "status"], check=False, timeout=60).returncode == 0

    def close(self) -> None:
        self.run("stop")
        super().close()


@pytest.fixture
def unlisted(tmp_path, homeserver, any_cluster):
    """``unlisted(wrapper, words)`` -> an Unlisted with a copy of the shared homeserver; it is removed afterwards."""
    server, sites = playbooks.copied(homeserver[0], tmp_path / "synapse"), []

    def make(wrapper: str, words: list) -> Unlisted:
        sites.append(Unlisted(tmp_path, any_cluster, server, wrapper, words))
        return sites[0]

    yield make
    for site in sites:
        site.close()


def test_the_section_that_synapse_reads_is_the_one_that_is_looked_at_changed_and_put_back(unlisted):
    site = unlisted("", ["-c", "homeserver.yaml", "--config-path=conf.d"])
    main, counts = site.server.config, site.server.folder / "conf.d" / "database.yaml"
    counts.parent.mkdir()
    counts.write_text("# The one that counts.\ndatabase:\n  name: sqlite3\n  args:\n    database: homeserver.db\n")
    before = [main.read_bytes(), counts.read_bytes()]
    site.run("start")
    site.prepare()

    assert not site.play("port").missing(
        f"Synapse reads the section database in {counts}", "This homeserver lives on PostgreSQL now", "are equal"
    )
    found = counts.read_text()
    assert (
        main.read_bytes() == before[0]
        and found.startswith("# The one")
        and yaml.safe_load(found)["database"]["name"] == "psycopg2"
    )
    assert site.rows("SELECT count(*) FROM users") == [(3,)]
    assert sorted(path.name for path in counts.parent.iterdir()) == ["database.yaml"]

    # The first file names SQLite with its users, still: it is not where Synapse lives.
    again = site.play("port")
    assert again.changed == 0 and not again.missing(f"lives on PostgreSQL already, as {counts} says")
    prepared = site.play("site")
    assert "lives on SQLite" not in prepared.output and counts.read_text() == found

    require_a_way_out_of_a_way_back_that_was_stuck(site)
    assert counts.read_text() == found
    back = site.play("rollback", synapse_port_give_up=True)
    assert not back.missing(f"lives on SQLite again, in {site.server.database}")
    assert [main.read_bytes(), counts.read_bytes()] == before

    # One that was killed before its last step has left Synapse stopped.
    site.run("stop")
    again = site.play("rollback", fails=True, synapse_postgres_sqlite_path=str(site.server.database))
    assert not again.missing("There is no way back to SQLite from here") and site.runs()


def require_a_way_out_of_a_way_back_that_was_stuck(site) -> None:
    """Play a way back in which Synapse does not start, and stay on PostgreSQL by the commands that are told."""
    once = site.folder / "once"
    once.touch()
    start = f"sh -c 'rm {once} && exit 1; exec {site.folder}/start'"
    scripts = {**site.variables["synapse_postgres_service_commands"], "start": start}
    stuck = site.play("rollback", fails=True, synapse_port_give_up=True, synapse_postgres_service_commands=scripts)
    assert not stuck.missing("SYNAPSE IS DOWN") and not site.runs()
    back, stay, starts = commands.commands(stuck.output[stuck.output.rindex("SYNAPSE IS DOWN") :])
    assert site.old.name in back and starts == start
    for command in (stay, starts):
        subprocess.run(command, shell=True, check=True, timeout=60)
    assert site.runs()


def test_a_homeserver_in_a_container_is_moved_by_the_hosts_paths(unlisted):
    needs.mounts()
    data = pathlib.Path("/mnt/data")
    script = f'"mount -t tmpfs none /mnt && mkdir {data} && mount --bind . {data} && exec \\"\\$@\\""'
    site = unlisted(f"unshare --mount --propagation private sh -c {script} sh", ["-c", f"{data}/homeserver.yaml"])
    config = site.server.config.read_text().replace(f"{site.server.folder}/homeserver.db", f"{data}/homeserver.db")
    site.server.config.write_text(config)
    site.prepare()

    refused = site.play("port", fails=True)
    assert not refused.missing(f"{data}/homeserver.db, which is not on this host", "in synapse_postgres_sqlite_path")
    site.run("start")
    site.play("port")
    assert yaml.safe_load(site.server.config.read_text())["database"]["name"] == "psycopg2"
    assert f"{data}/homeserver.db" in site.old.read_text() and site.rows("SELECT count(*) FROM users") == [(3,)]
    assert not site.play("rollback", "--check").missing("going back ")


def test_a_file_that_synapse_ignores_refuses_the_move_by_its_name(unlisted):
    site = unlisted("", ["-c", "homeserver.yaml", "--config-path=conf.d"])
    ignored = site.server.folder / "conf.d" / "more.yaml"
    ignored.parent.mkdir()
    ignored.write_text("only words")
    site.prepare()
    assert not site.play("port", fails=True).missing(f"The top level of {ignored} is not a mapping")


def test_a_synapse_that_would_not_stop_is_not_said_to_run_again(unlisted):
    site = unlisted("", ["-c", "homeserver.yaml"])
    site.run("start")
    site.prepare()
    commands = {**site.variables["synapse_postgres_service_commands"], "stop": "/bin/false"}
    failed = site.play("port", fails=True, synapse_postgres_service_commands=commands)
    assert not failed.missing("Synapse runs on SQLite, with everything it had.") and "on SQLite again" not in failed.output
