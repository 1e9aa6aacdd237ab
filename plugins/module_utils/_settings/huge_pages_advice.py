# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is found of a server and the pool of huge pages, and the sentences that tell an administrator what to do about it."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import huge_pages, huge_pages_demand
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages import Aim, Pool
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages_demand import Demand, Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import KB, size


@dataclasses.dataclass(frozen=True)
class State:
    """All that is found before anything is changed. ``held`` are the pages that the server holds now, ``text`` our file's.

    There is no ``server`` when its process cannot be seen from here.
    """

    server: Server | None
    demand: Demand
    pool: Pool | None
    held: int
    in_use: bool
    as_it_runs: bool
    text: str | None
    path: str

    @property
    def needed(self) -> int:
        return self.demand.count if self.demand.wanted else 0

    @property
    def unknown(self) -> bool:
        """Whether huge pages are wished for that nobody can count."""
        return self.demand.wanted and not self.demand.count

    @property
    def enough(self) -> bool:
        """Whether the pool has what the server needs as it is."""
        return self.obtainable(self.pool) >= self.needed

    @property
    def others(self) -> int:
        return self.pool.used - self.held if self.pool else 0

    def obtainable(self, pool: Pool | None) -> int:
        """Return how many of the needed pages the server would find in the ``pool`` if it started again."""
        return max(min(self.needed, pool.total + pool.surplus - self.others), 0) if pool else 0


def problem(state: State, root: str) -> list[str]:
    """Return why this server cannot have its huge pages from us whatever the pool holds, as sentences; none when it can."""
    server, demand, pool = state.server, state.demand, state.pool
    if server is None or not demand.wanted:
        return []
    if server.version < huge_pages_demand.COUNTING:
        found = f"PostgreSQL {server.version // 10000} does not tell how many huge pages it needs; 15 and newer do."
    elif demand.words:
        found = f"The server's program did not tell how many huge pages it will need: {demand.words}."
    elif pool is None:
        of_size = f" of {size(demand.page_size)}" if demand.page_size else ""
        found = f"The kernel here has no huge pages{of_size}."
    elif demand.memory_type == "sysv" and not huge_pages.may_share(root, server.process):
        found = (
            "shared_memory_type is sysv, for which the server's user has to be of the group in vm.hugetlb_shm_group: set it to "
            "mmap, which needs no such right."
        )
    elif pool.page_size != huge_pages.Kernel(root).page_size() and not state.enough:
        kilobytes = pool.page_size // KB
        found = (
            f"This module looks after pages of the kernel's default size, and huge_page_size is {size(pool.page_size)}: "
            f"write {state.others + state.needed} to /sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/nr_hugepages, and have "
            "them reserved at boot by the kernel's options hugepagesz and hugepages."
        )
    else:
        return _limited(state.needed, server, pool, root)
    return [found, *meanwhile(state)]


def unseen(state: State, refusal: Refusal) -> list[str]:
    """Return sentences on a server whose process cannot be seen, as the ``refusal`` says: nothing is changed."""
    # Who wants none, and has none from us, need not care.
    concerned = state.demand.wanted or state.text is not None
    return [refusal.found, refusal.remedy, *(meanwhile(state) if state.demand.wanted else [])] if concerned else []


def _limited(needed: int, server: Server, pool: Pool, root: str) -> list[str]:
    """Return a sentence on a limit of the server's control group: beyond it, huge pages that are there end the server."""
    limit = huge_pages.limit(root, server.process, pool.page_size)
    if limit is None or limit >= needed:
        return []
    name = f"hugetlb.{size(pool.page_size).upper()}"
    return [
        f"The server's control group lets it have {limit} huge pages of the {needed} that it needs, and the kernel ends "
        f"a process that touches one more: raise the limit ({name}.max, in cgroup v1 {name}.limit_in_bytes), or set huge_pages "
        "to off."
    ]


def meanwhile(state: State) -> list[str]:
    """Return a sentence on what the server does without its huge pages."""
    if state.demand.huge_pages == "on":
        return ["With huge_pages = on the server does not start without them: set it to try."]
    return ["Without them the server uses ordinary pages."]


def at_next_boot(state: State, aim: Aim) -> list[str]:
    return [
        "They will be reserved at the next boot, while memory is in one piece; without a boot, stop the server, run "
        f"`sysctl -w vm.nr_hugepages={aim.total}`, and start it.",
        *meanwhile(state),
    ]


def by_hand(state: State, aim: Aim) -> list[str]:
    """Return what an administrator of the host itself is to do, since the pool is not ours to change."""
    total = state.pool.total if state.pool else 0
    return [
        f"The kernel's pool has {total} huge pages, others use {state.others} of them, and the server needs "
        f"{state.needed}; vm.nr_hugepages cannot be set from here (by this user, or in this container).",
        f"As root on the host itself: `sysctl -w vm.nr_hugepages={aim.total}`, the same in a file of /etc/sysctl.d, and a "
        "restart of the server.",
        *(meanwhile(state) if state.needed else []),
    ]
