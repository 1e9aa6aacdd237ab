# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What our role may do to a server whose files are out of reach, and what it sees of the server's settings."""

from __future__ import annotations

import dataclasses
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import conf_lines, owned_file, parameters
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.conf_lines import Line
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

try:
    import psycopg2
except ImportError:
    pass

# Where the server keeps what ALTER SYSTEM sets: in its data directory.
AUTO_CONF = "postgresql.auto.conf"

# has_parameter_privilege() is there from 15 on.
_PRIVILEGES = 150000

_DENIED = "42501"


@dataclasses.dataclass(frozen=True)
class Rights:
    """What our role may do: be a ``superuser``, ``reload`` the server, read pg_file_settings (``files``) and a file's ``age``.

    ``allowed`` is whether the server lets anybody use ALTER SYSTEM (allow_alter_system, 17 and later).
    """

    superuser: bool
    reload: bool
    files: bool
    age: bool
    allowed: bool


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of the server: the ``known`` parameters, its files' ``lines``, None where our role may not see them.

    ``path`` is the file of ALTER SYSTEM, empty where it is not seen or sets nothing. ``undeclared`` are the values of parameters
    that the server shows by name only.
    """

    known: dict[str, Parameter]
    lines: list[Line] | None
    path: str
    undeclared: dict[str, str]

    def parameter(self, name: str) -> Parameter | None:
        return self.known.get(name.lower())

    def text(self, name: str) -> str | None:
        """Return what the files give to the parameter; where they are not seen, its running value."""
        parameter = self.parameter(name)
        if self.lines is None:
            return parameter.setting if parameter else self.undeclared.get(name)
        line = conf_lines.last_valid(name, parameter, self.lines)
        return line.setting if line else None

    def altered(self, name: str) -> str | None:
        """Return what ALTER SYSTEM has set the parameter to, valid or not; None for nothing, or nothing that is seen."""
        in_file = [line for line in self.lines or [] if self.path and line.is_in(self.path)]
        found = [line.setting for line in in_file if line.key == name.lower()]
        return found[-1] if found else None

    def runs_altered(self, name: str) -> bool:
        """Tell whether the running value is seen to come from ALTER SYSTEM."""
        parameter = self.parameter(name)
        return bool(self.path) and parameter is not None and owned_file.same_file(parameter.sourcefile, self.path)

    def without_alter(self, name: str) -> str | None:
        """Return what the files other than ALTER SYSTEM's give to the parameter, None for nothing, or nothing that is seen."""
        line = conf_lines.last_valid(name, self.parameter(name), self.lines or [], except_in=self.path)
        return line.setting if line else None

    def on_command_line(self, name: str) -> bool:
        """Tell whether the server's command line gives the parameter its value."""
        parameter = self.parameter(name)
        return parameter is not None and parameter.on_command_line

    def concealed(self, name: str) -> bool:
        """Tell whether our role cannot see what the files give to the parameter, because another value runs here."""
        parameter = self.parameter(name)
        if self.lines is not None or parameter is None:
            return False
        return parameter.pending_restart or parameter.on_command_line or parameter.of_session

    def is_set(self, name: str, text: str) -> bool:
        """Tell whether the files already give ``text`` to the parameter; None of them do where the default does."""
        parameter, now = self.parameter(name), self.text(name)
        if self.lines is not None and now is None and parameter is not None:
            return parameters.same_meaning(parameter, parameter.boot_val, text) or (
                parameter.source == "default" and not parameter.differs(text)
            )
        if self.lines is None and parameter is not None:
            return not parameter.differs(text)
        return parameters.same_meaning(parameter, now, text)


def read_rights(cursor: Cursor) -> Rights:
    """Return what our role may do."""
    cursor.execute(
        "SELECT rolsuper, has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE'),"
        " has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')"
        " AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE'),"
        " has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'EXECUTE'),"
        " coalesce(current_setting('allow_alter_system', true), 'on') = 'on'"
        " FROM pg_catalog.pg_roles WHERE rolname = current_user"
    )
    return Rights(*cursor.fetchall()[0])


def read(cursor: Cursor, rights: Rights, known: dict[str, Parameter], undeclared: dict[str, str]) -> View:
    """Return what our role sees; Refusal when a line of the files would make the server ignore every change."""
    lines = conf_lines.read(cursor) if rights.files else None
    places = [parameter.sourcefile for parameter in known.values()] + [line.sourcefile for line in lines or []]
    path = next((place for place in places if place and os.path.basename(place) == AUTO_CONF), "")
    if lines is not None:
        conf_lines.require_readable(lines, "")
    return View(known, lines, path, undeclared)


def permitted(cursor: Cursor, rights: Rights, names: list[str]) -> set[str]:
    """Return those of ``names`` that our role may set by ALTER SYSTEM."""
    if rights.superuser or not rights.allowed:
        return set(names if rights.allowed else ())
    if cursor.connection.server_version < _PRIVILEGES:
        return set()
    cursor.execute(
        "SELECT name FROM unnest(%s::text[]) AS name WHERE has_parameter_privilege(current_user, name, 'ALTER SYSTEM')",
        (list(names),),
    )
    return {name for (name,) in cursor.fetchall()}


def unlisted(cursor: Cursor, known: dict[str, Parameter], names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return those of ``names`` that the server has and keeps from our role, and the values of those that it shows by name only.

    The latter are parameters that no loaded extension has declared, of which pg_settings does not tell.
    """
    denied, undeclared = [], {}
    for name in names:
        if name.lower() in known or "\0" in name:
            continue
        try:
            cursor.execute("SELECT current_setting(%s, true)", (name,))
            ((value,),) = cursor.fetchall()
        except psycopg2.Error as error:
            if error.pgcode == _DENIED:
                denied.append(name)
            continue
        if value is not None:
            undeclared[name] = value
    return denied, undeclared
