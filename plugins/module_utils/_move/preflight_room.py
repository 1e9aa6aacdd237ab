# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether there is room for a move: on the file system of the copy, and on the disks of PostgreSQL's host."""

from __future__ import annotations

import glob
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import Report
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, snapshot


def existing_folder(folder: str) -> str:
    """Return ``folder``, or the nearest one above it that exists."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def report_room(report: Report, path: str, folder: str, space: dict | None, max_wal_size: int | None) -> dict:
    """Report where there is no room to move the database at ``path`` by a copy in ``folder``; return the sizes in bytes.

    ``{sqlite (the file and its log), snapshot (what a copy needs in folder), free (there, for the user who runs this),
    expected_postgres (at most: Synapse's documentation tells of 25 to 100 % more), wal (max_wal_size, what the server keeps of
    its log meanwhile; None where it was not asked)}``. ``space`` is what the module synapse_database_info tells, None where
    nobody ran it.

    A newer copy is made beside an older one, so that one gives nothing back; what a copy that was killed has taken counts as
    free, since the next one goes on with it.
    """
    existing = existing_folder(folder)
    status = os.statvfs(existing)
    size = os.path.getsize(path) + file.log_size(path) if os.path.isfile(path) else 0
    needed, expected = size + size // 10, 2 * size
    free = status.f_bavail * status.f_frsize + snapshot.unfinished_bytes(os.path.join(glob.escape(folder), "*"))
    if free < needed:
        report.problem(
            f"The copy needs {needed >> 20} MiB, and the file system of {existing} has {free >> 20} MiB left.",
            "Make room there, or keep the copy on another file system (in the role synapse_port: synapse_port_folder).",
        )
    if space:
        _report_disks(report, space, expected)
    else:
        report.note(
            f"Nobody could look at the disk of PostgreSQL's host: up to {expected >> 20} MiB may be needed.",
            "See that there is room for that, and for the write-ahead log.",
        )
    return {"sqlite": size, "expected_postgres": expected, "wal": max_wal_size, "snapshot": needed, "free": free}


def _report_disks(report: Report, space: dict, size: int) -> None:
    """Report where on the server's host ``size`` bytes of data and the write-ahead log do not fit.

    ``space`` is what the module synapse_database_info tells; what an earlier run brought there already needs no more room.
    """
    data, wal = space["data"], space["wal"]
    needed = max(size - data["size"], 0) + (wal["max_wal_size"] if space["same_file_system"] else 0)
    for what, place, bytes_needed in (("data", data, needed), ("write-ahead log", wal, wal["max_wal_size"])):
        if place["free"] < bytes_needed:
            report.problem(
                f"PostgreSQL's {what} may need up to {bytes_needed >> 20} MiB, and the file system of {place['path']} has "
                f"{place['free'] >> 20} MiB left.",
                "Make room there, or move the cluster to a larger file system.",
            )
