# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """How the installed Synapse is called: see _move/synapse_rules.python_words()."""

    DOCUMENTATION = r"""
options:
  synapse_python:
    description:
      - The interpreter that runs Synapse. Exactly one of O(synapse_python) and O(command) is needed.
    type: path
  command:
    description:
      - The port routine's command, as a list of words, where it does not run from O(synapse_python), in a container for
        example. The folder of the copied database must have the same path there.
    type: list
    elements: str
  python_command:
    description:
      - With O(command), how the interpreter that runs Synapse is called there. By default O(command) with V(python3) for
        its last word.
    type: list
    elements: str
"""
