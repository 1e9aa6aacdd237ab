# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_tuning_info: what it tells of this host and what it refuses. That servers take what it proposes is shown in
test_postgres_settings.py."""

import os

import pytest


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
    assert result["comments"] == {name: reason["reason"] for name, reason in result["reasons"].items()}
    assert "the budget of 3686MB" in result["comments"]["shared_buffers"]
    assert result["budget"]["envelope"] <= result["budget"]["envelope_limit"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "4"}, "no unit"),
        ({"memory": "4GiB"}, "'GiB' is not a unit"),
        ({"memory": "much"}, "not a number"),
        ({"memory": ""}, "not a number"),
        ({"memory": "-4GB"}, "more memory"),
        ({"memory": "100MB"}, "more memory"),
        ({"share": 0}, "above 0"),
        ({"share": 1.5}, "up to 1"),
        ({"server_version": 13}, "14 or newer"),
        ({"connections": 0}, "connections"),
        ({"cpus": 0}, "cpus"),
        ({"storage": "tape"}, "storage"),
    ],
)
def test_what_makes_no_sense_is_refused(run, options, words):
    refused = run("postgres_tuning_info", options)
    assert refused.get("failed") and words in refused["msg"], refused
