# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's parameters for a host: a budget of memory that is divided, so that the worst case still fits into it."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

KB, MB, GB = 1024, 1024**2, 1024**3

OLDEST_SERVER = 14

# What stays for the kernel and the host's own services, and for Synapse's processes: shares of the memory, with limits.
# Synapse's are this project's estimate: a homeserver of a few users takes some 300 MB, a busy one some GB.
SYSTEM_SHARE, SYSTEM_LEAST, SYSTEM_MOST = 0.10, 64 * MB, 1 * GB
SYNAPSE_SHARE, SYNAPSE_MOST = 0.40, 4 * GB
LEAST_BUDGET = 128 * MB

# The worst case is all of these at once, and stays within this part of the budget; the rest is for the processes themselves.
ENVELOPE = 0.90

# The server's defaults that the model builds on (manual, Server Configuration).
MAX_CONNECTIONS = 100
MAX_WORKER_PROCESSES = 8
AUTOVACUUM_WORKERS = 3
LEAST_WORK_MEM = 64 * KB

# Connections kept free for superusers (superuser_reserved_connections: 3), backups, monitoring and a person with psql.
RESERVED_CONNECTIONS = 10

MOST_WORK_MEM = 256 * MB
MOST_MAINTENANCE = 2 * GB
LEAST_WAL, MOST_WAL = 1 * GB, 8 * GB
HUGE_PAGES_FROM = 2 * GB

# random_page_cost, effective_io_concurrency: the default cost, 4, is of rotating disks (manual, Planner Cost Constants); 1.1
# is what pgtune and others settled on for storage without a moving arm, and so are the reads that it takes on at once.
STORAGE = {"ssd": ("1.1", "200"), "hdd": ("4", "2"), "network": ("1.1", "300")}


@dataclasses.dataclass(frozen=True)
class Host:
    """What the model is fed with: bytes of ``memory``, the ``share`` of it for us, counts, and a key of STORAGE."""

    memory: int
    share: float = 1.0
    connections: int = 20
    cpus: int = 1
    storage: str = "ssd"
    synapse_on_host: bool = False
    server_version: int = 15


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter's value as it is written, the reason for it, and how it comes into force: by a reload or a restart."""

    value: str
    reason: str
    context: str


@dataclasses.dataclass(frozen=True)
class Budget:
    """The division of a host's memory, in bytes. ``work_mem`` is of one sort; ``executors`` times ``uses`` can exist."""

    memory: int
    available: int
    system: int
    synapse: int
    budget: int
    shared_buffers: int
    maintenance_work_mem: int
    autovacuum_work_mem: int
    work_mem: int
    executors: int
    uses: int

    @property
    def envelope(self) -> int:
        """What is taken when everything that can run does, and each takes all that it may."""
        vacuums = AUTOVACUUM_WORKERS * self.autovacuum_work_mem
        queries = self.executors * self.uses * self.work_mem
        return self.shared_buffers + self.maintenance_work_mem + vacuums + queries

    def parts(self) -> dict[str, int]:
        """Return the division as a mapping of names to bytes."""
        sizes = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("executors", "uses")}
        return {**sizes, "envelope": self.envelope, "envelope_limit": int(self.budget * ENVELOPE)}


def divide(host: Host) -> Budget:
    """Return the Budget of ``host``; Refusal when an input is out of range or the memory does not suffice.

    The rules and where they come from are in the reasons of settings().
    """
    _require_sensible(host)
    available = int(host.memory * host.share)
    system = min(max(int(available * SYSTEM_SHARE), SYSTEM_LEAST), SYSTEM_MOST)
    synapse = min(int(available * SYNAPSE_SHARE), SYNAPSE_MOST) if host.synapse_on_host else 0
    budget = available - system - synapse
    if budget < LEAST_BUDGET:
        raise Refusal(
            f"Of {available // MB} MB of memory, {max(budget, 0) // MB} MB remain for PostgreSQL after {system // MB} MB for the "
            f"system and {synapse // MB} MB for Synapse; it needs {LEAST_BUDGET // MB} MB.",
            "Give it a larger share, or a host with more memory.",
        )
    shared_buffers = _rounded(budget // 4)
    maintenance = min(_rounded(budget // 16), MOST_MAINTENANCE)
    # Before 17, VACUUM could not use more than 1 GB for dead rows (release notes of 17).
    autovacuum = min(_rounded(budget // 32), MOST_MAINTENANCE if host.server_version >= 17 else GB)
    executors = host.connections + host.cpus
    # One sort, and one hash table of hash_mem_multiplier times work_mem: 1 in version 14, 2 from 15 on (manual, Memory).
    uses = 2 if host.server_version < 15 else 3
    rest = int(budget * ENVELOPE) - shared_buffers - maintenance - AUTOVACUUM_WORKERS * autovacuum
    work_mem = min(_rounded(rest // (executors * uses)), MOST_WORK_MEM)
    if work_mem < LEAST_WORK_MEM:
        raise Refusal(
            f"{host.connections} connections and {host.cpus} parallel workers leave {work_mem // KB} kB of work_mem for "
            f"each in a budget of {budget // MB} MB; the server needs {LEAST_WORK_MEM // KB} kB.",
            "Lower the pools of Synapse's processes (cp_max), or give PostgreSQL more memory.",
        )
    return Budget(
        memory=host.memory,
        available=available,
        system=system,
        synapse=synapse,
        budget=budget,
        shared_buffers=shared_buffers,
        maintenance_work_mem=maintenance,
        autovacuum_work_mem=autovacuum,
        work_mem=work_mem,
        executors=executors,
        uses=uses,
    )


def settings(host: Host) -> dict[str, Setting]:
    """Return ``{name: Setting}`` for ``host``; Refusal as divide()."""
    budget = divide(host)
    return {**_memory(host, budget), **_wal(budget), **_storage(host), **_processes(host)}


def size(count: int) -> str:
    """Return ``count`` bytes as PostgreSQL writes sizes, in the largest unit that divides it: 256MB, 2GB, 64kB."""
    for unit, worth in (("GB", GB), ("MB", MB), ("kB", KB)):
        if count % worth == 0:
            return f"{count // worth}{unit}"
    raise ValueError(f"{count} bytes are no whole kB")


def _memory(host: Host, budget: Budget) -> dict[str, Setting]:
    whole = f"the budget of {budget.budget // MB}MB"
    wide = f"{host.connections} connections and {host.cpus} parallel workers"
    capped = f", at most {size(MOST_WORK_MEM)}" if budget.work_mem == MOST_WORK_MEM else ""
    found = {
        "shared_buffers": Setting(
            size(budget.shared_buffers),
            f"25 % of {whole}; more than 40 % is unlikely to help (manual, Memory).",
            "restart",
        ),
        "effective_cache_size": Setting(
            size(_rounded(budget.budget * 3 // 4)),
            f"75 % of {whole}: shared_buffers and the kernel's cache of the files (manual, Planner Cost Constants; pgtune).",
            "reload",
        ),
        "work_mem": Setting(
            size(budget.work_mem),
            f"What {int(ENVELOPE * 100)} % of {whole} leave, divided by {wide} with {budget.uses} times work_mem each, one sort "
            f"and one hash table{capped} (manual, Memory: several operations run at once).",
            "reload",
        ),
        "maintenance_work_mem": Setting(
            size(budget.maintenance_work_mem),
            f"1/16 of {whole}, at most {size(MOST_MAINTENANCE)}, for one index build or restore at a time (pgtune).",
            "reload",
        ),
        "autovacuum_work_mem": Setting(
            size(budget.autovacuum_work_mem),
            f"1/32 of {whole} for each of {AUTOVACUUM_WORKERS} workers, at most 1GB before version 17, which lifted what "
            "VACUUM can use (release notes of 17).",
            "reload",
        ),
    }
    if budget.shared_buffers >= HUGE_PAGES_FROM:
        found["huge_pages"] = Setting(
            "try",
            f"shared_buffers is {size(HUGE_PAGES_FROM)} or more, where huge pages save memory for page tables, if the kernel "
            "has some to give (manual, Linux Huge Pages).",
            "restart",
        )
    return found


def _wal(budget: Budget) -> dict[str, Setting]:
    most = min(max(2 * budget.shared_buffers // GB * GB, LEAST_WAL), MOST_WAL)
    return {
        "max_wal_size": Setting(
            size(most),
            f"Twice shared_buffers in whole GB, from {size(LEAST_WAL)} to {size(MOST_WAL)} of disk, so that checkpoints come by "
            "time and not by the amount written (manual, WAL Configuration).",
            "reload",
        ),
        "min_wal_size": Setting(
            size(most // 4),
            "A quarter of max_wal_size: files kept for reuse (manual, WAL Configuration; pgtune).",
            "reload",
        ),
        "checkpoint_completion_target": Setting(
            "0.9",
            "Checkpoints are spread over the time until the next one (manual, Checkpoints: the default since 14).",
            "reload",
        ),
    }


def _storage(host: Host) -> dict[str, Setting]:
    cost, depth = STORAGE[host.storage]
    return {
        "random_page_cost": Setting(
            cost,
            f"The storage is {host.storage}: 4 is for rotating disks, 1.1 where a page out of order costs hardly more "
            "(manual, Planner Cost Constants; pgtune).",
            "reload",
        ),
        "effective_io_concurrency": Setting(
            depth,
            f"The storage is {host.storage}: how many reads it takes on at once (manual, I/O; pgtune).",
            "reload",
        ),
    }


def _processes(host: Host) -> dict[str, Setting]:
    helpers = min(host.cpus // 2, 4)
    count = f"{host.cpus} processor{'s' * (host.cpus > 1)}"
    found = {
        "max_worker_processes": Setting(
            str(max(host.cpus, MAX_WORKER_PROCESSES)),
            f"One for each of {count}, at least {MAX_WORKER_PROCESSES}, the default (manual, Worker Processes; pgtune).",
            "restart",
        ),
        "max_parallel_workers": Setting(
            str(host.cpus), f"As many as can run at once on {count} (manual, Worker Processes; pgtune).", "reload"
        ),
        "max_parallel_workers_per_gather": Setting(
            str(helpers),
            f"Half of {count}, at most 4, so that one query does not take the host from the others (pgtune).",
            "reload",
        ),
        "max_parallel_maintenance_workers": Setting(
            str(helpers),
            f"Half of {count}, at most 4, for the build of an index; they share maintenance_work_mem (pgtune).",
            "reload",
        ),
    }
    if host.connections > MAX_CONNECTIONS - RESERVED_CONNECTIONS:
        found["max_connections"] = Setting(
            str(host.connections + RESERVED_CONNECTIONS),
            f"{host.connections} connections, and {RESERVED_CONNECTIONS} kept free for superusers, backups and monitoring; "
            f"the default is {MAX_CONNECTIONS} (manual, Connection Settings).",
            "restart",
        )
    return found


def _rounded(count: int) -> int:
    """Return ``count`` bytes rounded down so that a kernel's few kB more or less of MemTotal seldom ask for a restart."""
    for worth in (16 * MB, MB, 64 * KB):
        if count >= 16 * worth:
            return count // worth * worth
    return count // KB * KB


def _require_sensible(host: Host) -> None:
    if not 0 < host.share <= 1:
        raise Refusal(f"The share of the memory is {host.share}.", "Give a number above 0 and up to 1.")
    for name, least, most in (("connections", 1, 262143 - RESERVED_CONNECTIONS), ("cpus", 1, 1024)):
        if not least <= getattr(host, name) <= most:
            raise Refusal(f"The number of {name} is {getattr(host, name)}.", f"Give one from {least} to {most}.")
    if host.storage not in STORAGE:
        raise Refusal(f"The storage is {host.storage!r}.", f"Give one of {', '.join(STORAGE)}.")
    if host.server_version < OLDEST_SERVER:
        raise Refusal(
            f"The server's version is {host.server_version}; Synapse needs {OLDEST_SERVER} or newer.",
            "Upgrade the server, or give the version that it will have.",
        )
