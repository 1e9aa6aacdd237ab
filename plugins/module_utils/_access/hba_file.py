# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_hba.conf on its host: brought to its desired state, checked by the server that reads it, and put back if that refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _files, _managed
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import (
    hba,
    hba_file_rules,
    hba_match,
    hba_placing,
    server_file,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import Rule
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row


@dataclasses.dataclass(frozen=True)
class Desired:
    """What is to become of a file: the options of the module postgres_hba, which say what each is; rules as of hba_option."""

    rules: list[Rule]
    state: str = "present"
    path: str | None = None
    content: str | None = None
    backup: bool = False
    allow_managed_file: bool = False

    def outcome(self, before: str) -> hba_placing.Outcome:
        """Return what becomes of the file that holds ``before``: rules are placed in it, or in the content that is given."""
        change = hba_placing.place if self.state == "present" else hba_placing.remove
        if self.content is None:
            return change(before, self.rules)
        whole = change(self.content, self.rules)
        if whole.text == before:
            return change(before, self.rules)
        return dataclasses.replace(whole, gone={line.number for line in hba.parse(before)})


@dataclasses.dataclass(frozen=True)
class _File:
    """The file at ``path``, links followed, as it is (``text``); ``first`` is the one that the server begins with."""

    path: str
    text: str
    first: str

    @property
    def is_first(self) -> bool:
        return self.path == os.path.realpath(self.first)

    def is_read(self, rows: list[hba_file_rules.Row]) -> bool:
        """Tell whether the server reads this file, as its first one or by way of that."""
        return self.is_first or any(row.file == self.path for row in rows)


def apply(module: AnsibleModule, server: Server, desired: Desired, check_mode: bool) -> dict:
    """Bring the file to its desired state; return the result of the module postgres_hba, with its warnings."""
    hba_file_rules.require_reader(server)
    file = _opened(server.cursor, desired.path)
    outcome = desired.outcome(file.text)
    rows, backup = hba_file_rules.rows(server.cursor), None
    if file.is_read(rows):
        hba_file_rules.require_accepted(rows, file.path, outcome.gone)
        hba_file_rules.require_same_file(rows, file.path, file.text, server.place)
    differs = outcome.text != file.text
    warnings = list(outcome.warnings)
    if differs:
        warnings += _manager_warnings(server.cursor, desired, file, outcome)
        server_file.require_owner(file.path)
        _files.require_replaceable(file.path)
    changed = differs or (file.is_first and server_file.is_newer_than_loaded(file.path, server.cursor))
    if differs and not check_mode:
        backup = module.backup_local(file.path) if desired.backup else None
        rows = _replace(module, server, file, outcome, backup)
    warnings += _precedence_warnings(server, desired, file, outcome, rows)
    if file.is_read(rows) and changed and not check_mode and not _connection.reload(server.cursor):
        warnings.append(f"The server was told to reload, and {_connection.RELOAD_SECONDS} seconds later had not yet done so.")
    if not (changed and check_mode):
        placed = {item.line for item in outcome.placed if item.line and item.action != "removed"}
        warnings += hba_file_rules.remarks(rows, file.path, placed)
    result = {
        "changed": changed,
        "path": file.path,
        "placed": [dataclasses.asdict(item) for item in outcome.placed],
        "warnings": warnings,
        "diff": server_file.diff(file.path, file.text, outcome.text),
    }
    return {**result, "backup_file": backup} if backup else result


def _opened(cursor: Cursor, path: str | None) -> _File:
    """Return the file at ``path``, or the one that the server begins with."""
    cursor.execute("SELECT current_setting('hba_file')")
    (first,) = only_row(cursor)
    path = os.path.realpath(path or first)
    return _File(path, server_file.read(path), first)


def _replace(
    module: AnsibleModule, server: Server, file: _File, outcome: hba_placing.Outcome, backup: str | None
) -> list[hba_file_rules.Row]:
    """Write the file and have the server check it; return its reading. A failure puts all back."""
    try:
        with server_file.replaced(module, file.path, file.text, outcome.text):
            rows = hba_file_rules.rows(server.cursor)
            if file.is_read(rows):
                hba_file_rules.require_new_accepted(rows, file.path, outcome.text)
                hba_file_rules.require_same_file(rows, file.path, outcome.text, server.place)
    except BaseException:
        if backup:
            pathlib.Path(backup).unlink()
        raise
    return rows


def _precedence_warnings(
    server: Server, desired: Desired, file: _File, outcome: hba_placing.Outcome, rows: list[hba_file_rules.Row]
) -> list[str]:
    """Return warnings where the file is none that the server reads, or where it tries lines of other files before its rules."""
    if not file.is_read(rows):
        return [f"The server at {server.place} does not read {file.path}, so its rules are not in force there."]
    if file.is_first or desired.state != "present":
        return []

    def read(name: str) -> str:
        return outcome.text if os.path.realpath(name) == file.path else server_file.read(name)

    files = hba_match.Files(server.cursor.connection.server_version, read, os.listdir)
    tried = list(hba_match.entries(file.first, files))
    warnings = []
    for rule, item in zip(desired.rules, outcome.placed):
        for entry in tried:
            if os.path.realpath(entry.path) == file.path:
                if entry.line.number == item.line:
                    break
            elif entry.rule.could_preempt(rule):
                warnings.append(
                    f"Line {entry.line.number} of {entry.path} comes before {file.path} and could match connections of the rule "
                    f"'{' '.join(item.rule.split())}'. Place the rule in {entry.path}."
                )
    return warnings


def _manager_warnings(cursor: Cursor, desired: Desired, file: _File, outcome: hba_placing.Outcome) -> list[str]:
    """Return warnings of those who write the file, too; Refusal where our rules, and the access, would be lost."""
    patroni = _patroni(cursor) if file.is_first else None
    found = _managed.manager(file.path, file.text, patroni) or _block_manager(outcome)
    if found and (found.is_final or (desired.state == "present" and not desired.allow_managed_file)):
        raise _managed.refuse(file.path, found, "whom the rules let in would be locked out")
    if found:
        return [_managed.warning(file.path, found)]
    if patroni is not None:
        return [
            f"Patroni runs this server, and {file.path} is of this host alone: have the rules on each of its cluster's hosts."
        ]
    return []


def _block_manager(outcome: hba_placing.Outcome) -> _managed.Manager | None:
    """Return who else writes a part of the file in which ``outcome`` has put a rule; None for nobody."""
    new = [item.line for item in outcome.placed if item.line and item.action in ("inserted", "moved", "replaced")]
    return next(filter(None, (_managed.block(outcome.text, line) for line in new)), None)


def _patroni(cursor: Cursor) -> str | None:
    """Return what Patroni keeps of its cluster's configuration beside the server's data; None where it does not run it."""
    cursor.execute("SELECT current_setting('data_directory')")
    (folder,) = only_row(cursor)
    with contextlib.suppress(OSError):
        return pathlib.Path(folder, "patroni.dynamic.json").read_text(encoding="utf-8", errors="replace")
    return None
