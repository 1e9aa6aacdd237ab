# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file that holds the ``database:`` section: whether it may be changed here, and its replacement as a whole."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _files, _managed, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import (
    database_section,
    half_edited,
    homeserver_yaml,
    libpq,
    section_editing,
)

# Of a file that is made: its owner writes it, Synapse reads it by its group.
_NEW_MODE = 0o640


def apply(module: AnsibleModule) -> dict[str, Any]:
    """Bring the section to the state that the ``module``'s options describe, in check mode but for writing; return its result.

    Raises Refusal where that cannot be done, with the file as it was.
    """
    params = module.params
    path = os.path.realpath(params["path"])
    text = read(path, params["layout"])
    document = homeserver_yaml.parse(text or "", path)
    present = document.section()
    if params["layout"] == "drop-in":
        _require_nothing_else(document)
    desired = database_section.desired(
        present,
        params["args"],
        database_section.Pool(**params["pool"]),
        database_section.Keepalives(**params["keepalives"]),
        params["allow_unsafe_locale"],
    )
    result = _result(params["path"], present, desired)
    if result["changed"]:
        new = _edited(module, document, desired, is_new=text is None)
        if not module.check_mode:
            backup = write(module, path, new)
            result.update({"backup_file": backup} if backup else {})
            document = homeserver_yaml.parse(new, path)
    warning = half_edited.misplaced_warning(document)
    if warning:
        module.warn(warning)
    if not module.check_mode:
        _warn_of_readers(module, path, desired)
    return result


def read(path: str, layout: str) -> str | None:
    """Return the file's text, None for a drop-in that does not exist yet; Refusal for what is no file to edit."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise Refusal(f"The folder {folder} does not exist.", "Check the path, or make the folder first.", missing=True)
    if not os.path.exists(path):
        if layout == "drop-in":
            _require_writable(folder)
            return None
        raise Refusal(f"{path} does not exist.", "Check the path; for a file of its own, give layout=drop-in.", missing=True)
    if not os.path.isfile(path):
        raise Refusal(f"{path} is no file.", "Give the path of the file that holds the section.")
    return homeserver_yaml.read_text(path)


def require_replaceable(path: str) -> None:
    """Raise Refusal unless the file at ``path`` can be replaced by one with the same owner and group."""
    _files.require_replaceable(path)
    _require_writable(os.path.dirname(path))
    found = os.stat(path)
    groups = {os.getegid(), *os.getgroups()}
    if os.geteuid() != 0 and (found.st_uid != os.geteuid() or found.st_gid not in groups):
        raise Refusal(
            f"{path} belongs to user {found.st_uid} and group {found.st_gid}; user {os.geteuid()} cannot make such a file.",
            "Run the task as root or as the owner (become: true).",
        )


def write(module: AnsibleModule, path: str, text: str) -> str | None:
    """Put ``text`` in the place of the file at ``path``: all of it or nothing, with the old one's owner, mode and attributes.

    Returns the path of the old file's copy, if the option ``backup`` of the ``module`` wants one.
    """
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".database-")
    module.add_cleanup_file(draft)
    with os.fdopen(handle, "wb") as stream:
        stream.write(text.encode("utf-8"))
        stream.flush()
        os.fsync(stream.fileno())
    if not os.path.exists(path):
        # atomic_move() would let everybody read a new file for a moment.
        os.chmod(draft, _NEW_MODE)
        os.replace(draft, path)
        return None
    backup, others = None, _files.other_names(path)
    try:
        _files.keep_attributes(path, draft)
        backup = module.backup_local(path) if module.params["backup"] else None
        module.atomic_move(draft, path)
    except Exception as error:
        module.cleanup(backup or "")
        # That is what ansible-core raises here, with its reason in words.
        raise Refusal(
            f"{path} could not be replaced: {error}",
            "Check the room on its file system.",
        ) from error
    if others:
        module.warn(others)
    return backup


def _result(path: str, present: dict[Any, Any] | None, desired: dict[str, Any]) -> dict[str, Any]:
    """Return the module's result for the ``desired`` section in the place of the ``present`` one, without their secrets."""
    before, after = database_section.masked(present), database_section.masked(desired, present)
    return {
        "changed": present != desired,
        "path": path,
        "before": before,
        "after": after,
        "diff": {
            "before_header": path,
            "after_header": path,
            "before": section_editing.as_yaml(before),
            "after": section_editing.as_yaml(after),
        },
    }


def _edited(module: AnsibleModule, document: homeserver_yaml.Document, desired: dict[str, Any], is_new: bool) -> str:
    """Return the text of ``document`` with the ``desired`` section; Refusal where its file is not to be changed, or cannot be."""
    if is_new:
        return section_editing.replace(document, desired)
    _require_unmanaged(module, document)
    half_edited.require_unambiguous(document, desired)
    new = section_editing.replace(document, desired)
    require_replaceable(document.path)
    return new


def _require_nothing_else(document: homeserver_yaml.Document) -> None:
    """Raise Refusal where the file of a drop-in holds other keys than the section's."""
    others = [str(key) for key in document.options if key != homeserver_yaml.SECTION_KEY]
    if others:
        raise Refusal(
            f"{document.path} holds other keys than database: {', '.join(others)}.",
            "Give layout=section to edit the section in it, or another path.",
        )


def _require_writable(folder: str) -> None:
    """Raise Refusal unless files in ``folder`` can be replaced."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refusal(f"The folder {folder} may not be written to.", "Run the task as a user that may (become: true).")


def _require_unmanaged(module: AnsibleModule, document: homeserver_yaml.Document) -> None:
    """Raise Refusal where another manager writes the file, or its section; warn where the ``module``'s options allow that."""
    path, text = document.path, document.text
    manager = _managed.manager(path, text) or _managed.block(text, document.section_line())
    if manager is None:
        return
    if manager.is_final or not module.params["allow_managed_file"]:
        raise _managed.refuse(path, manager, "Synapse would be back on the database that it names now")
    module.warn(_managed.warning(path, manager))


def _warn_of_readers(module: AnsibleModule, path: str, section: dict[str, Any]) -> None:
    """Warn when the section holds a secret and everybody may read the file: its mode is the administrator's to change."""
    secret = libpq.SECRETS.intersection(section["args"])
    if secret and os.path.exists(path) and os.stat(path).st_mode & stat.S_IROTH:
        module.warn(
            f"Every user of the host may read {path}, which holds a password. Give it to the group that Synapse runs as "
            f"(chgrp), so that this still may, and take it from all others by `chmod 640 {_words.shell(path)}`."
        )
