# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The move while things break: processes killed at random moments, servers restarted, links cut, disks full.

Everything is real. After each fault the move is run again, until it ends with everything there. How often the faults are
repeated, and how to repeat the very same ones, says support/faults.py.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import sqlite3
import subprocess
import tempfile
import time

import pytest

from support import clusters, conversation, faults, interrupted, link, modules, move, playbooks, talk

# A server that gives a client up for dead after seconds of silence.
IMPATIENT = "tcp_keepalives_idle = 1\ntcp_keepalives_interval = 1\ntcp_keepalives_count = 2\ntcp_user_timeout = 3000\n"

# How long, in seconds, a run may take to notice what befell it and to end.
PATIENCE = 120


@pytest.fixture
def own_cluster():
    """A cluster that nobody else uses."""
    with clusters.running(clusters.installations()[0], settings=IMPATIENT) as started:
        yield started


@pytest.fixture
def port_to(tmp_path, homeserver):
    """``port_to(cluster, engine)`` -> a Port into a new database there, which is dropped afterwards."""
    with contextlib.ExitStack() as made:
        yield lambda cluster, *how: interrupted.Port(made.enter_context(move.prepared(tmp_path, homeserver[0], cluster)), *how)


def struck_runs(port: interrupted.Port, moments: list, strike, mend=lambda: None):
    """Yield the result of a run of ``port`` for each of ``moments``, parts of a whole run, when ``strike(number)`` befell it.

    ``strike`` tells whether it found something to strike, and ``mend()`` is called when the run has ended.
    A moment counts from the start of the routine. A run that ends well all the same is followed by another, with more to port.
    """
    whole = port.run()
    assert whole.get("finished"), whole
    longest = whole["seconds"]
    port.begin_anew()
    for number, moment in enumerate(moments):
        struck = False
        while not struck:
            with port.running() as running:
                port.routine(running)
                begun = time.monotonic()
                while time.monotonic() < begun + moment * longest and not running.done():
                    time.sleep(0.005)
                struck = not running.done() and strike(number)
                result = running.result(PATIENCE)
            mend()
            if result.get("finished"):
                longest, struck = 0.9 * result["seconds"], False
                port.grow()
        port.require_nothing_left()
        yield result


def test_a_routine_that_is_killed_again_and_again_goes_on_each_time(any_cluster, port_to):
    port = port_to(any_cluster)

    def kill(_number: int) -> bool:
        found = port.processes()
        with contextlib.suppress(ProcessLookupError):
            for process in found:
                os.kill(process, signal.SIGKILL)
        return bool(found)

    for ended in struck_runs(port, faults.moments(), kill):
        assert "it was ended by signal 9" in ended["msg"] and "it goes on where it stopped" in ended["msg"], ended
    port.require_ported()


_KILLED = (faults.kill_postmaster, faults.kill_backend), faults.TIMES
_RESTARTED = (faults.restart_fast, faults.restart_immediate), faults.FEW


@pytest.mark.parametrize(
    ("ends", "times", "engine"),
    [
        *(pytest.param(*_KILLED, engine, id=f"killed-{engine}") for engine in ("copy", "synapse")),
        *(pytest.param(*_RESTARTED, engine, id=f"restarted-{engine}") for engine in faults.ENGINES),
    ],
)
def test_a_server_that_ends_again_and_again_is_ported_to_in_the_end(own_cluster, port_to, ends, times, engine):
    port = port_to(own_cluster, engine)

    def strike(number: int) -> bool:
        return ends[number % 2](own_cluster, port.move.name)

    for ended in struck_runs(port, faults.moments(times), strike, lambda: faults.revive(own_cluster)):
        assert ended["failed"], ended
    port.require_ported()


@pytest.mark.parametrize("engine", faults.ENGINES)
@pytest.mark.parametrize("fault", [link.Link.cut, link.Link.silence], ids=["reset", "silent"])
def test_a_link_that_breaks_ends_the_run_and_the_next_one_goes_on(own_cluster, port_to, fault, engine):
    port = port_to(own_cluster, engine)
    with link.Link(own_cluster.port) as way:
        port.reach(way.port, keepalives_idle=1, keepalives_interval=1, keepalives_count=2, tcp_user_timeout=3000)
        for ended in struck_runs(port, faults.moments(faults.FEW), lambda number: fault(way) or True, way.mend):
            assert ended["failed"], ended
        port.require_ported()


@contextlib.contextmanager
def talked_on(folder: pathlib.Path, homeserver: tuple, cluster: clusters.Cluster):
    """Yield a Site in ``folder`` on whose homeserver somebody talks all the time, and the events that it acknowledged."""
    folder.mkdir()
    site = playbooks.Site(folder, cluster, playbooks.copied(homeserver[0], folder / "synapse"))
    site.prepare()
    try:
        site.server.start()
        with talk.Talk(site.server.url, homeserver[1]) as talking:
            yield site, talking.acknowledged
    finally:
        site.close()


def struck(site: playbooks.Site, seconds: float) -> bool:
    """Kill the play `port` with all that it started after ``seconds``; tell whether it was still under way then."""
    with site.playing("port") as play:
        try:
            play.wait(seconds)
        except subprocess.TimeoutExpired:
            playbooks.kill(play)
            return True
    assert play.returncode == 0, site.output.read_text()[-3000:]
    return False


def test_a_play_that_is_killed_again_and_again_loses_no_word(any_cluster, tmp_path, homeserver):
    sites = (talked_on(tmp_path / f"site{number}", homeserver, any_cluster) for number in itertools.count())
    with next(sites) as (site, acknowledged):
        begun = time.monotonic()
        site.play("port")
        longest = time.monotonic() - begun
    moments = faults.moments(faults.PLAYS)
    while moments:
        with next(sites) as (site, acknowledged):
            # One that was killed after the switch is on PostgreSQL for good, and the next moment needs another.
            while moments and talk.lives_on(site) == "sqlite3":
                if struck(site, moments[0] * longest):
                    moments.pop(0)
                else:
                    longest *= 0.9
            site.play("port")
            talk.require_all_there(site, homeserver[1], acknowledged)


def test_a_server_that_dies_at_the_switch_leaves_synapse_on_sqlite(own_cluster, tmp_path, homeserver):
    with talked_on(tmp_path / "site", homeserver, own_cluster) as (site, acknowledged):
        with site.playing("port") as play:
            playbooks.wait_until(lambda: talk.lives_on(site) == "psycopg2", play)
            own_cluster.stop("immediate")
            play.wait(120)
        assert play.returncode and "Synapse runs on SQLite again" in " ".join(site.output.read_text().split())
        assert talk.lives_on(site) == "sqlite3"
        conversation.check(site.server.url, homeserver[1])
        assert acknowledged and set(list(acknowledged)) <= talk.events_on_sqlite(site)
        own_cluster.start()
        site.play("port")
        talk.require_all_there(site, homeserver[1], acknowledged)


@pytest.mark.parametrize("engine", ["copy", "synapse"])
def test_a_server_whose_disk_is_full_says_so_and_is_ported_to_when_there_is_room(monkeypatch, tmp_path, homeserver, engine):
    with contextlib.ExitStack() as made:
        disk = made.enter_context(faults.Disk(300))
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(tempfile, "tempdir", str(disk.folder))
            small = "max_wal_size = 32MB\nmin_wal_size = 32MB\n"
            cluster = made.enter_context(clusters.running(clusters.installations()[0], settings=small))
        port = interrupted.Port(made.enter_context(move.prepared(tmp_path, homeserver[0], cluster)), engine)
        with port.running() as running:
            port.routine(running)
            while port.move.rows("SELECT to_regclass('port_from_sqlite3')") == [(None,)]:
                assert not running.done(), running.result()
                time.sleep(0.05)
            disk.fill()
            refused = running.result()
        # A server that has no room for its log ends; all that its clients learn is that it is gone.
        said = cluster.log() if "server closed the connection" in refused["msg"] else refused["msg"]
        assert refused["failed"] and "No space left on device" in said, refused
        port.require_nothing_left()
        disk.empty()
        faults.revive(cluster)
        port.require_ported()


def test_a_copy_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(any_cluster, homeserver):
    with faults.Disk(200) as disk, move.prepared(disk.folder, homeserver[0], any_cluster) as made:
        port = interrupted.Port(made)
        with port.running() as running:
            port.routine(running)
            disk.fill()
            refused = running.result()
        assert refused["failed"] and "disk is full" in refused["msg"] and str(disk.folder) in refused["msg"], refused
        disk.empty()
        port.require_nothing_left()
        port.require_ported()


def test_a_snapshot_whose_disk_is_full_says_so_and_leaves_the_older_one(tmp_path, homeserver):
    source = tmp_path / "homeserver.db"
    with faults.Disk(20) as disk, contextlib.closing(sqlite3.connect(source)) as connection:
        options = {"src": str(source), "dest": str(disk.folder / "copy.db")}
        with contextlib.closing(sqlite3.connect(homeserver[0].database)) as whole:
            whole.backup(connection)
        assert modules.run("synapse_sqlite_snapshot", options)["changed"]
        before = (disk.folder / "copy.db").read_bytes()
        # What is in the log alone is no part of the file's size, and has to be copied too.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE more (content BLOB)")
        connection.execute("INSERT INTO more VALUES (randomblob(5000000))")
        connection.commit()
        disk.fill(left=4_000_000)
        refused = modules.run("synapse_sqlite_snapshot", options)
        assert refused["failed"] and str(disk.folder) in refused["msg"], refused
        assert "full" in refused["msg"] or "MiB left" in refused["msg"], refused
        assert not list(disk.folder.glob("*partial*"))
        assert (disk.folder / "copy.db").read_bytes() == before
        disk.empty()
        assert modules.run("synapse_sqlite_snapshot", options)["changed"]
        with contextlib.closing(sqlite3.connect(disk.folder / "copy.db")) as copy:
            assert copy.execute("SELECT length(content) FROM more").fetchall() == [(5_000_000,)]
