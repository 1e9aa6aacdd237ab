# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The division of a host's memory drawn as a bar of text, with a line for each part."""

from __future__ import annotations

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.memory_budget import Budget
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import MB

_BAR = 60


def lines(budget: Budget) -> list[str]:
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
