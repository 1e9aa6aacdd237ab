# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the division promises for every host, and for one's own values in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import memory_budget, tuned_host
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import GB, MB
from support import hosts

TB = 1024**4
FOUR = tuned_host.Host(memory=4 * GB, cpus=2)


@given(hosts.HOSTS)
def test_the_worst_case_stays_within_90_percent_of_the_budget(host):
    budget = hosts.divided(host)
    runs = host.connections + min(host.cpus, 8)
    factor = 2 if host.server_version == 14 else 3
    worst = budget.shared_buffers + budget.wal_buffers + 3 * budget.autovacuum_work_mem + budget.maintenance_work_mem
    worst += runs * factor * budget.work_mem + (runs * 3 + 3 + 6) * MB
    assert worst == budget.envelope <= 0.9 * budget.budget
    assert budget.budget + budget.system + budget.synapse <= budget.available <= host.memory * host.share
    assert host.limit is None or budget.budget <= host.limit
    assert not memory_budget.excess_warning(budget, {})


@given(hosts.HOSTS, st.integers(0, TB), st.sampled_from([{}, {"autovacuum_work_mem": -1}, {"hash_mem_multiplier": 4}]))
def test_more_memory_never_means_less_of_anything(host, more, own):
    budget = hosts.divided(host, own)
    larger = memory_budget.divide(tuned_host.Host(**{**host.__dict__, "memory": host.memory + more}), own)
    for name in ("shared_buffers", "wal_buffers", "maintenance_work_mem", "autovacuum_work_mem", "work_mem", "budget"):
        assert getattr(budget, name) <= getattr(larger, name), name
    assert 0.2 * budget.budget <= budget.shared_buffers <= 0.4 * budget.budget


@given(hosts.HOSTS, st.integers(64, 1 << 20), st.integers(16, 1 << 20))
def test_ones_own_values_are_never_counted_short(host, work_mem, buffers):
    own = {"work_mem": f"{work_mem}kB", "shared_buffers": buffers}
    budget = memory_budget.divide(host, own) if hosts.divided(host) else None
    worst = buffers * 8192 + (host.connections + min(host.cpus, 8)) * (2 if host.server_version == 14 else 3) * work_mem * 1024
    assert worst < budget.envelope
    assert bool(memory_budget.excess_warning(budget, own)) == (budget.envelope > budget.limit)


def test_a_worst_case_of_ones_own_that_does_not_fit_is_said():
    own = {"work_mem": "64MB"}
    words = memory_budget.excess_warning(memory_budget.divide(FOUR, own), own)
    # 912 + 16 + 230 + 345 + 66 x 64 + 75 = 5802
    assert words.startswith(
        "With your own work_mem PostgreSQL can take 5802 MB in the worst case, which is 157 % of its budget of 3686 MB"
    )


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"shared_buffers": "1GiB"}, "shared_buffers cannot be '1GiB': 'GiB' is not a unit"),
        ({"work_mem": "much"}, "not a number"),
        ({"work_mem": True}, "boolean"),
        ({"work_mem": "1e99"}, "out of range"),
        ({"hash_mem_multiplier": "2MB"}, "unit"),
        ({"max_connections": -5}, "out of range"),
        ({"shared_buffers": "4GB"}, "with your shared_buffers 4GB"),
        ({"max_connections": 5000}, "with your max_connections 5000"),
    ],
)
def test_ones_own_values_that_make_no_sense_are_refused(own, words):
    with pytest.raises(Refusal, match=words):
        memory_budget.divide(FOUR, own)
