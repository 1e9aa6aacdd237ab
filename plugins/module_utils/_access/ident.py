# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_ident.conf: which operating system users may log in as Synapse's role by the method peer (manual, section 21.2).

A map lets in whoever one of its lines names, wherever that stands, so a missing line goes to the end of the file.
"""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, server_file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

# The map that rules with the method peer name.
MAP = "synapse"

# The server shows what it reads in the file (pg_ident_file_mappings) since this version.
_FILE_MAPPINGS = 150000


def with_users(text: str, users: list[str], role: str) -> str:
    """Return ``text`` with a line of MAP for each of the operating system's ``users`` who may be ``role``; the rest stays.

    Lines are cut into words as those of pg_hba.conf are (src/backend/libpq/hba.c, tokenize_auth_file).
    """
    lines = hba.parse(text)
    present = {tuple(field[0].text for field in line.fields) for line in lines if len(line.fields) == 3}
    newline = "\r\n" if "\r\n" in text else "\n"
    missing = [user for user in dict.fromkeys(users) if (MAP, user, role) not in present]
    new = [f"{MAP} {_words.identifier(user)} {_words.identifier(role)}{newline}" for user in missing]
    if not new:
        return text
    # A last line without an end is ended; one that a backslash continues, by the empty line that follows it.
    end = newline if text and not text.endswith("\n") else ""
    return text + end + newline * bool(lines and lines[-1].unfinished) + "".join(new)


def require_possible(users: list[str], role: str) -> None:
    """Raise Refusal for names that no line of the file can hold."""
    if not users:
        raise Refusal("The method peer lets operating system users in, and none is named.", "Give system_users.")
    for name in (*users, role):
        if not name or any(char in name for char in "\n\r\0"):
            raise Refusal(f"{name!r} cannot stand in pg_ident.conf.", "Choose another name.")
        # PostgreSQL takes such a name for a regular expression, in quotes or not.
        if name.startswith("/"):
            raise Refusal(f"{name!r} would be a regular expression in pg_ident.conf.", "Choose another name.")


def apply(module: AnsibleModule, cursor: Cursor, users: list[str], role: str, check_mode: bool) -> dict:
    """Let the operating system's ``users`` be ``role`` by the server's pg_ident.conf; return ``{changed, diff}``.

    A line that the server rejects means that the old file is put back.
    """
    cursor.execute("SELECT current_setting('ident_file')")
    path = os.path.realpath(only_row(cursor)[0])
    before = server_file.read(path)
    after = with_users(before, users, role)
    _require_accepted(cursor, "Correct or remove that line first.")
    if after != before:
        server_file.require_owner(path)
    changed = after != before or server_file.is_newer_than_loaded(path, cursor)
    if changed and not check_mode:
        with server_file.replaced(module, path, before, after):
            _require_accepted(cursor, "The file is as it was. Correct the names.")
        _connection.reload(cursor)
    return {"changed": changed, "diff": server_file.diff(path, before, after)}


def _require_accepted(cursor: Cursor, remedy: str) -> None:
    """Raise Refusal when the server rejects a line of the file: it would not load a file with such a line."""
    if cursor.connection.server_version < _FILE_MAPPINGS:
        return
    cursor.execute("SELECT line_number, error FROM pg_catalog.pg_ident_file_mappings WHERE error IS NOT NULL LIMIT 1")
    for line, error in cursor.fetchall():
        raise Refusal(f"The server rejects line {line} of its pg_ident.conf: {error}.", remedy)
