# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's parameters for a host: a budget of memory that is divided, so that the worst case still fits into it.

The worst case, the envelope, is that everything that can run does, and that each takes all that it may. What the model
chooses itself stays within ENVELOPE of the budget, on any host.
"""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import parameters

KB, MB, GB = 1024, 1024**2, 1024**3

OLDEST_SERVER = 14

# What stays for the kernel and the host's own services: a share of the memory, with limits.
SYSTEM_SHARE, SYSTEM_LEAST, SYSTEM_MOST = 0.10, 64 * MB, 1 * GB

# What Synapse's processes and their caches take, by this project's estimate: a homeserver of a few users some 300 MB, a busy one
# some GB; a worker has only the caches of what it does.
SYNAPSE_SHARE, SYNAPSE_LEAST, SYNAPSE_MOST, WORKER_MOST = 0.40, 128 * MB, 4 * GB, 1 * GB

LEAST_BUDGET = 128 * MB

# Memory that a host can be said to have: with more than 32 TB, shared_buffers would be larger than the server can have it.
LEAST_MEMORY, MOST_MEMORY = 64 * MB, 16 * 1024 * GB

ENVELOPE = 0.90

# What a server's process takes for itself beside all of that. Private memory (smaps) on PostgreSQL 15, of one that has read and
# written 40 of Synapse's tables, was 2.5 MB; under `make bench ONLY=tuning` 3 MB, less the postmaster's and a sort of 3 MB. Of
# others, such as the checkpointer, it was below 1 MB.
EXECUTOR, OTHER_PROCESS = 3 * MB, 1 * MB

# Processes beside those of connections, parallel workers and autovacuum: checkpointer, writers, launchers, the postmaster.
BACKGROUND = 6

# The server's defaults that the model builds on (manual, Server Configuration).
MAX_CONNECTIONS = 100
MAX_WORKER_PROCESSES = 8
MAX_PARALLEL_WORKERS = 8
AUTOVACUUM_WORKERS = 3
LEAST_WORK_MEM = 64 * KB
LEAST_WAL_BUFFERS, WAL_SEGMENT, WAL_BLOCK = 64 * KB, 16 * MB, 8 * KB

# Connections kept free for superusers (superuser_reserved_connections: 3), backups, monitoring and a person with psql.
RESERVED_CONNECTIONS = 10

MOST_WORK_MEM = 256 * MB
MOST_MAINTENANCE = 2 * GB
LEAST_WAL, MOST_WAL = 1 * GB, 8 * GB
HUGE_PAGES_FROM = 2 * GB

# random_page_cost, effective_io_concurrency: the default cost, 4, is of rotating disks (manual, Planner Cost Constants); 1.1
# is what pgtune and others settled on for storage without a moving arm, and so are the reads that it takes on at once.
STORAGE = {"ssd": ("1.1", "200"), "hdd": ("4", "2"), "network": ("1.1", "300")}

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

_CONTEXTS = {"": "", "reload": "A change comes into force by a reload.", "restart": "A change needs a restart."}

_BAR = 60


@dataclasses.dataclass(frozen=True)
class Host:
    """What the model is fed with: bytes of ``memory``, the ``share`` of it for us, counts, and a key of STORAGE.

    ``limit``: what the server's own control group leaves it, in bytes; None for no limit.
    """

    memory: int
    share: float = 1.0
    limit: int | None = None
    connections: int = 20
    cpus: int = 1
    storage: str = "ssd"
    synapse_on_host: bool = False
    synapse_processes: int = 1
    server_version: int = 15


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


def divide(host: Host, own: dict | None = None) -> Budget:
    """Return the Budget of ``host``, with the parameters of one's ``own`` ({name: value}) as they are given.

    Refusal when an input is out of range, when one's own values cannot be read, or when the memory does not suffice. The rules
    and where they come from are in the reasons of settings(). Only one's own values can make the envelope exceed its limit.
    """
    _require_sensible(host)
    given = _given(own or {})
    available, system, synapse, budget = _budget(host)
    connections = max(host.connections, given.get("max_connections", 0))
    executors = connections + given.get("max_parallel_workers", _parallel(host))
    shares = _shares(host, budget)
    if given.get("autovacuum_work_mem", 0) < 0:
        del given["autovacuum_work_mem"]
        shares["autovacuum_work_mem"] = given.get("maintenance_work_mem", shares["maintenance_work_mem"])
    # Each is rounded down from its exact share, and the rest counted without the rounding: so every value grows with the memory.
    exact = {**shares, **{name: value for name, value in given.items() if name in shares}}
    exact["wal_buffers"] = given.get("wal_buffers", _wal_buffers(exact["shared_buffers"]))
    found = Budget(
        memory=host.memory,
        available=available,
        system=system,
        synapse=synapse,
        budget=budget,
        limited=host.limit is not None and budget == host.limit,
        connections=connections,
        executors=executors,
        # One sort, and one hash table of hash_mem_multiplier times work_mem: 1 in version 14, 2 from 15 on (manual, Memory).
        uses=1 + given.get("hash_mem_multiplier", 1 if host.server_version < 15 else 2),
        vacuums=given.get("autovacuum_max_workers", AUTOVACUUM_WORKERS),
        work_mem=given.get("work_mem", 0),
        **exact,
    )
    if "work_mem" not in given:
        found = dataclasses.replace(found, work_mem=_work_mem(found, given))
    rounded = {name: _rounded(value) for name, value in shares.items() if name not in given}
    if "wal_buffers" not in given:
        rounded["wal_buffers"] = _wal_buffers(rounded.get("shared_buffers", found.shared_buffers))
    return dataclasses.replace(found, **rounded)


def settings(host: Host, own: dict | None = None) -> dict[str, Setting]:
    """Return ``{name: Setting}`` for ``host``; one's ``own`` are among them as they were given. Refusal as divide()."""
    own = own or {}
    found = _proposed(host, divide(host, own))
    given = {name.lower() for name in own}
    contexts = {name: found.pop(name).context for name in given & set(found)}
    for name, value in own.items():
        context = contexts.get(name.lower(), "")
        found[name] = Setting(value, "Set by the play", _instead(host, own, name), "the administrator", context)
    return found


def excess(budget: Budget, own: dict) -> str:
    """Return a sentence on how far one's ``own`` values take the worst case beyond its limit, empty where they do not."""
    if budget.envelope <= budget.limit:
        return ""
    names = ", ".join(sorted(name for name in own if name.lower() in _COUNTED))
    return (
        f"With your own {names} PostgreSQL can take {budget.envelope // MB} MB in the worst case, which is "
        f"{100 * budget.envelope // budget.budget} % of its budget of {budget.budget // MB} MB; at most {ENVELOPE:.0%} is safe. "
        "Lower them, or the number of connections, or give it more memory."
    )


def drawn(budget: Budget) -> list[str]:
    """Return lines of text that show how the host's memory is divided in the worst case."""
    outside = budget.memory - budget.system - budget.synapse - budget.budget
    parts = [
        ("s", "system and other services", budget.system),
        ("S", "Synapse", budget.synapse),
        ("o", "others (share, control group)", outside),
        ("B", "shared_buffers, wal_buffers", budget.shared_buffers + budget.wal_buffers),
        ("m", "maintenance_work_mem", budget.maintenance_work_mem),
        ("v", f"{budget.vacuums} x autovacuum_work_mem", budget.vacuums * budget.autovacuum_work_mem),
        ("q", f"{budget.executors} x {budget.uses:g} x work_mem", budget.queries),
        ("p", "the processes themselves", budget.processes),
        (".", "free even then, for cached files", budget.budget - budget.envelope),
    ]
    parts = [part for part in parts if part[2] > 0]
    line, ends, total = "", 0, sum(count for _letter, _name, count in parts)
    for letter, _name, count in parts:
        ends += count
        line += letter * (round(_BAR * ends / total) - len(line))
    head = f"Memory {budget.memory // MB} MB, PostgreSQL's budget {budget.budget // MB} MB,"
    worst = f"of which it takes {budget.envelope // MB} MB in the worst case, {100 * budget.envelope // budget.budget} %:"
    return [head, worst, f"[{line}]", *(f" {sign}  {name:32}{count // MB:>8} MB" for sign, name, count in parts)]


def size(count: int) -> str:
    """Return ``count`` bytes as PostgreSQL writes sizes, in the largest unit that divides it: 256MB, 2GB, 64kB."""
    for unit, worth in (("GB", GB), ("MB", MB), ("kB", KB)):
        if count % worth == 0:
            return f"{count // worth}{unit}"
    raise ValueError(f"{count} bytes are no whole kB")


def _budget(host: Host) -> tuple[int, int, int, int]:
    """Return the bytes that are available, those for the system and for Synapse, and PostgreSQL's budget; or a Refusal."""
    available = int(host.memory * host.share)
    system = min(max(int(available * SYSTEM_SHARE), SYSTEM_LEAST), SYSTEM_MOST)
    workers = host.synapse_processes - 1
    synapse = max(int(available * SYNAPSE_SHARE), host.synapse_processes * SYNAPSE_LEAST)
    synapse = min(synapse, SYNAPSE_MOST + workers * WORKER_MOST) if host.synapse_on_host else 0
    budget = available - system - synapse
    if host.limit is not None:
        budget = min(budget, host.limit)
    if budget < LEAST_BUDGET:
        limited = f" and a limit of {host.limit // MB} MB of its control group" if host.limit == budget else ""
        raise Refusal(
            f"Of {available // MB} MB of memory, {max(budget, 0) // MB} MB remain for PostgreSQL after {system // MB} MB for the "
            f"system and {synapse // MB} MB for Synapse{limited}; it needs {LEAST_BUDGET // MB} MB.",
            "Raise that limit (MemoryMax of its service)." if limited else "Give it a larger share, or a host with more memory.",
        )
    return available, system, synapse, budget


def _shares(host: Host, budget: int) -> dict[str, int]:
    """Return the exact shares of the ``budget``, before they are rounded."""
    return {
        "shared_buffers": budget // 4,
        "maintenance_work_mem": min(budget // 16, MOST_MAINTENANCE),
        "autovacuum_work_mem": min(budget // 32, _most_of_a_vacuum(host)),
    }


def _wal_buffers(shared_buffers: int) -> int:
    """Return the bytes that the server would choose by itself (manual, Write Ahead Log)."""
    return min(max(shared_buffers // 32 // WAL_BLOCK * WAL_BLOCK, LEAST_WAL_BUFFERS), WAL_SEGMENT)


def _parallel(host: Host) -> int:
    """Return how many parallel workers there may be: Synapse's queries are short, and on many processors few are enough."""
    return min(host.cpus, MAX_PARALLEL_WORKERS)


def _most_of_a_vacuum(host: Host) -> int:
    """Return the bytes that a vacuum may have: before 17 it could not use more than 1 GB (release notes of 17)."""
    return MOST_MAINTENANCE if host.server_version >= 17 else GB


def _work_mem(found: Budget, given: dict) -> int:
    """Return what is left for each sort in ``found``, which has none yet; or a Refusal."""
    rest = found.limit - found.envelope
    each = min(_rounded(max(0, int(rest / (found.executors * found.uses)))), MOST_WORK_MEM)
    if each < LEAST_WORK_MEM:
        yours = ", ".join(f"{name} {_told(name, value)}" for name, value in sorted(given.items()))
        raise Refusal(
            f"{found.connections} connections and {found.executors - found.connections} parallel workers leave "
            f"{each // KB} kB of work_mem for each in a budget of {found.budget // MB} MB"
            f"{f' with your {yours}' if yours else ''}; the server needs {LEAST_WORK_MEM // KB} kB.",
            "Lower the pools of Synapse's processes (cp_max) or max_parallel_workers, give PostgreSQL more memory"
            f"{', or lower your own values or set work_mem as well' if yours else ''}.",
        )
    return each


def _proposed(host: Host, budget: Budget) -> dict[str, Setting]:
    """Return the model's settings for the ``budget`` of ``host``."""
    return {**_memory(host, budget), **_wal(budget), **_storage(host), **_processes(host)}


def _instead(host: Host, own: dict, name: str) -> dict[str, str]:
    """Return what the model would say instead of one's own value for ``name``: an input of the Setting."""
    try:
        others = {other: value for other, value in own.items() if other != name}
        computed = _proposed(host, divide(host, others)).get(name.lower())
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
            size(_rounded(budget.budget * 3 // 4)),
            "75 % of the budget, for shared_buffers and what the kernel keeps of files",
            whole,
            "manual, Planner Cost Constants; the share is pgtune's",
            "reload",
        ),
        "work_mem": Setting(
            size(budget.work_mem),
            f"The rest of {ENVELOPE:.0%} of the budget, {budget.uses:g} for each of {budget.executors}, "
            f"at most {size(MOST_WORK_MEM)}",
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
            f"1/16 of the budget, at most {size(MOST_MAINTENANCE)}, for one index build or restore at a time",
            whole,
            "manual, Resource Consumption; the share is pgtune's",
            "reload",
        ),
        "autovacuum_work_mem": Setting(
            size(budget.autovacuum_work_mem),
            f"1/32 of the budget for each worker, at most {size(_most_of_a_vacuum(host))}",
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
            f"1/32 of shared_buffers, from {size(LEAST_WAL_BUFFERS)} to a segment of {size(WAL_SEGMENT)}",
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
    cost, depth = STORAGE[host.storage]
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
            str(_parallel(host)),
            f"One for each processor, at most {MAX_PARALLEL_WORKERS}, the default: Synapse's queries are short",
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


def _given(own: dict) -> dict[str, float]:
    """Return those of one's ``own`` values that count in the budget, as bytes or numbers; Refusal for one that is neither.

    What leaves it to the server (-1) is not among them, but for autovacuum_work_mem. Their ranges are the server's to judge.
    """
    found = {}
    for name, value in own.items():
        name = name.lower()
        if name not in _COUNTED:
            continue
        worth = _COUNTED[name]
        try:
            if isinstance(value, bool):
                raise ValueError("it is a boolean")
            amount = parameters.quantity(str(value), _UNITS[worth] if worth else None)
            if amount < -1 or amount > 1 << 53:
                raise ValueError("it is out of range")
        except (ValueError, OverflowError) as error:
            raise Refusal(f"The parameter {name} cannot be {value!r}: {error}.", "Correct the value.") from None
        # autovacuum_work_mem then is maintenance_work_mem, see divide().
        if amount >= 0 or name == "autovacuum_work_mem":
            found[name] = amount if name == "hash_mem_multiplier" else round(amount) * (worth or 1)
    return found


def _told(name: str, amount: float) -> str:
    """Return what is given for the parameter as it would be written."""
    return size(int(amount)) if _COUNTED[name] else f"{amount:g}"


def _rounded(count: int) -> int:
    """Return ``count`` bytes rounded down so that a kernel's few kB more or less of MemTotal seldom ask for a restart."""
    for worth in (16 * MB, MB, 64 * KB):
        if count >= 16 * worth:
            return count // worth * worth
    return count // KB * KB


def _require_sensible(host: Host) -> None:
    if not 0 < host.share <= 1:
        raise Refusal(f"The share of the memory is {host.share}.", "Give a number above 0 and up to 1.")
    if not LEAST_MEMORY <= host.memory <= MOST_MEMORY:
        raise Refusal(
            f"The memory is {host.memory // MB} MB.", f"Give one from {LEAST_MEMORY // MB} MB to {MOST_MEMORY // GB // 1024} TB."
        )
    # The server's limit of all processes is 262143 (MAX_BACKENDS, src/include/postmaster/postmaster.h).
    counts = (("connections", 1, 200000), ("cpus", 1, 1024), ("synapse_processes", 1, 1000))
    for name, least, most in counts:
        if not least <= getattr(host, name) <= most:
            raise Refusal(f"The number of {name} is {getattr(host, name)}.", f"Give one from {least} to {most}.")
    if host.storage not in STORAGE:
        raise Refusal(f"The storage is {host.storage!r}.", f"Give one of {', '.join(STORAGE)}.")
    if host.server_version < OLDEST_SERVER:
        raise Refusal(
            f"The server's version is {host.server_version}; Synapse needs {OLDEST_SERVER} or newer.",
            "Upgrade the server, or give the version that it will have.",
        )
