# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of a configuration file of PostgreSQL's that sets parameters."""

from __future__ import annotations

from typing import Mapping

HEADER = "# Ansible managed (matrixops.synapse_postgres)"


def render(settings: Mapping[str, str], comments: Mapping[str, object]) -> str:
    """Return a configuration file of ``settings``, each below its comment's lines if it has one."""
    return f"{HEADER}\n{assignments(settings, comments)}"


def assignments(settings: Mapping[str, str], comments: Mapping[str, object]) -> str:
    """Return the lines of a configuration file for ``settings``, each below its comment's lines if it has one."""
    lines: list[str] = []
    for name, text in settings.items():
        lines += [f"# {line}".rstrip() for line in str(comments.get(name, "")).splitlines()]
        lines.append(f"{name} = '{_escaped(text)}'")
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    """Return ``text`` for between single quotes in a configuration file: guc-file.l, DeescapeQuotedString()."""
    for plain, escaped in (("\\", "\\\\"), ("'", "''"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return text
