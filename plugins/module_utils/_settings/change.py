# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What other values a change of the settings brings, which of them wait for a restart, and the table that shows it.

A text is a value as a file has it, None for a parameter that no file sets; ``path`` is the file that is ours to write; ``known``
are the server's parameters, by their names in lower case.
"""

from __future__ import annotations

import dataclasses
from typing import Mapping

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    conf_lines,
    owned_file,
    parameters,
    quantities,
    secrecy,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.conf_lines import Line, Override
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter

# The place of a value that nobody set.
BUILT_IN = "the built-in default"
RUNNING = "the running server"

# The table: how long its lines and the values in it may be.
_LINE, _CELL = 150, 32

_RESTART = "restart"


@dataclasses.dataclass(frozen=True)
class Larger:
    """A ``value``, for people, that is larger than the one that a task asks for at least, and the ``place`` that gives it."""

    value: str
    place: str


@dataclasses.dataclass(frozen=True)
class Change:
    """The parameter ``name`` comes from the ``old`` value to the ``new`` one, as people read them, or ``waits`` for a restart."""

    name: str
    old: str
    new: str
    waits: bool


def larger_elsewhere(
    known: dict[str, Parameter], lines: list[Line] | None, settings: dict[str, str], at_least: set[str], path: str
) -> dict[str, Larger]:
    """Return by name what is larger of ``at_least`` by another file than by ``settings``.

    Another file is one that is not ``path``; the command line wins over all of them, and without any the default counts.
    Without ``lines``, which not every role may see, the running value counts unless it is known to come from ``path``.
    """
    found = {}
    for name, text in settings.items():
        if name.lower() in at_least:
            parameter = known[name.lower()]
            other, larger = _without(parameter, lines, path)
            if parameter.number(other) > parameter.number(text):
                found[name] = larger
    return found


def _without(parameter: Parameter, lines: list[Line] | None, path: str) -> tuple[str, Larger]:
    """Return the text that the numeric ``parameter`` would have without ``path``, and the same for people with who says so."""
    if parameter.on_command_line:
        return parameter.setting, Larger(parameter.shown, conf_lines.COMMAND_LINE)
    line = conf_lines.last_valid(parameter.name, parameter, lines or [], except_in=path)
    if line and line.setting is not None:
        return line.setting, Larger(line.setting, line.place)
    if lines is None and not (path and owned_file.same_file(parameter.sourcefile, path)):
        return parameter.setting, Larger(parameter.shown, RUNNING)
    default = parameter.boot_val or ""
    return default, Larger(readable(parameter, default), BUILT_IN)


def affected(known: dict[str, Parameter], lines: list[Line], names: list[str], path: str) -> dict[str, Parameter | None]:
    """Return by name what a file ``path`` of the parameters ``names`` can change; None for one unknown so far.

    Those are ``names``, what the running server has from ``path``, and what ``lines`` have there.
    """
    found = {name: known.get(name.lower()) for name in names}
    in_file = {line.key: line.name or "" for line in lines if line.is_in(path)}
    for key, parameter in known.items():
        if key in in_file or owned_file.same_file(parameter.sourcefile, path):
            found[parameter.name] = parameter
    keys = {name.lower() for name in found}
    return {**found, **{name: None for key, name in in_file.items() if key and key not in keys}}


def texts_now(concerned: Mapping[str, Parameter | None], lines: list[Line]) -> dict[str, str | None]:
    """Return ``{name: text}`` of what the files, whose ``lines`` these are, give to the parameters ``concerned``."""
    last = {name: conf_lines.last_valid(name, parameter, lines) for name, parameter in concerned.items()}
    return {name: line.setting if line else None for name, line in last.items()}


def texts_to_come(
    concerned: Mapping[str, Parameter | None],
    lines: list[Line],
    settings: dict[str, str],
    overridden: dict[str, Override],
    path: str,
) -> dict[str, str | None]:
    """Return ``{name: text}`` of what the files give to the parameters ``concerned`` once ``path`` has ``settings``.

    ``overridden`` is what conf_lines.overriding() found.
    """
    found: dict[str, str | None] = {}
    for name, parameter in concerned.items():
        if name in overridden:
            found[name] = overridden[name].setting
        elif name in settings:
            found[name] = settings[name]
        else:
            line = conf_lines.last_valid(name, parameter, lines, except_in=path)
            found[name] = line.setting if line else None
    return found


def awaiting_restart(known: dict[str, Parameter], texts: Mapping[str, str | None], predicted: bool) -> list[str]:
    """Return the names, sorted, of parameters whose value by the files, ``texts``, is not the running one and needs a restart.

    Unless the texts are ``predicted``, the server has loaded the files: then its own pending_restart has a say, because it
    compares after its own ideas of spelling (cluster_name loses its umlauts).
    """
    waiting = []
    for name, text in texts.items():
        parameter = known.get(name.lower())
        if parameter is None or not parameter.needs_restart or parameter.on_command_line:
            continue
        if (text is None or parameter.differs(text)) and (predicted or parameter.pending_restart):
            waiting.append(name)
    return sorted(waiting)


def changes(
    known: dict[str, Parameter],
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
    waiting: list[str],
    unloaded: bool,
) -> list[Change]:
    """Return, by name, the parameters that come to another value than the one in force, and those ``waiting`` for a restart.

    ``known`` is from before the change, as is ``before``, the files' texts by name; ``after`` are those then. While the
    files as they were are ``unloaded``, the value in force alone tells.
    """
    found = []
    for name, text in sorted(after.items()):
        parameter = known.get(name.lower())
        if name in waiting or _changes_value(parameter, before.get(name), text, unloaded):
            found.append(dataclasses.replace(change(name, parameter, before.get(name), text), waits=name in waiting))
    return found


def change(name: str, parameter: Parameter | None, before: str | None, after: str | None) -> Change:
    """Return the Change of a parameter that the files gave ``before`` and then ``after``; it does not wait."""
    if secrecy.is_secret(name, parameter):
        return Change(name, secrecy.NOT_SHOWN, secrecy.NOT_SHOWN, waits=False)
    new = parameter.boot_val if parameter and after is None else after
    return Change(name, in_force(parameter, before), readable(parameter, new), waits=False)


def in_force(parameter: Parameter | None, text: str | None) -> str:
    """Return the value in force as SHOW has it; where this session has one of its own, the ``text`` of the files instead."""
    if parameter is None:
        return readable(None, text)
    if parameter.of_session:
        return readable(parameter, parameter.boot_val if text is None else text)
    return parameter.shown


def readable(parameter: Parameter | None, text: str | None) -> str:
    """Return ``text``, a bare number of it with its unit, as SHOW would have it: 16384 of 8kB is 128MB."""
    return quantities.with_unit(text or "", parameter.unit if parameter else None)


def table(changed: list[Change], marks: dict[str, str], comments: Mapping[str, object]) -> list[str]:
    """Return the lines of a table of ``changed`` for people, its header first; none when nothing changed.

    ``marks`` has, by name, what a parameter needs besides a restart; the reason is the first line of its comment.
    """
    rows = [("parameter", "old", "new", "needs", "reason")]
    for one in changed:
        needs = marks.get(one.name, _RESTART if one.waits else "")
        reason = (str(comments.get(one.name, "")).strip().splitlines() or [""])[0]
        rows.append((one.name, _cell(one.old), _cell(one.new), needs, reason))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0])) for row in rows]
    return [_clipped(line.rstrip(), _LINE) for line in lines] if changed else []


def _cell(text: str) -> str:
    """Return ``text`` for one cell: in one line, not too long, and quotes for an empty one."""
    return _clipped(" ".join(text.split()), _CELL) or "''"


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


def _changes_value(parameter: Parameter | None, before: str | None, after: str | None, unloaded: bool) -> bool:
    """Tell whether files that give ``after`` where they gave ``before`` change the value in force of the ``parameter``."""
    if parameter is None:
        return unloaded or before != after
    if parameter.on_command_line:
        return False
    old, new = (parameter.boot_val if text is None else text for text in (before, after))
    if not unloaded and (old == new or parameters.same_meaning(parameter, old, new)):
        return False
    return parameter.of_session or new is None or parameter.differs(new)
