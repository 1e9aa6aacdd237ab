# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A configuration file of the server's on its host: read, and replaced at once by one that the server accepts, or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from typing import Iterator

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _files
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor


def read(path: str) -> str:
    """Return the text of the file at ``path``, as of hba.decode()."""
    return hba.decode(pathlib.Path(path).read_bytes())


def is_newer_than_loaded(path: str, cursor: Cursor) -> bool:
    """Tell whether the server has not loaded the file since it was changed, as where a run was killed before it reloaded."""
    return pathlib.Path(path).stat().st_mtime > _connection.loaded(cursor)


def require_owner(path: str) -> None:
    """Raise Refusal unless a file put in the place of ``path`` can have its owner: we are root or that owner."""
    owner = pathlib.Path(path).stat().st_uid
    if os.geteuid() not in (0, owner):
        raise Refusal(
            f"The file {path} belongs to the user with the number {owner}, and the task runs as number {os.geteuid()}.",
            "Run the task as its owner (become_user=postgres) or as root.",
        )


@contextlib.contextmanager
def replaced(module: AnsibleModule, path: str, before: str, after: str) -> Iterator[None]:
    """Write ``after`` in the place of the file, have the block check it, and put ``before`` back where that raises."""
    try:
        _write(module, path, after)
        yield
    except BaseException:
        if read(path) != before:
            _write(module, path, before)
        raise


def diff(path: str, before: str, after: str) -> dict[str, str]:
    """Return a module's ``diff`` of the file, secrets masked."""
    header = {"before_header": path, "after_header": path}
    return {"before": hba.masked(before), "after": hba.masked(after), **header}


def _write(module: AnsibleModule, path: str, text: str) -> None:
    """Put ``text`` in the place of the file at once, keeping owner, mode and attributes."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f".{os.path.basename(path)}-")
    module.add_cleanup_file(temporary)
    with os.fdopen(handle, "wb") as stream:
        stream.write(hba.encode(text))
    _files.keep_attributes(path, temporary)
    module.atomic_move(temporary, path)
