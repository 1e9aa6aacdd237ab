# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import sys

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    """Runs the module postgres_settings, and shows its table as one: a task's result would break the lines."""

    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        result = self._execute_module(task_vars=task_vars, wrap_async=bool(self._task.async_val))
        if result.get("table") and not self._task.no_log:
            lines = [f"{task_vars['inventory_hostname']}: {line}" for line in result["table"]]
            display.display("\n".join(map(_fitted, lines)))
        return result


def _fitted(line: str) -> str:
    """Return ``line``, cut off where a terminal ends."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(line)
    return line if len(line) <= width else f"{line[: width - 1]}…"
