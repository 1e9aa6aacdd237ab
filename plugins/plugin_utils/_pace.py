# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a step is, how fast it goes and how long it still takes: a progress file's content, and one line of text from it."""

from __future__ import annotations

import collections
import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class State:
    """What module_utils/_progress.Progress wrote of a ``step``: ``done`` of ``total``, both counted in ``unit``.

    ``current`` is the table, or the part of the step, that it is at; ``since`` (the step's beginning) and ``at`` (this state) are
    seconds since the epoch by the host's clock; ``tables`` maps a table to (done, total).
    """

    step: str
    unit: str
    current: str
    done: int
    total: int
    since: float
    at: float
    tables: dict[str, tuple[int, int]]

    @classmethod
    def parsed(cls, line: str) -> State | None:
        """Return the State that ``line``, one of a progress file, tells; None when Progress does not write such a one."""
        found = json_object(line)
        if found is None or not _is_sound(found):
            return None
        tables = {name: (table["done"], table["total"]) for name, table in found["tables"].items()}
        words, counts = (found["step"], found["unit"], found["doing"]), (found["done"], found["total"])
        return cls(*words, *counts, found["since"], found["at"], tables)


class Pace:
    """How fast a step goes and how long it still takes, from the States of its progress file, as one line of text."""

    # Seconds of the step's recent past from which its speed is taken.
    WINDOW = 30

    def __init__(self) -> None:
        self._states: collections.deque[State] = collections.deque()

    def add(self, state: State) -> None:
        """Take in a ``state`` that is newer than those before."""
        states = self._states
        if states and (state.since != states[-1].since or state.done < states[-1].done):
            states.clear()  # another part of the step
        if not states or state.at > states[-1].at:
            states.append(state)
        while len(states) > 2 and states[-1].at - states[0].at > self.WINDOW:
            states.popleft()

    def rate(self) -> float | None:
        """Return how many units a second are done lately, None when that cannot be told yet."""
        if not self._states:
            return None
        first, last = self._states[0], self._states[-1]
        return (last.done - first.done) / (last.at - first.at) if last.at > first.at else None

    def line(self, state: State) -> str:
        """Return ``state`` and the pace in words."""
        current = state.current
        if current in state.tables:
            done, total = state.tables[current]
            current = f"{current} {done:,}/{total:,}"
        words = [f"{state.step}: {current}" if current else state.step]
        if state.total:
            words.append(f"{state.done:,} of {state.total:,} {state.unit}")
            words.append(f"{percent(state.done, state.total)} %")
        rate = self.rate()
        if rate is not None:
            words.append(f"{rate:,.0f} {state.unit}/s")
        if rate and state.done < state.total:
            words.append(f"{time_left((state.total - state.done) / rate)} left")
        return ", ".join(words)


def percent(done: int, total: int) -> int:
    """Return the whole percent that ``done`` is of ``total``, 100 only when everything is done."""
    return min(done, total) * 100 // total if total else 0


def time_left(seconds: float) -> str:
    """Return ``seconds`` in the words of somebody who estimates."""
    if seconds < 90:
        return f"about {max(int(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60 // 10 * 10} min"


def json_object(text: str) -> dict | None:
    """Return the JSON object that is all of ``text``, None if it is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_sound(found: dict) -> bool:
    """Tell whether the JSON object ``found`` has all that a State needs, each of its type."""
    words, times, tables = (found.get(key) for key in ("step", "unit", "doing")), ("since", "at"), found.get("tables")
    return (
        all(isinstance(word, str) and word.isprintable() for word in words)
        and _has_counts(found)
        and all(isinstance(found.get(key), (int, float)) and abs(found[key]) < 2**53 for key in times)
        and isinstance(tables, dict)
        and all(isinstance(table, dict) and _has_counts(table) for table in tables.values())
    )


def _has_counts(found: dict) -> bool:
    """Tell whether ``found`` says how many are done of how many."""
    counts = (found.get("done"), found.get("total"))
    return all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63 for count in counts)
