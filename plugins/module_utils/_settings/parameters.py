# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A parameter as the server has it (pg_settings), and what the server understands by a text that is a value for it."""

from __future__ import annotations

import dataclasses
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import quantities
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

# Spellings that the server takes and pg_settings.enumvals keeps quiet about, for the enums that have the value named first:
# src/backend/utils/misc/guc_tables.c (guc.c before 16).
_HIDDEN = {
    "off": {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off"},
    "debug2": {"debug": "debug2", "info": "info"},
    "minimal": {"archive": "replica", "hot_standby": "replica"},
}

# A running value with one of these sources is what the server chose itself, starting from the built-in default.
_CHOSEN = ("default", "dynamic default", "override")

# One with one of these is this session's alone, and hides what the files give to everybody.
_OF_SESSIONS = ("client", "database", "user", "database user", "session", "interactive")

# Parameters that are lists of quoted names (GUC_LIST_QUOTE), and how the server reads each: as identifiers or as paths
# (SplitIdentifierString() and SplitDirectoriesString(), src/backend/utils/adt/varlena.c).
LISTS = {
    "search_path": "names",
    "temp_tablespaces": "names",
    "local_preload_libraries": "paths",
    "oauth_validator_libraries": "paths",
    "session_preload_libraries": "paths",
    "shared_preload_libraries": "paths",
    "unix_socket_directories": "paths",
}
_SPACE = quantities.SPACE
_NAME = re.compile(rf'[{_SPACE}]*(?:"((?:[^"]|"")*)"|([^,"{_SPACE}][^,{_SPACE}]*))[{_SPACE}]*(,|\Z)')
_PATH = re.compile(rf'[{_SPACE}]*(?:"((?:[^"]|"")*)"|([^,"{_SPACE}](?:[^,]*[^,{_SPACE}])?))[{_SPACE}]*(,|\Z)')


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A row of pg_settings, whose columns these are (manual, System Views), and ``shown``: the running value as SHOW has it.

    Texts of values are as a configuration file has them, between its quotes.
    """

    name: str
    setting: str
    unit: str | None
    vartype: str
    min_val: str | None
    max_val: str | None
    enumvals: list[str] | None
    context: str
    boot_val: str | None
    source: str
    sourcefile: str | None
    pending_restart: bool
    shown: str

    @property
    def on_command_line(self) -> bool:
        """Whether the server's command line gives the value, which no file can change."""
        return self.source == "command line"

    @property
    def of_session(self) -> bool:
        """Whether the running value is this session's alone."""
        return self.source in _OF_SESSIONS

    @property
    def needs_restart(self) -> bool:
        """Whether only a restart brings another value into force."""
        return self.context == "postmaster"

    def meaning(self, text: str) -> bool | float | str | list[str]:
        """Return what the server understands by ``text``: a boolean, a number in the parameter's unit, a list, or the text.

        Two spellings mean the same when this is equal. ValueError says why the server would not take ``text``.
        """
        if self.vartype == "bool":
            return _boolean(text)
        if self.vartype == "enum":
            return self._choice(text)
        if self.vartype in ("integer", "real"):
            return self.number(text)
        return elements(self.name, text) if self.name in LISTS else text

    def number(self, text: str) -> float:
        """Return the number in the parameter's unit that ``text`` is for an integer or a real; ValueError as meaning()."""
        if self.vartype == "integer":
            return self._within(quantities.whole(quantities.quantity(text, self.unit)))
        # pg_settings shows reals with %g: more digits than that cannot be compared.
        return float(f"{self._within(quantities.real(text, self.unit)):g}")

    def accepts(self, text: str) -> bool:
        """Tell whether the server would take ``text``."""
        try:
            self.meaning(text)
        except ValueError:
            return False
        return True

    def differs(self, text: str) -> bool:
        """Tell whether ``text`` means another value than the running one.

        A wish for the built-in default, as in ``wal_buffers = -1``, is met by whatever value the server chose by itself.
        """
        running, wanted = self.meaning(self.setting), self.meaning(text)
        chosen = self.source in _CHOSEN and self.boot_val is not None and wanted == self.meaning(self.boot_val)
        return wanted != running and not chosen

    def _within(self, value: float) -> float:
        """Return ``value``; ValueError when it is outside the parameter's range."""
        if not float(self.min_val or "-inf") <= value <= float(self.max_val or "inf"):
            unit = f", in units of {self.unit}," if self.unit else ""
            raise ValueError(f"{value:g}{unit} is outside {self.min_val} to {self.max_val}")
        return value

    def _choice(self, text: str) -> str:
        """Return the value among enumvals that ``text`` spells."""
        spelling, allowed = text.lower(), self.enumvals or []
        for value in allowed:
            if value.lower() == spelling:
                return value
        for value, spellings in _HIDDEN.items():
            if value in allowed and spelling in spellings:
                return spellings[spelling]
        raise ValueError(f"allowed are {', '.join(allowed)}")


def read(cursor: Cursor) -> dict[str, Parameter]:
    """Return the server's parameters by their names in lower case; those that the role may not see are missing."""
    columns = [field.name for field in dataclasses.fields(Parameter) if field.name != "shown"]
    cursor.execute(f"SELECT {', '.join(columns)}, current_setting(name, true) FROM pg_catalog.pg_settings")
    return {row[0].lower(): Parameter(*row) for row in cursor.fetchall()}


def same_meaning(parameter: Parameter | None, one: str | None, other: str | None) -> bool:
    """Tell whether two texts mean the same for the ``parameter``, None for one unknown; a text is None for no value."""
    if parameter is None:
        return one == other
    try:
        return one is not None and other is not None and parameter.meaning(one) == parameter.meaning(other)
    except ValueError:
        return False


def elements(name: str, text: str) -> list[str]:
    """Return the elements of ``text`` for the parameter ``name`` of LISTS; ValueError when it is not a list."""
    pattern = _NAME if LISTS[name] == "names" else _PATH
    found: list[str] = []
    position, more = 0, bool(text.strip(_SPACE))
    while more:
        element = pattern.match(text, position)
        if not element:
            raise ValueError("it is not a list of names with commas between them")
        plain = element[2] and (element[2].lower() if pattern is _NAME else element[2])
        found.append(element[1].replace('""', '"') if plain is None else plain)
        position, more = element.end(), element[3] == ","
    return found


def _boolean(text: str) -> bool:
    """Return the boolean of ``text``; the rules are of parse_bool(), src/backend/utils/adt/bool.c."""
    spelling = text.lower()
    if spelling == "1" or (spelling and ("true".startswith(spelling) or "yes".startswith(spelling))) or spelling == "on":
        return True
    if spelling == "0" or (spelling and ("false".startswith(spelling) or "no".startswith(spelling))) or spelling in ("of", "off"):
        return False
    raise ValueError("it is not a boolean; allowed are on and off, true and false, yes and no, 1 and 0")
