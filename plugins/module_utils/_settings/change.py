# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What other values a change of the settings brings, which of them wait for a restart, and the table that shows it.

Parameters and lines of files are as in parameters. A text is a value as a file has it, None for a parameter that no file sets;
``path`` is the file that is ours to write.
"""

from __future__ import annotations

import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import parameters

# A running value with one of these sources is this session's alone, and hides what the files give to everybody.
OF_SESSIONS = ("client", "database", "user", "database user", "session", "interactive")

# The place of a value that nobody set.
BUILT_IN = "the built-in default"
RUNNING = "the running server"

# The table: how long its lines and the values in it may be.
_LINE, _CELL = 150, 32

_RESTART = "restart"


def only_raised(known: dict, names: list[str]) -> set[str]:
    """Return ``names`` in lower case; Refusal unless each is a parameter that is a number."""
    for name in names:
        row = known.get(name.lower())
        if row is None:
            parameters.custom(known, name)
        if row is None or row["vartype"] not in ("integer", "real"):
            raise Refusal(
                f"The parameter {row['name'] if row else name} of at_least is no number, and no value of it is a larger one.",
                "Take it out of at_least.",
            )
    return {name.lower() for name in names}


def larger_elsewhere(known: dict, lines: list[dict] | None, settings: dict, at_least: set[str], path: str) -> dict[str, dict]:
    """Return ``{name: {value, place}}`` for those of ``at_least`` that are larger by another file than by ``settings``.

    Another file is one that is not ``path``; the command line wins over all of them, and without any the default counts.
    Without ``lines``, which not every role may see, the running value counts unless it is known to come from ``path``.
    """
    found = {}
    for name, text in settings.items():
        if name.lower() in at_least:
            row = known[name.lower()]
            other, shown, place = _without(row, lines, path)
            if parameters.meaning(row, other) > parameters.meaning(row, text):
                found[name] = {"value": shown, "place": place}
    return found


def _without(row: dict, lines: list[dict] | None, path: str) -> tuple[str, str, str]:
    """Return what the parameter ``row`` would be without ``path``: its text, the same for people, and who says so."""
    if row["source"] == "command line":
        return row["setting"], row["shown"], parameters.COMMAND_LINE
    line = parameters.elsewhere(row, lines or [], path)
    if line:
        return line["setting"], line["setting"], parameters.place(line)
    if lines is None and not (path and parameters.same_file(row["sourcefile"], path)):
        return row["setting"], row["shown"], RUNNING
    return row["boot_val"], readable(row, row["boot_val"]), BUILT_IN


def concerned(known: dict, lines: list[dict], names: list[str], path: str) -> dict[str, dict | None]:
    """Return ``{name: row}`` of what a file ``path`` of the parameters ``names`` can change; None for one unknown so far.

    Those are ``names``, what the running server has from ``path``, and what ``lines`` have there.
    """
    found = {name: known.get(name.lower()) for name in names}
    ours = {(line["name"] or "").lower(): line["name"] for line in lines if parameters.same_file(line["sourcefile"], path)}
    for name, row in known.items():
        if name in ours or parameters.same_file(row["sourcefile"], path):
            found[row["name"]] = row
    have = {name.lower() for name in found}
    return {**found, **{name: None for lower, name in ours.items() if lower and lower not in have}}


def futures(rows: dict, lines: list[dict], settings: dict, overridden: dict, path: str) -> dict[str, str | None]:
    """Return ``{name: text}`` of what the files give to the parameters ``rows`` once ``path`` has ``settings``.

    None stands for a parameter that no file sets. ``overridden`` is what overriding() found.
    """
    found = {}
    for name, row in rows.items():
        if name in overridden:
            found[name] = overridden[name]["setting"]
        elif name in settings:
            found[name] = settings[name]
        else:
            line = parameters.elsewhere(row or {"name": name}, lines, path)
            found[name] = line["setting"] if line else None
    return found


def presents(rows: dict, lines: list[dict]) -> dict[str, str | None]:
    """Return ``{name: text}`` of what the files, whose ``lines`` these are, give to the parameters ``rows``."""
    last = {name: parameters.elsewhere(row or {"name": name}, lines, None) for name, row in rows.items()}
    return {name: line["setting"] if line else None for name, line in last.items()}


def awaiting_restart(known: dict, texts: dict, foretold: bool) -> list[str]:
    """Return the names, sorted, of parameters whose value by the files, ``texts``, is not the running one and needs a restart.

    Unless the future is ``foretold``, the server has loaded the files: then its own pending_restart has a say, because it
    compares after its own ideas of spelling (cluster_name loses its umlauts).
    """
    waiting = []
    for name, text in texts.items():
        row = known.get(name.lower())
        if row is None or row["context"] != "postmaster" or row["source"] == "command line":
            continue
        if (text is None or parameters.differs(row, text)) and (foretold or row["pending_restart"]):
            waiting.append(name)
    return sorted(waiting)


def changes(known: dict, before: dict, after: dict, waiting: list[str], unloaded: bool) -> list[dict]:
    """Return ``[{name, old, new, waits}]`` for the parameters that come to another value than the one in force, by name.

    ``known`` is from before the change, as is ``before``, the files' texts by name; ``after`` are those then. While the
    files as they were are ``unloaded``, the value in force alone tells.
    """
    found = []
    for name, text in sorted(after.items()):
        row = known.get(name.lower())
        waits = name in waiting
        if waits or _moves(row, before.get(name), text, unloaded):
            found.append(change(name, row, before.get(name), text, waits))
    return found


def change(name: str, row: dict | None, before: str | None, after: str | None, waits: bool) -> dict:
    """Return ``{name, old, new, waits}``, values for people, of a parameter that the files gave ``before`` and then ``after``."""
    old, new = in_force(row, before), readable(row, row["boot_val"] if row and after is None else after)
    if parameters.secret(name, row):
        old = new = parameters.NOT_SHOWN
    return {"name": name, "old": old, "new": new, "waits": waits}


def in_force(row: dict | None, text: str | None) -> str:
    """Return the value in force as SHOW has it; where this session has one of its own, the ``text`` of the files instead."""
    if row is None or row["source"] in OF_SESSIONS:
        return readable(row, text if text is not None else row and row["boot_val"])
    return row["shown"]


def readable(row: dict | None, text: str | None) -> str:
    """Return ``text``, a bare number of it with its unit, as SHOW would have it: 16384 of 8kB is 128MB."""
    if row is None or row["unit"] is None or not re.fullmatch(r"[1-9]\d*", text or ""):
        return text or ""
    count, base = re.fullmatch(r"(\d*)(\D+)", row["unit"]).groups()
    family = parameters.MEMORY if base in parameters.MEMORY else parameters.TIME
    amount = int(text) * int(count or 1) * family[base]
    unit = next(unit for unit, worth in family.items() if amount % worth == 0)
    return f"{amount // family[unit]}{unit}"


def table(changed: list[dict], marks: dict[str, str], comments: dict[str, str]) -> list[str]:
    """Return the lines of a table of ``changed`` (see changes()) for people, its header first; none when nothing changed.

    ``marks`` has, by name, what a parameter needs besides a restart; the reason is the first line of its comment.
    """
    rows = [("parameter", "old", "new", "needs", "reason")]
    for one in changed:
        needs = marks.get(one["name"], _RESTART if one["waits"] else "")
        reason = (str(comments.get(one["name"], "")).strip().splitlines() or [""])[0]
        rows.append((one["name"], _cell(one["old"]), _cell(one["new"]), needs, reason))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0])) for row in rows]
    return [_clipped(line.rstrip(), _LINE) for line in lines] if changed else []


def _cell(text: str) -> str:
    """Return ``text`` for one cell: in one line, not too long, and quotes for an empty one."""
    return _clipped(" ".join(text.split()), _CELL) or "''"


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


def _moves(row: dict | None, before: str | None, after: str | None, unloaded: bool) -> bool:
    """Tell whether files that give ``after`` where they gave ``before`` change the value in force of the parameter."""
    if row is None:
        return unloaded or before != after
    if row["source"] == "command line":
        return False
    was, then = (row["boot_val"] if text is None else text for text in (before, after))
    if not unloaded and (was == then or alike(row, was, then)):
        return False
    return row["source"] in OF_SESSIONS or then is None or parameters.differs(row, then)


def alike(row: dict | None, one: str | None, other: str | None) -> bool:
    """Tell whether two texts mean the same for the parameter ``row``, None for one unknown."""
    if row is None:
        return one == other
    try:
        return one is not None and other is not None and parameters.meaning(row, one) == parameters.meaning(row, other)
    except ValueError:
        return False
