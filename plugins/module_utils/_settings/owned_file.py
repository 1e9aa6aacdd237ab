# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file on the host that is this collection's as a whole: what it holds, and how it is replaced at once."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def same_file(one: str | None, other: str) -> bool:
    """Tell whether two paths are of one file, by whatever links they lead there."""
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def content(path: str) -> bytes | None:
    """Return what the file holds, None when there is none."""
    if not os.path.exists(path):
        return None
    with open(path, "rb") as stream:
        return stream.read()


def replace(module: AnsibleModule, path: str, data: bytes | None) -> None:
    """Put ``data`` into the file at once, or remove it for None; one that is there keeps its owner and mode."""
    if data is None:
        os.unlink(path)
        return
    handle, draft = tempfile.mkstemp(dir=module.tmpdir)
    with open(handle, "wb") as stream:
        stream.write(data)
    module.atomic_move(draft, path)
