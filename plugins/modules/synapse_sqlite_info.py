#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_sqlite_info
short_description: What a SQLite database of Synapse's holds, and whether it can be moved
description:
  - Reads Synapse's SQLite database, in use or not, and tells what it holds and what stands in the way of a move.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.info
options:
  path:
    description:
      - Absolute path of the database. A symbolic link is followed as SQLite does.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: The homeserver's present database
  matrixops.synapse_postgres.synapse_sqlite_info:
    path: /var/lib/matrix-synapse/homeserver.db
  register: sqlite

- name: A homeserver that people use
  ansible.builtin.debug:
    msg: "{{ sqlite.users }} users"
  when: sqlite.exists
"""

RETURN = r"""
exists:
  description: Whether there is a file at O(path).
  returned: always
  type: bool
file:
  description: Path of the file that SQLite opens for O(path), where that is a link; its log is beside it.
  returned: when it exists
  type: str
size:
  description: Size of the file in bytes.
  returned: when it exists
  type: int
journal_mode:
  description: How SQLite keeps changes, V(wal) on a database that Synapse uses.
  returned: when it exists
  type: str
auto_vacuum:
  description: Whether SQLite moves rows about by itself, which makes a move unsafe.
  returned: when it exists
  type: bool
users:
  description: How many users it holds.
  returned: when it exists
  type: int
events:
  description: How many events it holds.
  returned: when it exists
  type: int
background_updates:
  description: Names of the background updates that Synapse has not finished.
  returned: when it exists
  type: list
  elements: str
schema_version:
  description: Version of Synapse's schema.
  returned: when it exists
  type: int
problems:
  description: What stands in the way of a move, each with what to do about it.
  returned: when it exists
  type: list
  elements: str
"""

import dataclasses
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents, paths


def main() -> None:
    module = AnsibleModule(argument_spec=dict(path=dict(type="path", required=True)), supports_check_mode=True)
    with told_to(module), paths.resolved_params(module.params, "path") as params:
        path = params["path"]
        if not os.path.lexists(module.params["path"]) and not os.path.lexists(path):
            module.exit_json(changed=False, exists=False)
        held = contents.inspect(path)
        problems = [f"{found} {remedy}" for found, remedy in contents.unfit_to_move(path, held)]
    module.exit_json(changed=False, exists=True, file=path, problems=problems, **dataclasses.asdict(held))


if __name__ == "__main__":
    main()
