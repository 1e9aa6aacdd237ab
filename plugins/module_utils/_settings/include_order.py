# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order in which the server reads its configuration files, by their includes (manual, section 20.1.5)."""

from __future__ import annotations

import os
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import owned_file

_INCLUDE = re.compile(
    r"\s*(include|include_if_exists|include_dir)(?![\w$.])\s*=?\s*(?:'((?:[^'\\]|''|\\.)*)'|([^\s#']+))", re.IGNORECASE
)
_DEEPEST_INCLUDE = 10


def reading_order(config_file: str, path: str) -> list[tuple[str, int]]:
    """Return ``(file, line)`` for all lines that the server reads from ``config_file`` on, in its order.

    Where it would read ``path``, which need not exist, stands ``(path, 0)``. OSError when a file may not be read, Refusal for
    a circle of includes.
    """
    order: list[tuple[str, int]] = []
    _add_lines(order, config_file, path, depth=0)
    return order


def _add_lines(order: list[tuple[str, int]], file: str, path: str, depth: int) -> None:
    """Add the lines of ``file``, and of what it includes, to the ``order``."""
    if depth > _DEEPEST_INCLUDE:
        raise Refusal(f"The file {file} is included more than {_DEEPEST_INCLUDE} deep.", "Remove the circle of includes.")
    with open(file, encoding="utf-8", errors="surrogateescape") as stream:
        lines = stream.read().split("\n")
    for number, line in enumerate(lines, 1):
        order.append((file, number))
        found = _INCLUDE.match(line)
        if found:
            target = os.path.normpath(os.path.join(os.path.dirname(file), (found[2] or found[3] or "").replace("''", "'")))
            for included in _included_files(found[1].lower(), target, path):
                if owned_file.same_file(included, path):
                    order.append((path, 0))
                else:
                    _add_lines(order, included, path, depth + 1)


def _included_files(directive: str, target: str, path: str) -> list[str]:
    """Return the files that an include ``directive`` for ``target`` reads, ``path`` among them even before it exists."""
    if directive != "include_dir":
        return [target] if os.path.exists(target) or owned_file.same_file(target, path) else []
    names = set(os.listdir(target)) if os.path.isdir(target) else set()
    if owned_file.same_file(target, os.path.dirname(path)):
        names.add(os.path.basename(path))
    return [os.path.join(target, name) for name in sorted(names, key=os.fsencode) if re.fullmatch(r"[^.].*\.conf", name)]
