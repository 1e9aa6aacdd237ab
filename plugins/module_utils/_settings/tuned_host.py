# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host that the model of settings is fed with, and what of it makes no sense."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import GB, MB

OLDEST_SERVER = 14

# Memory that a host can be said to have: with more than 32 TB, shared_buffers would be larger than the server can have it.
LEAST_MEMORY, MOST_MEMORY = 64 * MB, 16 * 1024 * GB

# random_page_cost, effective_io_concurrency: the default cost, 4, is of rotating disks (manual, Planner Cost Constants); 1.1
# is what pgtune and others settled on for storage without a moving arm, and so are the reads that it takes on at once.
STORAGE = {"ssd": ("1.1", "200"), "hdd": ("4", "2"), "network": ("1.1", "300")}


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


def require_sensible(host: Host) -> None:
    """Raise Refusal for a host that is out of the model's range."""
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
