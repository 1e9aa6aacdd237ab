# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The bar that shows how a host's memory is divided."""

import re

from hypothesis import given

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import budget_bar, memory_budget, tuned_host
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import GB, MB
from support import hosts


@given(hosts.HOSTS)
def test_the_bar_shows_the_whole_memory(host):
    lines = budget_bar.lines(hosts.divided(host))
    shown = sum(int(re.search(r"(\d+) MB$", line)[1]) for line in lines[3:])
    assert host.memory // MB - len(lines) <= shown <= host.memory // MB
    assert 60 <= len(lines[2]) <= 63
    assert all(line.split()[0] in lines[2] or int(line.split()[-2]) * 60 <= host.memory // MB for line in lines[3:])


def test_the_bar_is_for_reading():
    assert budget_bar.lines(memory_budget.divide(tuned_host.Host(memory=4 * GB, cpus=2, synapse_on_host=True))) == [
        "Memory 4096 MB, PostgreSQL's budget 2048 MB,",
        "of which it takes 1842 MB in the worst case, 89 %:",
        "[ssssssSSSSSSSSSSSSSSSSSSSSSSSSBBBBBBBBmmvvqqqqqqqqqqqqqqp...]",
        " s  system and other services            409 MB",
        " S  Synapse                             1638 MB",
        " B  shared_buffers, wal_buffers          528 MB",
        " m  maintenance_work_mem                 128 MB",
        " v  3 x autovacuum_work_mem              192 MB",
        " q  22 x 3 x work_mem                    919 MB",
        " p  the processes themselves              75 MB",
        " .  free even then, for cached files     205 MB",
    ]
