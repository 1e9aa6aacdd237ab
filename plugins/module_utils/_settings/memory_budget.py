# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The division of a host's memory: a budget, so that the worst case still fits into it.

The worst case, the envelope, is that everything that can run does, and that each takes all that it may. What the model
chooses itself stays within ENVELOPE of the budget, on any host.
"""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import quantities, tuned_host
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import GB, KB, MB, size
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.tuned_host import Host

# What stays for the kernel and the host's own services: a share of the memory, with limits.
SYSTEM_SHARE, SYSTEM_LEAST, SYSTEM_MOST = 0.10, 64 * MB, 1 * GB

# What Synapse's processes and their caches take, by this project's estimate: a homeserver of a few users some 300 MB, a busy one
# some GB; a worker has only the caches of what it does.
SYNAPSE_SHARE, SYNAPSE_LEAST, SYNAPSE_MOST, WORKER_MOST = 0.40, 128 * MB, 4 * GB, 1 * GB

LEAST_BUDGET = 128 * MB

ENVELOPE = 0.90

# What a server's process takes for itself beside all of that. Private memory (smaps) on PostgreSQL 15, of one that has read and
# written 40 of Synapse's tables, was 2.5 MB; under `make bench ONLY=tuning` 3 MB, less the postmaster's and a sort of 3 MB. Of
# others, such as the checkpointer, it was below 1 MB.
EXECUTOR, OTHER_PROCESS = 3 * MB, 1 * MB

# Processes beside those of connections, parallel workers and autovacuum: checkpointer, writers, launchers, the postmaster.
BACKGROUND = 6

MAX_PARALLEL_WORKERS = 8

AUTOVACUUM_WORKERS = 3

LEAST_WORK_MEM = 64 * KB

LEAST_WAL_BUFFERS, WAL_SEGMENT, WAL_BLOCK = 64 * KB, 16 * MB, 8 * KB

MOST_WORK_MEM = 256 * MB

MOST_MAINTENANCE = 2 * GB

# Parameters that take memory, and those that say how often: what a value without a unit counts in, None where it is a number.
_COUNTED = {
    "shared_buffers": 8 * KB,
    "wal_buffers": WAL_BLOCK,
    "work_mem": KB,
    "maintenance_work_mem": KB,
    "autovacuum_work_mem": KB,
    "hash_mem_multiplier": None,
    "max_connections": None,
    "max_parallel_workers": None,
    "autovacuum_max_workers": None,
}

_UNITS = {8 * KB: "8kB", KB: "kB"}


@dataclasses.dataclass(frozen=True)
class Budget:
    """The division of a host's memory, in bytes. ``work_mem`` is of one sort; ``executors`` times ``uses`` can exist."""

    memory: int
    available: int
    system: int
    synapse: int
    budget: int
    shared_buffers: int
    wal_buffers: int
    maintenance_work_mem: int
    autovacuum_work_mem: int
    work_mem: int
    connections: int
    executors: int
    uses: float
    vacuums: int
    limited: bool

    @property
    def processes(self) -> int:
        """What the server's processes take for themselves."""
        return self.executors * EXECUTOR + (self.vacuums + BACKGROUND) * OTHER_PROCESS

    @property
    def queries(self) -> int:
        """What sorts and hash tables take in the worst case."""
        return int(self.executors * self.uses * self.work_mem)

    @property
    def envelope(self) -> int:
        """What is taken when everything that can run does, and each takes all that it may."""
        vacuums = self.vacuums * self.autovacuum_work_mem
        buffers = self.shared_buffers + self.wal_buffers
        return buffers + self.maintenance_work_mem + vacuums + self.queries + self.processes

    @property
    def limit(self) -> int:
        """What the envelope may be."""
        return int(self.budget * ENVELOPE)

    def parts(self) -> dict[str, int]:
        """Return the division as a mapping of names to bytes."""
        counts = ("connections", "executors", "uses", "vacuums", "limited")
        sizes = {key: value for key, value in dataclasses.asdict(self).items() if key not in counts}
        worst = {"queries": self.queries, "processes": self.processes}
        return {**sizes, **worst, "envelope": self.envelope, "envelope_limit": self.limit}


def divide(host: Host, own: dict[str, object] | None = None) -> Budget:
    """Return the Budget of ``host``, with the parameters of one's ``own`` ({name: value}) as they are given.

    Refusal when an input is out of range, when one's own values cannot be read, or when the memory does not suffice. The rules
    and where they come from are in the reasons of settings(). Only one's own values can make the envelope exceed its limit.
    """
    tuned_host.require_sensible(host)
    given = _counted(own or {})
    available, system, synapse, budget = _budget(host)
    connections = max(host.connections, int(given.get("max_connections", 0)))
    # Each is rounded down from its exact share, and the rest counted without the rounding: so every value grows with the memory.
    exact = _exact_shares(host, budget, given)
    found = Budget(
        memory=host.memory,
        available=available,
        system=system,
        synapse=synapse,
        budget=budget,
        limited=host.limit is not None and budget == host.limit,
        connections=connections,
        executors=connections + int(given.get("max_parallel_workers", parallel_workers(host))),
        # One sort, and one hash table of hash_mem_multiplier times work_mem: 1 in version 14, 2 from 15 on (manual, Memory).
        uses=1 + given.get("hash_mem_multiplier", 1 if host.server_version < 15 else 2),
        vacuums=int(given.get("autovacuum_max_workers", AUTOVACUUM_WORKERS)),
        shared_buffers=exact["shared_buffers"],
        wal_buffers=int(given.get("wal_buffers", _wal_buffers(exact["shared_buffers"]))),
        maintenance_work_mem=exact["maintenance_work_mem"],
        autovacuum_work_mem=exact["autovacuum_work_mem"],
        work_mem=int(given.get("work_mem", 0)),
    )
    if "work_mem" not in given:
        found = dataclasses.replace(found, work_mem=_work_mem(found, given))
    written = {name: count if given.get(name, -1) >= 0 else rounded_down(count) for name, count in exact.items()}
    return dataclasses.replace(
        found,
        shared_buffers=written["shared_buffers"],
        wal_buffers=int(given.get("wal_buffers", _wal_buffers(written["shared_buffers"]))),
        maintenance_work_mem=written["maintenance_work_mem"],
        autovacuum_work_mem=written["autovacuum_work_mem"],
    )


def excess_warning(budget: Budget, own: dict[str, object]) -> str:
    """Return a sentence on how far one's ``own`` values take the worst case beyond its limit, empty where they do not."""
    if budget.envelope <= budget.limit:
        return ""
    names = ", ".join(sorted(name for name in own if name.lower() in _COUNTED))
    return (
        f"With your own {names} PostgreSQL can take {budget.envelope // MB} MB in the worst case, which is "
        f"{100 * budget.envelope // budget.budget} % of its budget of {budget.budget // MB} MB; at most {ENVELOPE:.0%} is safe. "
        "Lower them, or the number of connections, or give it more memory."
    )


def _budget(host: Host) -> tuple[int, int, int, int]:
    """Return the bytes that are available, those for the system and for Synapse, and PostgreSQL's budget; or a Refusal."""
    available = int(host.memory * host.share)
    exact_system = min(max(available * SYSTEM_SHARE, SYSTEM_LEAST), SYSTEM_MOST)
    workers = host.synapse_processes - 1
    exact_synapse = max(available * SYNAPSE_SHARE, host.synapse_processes * SYNAPSE_LEAST)
    exact_synapse = min(exact_synapse, SYNAPSE_MOST + workers * WORKER_MOST) if host.synapse_on_host else 0
    # Rounded together: a byte more of memory would make both of them larger by one, and so the budget smaller.
    reserved, synapse = int(exact_system + exact_synapse), int(exact_synapse)
    system, budget = reserved - synapse, available - reserved
    if host.limit is not None:
        budget = min(budget, host.limit)
    if budget < LEAST_BUDGET:
        limited = f" and a limit of {budget // MB} MB of its control group" if host.limit == budget else ""
        raise Refusal(
            f"Of {available // MB} MB of memory, {max(budget, 0) // MB} MB remain for PostgreSQL after {system // MB} MB for the "
            f"system and {synapse // MB} MB for Synapse{limited}; it needs {LEAST_BUDGET // MB} MB.",
            "Raise that limit (MemoryMax of its service)." if limited else "Give it a larger share, or a host with more memory.",
        )
    return available, system, synapse, budget


def _exact_shares(host: Host, budget: int, given: dict[str, float]) -> dict[str, int]:
    """Return the shares of the ``budget`` before they are rounded, or what is ``given``; a vacuum given -1 has maintenance's."""
    maintenance = int(given.get("maintenance_work_mem", min(budget // 16, MOST_MAINTENANCE)))
    vacuum = given.get("autovacuum_work_mem", min(budget // 32, most_vacuum_memory(host)))
    return {
        "shared_buffers": int(given.get("shared_buffers", budget // 4)),
        "maintenance_work_mem": maintenance,
        "autovacuum_work_mem": maintenance if vacuum < 0 else int(vacuum),
    }


def _wal_buffers(shared_buffers: int) -> int:
    """Return the bytes that the server would choose by itself (manual, Write Ahead Log)."""
    return min(max(shared_buffers // 32 // WAL_BLOCK * WAL_BLOCK, LEAST_WAL_BUFFERS), WAL_SEGMENT)


def parallel_workers(host: Host) -> int:
    """Return how many parallel workers there may be: Synapse's queries are short, and on many processors few are enough."""
    return min(host.cpus, MAX_PARALLEL_WORKERS)


def most_vacuum_memory(host: Host) -> int:
    """Return the bytes that a vacuum may have: before 17 it could not use more than 1 GB (release notes of 17)."""
    return MOST_MAINTENANCE if host.server_version >= 17 else GB


def _work_mem(found: Budget, given: dict[str, float]) -> int:
    """Return what is left for each sort in ``found``, which has none yet; or a Refusal."""
    rest = found.limit - found.envelope
    each = min(rounded_down(max(0, int(rest / (found.executors * found.uses)))), MOST_WORK_MEM)
    if each < LEAST_WORK_MEM:
        yours = ", ".join(f"{name} {_as_written(name, value)}" for name, value in sorted(given.items()) if value >= 0)
        raise Refusal(
            f"{found.connections} connections and {found.executors - found.connections} parallel workers leave "
            f"{each // KB} kB of work_mem for each in a budget of {found.budget // MB} MB"
            f"{f' with your {yours}' if yours else ''}; the server needs {LEAST_WORK_MEM // KB} kB.",
            "Lower the pools of Synapse's processes (cp_max) or max_parallel_workers, give PostgreSQL more memory"
            f"{', or lower your own values or set work_mem as well' if yours else ''}.",
        )
    return each


def _counted(own: dict[str, object]) -> dict[str, float]:
    """Return those of one's ``own`` values that count in the budget, as bytes or numbers; Refusal for one that is neither.

    What leaves it to the server (-1) is not among them, but for autovacuum_work_mem. Their ranges are the server's to judge.
    """
    found: dict[str, float] = {}
    for name, value in own.items():
        name = name.lower()
        if name not in _COUNTED:
            continue
        worth = _COUNTED[name]
        try:
            if isinstance(value, bool):
                raise ValueError("it is a boolean")
            amount = quantities.quantity(str(value), _UNITS[worth] if worth else None)
            if amount < -1 or amount > 1 << 53:
                raise ValueError("it is out of range")
        except (ValueError, OverflowError) as error:
            raise Refusal(f"The parameter {name} cannot be {value!r}: {error}.", "Correct the value.") from None
        # autovacuum_work_mem then is maintenance_work_mem, see divide().
        if amount >= 0 or name == "autovacuum_work_mem":
            found[name] = amount if name == "hash_mem_multiplier" else round(amount) * (worth or 1)
    return found


def _as_written(name: str, amount: float) -> str:
    """Return what is given for the parameter as it would be written."""
    return size(int(amount)) if _COUNTED[name] else f"{amount:g}"


def rounded_down(count: int) -> int:
    """Return ``count`` bytes rounded down so that a kernel's few kB more or less of MemTotal seldom ask for a restart."""
    for worth in (16 * MB, MB, 64 * KB):
        if count >= 16 * worth:
            return count // worth * worth
    return count // KB * KB
