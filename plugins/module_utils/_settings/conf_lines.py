# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines of the server's configuration files as it reads them (pg_file_settings), and which of them count."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import owned_file, secrecy
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

# The place of a value that comes from no file.
COMMAND_LINE = "the server's command line"

# pg_file_settings on a value that is invalid, and also on one that only a restart brings into force.
_NOT_APPLIED = "setting could not be applied"


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of pg_file_settings, whose columns these are (manual, System Views), and the server's ``message`` about it.

    There is a message only where read_with_messages() asked for it.
    """

    seqno: int
    sourcefile: str
    sourceline: int
    name: str | None
    setting: str | None
    applied: bool
    error: str | None
    message: str = ""

    @property
    def key(self) -> str:
        """The parameter's name in lower case, empty where the server could not read one."""
        return (self.name or "").lower()

    @property
    def place(self) -> str:
        """Where the line is, for people: its file and number."""
        return f"{self.sourcefile}, line {self.sourceline}"

    def is_in(self, path: str) -> bool:
        """Tell whether the line is of the file at ``path``."""
        return owned_file.same_file(self.sourcefile, path)


@dataclasses.dataclass(frozen=True)
class Override:
    """What overrides a parameter of our file: the ``place`` that does, for people, and the ``setting`` there."""

    place: str
    setting: str


def read(cursor: Cursor) -> list[Line]:
    """Return the lines of the files as they are on disk now, in reading order."""
    columns = [field.name for field in dataclasses.fields(Line) if field.name != "message"]
    cursor.execute(f"SELECT {', '.join(columns)} FROM pg_catalog.pg_file_settings ORDER BY seqno")
    return [Line(*row) for row in cursor.fetchall()]


def read_with_messages(cursor: Cursor) -> list[Line]:
    """Return what read() does, each line with the server's message; for superusers.

    The view says of an invalid value no more than that it could not be applied; what is wrong with it, the server tells at
    the level debug3. The connection autocommits.
    """
    connection = cursor.connection
    all_notices: Any = collections.deque()
    kept, connection.notices = connection.notices, all_notices
    cursor.execute("SET lc_messages = 'C'; SET client_min_messages = debug3")
    try:
        lines = read(cursor)
        notices = [" ".join(notice.split()) for notice in connection.notices]
    finally:
        connection.notices = kept
        cursor.execute("RESET client_min_messages; RESET lc_messages")
    return [dataclasses.replace(line, message=_message(line, notices)) for line in lines]


def require_superuser(cursor: Cursor) -> None:
    """Raise Refusal unless we are a superuser, whom alone the server tells of its files and lets reload them."""
    cursor.execute("SELECT rolsuper, rolname FROM pg_catalog.pg_roles WHERE rolname = current_user")
    ((superuser, name),) = cursor.fetchall()
    if not superuser:
        raise Refusal(
            f"The role {name!r} is no superuser and may not see which files the server reads (pg_file_settings).",
            "Run the task as the server's operating system user (become_user=postgres) or give login_user a superuser; "
            "where a provider runs the server, use method=alter_system.",
        )


def require_readable(lines: list[Line], path: str) -> None:
    """Raise Refusal when an error in another file than ``path`` would make the server ignore every change."""
    for line in lines:
        blocking = line.error not in (None, _NOT_APPLIED) and line.sourcefile
        if blocking and not line.is_in(path):
            raise Refusal(
                f"The server cannot reload its configuration: {line.place}: {line.error}.",
                "Mend that line, then run this again.",
            )


def require_accepted(known: dict[str, Parameter], lines: list[Line], path: str) -> None:
    """Raise Refusal in the server's words when it objects to a line of ``path``, other than that it needs a restart."""
    for line in lines:
        if not line.error or not line.is_in(path):
            continue
        parameter = known.get(line.key)
        waits = line.error == _NOT_APPLIED and parameter is not None and parameter.needs_restart
        if not waits or "without restarting" not in line.message:
            named = line.name or "the line"
            value, message = repr(line.setting), line.message
            if line.setting and secrecy.is_secret(named, parameter):
                value, message = secrecy.NOT_SHOWN, message.replace(" ".join(line.setting.split()), secrecy.NOT_SHOWN)
            raise Refusal(
                f"The server does not take {named} = {value} in {path}: {message}",
                "Correct the value; nothing was changed.",
            )


def not_included(path: str, config_file: str) -> Refusal:
    """Return the Refusal for a server that does not read ``path``."""
    return Refusal(
        f"The server does not read {path}: {config_file} includes neither the file nor its folder.",
        f"Put the line include_dir = '{os.path.basename(os.path.dirname(path))}' at the end of {config_file}, where the "
        "folder is beside that file, or give a path that the server reads; then run this again.",
    )


def last_valid(name: str, parameter: Parameter | None, lines: list[Line], except_in: str | None = None) -> Line | None:
    """Return the last of ``lines`` that gives the parameter a valid value and is not in the file ``except_in``; None for none.

    The ``parameter`` is None for one that the server does not know, of which every value is valid.
    """
    found = None
    for line in lines:
        if line.key == name.lower() and not (except_in and line.is_in(except_in)) and _is_valid(parameter, line):
            found = line
    return found


def overriding(
    known: dict[str, Parameter], lines: list[Line], names: list[str], path: str, order: list[tuple[str, int]] | None
) -> dict[str, Override]:
    """Return by name what overrides those of ``names`` whose value comes from elsewhere than from ``path``.

    That is the server's command line, or the last valid one of ``lines`` that is read after ``path``. ``order`` (see
    include_order) says where that is when the server has not read ``path`` yet.
    """
    of_path = [line.seqno for line in lines if line.is_in(path)]
    wanted = {name.lower() for name in names}
    found: dict[str, Override] = {}
    for line in (line for line in lines if line.key in wanted and not line.is_in(path)):
        later = line.seqno > of_path[-1] if of_path else _is_after(order or [], line, path)
        if later and line.setting is not None and _is_valid(known.get(line.key), line):
            found[line.key] = Override(line.place, line.setting)
    for key, parameter in known.items():
        if parameter.on_command_line:
            found[key] = Override(COMMAND_LINE, parameter.setting)
    return {name: found[name.lower()] for name in names if name.lower() in found}


def _message(line: Line, notices: list[str]) -> str:
    """Return the last of the server's ``notices`` that names the line's parameter, or the view's own word on the line."""
    about = [notice for notice in notices if f'"{line.name}"'.lower() in notice.lower()]
    return re.sub(r"^\w+:\s+", "", about[-1]) if about else line.error or ""


def _is_after(order: list[tuple[str, int]], line: Line, path: str) -> bool:
    """Tell whether ``line`` is read after ``path``; a file that is not in ``order`` is postgresql.auto.conf, the last."""
    position = (line.sourcefile, line.sourceline)
    return position not in order or order.index(position) > order.index((path, 0))


def _is_valid(parameter: Parameter | None, line: Line) -> bool:
    return line.setting is not None and (parameter is None or parameter.accepts(line.setting))
