# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings that a task asks for: names and values as they are to be written, or a Refusal before anything is touched."""

from __future__ import annotations

import difflib
import re
from typing import Mapping

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter

# Names of an extension's parameters: src/backend/utils/misc/guc.c, valid_custom_variable_name().
_EXTENSION = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*(\.[A-Za-z_\u0080-\U0010ffff][\w$]*)+")


def requested(known: dict[str, Parameter], settings: Mapping[object, object]) -> dict[str, str]:
    """Return ``{name: text}`` for the ``settings`` of a task, names and texts as they are to be written, sorted by name.

    ``known`` is what the server has, as parameters.read() returns it. Refusal for a name that it does not have, for one
    that cannot be set, and for a value that it would not take. A name with a dot is an extension's and may be unknown.
    """
    found: dict[str, str] = {}
    for given, value in settings.items():
        parameter = known.get(str(given).lower())
        name = parameter.name if parameter else extension_name(known, str(given))
        if name.lower() in (other.lower() for other in found):
            raise Refusal(f"The settings name the parameter {name} twice.", "Keep one of them: case does not matter in names.")
        if parameter and parameter.context == "internal":
            raise Refusal(
                f"The parameter {name} shows what the server or its cluster was built with; no file can set it.",
                "Leave it out of the settings.",
            )
        found[name] = as_written(name, parameter, value)
    if found.get("ssl") == "on" and not known["ssl_library"].setting:
        raise Refusal(
            "This PostgreSQL was built without TLS, and ssl cannot be on.",
            "Use one that knows TLS, such as the distribution's, or leave TLS out (synapse_postgres_sslmode).",
        )
    return dict(sorted(found.items()))


def as_written(name: str, parameter: Parameter | None, value: object) -> str:
    """Return how the task's ``value`` is written for the parameter; Refusal when the server would not take it."""
    if not isinstance(value, (bool, int, float, str)):
        raise Refusal(f"The parameter {name} has {type(value).__name__} for a value.", "Give it a text, a number or a boolean.")
    if isinstance(value, bool):
        if parameter and parameter.vartype == "string":
            raise Refusal(
                f"The parameter {name} takes a text and has the boolean {value}.",
                "Put the value in quotes: yes, no, on and off without them are booleans in YAML.",
            )
        value = "on" if value else "off"
    text = str(value)
    if "\0" in text:
        raise Refusal(f"The value of the parameter {name} holds a NUL character.", "Remove it.")
    if parameter is None:
        return text
    try:
        meaning = parameter.meaning(text)
    except ValueError as error:
        raise Refusal(f"The parameter {name} cannot be {text!r}: {error}.", "Correct the value.") from None
    # Jinja makes 'True' of true: spelling switches and choices one way keeps the file the same, whichever arrives.
    if isinstance(meaning, bool):
        return "on" if meaning else "off"
    return str(meaning) if parameter.vartype == "enum" else text


def extension_name(known: dict[str, Parameter], name: str) -> str:
    """Return ``name``, which is not among the ``known`` parameters, if it can be an extension's; else Refusal."""
    if _EXTENSION.fullmatch(name):
        return name
    close = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f"Did you mean {known[close[0]].name}?" if close else "Compare with the view pg_settings."
    raise Refusal(f"The server has no parameter {name!r}.", meant)


def numeric(known: dict[str, Parameter], names: list[str]) -> set[str]:
    """Return ``names``, the option at_least, in lower case; Refusal unless each is a parameter that is a number."""
    for name in names:
        parameter = known.get(name.lower())
        if parameter is None:
            extension_name(known, name)
        if parameter is None or parameter.vartype not in ("integer", "real"):
            proper = parameter.name if parameter else name
            raise Refusal(
                f"The parameter {proper} of at_least is no number, and no value of it is a larger one.",
                "Take it out of at_least.",
            )
    return {name.lower() for name in names}
