# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the server itself reads in its pg_hba.conf (the view pg_hba_file_rules): whether it accepts it, and whether it is ours."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, server_file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row


@dataclasses.dataclass(frozen=True)
class Row:
    """A line that the server reads: ``type`` and ``method`` are None where it rejects it; ``error`` may be a mere remark."""

    file: str
    line: int
    type: str | None
    method: str | None
    error: str | None

    @property
    def is_rejected(self) -> bool:
        return bool(self.error) and self.type is None


def rows(cursor: Cursor) -> list[Row]:
    """Return what the server reads in its files right now.

    The error may quote bytes of the file that are no text in the database's encoding, hence its way as bytes.
    """
    # Before files could include others, there was only one.
    file = "file_name" if cursor.connection.server_version >= hba.INCLUDES_SINCE else "current_setting('hba_file')"
    cursor.execute(f"SELECT {file}, line_number, type, auth_method, textsend(error) FROM pg_catalog.pg_hba_file_rules")
    return [
        Row(os.path.realpath(path), line, kind, method, error if error is None else bytes(error).decode("utf-8", "replace"))
        for path, line, kind, method, error in cursor.fetchall()
    ]


def require_reader(server: Server) -> None:
    """Raise Refusal unless the connected role may ask which file the server reads and how, and make it reload."""
    server.cursor.execute(
        "SELECT has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')"
        " AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')"
        " AND has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')"
        " AND pg_has_role('pg_read_all_settings', 'USAGE'), current_user"
    )
    allowed, role = only_row(server.cursor)
    if not allowed:
        raise Refusal(
            f"The role {role!r} at {server.place} may not read pg_hba_file_rules and hba_file or reload the server.",
            "Connect as a superuser: run the task with become_user=postgres and without login_host, or set login_user.",
        )


def require_accepted(found: list[Row], path: str, gone: set[int]) -> None:
    """Raise Refusal when the server rejects a line, other than those of ``path`` that will be ``gone``."""
    for row in found:
        if row.is_rejected and not (row.file == path and row.line in gone):
            raise Refusal(
                f"The server rejects line {row.line} of {row.file}: {_words.visible(row.error or '')}. "
                "It does not load a file with such a line, so no new rule would come into force.",
                _correction(row.file, row.line),
            )


def require_new_accepted(found: list[Row], path: str, text: str) -> None:
    """Raise Refusal when the server rejects a line of a file just written; before, it rejected none that is still there."""
    lines = {(path, line.number): line.raw for line in hba.parse(text)}
    for row in found:
        if row.is_rejected:
            line = hba.masked(lines.get((row.file, row.line), "")).strip()
            raise Refusal(
                f"The server rejects line {row.line} of the new {row.file} ({line}): {row.error}.",
                "The file is as it was. Correct the rule.",
            )


def require_same_file(found: list[Row], path: str, text: str, place: str) -> None:
    """Raise Refusal when what the server at ``place`` reads at ``path`` is not the ``text`` that stands there on this host."""
    of_server = {row.line: row for row in found if row.file == path}
    of_host = hba.server_view(text)
    for line in sorted({*of_server, *of_host}):
        row, known = of_server.get(line), of_host.get(line)
        if row is None or line not in of_host or (known and row.type and known != (row.type, row.method)):
            raise Refusal(
                f"Line {line} of {path} is not on this host what the server at {place} reads there.",
                "Run the task on the server's own host, and give the path of that server's file or none.",
            )


def remarks(found: list[Row], path: str, lines: set[int]) -> list[str]:
    """Return what the server remarks on ``lines`` of ``path`` that it accepts, such as a hostssl line while ssl is off."""
    return [
        f"The server says of line {row.line} of {path}: {row.error}."
        for row in found
        if row.error and row.type and row.file == path and row.line in lines
    ]


def _correction(path: str, number: int) -> str:
    """Return what to do about the line ``number`` of the file at ``path`` that the server rejects."""
    lines = {}
    with contextlib.suppress(OSError, Refusal):
        lines = {line.number: line.raw for line in hba.parse(server_file.read(path))}
    character = _words.misleading(lines.get(number, ""))
    if not character:
        return "Correct or remove that line first."
    what = "a byte order mark" if character == "\ufeff" else f"the character U+{ord(character):04X}"
    return (
        f"The line holds {what}, which is not seen or looks like a blank. Correct it by "
        f"`{_words.removal(character, number, path)}`, then run this again."
    )
