# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the controller shows how far a step is: on a line of a terminal that is renewed, or in a log now and then."""

from __future__ import annotations

import contextlib
import os
import time

from ansible.utils.display import Display

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils import _pace

display = Display()

# The controller's standard error. Ansible loads this file before it forks its workers, which keep this descriptor when they
# give up their own. After Ctrl-C nobody listens to what a worker says through Display any more.
_STDERR = os.dup(2)
_CLEAR = "\r\x1b[K"


class ProgressDisplay:
    """The progress of one ``host``'s step: a line every ``interval`` seconds, and at each quarter; none if ``quiet``.

    With ``renewed`` the terminal's own line is renewed with every State, and the log alone gets the lines.
    """

    def __init__(self, host: str, interval: float, renewed: bool, quiet: bool) -> None:
        self.host, self.interval, self.renewed, self.quiet = host, interval, renewed, quiet
        self.pace = _pace.Pace()
        self._drawn, self._logged, self._quarter = False, time.monotonic(), 0

    def show(self, state: _pace.State) -> None:
        """Show ``state``, if it is time for that; show no more once that has failed."""
        try:
            if not self.quiet:
                self._show(state)
        except Exception as error:
            self.quiet = True
            display.vv(f"The progress cannot be shown: {error}")

    def _show(self, state: _pace.State) -> None:
        self.pace.add(state)
        line = f"{self.host}: {self.pace.line(state)}"
        if self.renewed:
            self._drawn = True
            display.display(f"{_CLEAR}{line[: _width() - 1]}", stderr=True, screen_only=True, newline=False)
        quarter = _pace.percent(state.done, state.total) // 25
        if time.monotonic() - self._logged >= self.interval or self._quarter < quarter < 4:
            self._logged, self._quarter = time.monotonic(), quarter
            # With a terminal this is for the file of log_path only.
            display.display(line, stderr=True, log_only=self.renewed)

    def clear(self) -> None:
        """Take away the line of a terminal."""
        with contextlib.suppress(Exception):
            if self._drawn:
                display.display(_CLEAR, stderr=True, screen_only=True, newline=False)


def is_terminal() -> bool:
    """Tell whether the controller's standard error is a terminal."""
    return os.isatty(_STDERR)


def write(text: str) -> None:
    """Tell the person at the controller, whatever has become of Ansible."""
    clear = _CLEAR if is_terminal() else ""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"{clear}{text}\n".encode())


def _width() -> int:
    """Return the columns of the terminal as it is now."""
    with contextlib.suppress(OSError):
        return os.get_terminal_size(_STDERR).columns or 80
    return 80
