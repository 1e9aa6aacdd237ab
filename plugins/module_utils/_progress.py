# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a long step is, in a file that another process reads while the step runs."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

# Seconds between two writes; who reads looks about as often.
_PAUSE = 1.0


class Progress:
    """Writes how far the step ``step`` is to the file ``path``, mode 0600, at most once a second and once at the end.

    The file is always whole: ``{step, unit, doing, done, total, since, at, tables}``, ``done`` and ``total`` counted in
    ``unit`` over the whole step, ``since`` (its beginning) and ``at`` (this state) in seconds since the epoch, ``tables``
    as ``{name: {done, total}}``. A file that cannot be written, on a full disk say, is left alone: it stops no step.
    """

    def __init__(self, path: str, step: str, unit: str = "rows") -> None:
        self.path = path
        self._state: dict[str, Any] = {
            "step": step,
            "unit": unit,
            "doing": "",
            "done": 0,
            "total": 0,
            "since": 0.0,
            "at": 0.0,
            "tables": {},
        }
        self._written = 0.0

    def __enter__(self) -> Progress:
        self._state["since"] = self._state["at"] = time.time()
        self._write()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._write()

    def tell(self, current: str, done: int, total: int, tables: dict | None = None, now: bool = False) -> None:
        """Note that the step is at ``current`` (a table, or what it does) and has ``done`` of ``total`` behind it.

        ``now`` writes it at once, before a part that tells nothing for long.
        """
        self._state.update(doing=current, done=done, total=total, at=time.time())
        if tables is not None:
            self._state["tables"] = tables
        if now or not 0 <= time.monotonic() - self._written < _PAUSE:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        fresh = f"{self.path}.new"
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            try:
                with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
                    json.dump(self._state, stream)
                os.replace(fresh, self.path)
            except OSError:
                os.unlink(fresh)
