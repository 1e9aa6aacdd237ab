# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_tuning_info: what it tells of this host and what it refuses. That servers take what it proposes is shown in
test_postgres_settings.py."""

import contextlib
import os
import pathlib
import re
import secrets

import pytest

from support import needs


def test_this_host_by_default(run):
    result = run("postgres_tuning_info", {})
    assert not result["changed"] and set(result["settings"]) == set(result["reasons"]) == set(result["comments"])
    assert 0 < result["budget"]["memory"] <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert result["settings"]["max_parallel_workers"] == str(len(os.sched_getaffinity(0)))
    assert run("postgres_tuning_info", {}, check=True)["settings"] == result["settings"]


def test_settings_reasons_and_budget_tell_the_same(run):
    result = run("postgres_tuning_info", {"memory": "4GB", "cpus": 2, "storage": "hdd"})
    assert result["settings"]["shared_buffers"] == "912MB" and result["budget"]["shared_buffers"] == 912 * 1024**2
    assert result["settings"] == {name: reason["value"] for name, reason in result["reasons"].items()}
    for name, reason in result["reasons"].items():
        assert {"rule", "inputs", "source", "context"} < set(reason)
        assert result["comments"][name].startswith(reason["reason"]) and reason["source"] in result["comments"][name]
    assert result["reasons"]["shared_buffers"]["inputs"] == {"budget": "3686MB"}
    assert result["budget"]["envelope"] <= result["budget"]["envelope_limit"] and "3686 MB" in result["bar"][0]


def test_ones_own_settings_come_back_as_they_are_and_are_counted(run):
    own = {"shared_buffers": "1GB", "work_mem": "64MB"}
    result = run(
        "postgres_tuning_info", {"memory": "4GB", "cpus": 2, "settings": {**own, "primary_conninfo": "password=swordfish"}}
    )
    assert "swordfish" not in result["output"] and result["comments"]["primary_conninfo"].startswith("Set by the play.")
    assert "primary_conninfo" not in result["settings"]
    assert {name: result["settings"][name] for name in own} == own
    assert result["reasons"]["shared_buffers"]["inputs"] == {"computed": "912MB"}
    assert result["budget"]["envelope"] > result["budget"]["envelope_limit"]
    assert any("With your own shared_buffers, work_mem" in str(warning) for warning in result["warnings"])


def test_the_limit_of_the_servers_control_group_counts(run, any_cluster, own_group):
    options = {"data_directory": str(any_cluster.data), "synapse_on_host": True}
    before = run("postgres_tuning_info", options)["budget"]["budget"]
    with own_group(any_cluster, 300 << 20):
        limited = run("postgres_tuning_info", options)
        assert limited["budget"]["budget"] == 300 << 20 < before
        assert "control group" in limited["comments"]["shared_buffers"]
        assert run("postgres_tuning_info", {**options, "memory": "4GB"})["budget"]["budget"] > 300 << 20
    assert run("postgres_tuning_info", options)["budget"]["budget"] == before


@pytest.fixture
def own_group():
    """``own_group(cluster, limit)``: a context in which the cluster's server is in a control group of so many bytes."""
    needs.root()
    one, two = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
    needs.need(
        one.is_dir() or "memory" in (two / "cgroup.subtree_control").read_text(), "control groups cannot limit memory here"
    )
    parent, name = (one, "memory.limit_in_bytes") if one.is_dir() else (two, "memory.max")
    group = parent / f"synapse-postgres-{secrets.token_hex(4)}"

    @contextlib.contextmanager
    def limited(cluster, limit):
        pid = (cluster.data / "postmaster.pid").read_text().split()[0]
        line = re.search(r":memory:(.*)" if one.is_dir() else r"^0::(.*)", pathlib.Path(f"/proc/{pid}/cgroup").read_text(), re.M)
        group.mkdir()
        try:
            (group / name).write_text(str(limit))
            (group / "cgroup.procs").write_text(pid)
            yield
        finally:
            for process in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (parent / line[1].strip("/") / "cgroup.procs").write_text(process)
            group.rmdir()

    return limited


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "4"}, "no unit"),
        ({"memory": "4GiB"}, "'GiB' is not a unit"),
        ({"memory": "much"}, "not a number"),
        ({"memory": ""}, "not a number"),
        ({"memory": "-4GB"}, "from 64 MB to 16 TB"),
        ({"memory": "100MB"}, "more memory"),
        ({"share": 0}, "above 0"),
        ({"share": 1.5}, "up to 1"),
        ({"server_version": 13}, "14 or newer"),
        ({"connections": 0}, "connections"),
        ({"settings": {"work_mem": "8MiB"}}, "work_mem cannot be '8MiB'"),
        ({"memory": "4GB", "settings": {"shared_buffers": "4GB"}}, "your shared_buffers 4GB"),
        ({"cpus": 0}, "cpus"),
        ({"storage": "tape"}, "storage"),
    ],
)
def test_what_makes_no_sense_is_refused(run, options, words):
    refused = run("postgres_tuning_info", options)
    assert refused.get("failed") and words in refused["msg"], refused
