# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings for a host, each with its reason: the rule, what that was fed with, and where it comes from."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import memory_budget, tuned_host
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.memory_budget import Budget
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import GB, MB, size
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.tuned_host import Host

# The server's defaults that the model builds on (manual, Server Configuration).
MAX_CONNECTIONS = 100

MAX_WORKER_PROCESSES = 8

# Connections kept free for superusers (superuser_reserved_connections: 3), backups, monitoring and a person with psql.
RESERVED_CONNECTIONS = 10

LEAST_WAL, MOST_WAL = 1 * GB, 8 * GB

HUGE_PAGES_FROM = 2 * GB

_CONTEXTS = {"": "", "reload": "A change comes into force by a reload.", "restart": "A change needs a restart."}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter's value as it is written, and why: the rule, what it was fed with, where it comes from.

    ``context`` is how it comes into force: by a reload or a restart; empty where the server knows that better.
    """

    value: object
    rule: str
    inputs: dict[str, str]
    source: str
    context: str

    @property
    def reason(self) -> str:
        """Return the rule with its inputs, as a line."""
        fed = ", ".join(f"{name} {value}" for name, value in self.inputs.items())
        return f"{self.rule}{f' ({fed})' * bool(fed)}."

    @property
    def comment(self) -> str:
        """Return all of it as text for the file of settings; its first line is the reason."""
        return f"{self.reason}\nSource: {self.source}. {_CONTEXTS[self.context]}".rstrip()


def settings(host: Host, own: dict[str, object] | None = None) -> dict[str, Setting]:
    """Return ``{name: Setting}`` for ``host``; one's ``own`` are among them as they were given. Refusal as divide()."""
    own = own or {}
    found = _proposed(host, memory_budget.divide(host, own))
    given = {name.lower() for name in own}
    contexts = {name: found.pop(name).context for name in given & set(found)}
    for name, value in own.items():
        context = contexts.get(name.lower(), "")
        found[name] = Setting(value, "Set by the play", _computed(host, own, name), "the administrator", context)
    return found


def _proposed(host: Host, budget: Budget) -> dict[str, Setting]:
    """Return the model's settings for the ``budget`` of ``host``."""
    return {**_memory(host, budget), **_wal(budget), **_storage(host), **_processes(host)}


def _computed(host: Host, own: dict[str, object], name: str) -> dict[str, str]:
    """Return what the model would say instead of one's own value for ``name``: an input of the Setting."""
    try:
        others = {other: value for other, value in own.items() if other != name}
        computed = _proposed(host, memory_budget.divide(host, others)).get(name.lower())
    except Refusal:  # it takes the administrator's value for the memory to suffice
        computed = None
    return {"computed": str(computed.value)} if computed else {}


def _memory(host: Host, budget: Budget) -> dict[str, Setting]:
    whole = {"budget": f"{budget.budget // MB}MB"}
    if budget.limited:
        whole["budget"] += ", by the server's control group"
    others = {
        "shared_buffers": size(budget.shared_buffers),
        "maintenance and vacuums": f"{(budget.maintenance_work_mem + budget.vacuums * budget.autovacuum_work_mem) // MB}MB",
        "processes": f"{budget.processes // MB}MB",
    }
    found = {
        "shared_buffers": Setting(
            size(budget.shared_buffers),
            "25 % of the budget",
            whole,
            "manual, Resource Consumption: 25 % is a good start, more than 40 % is unlikely to help",
            "restart",
        ),
        "effective_cache_size": Setting(
            size(memory_budget.rounded_down(budget.budget * 3 // 4)),
            "75 % of the budget, for shared_buffers and what the kernel keeps of files",
            whole,
            "manual, Planner Cost Constants; the share is pgtune's",
            "reload",
        ),
        "work_mem": Setting(
            size(budget.work_mem),
            f"The rest of {memory_budget.ENVELOPE:.0%} of the budget, {budget.uses:g} for each of {budget.executors}, "
            f"at most {size(memory_budget.MOST_WORK_MEM)}",
            {
                **whole,
                **others,
                "connections": str(budget.connections),
                "parallel workers": f"{budget.executors - budget.connections}",
            },
            "manual, Resource Consumption: several run at once, here a sort, and a hash table of hash_mem_multiplier times it",
            "reload",
        ),
        "maintenance_work_mem": Setting(
            size(budget.maintenance_work_mem),
            f"1/16 of the budget, at most {size(memory_budget.MOST_MAINTENANCE)}, for one index build or restore at a time",
            whole,
            "manual, Resource Consumption; the share is pgtune's",
            "reload",
        ),
        "autovacuum_work_mem": Setting(
            size(budget.autovacuum_work_mem),
            f"1/32 of the budget for each worker, at most {size(memory_budget.most_vacuum_memory(host))}",
            {**whole, "workers": str(budget.vacuums)},
            "manual, Resource Consumption; until 17 VACUUM could use 1GB (release notes of 17)",
            "reload",
        ),
    }
    if budget.shared_buffers >= HUGE_PAGES_FROM:
        found["huge_pages"] = Setting(
            "try",
            f"From {size(HUGE_PAGES_FROM)} of shared_buffers on they pay; with on a server that is a page short would not start",
            {"shared_buffers": size(budget.shared_buffers)},
            "manual, Linux Huge Pages; the threshold is pgtune's",
            "restart",
        )
    return found


def _wal(budget: Budget) -> dict[str, Setting]:
    most = min(max(2 * budget.shared_buffers // GB * GB, LEAST_WAL), MOST_WAL)
    buffers = {"shared_buffers": size(budget.shared_buffers)}
    return {
        "wal_buffers": Setting(
            size(budget.wal_buffers),
            f"1/32 of shared_buffers, from {size(memory_budget.LEAST_WAL_BUFFERS)} to a segment of "
            f"{size(memory_budget.WAL_SEGMENT)}",
            buffers,
            "manual, Write Ahead Log: what the server chooses by itself",
            "restart",
        ),
        "max_wal_size": Setting(
            size(most),
            f"Twice shared_buffers in whole GB, from {size(LEAST_WAL)} to {size(MOST_WAL)} of disk",
            buffers,
            "manual, WAL Configuration: checkpoints are to come by time, not by amount; the amounts are this project's",
            "reload",
        ),
        "min_wal_size": Setting(
            size(most // 4),
            "A quarter of max_wal_size: files kept for reuse",
            {"max_wal_size": size(most)},
            "manual, WAL Configuration; the share is pgtune's",
            "reload",
        ),
        "checkpoint_completion_target": Setting(
            "0.9",
            "Checkpoints are spread over the time until the next one",
            {},
            "manual, Checkpoints: the default since 14",
            "reload",
        ),
    }


def _storage(host: Host) -> dict[str, Setting]:
    cost, depth = tuned_host.STORAGE[host.storage]
    fed = {"storage": host.storage}
    return {
        "random_page_cost": Setting(
            cost,
            "4 is for rotating disks, 1.1 where a page out of order costs hardly more",
            fed,
            "manual, Planner Cost Constants; 1.1 is pgtune's",
            "reload",
        ),
        "effective_io_concurrency": Setting(
            depth, "How many reads the storage takes on at once", fed, "manual, I/O; the numbers are pgtune's", "reload"
        ),
    }


def _processes(host: Host) -> dict[str, Setting]:
    helpers = str(min(host.cpus // 2, 4))
    fed = {"processors": str(host.cpus)}
    found = {
        "max_worker_processes": Setting(
            str(max(host.cpus, MAX_WORKER_PROCESSES)),
            f"One for each processor, at least {MAX_WORKER_PROCESSES}, the default",
            fed,
            "manual, Worker Processes; pgtune",
            "restart",
        ),
        "max_parallel_workers": Setting(
            str(memory_budget.parallel_workers(host)),
            f"One for each processor, at most {memory_budget.MAX_PARALLEL_WORKERS}, the default: Synapse's queries are short",
            fed,
            "manual, Worker Processes",
            "reload",
        ),
        "max_parallel_workers_per_gather": Setting(
            helpers,
            "Half of the processors, at most 4: one query is not to take the host from the others",
            fed,
            "manual, Worker Processes; pgtune",
            "reload",
        ),
        "max_parallel_maintenance_workers": Setting(
            helpers,
            "Half of the processors, at most 4, for the build of an index; they share maintenance_work_mem",
            fed,
            "manual, Worker Processes; pgtune",
            "reload",
        ),
    }
    if host.server_version >= 18:
        found["io_workers"] = Setting(
            str(min(max(host.cpus // 4, 3), 32)),
            "A quarter of the processors, from 3, the default, to 32, the most",
            fed,
            "manual, I/O; the share is this project's",
            "reload",
        )
    # Written where the default does not do; a larger number of the administrator's own is never lowered.
    wanted = host.connections + RESERVED_CONNECTIONS
    if wanted > MAX_CONNECTIONS:
        found["max_connections"] = Setting(
            str(wanted),
            f"All connections that can exist, and {RESERVED_CONNECTIONS} kept free for superusers, backups and monitoring",
            {"connections": str(host.connections)},
            f"manual, Connection Settings; the default is {MAX_CONNECTIONS}",
            "restart",
        )
    return found
