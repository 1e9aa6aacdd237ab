# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_hba.conf on its host: read, changed at once, checked by the server that reads it, and put back if that refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _diagnosis, _files, _managed, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, hba_match
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# pg_hba_file_rules tells the file of a line since this server; before, there is only one file.
_INCLUDES = 160000


# One rule of the option `rules`, wherever a module has it.
RULE = dict(
    type=dict(type="str", required=True, choices=list(hba.TYPES)),
    database=dict(type="str", default="all"),
    user=dict(type="str", default="all"),
    address=dict(type="str"),
    method=dict(type="str", choices=hba.METHODS),
    options=dict(type="dict"),
)


def rules(given: list[dict], state: str = "present") -> list[hba.Rule]:
    """Return the rules that are ``given`` as in RULE, read and checked; Refusal for one that cannot be meant."""
    return [hba.wished(rule, position, state == "present") for position, rule in enumerate(given, 1)]


def _require_reader(cursor, server: str) -> None:
    """Raise Refusal unless the connected role may ask which file the server reads and how, and make it reload."""
    cursor.execute(
        "SELECT has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')"
        " AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')"
        " AND has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')"
        " AND pg_has_role('pg_read_all_settings', 'USAGE'), current_user"
    )
    allowed, role = cursor.fetchone()
    if not allowed:
        raise Refusal(
            f"The role {role!r} at {server} may not read pg_hba_file_rules and hba_file or reload the server.",
            "Connect as a superuser: run the task with become_user=postgres and without login_host, or set login_user.",
        )


def server_rows(cursor) -> list[dict]:
    """Return what the server reads in its files right now: ``{file, line, type, method, error}``; type None when rejected.

    The error may quote bytes of the file that are no text in the database's encoding, hence its way as bytes.
    """
    file = "file_name" if cursor.connection.server_version >= _INCLUDES else "current_setting('hba_file')"
    cursor.execute(f"SELECT {file}, line_number, type, auth_method, textsend(error) FROM pg_catalog.pg_hba_file_rules")
    return [
        {
            "file": os.path.realpath(file),
            "line": line,
            "type": kind,
            "method": method,
            "error": error if error is None else bytes(error).decode("utf-8", "replace"),
        }
        for file, line, kind, method, error in cursor.fetchall()
    ]


def _require_accepted(rows: list[dict], path: str, gone: set[int]) -> None:
    """Raise Refusal when the server rejects a line, other than those of ``path`` that will be ``gone``."""
    for row in rows:
        if row["error"] and row["type"] is None and not (row["file"] == path and row["line"] in gone):
            raise Refusal(
                f"The server rejects line {row['line']} of {row['file']}: {_words.visible(row['error'])}. "
                "It does not load a file with such a line, so no new rule would come into force.",
                _correction(row["file"], row["line"]),
            )


def _correction(path: str, number: int) -> str:
    """Return what to do about the line ``number`` of the file at ``path`` that the server rejects."""
    lines = {}
    with contextlib.suppress(OSError, Refusal):
        lines = {line.number: line.raw for line in hba.parse(hba.decode(pathlib.Path(path).read_bytes()))}
    character = _words.misleading(lines.get(number, ""))
    if not character:
        return "Correct or remove that line first."
    what = "a byte order mark" if character == "\ufeff" else f"the character U+{ord(character):04X}"
    return (
        f"The line holds {what}, which is not seen or looks like a blank. Correct it by "
        f"`{_words.removal(character, number, path)}`, then run this again."
    )


def require_same_file(rows: list[dict], path: str, text: str, server: str) -> None:
    """Raise Refusal when what the server reads at ``path`` is not the ``text`` that stands there on this host."""
    theirs = {row["line"]: row for row in rows if row["file"] == path}
    ours = hba.server_view(text)
    for line in sorted({*theirs, *ours}):
        row = theirs.get(line)
        known = ours.get(line)
        if row is None or line not in ours or (known and row["type"] and known != (row["type"], row["method"])):
            raise Refusal(
                f"Line {line} of {path} is not on this host what the server at {server} reads there.",
                "Run the task on the server's own host, and give the path of that server's file or none.",
            )


def require_owner(path: str) -> None:
    """Raise Refusal unless a file put in the place of ``path`` can have its owner: we are root or that owner."""
    owner = pathlib.Path(path).stat().st_uid
    if os.geteuid() not in (0, owner):
        raise Refusal(
            f"The file {path} belongs to the user with the number {owner}, and the task runs as number {os.geteuid()}.",
            "Run the task as its owner (become_user=postgres) or as root.",
        )


def _write(module, path: str, text: str) -> None:
    """Put ``text`` in the place of the file at once, keeping owner, mode and attributes."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".pg_hba-")
    module.add_cleanup_file(temporary)
    with os.fdopen(handle, "wb") as stream:
        stream.write(hba.encode(text))
    _files.keep_attributes(path, temporary)
    module.atomic_move(temporary, path)


def _replace(
    module, cursor, server: str, path: str, before: str, outcome: hba.Outcome, is_own: bool, keep: bool
) -> tuple[list[dict], str | None]:
    """Write the file and have the server check it; return its reading and the backup's path. A failure puts all back."""
    backup = module.backup_local(path) if keep else None
    try:
        _write(module, path, outcome.text)
        rows = server_rows(cursor)
        if is_own or any(row["file"] == path for row in rows):
            _require_new_accepted(rows, path, outcome.text)
            require_same_file(rows, path, outcome.text, server)
    except BaseException:
        if pathlib.Path(path).read_bytes() != hba.encode(before):
            _write(module, path, before)
        if backup:
            pathlib.Path(backup).unlink()
        raise
    return rows, backup


def _require_new_accepted(rows: list[dict], path: str, text: str) -> None:
    """Raise Refusal when the server rejects a line of a file just written; before, it rejected none that is still there."""
    lines = {(path, line.number): line.raw for line in hba.parse(text)}
    for row in rows:
        if row["error"] and row["type"] is None:
            line = hba.shown(lines.get((row["file"], row["line"]), "")).strip()
            raise Refusal(
                f"The server rejects line {row['line']} of the new {row['file']} ({line}): {row['error']}.",
                "The file is as it was. Correct the rule.",
            )


def _server_warnings(rows: list[dict], path: str, placed: list[dict]) -> list[str]:
    """Return what the server remarks on our lines that it accepts, such as a hostssl line while ssl is off."""
    ours = {item["line"] for item in placed if item["action"] not in ("removed", "absent")}
    return [
        f"The server says of line {row['line']} of {path}: {row['error']}."
        for row in rows
        if row["error"] and row["type"] and row["file"] == path and row["line"] in ours
    ]


def _earlier_files(own: str, path: str, outcome: hba.Outcome, rules: list[hba.Rule], version: int) -> list[str]:
    """Return warnings of lines that the server, which begins with ``own``, tries before ``path`` and ``rules`` in it."""

    def read(name: str) -> str:
        return outcome.text if os.path.realpath(name) == path else hba.decode(pathlib.Path(name).read_bytes())

    tried = list(hba_match.entries(own, hba_match.Files(version, read, os.listdir)))
    warnings = []
    for rule, item in zip(rules, outcome.placed):
        for entry in tried:
            if os.path.realpath(entry.path) == path:
                if entry.line.number == item["line"]:
                    break
            elif hba.could_take(entry.rule, rule):
                warnings.append(
                    f"Line {entry.line.number} of {entry.path} comes before {path} and could match connections of the rule "
                    f"'{' '.join(item['rule'].split())}'. Place the rule in {entry.path}."
                )
    return warnings


def _outcome(before: str, params: dict) -> hba.Outcome:
    """Return what becomes of the file that holds ``before``: its rules are placed in it, or in the content that is given."""
    change = hba.place if params["state"] == "present" else hba.remove
    if params["content"] is None:
        return change(before, params["rules"])
    whole = change(params["content"], params["rules"])
    if whole.text == before:
        return change(before, params["rules"])
    return dataclasses.replace(whole, gone={line.number for line in hba.parse(before)})


def _patroni(cursor) -> str | None:
    """Return what Patroni keeps of its cluster's configuration beside the server's data; None where it does not run it."""
    cursor.execute("SELECT current_setting('data_directory')")
    (folder,) = cursor.fetchone()
    with contextlib.suppress(OSError):
        return pathlib.Path(folder, "patroni.dynamic.json").read_text(encoding="utf-8", errors="replace")
    return None


def _manager(path: str, before: str, outcome: hba.Outcome, patroni: str | None) -> _managed.Manager | None:
    """Return who else writes the file at ``path``, or the part of it where ``outcome`` has put a rule; None for nobody."""
    new = [item["line"] for item in outcome.placed if item["action"] in ("inserted", "moved", "replaced")]
    blocks = (_managed.block(outcome.text, line) for line in new)
    return _managed.manager(path, before, patroni) or next(filter(None, blocks), None)


def _others_warnings(cursor, params: dict, path: str, own: bool, before: str, outcome: hba.Outcome) -> list[str]:
    """Return warnings of those who write the file at ``path``, too; Refusal where our rules, and the access, would be lost."""
    patroni = _patroni(cursor) if own else None
    found = _manager(path, before, outcome, patroni)
    if found and (found.is_final or (params["state"] == "present" and not params["allow_managed_file"])):
        raise _managed.refuse(path, found, "whom the rules let in would be locked out")
    if found:
        return [_managed.warning(path, found)]
    if patroni is not None:
        return [f"Patroni runs this server, and {path} is of this host alone: have the rules on each of its cluster's hosts."]
    return []


def step(module, cursor, params: dict, check_mode: bool) -> dict:
    """Bring the file to its wished state; return the result of the module postgres_hba, with its warnings.

    ``params`` are that module's: the connection's, and path, content, rules (see rules()), state, backup and
    allow_managed_file.
    """
    server = _diagnosis.place(_connection.keywords(params))
    _require_reader(cursor, server)
    cursor.execute("SELECT current_setting('hba_file')")
    (hba_file,) = cursor.fetchone()
    own = os.path.realpath(hba_file)
    path = os.path.realpath(params["path"] or own)
    before = hba.decode(pathlib.Path(path).read_bytes())
    outcome = _outcome(before, params)
    rows, backup = server_rows(cursor), None
    if path == own or any(row["file"] == path for row in rows):
        _require_accepted(rows, path, outcome.gone)
        require_same_file(rows, path, before, server)
    differs = outcome.text != before
    warnings = list(outcome.warnings)
    if differs:
        warnings += _others_warnings(cursor, params, path, path == own, before, outcome)
        require_owner(path)
        _files.require_replaceable(path)
    # A run that was killed between writing and reloading left a file newer than what the server has loaded.
    stale = path == own and pathlib.Path(path).stat().st_mtime > _connection.loaded(cursor)
    if differs and not check_mode:
        rows, backup = _replace(module, cursor, server, path, before, outcome, path == own, params["backup"])
    changed = differs or stale
    in_use = path == own or any(row["file"] == path for row in rows)
    if in_use and path != own and params["state"] == "present":
        warnings += _earlier_files(hba_file, path, outcome, params["rules"], cursor.connection.server_version)
    if not in_use:
        warnings.append(f"The server at {server} does not read {path}, so its rules are not in force there.")
    if in_use and changed and not check_mode and not _connection.reload(cursor):
        warnings.append(f"The server was told to reload, and {_connection.RELOAD_SECONDS} seconds later had not yet done so.")
    result = {"changed": changed, "path": path, "placed": outcome.placed, "warnings": warnings}
    if not (changed and check_mode):
        result["warnings"] += _server_warnings(rows, path, outcome.placed)
    header = {"before_header": path, "after_header": path}
    result["diff"] = {"before": hba.shown(before), "after": hba.shown(outcome.text), **header}
    return {**result, "backup_file": backup} if backup else result
