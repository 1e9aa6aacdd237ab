# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The load of `make bench ONLY=tuning`: on a real server it finds what it asks for, and tells where it does not."""

import os
import pathlib
import pwd
import subprocess
import sys
import textwrap

import pytest

from benchmarks import groups, load, measured
from support import clusters, needs, synapse

# The state of a room at its newest event, by Synapse's rule: of each entry the one of the newest group of the chain.
_NEWEST_STATE = """
WITH RECURSIVE chain (state_group, hops) AS (
    SELECT g.state_group, 0 FROM event_forward_extremities x JOIN event_to_state_groups g USING (event_id) WHERE x.room_id = %s
    UNION ALL
    SELECT edge.prev_state_group, hops + 1 FROM chain JOIN state_group_edges edge ON edge.state_group = chain.state_group)
SELECT DISTINCT ON (type, state_key) type, state_key, event_id, (SELECT max(hops) FROM chain)
FROM state_groups_state JOIN chain USING (state_group) ORDER BY type, state_key, state_group DESC
"""

_CURRENT_STATE = "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = %s ORDER BY type, state_key"

_LIMITED = """
    import os, subprocess, sys
    from benchmarks import groups

    with groups.given_to(int(sys.argv[1])) as base:
        print("made", bool(base), flush=True)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setuid(int(sys.argv[1]))
            with groups.limited(base, 64 << 20) as group:
                for size in ("8M", "256M"):
                    words = ["dd", "if=/dev/zero", "of=/dev/null", "count=1", f"bs={size}"]
                    print(size, subprocess.run(groups.within(group, words), stderr=subprocess.DEVNULL).returncode, flush=True)
                print("peak", groups.peak(group) >> 20, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    print("gone", not os.path.exists(base))
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cluster with a small homeserver of the load: (Cluster, Homes, a folder)."""
    installation, folder = clusters.installations()[0], tmp_path_factory.mktemp("load")
    needs.need((installation.programs / "pgbench").exists(), "PyPI's PostgreSQL has no pgbench")
    with clusters.running(installation) as cluster:
        yield cluster, load.make(cluster, synapse.PYTHON, folder, 0.02), folder


def test_every_script_runs_and_finds_what_it_asks_for(filled):
    cluster, homes, folder = filled
    load.check(cluster, homes, folder)
    figures, count = load.run(cluster, homes, folder, 0, 3)
    assert set(figures) == set(load.SCRIPTS)
    assert count >= sum(each.rate for each in figures.values()) > 0
    assert all(each.mean > 0 and each.late > 0 for each in figures.values())


def test_a_room_s_chain_of_groups_leads_to_its_current_state(filled):
    cluster, homes, _folder = filled
    hops = 0
    for number in range(1, homes.rooms + 1):
        room = f"!room-of-the-load-{number}:example.org"
        state = cluster.rows(_NEWEST_STATE, room, dbname=load.DATABASE)
        assert [row[:3] for row in state] == cluster.rows(_CURRENT_STATE, room, dbname=load.DATABASE)
        hops = max(hops, state[0][3])
    assert hops > 10


def test_a_query_that_returns_nothing_is_told(filled):
    cluster, homes, folder = filled
    cluster.rows("ALTER TABLE room_stats_state RENAME TO kept; CREATE TABLE room_stats_state (LIKE kept)", dbname=load.DATABASE)
    cluster.rows("ALTER TABLE room_stats_state OWNER TO synapse", dbname=load.DATABASE)
    try:
        with pytest.raises(measured.Failed, match="division by zero"):
            load.check(cluster, homes, folder)
    finally:
        cluster.rows("DROP TABLE room_stats_state; ALTER TABLE kept RENAME TO room_stats_state", dbname=load.DATABASE)


def test_a_script_that_fails_is_told(filled):
    cluster, homes, folder = filled
    cluster.rows("ALTER TABLE receipts_linearized RENAME TO kept", dbname=load.DATABASE)
    try:
        with pytest.raises(measured.Failed, match='"receipts_linearized" does not exist'):
            load.run(cluster, homes, folder, 0, 2)
    finally:
        cluster.rows("ALTER TABLE kept RENAME TO receipts_linearized", dbname=load.DATABASE)


def test_an_ordinary_user_s_program_has_no_more_memory_than_its_group():
    needs.root()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_LIMITED), str(pwd.getpwnam("nobody").pw_uid)],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(groups.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = dict(line.split() for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    needs.need(found["made"] == "True", "no control group of memory can be made on this machine")
    assert found["8M"] == "0"
    assert found["256M"] != "0"
    assert 8 <= int(found["peak"]) <= 64
    assert found["gone"] == "True"
