# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_ident.conf: which operating system users may log in as Synapse's role by the method peer (manual, section 21.2).

A map lets in whoever one of its lines names, wherever that stands, so a missing line goes to the end of the file.
"""

from __future__ import annotations

import os
import pathlib
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, hba_file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# The map that rules with the method peer name.
MAP = "synapse"

# The server tells what it reads in the file since this version.
_TOLD = 150000


def placed(text: str, users: list[str], role: str) -> str:
    """Return ``text`` with a line of MAP for each of the operating system's ``users`` who may be ``role``; the rest stays.

    Lines are cut into words as those of pg_hba.conf are (src/backend/libpq/hba.c, tokenize_auth_file).
    """
    lines = hba.parse(text)
    present = {tuple(field[0].text for field in line.fields) for line in lines if len(line.fields) == 3}
    newline = "\r\n" if "\r\n" in text else "\n"
    missing = [user for user in dict.fromkeys(users) if (MAP, user, role) not in present]
    fresh = [f"{MAP} {_quoted(user)} {_quoted(role)}{newline}" for user in missing]
    if not fresh:
        return text
    # A last line without an end is ended; one that a backslash continues, by the empty line that follows it.
    end = newline if text and not text.endswith("\n") else ""
    return text + end + newline * bool(lines and lines[-1].open) + "".join(fresh)


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


def step(module, cursor, params: dict, check_mode: bool) -> dict:
    """Bring the server's pg_ident.conf to its wished state; return ``{changed, diff}``.

    ``params`` has the ``system_users`` and the ``user``. A line that the server rejects means that the old file is put back.
    """
    cursor.execute("SELECT current_setting('ident_file')")
    path = os.path.realpath(cursor.fetchone()[0])
    before = hba.decode(pathlib.Path(path).read_bytes())
    after = placed(before, params["system_users"], params["user"])
    _require_accepted(cursor, "Correct or remove that line first.")
    if after != before:
        hba_file.require_owner(path)
    # A run that was killed between writing and reloading left a file newer than what the server has loaded.
    changed = after != before or pathlib.Path(path).stat().st_mtime > _connection.loaded(cursor)
    if changed and not check_mode:
        _write(module, path, after)
        try:
            _require_accepted(cursor, "The file is as it was. Correct the names.")
        except Refusal:
            _write(module, path, before)
            raise
        _connection.reload(cursor)
    header = {"before_header": path, "after_header": path}
    return {"changed": changed, "diff": {"before": hba.shown(before), "after": hba.shown(after), **header}}


def _require_accepted(cursor, remedy: str) -> None:
    """Raise Refusal when the server rejects a line of the file: it would not load a file with such a line."""
    if cursor.connection.server_version < _TOLD:
        return
    cursor.execute("SELECT line_number, error FROM pg_catalog.pg_ident_file_mappings WHERE error IS NOT NULL LIMIT 1")
    for line, error in cursor.fetchall():
        raise Refusal(f"The server rejects line {line} of its pg_ident.conf: {error}.", remedy)


def _write(module, path: str, text: str) -> None:
    """Put ``text`` in the place of the file at once, keeping owner and mode."""
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as stream:
        stream.write(hba.encode(text))
    module.atomic_move(temporary, path)


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'
