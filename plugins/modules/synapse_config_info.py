#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_config_info
short_description: What Synapse reads as its configuration, and what that says of its database
description:
  - Finds out which files Synapse reads, in which order, and merges them as Synapse does; the keys of a later file replace
    those of an earlier one. Tells which file's C(database) section counts, where the SQLite database is on this host, and
    where Synapse answers.
  - The files are those that the running Synapse was started with, in a container or not, which O(path) is one of. A process
    is believed if it is root's, the task's own user's, or that of the owner or the group of O(path). Where none
    runs, they are those of the systemd units, or the one that synctl is given, or O(path) with the folder C(conf.d) beside
    it where there is one.
  - It changes nothing.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.info
requirements:
  - PyYAML on the managed host, for the Python that Ansible uses there, or for C(/usr/bin/python3) or the Python of the
    matrix.org packages, under which the module then runs itself again
options:
  path:
    description:
      - A file of Synapse's configuration, as this host knows it.
    type: path
    required: true
  files:
    description:
      - All files and folders of Synapse's configuration, as this host knows them, in Synapse's order; empty to find them out.
    type: list
    elements: path
    default: []
  manager:
    description:
      - Who starts Synapse, as in the role synapse_config.
    type: str
    choices: [systemd, synctl, command, none]
    default: none
  units:
    description:
      - Synapse's systemd units.
    type: list
    elements: str
    default: []
  sqlite_path:
    description:
      - Where the SQLite database is on this host, where Synapse knows it by another path; empty to find it out.
    type: path
    default: ""
"""

EXAMPLES = r"""
- name: Find out what Synapse reads
  matrixops.synapse_postgres.synapse_config_info:
    path: /etc/matrix-synapse/homeserver.yaml
    manager: systemd
    units: [matrix-synapse.service]
  register: synapse_reads

- name: Tell which file names its database
  ansible.builtin.debug:
    msg: "{{ synapse_reads.section_path }} names {{ synapse_reads.engine }}"
"""

RETURN = r"""
exists:
  description: Whether there is a file at O(path). Without one nothing else is told.
  returned: always
  type: bool
files:
  description: The files that Synapse reads, in its order.
  returned: when it exists
  type: list
  elements: str
folders:
  description: Folders that it reads all files of.
  returned: when it exists
  type: list
  elements: str
found_by:
  description: What named them.
  returned: when it exists
  type: str
  sample: process 4242
section_path:
  description: The file whose C(database) section counts; O(path) where no file has one.
  returned: when it exists
  type: str
  sample: /etc/matrix-synapse/conf.d/database.yaml
overridden:
  description: Files whose C(database) section does not count, since a later file has one.
  returned: when it exists
  type: list
  elements: str
engine:
  description: The engine that Synapse uses, null where nothing names a database.
  returned: when it exists
  type: str
  sample: sqlite3
sqlite_named:
  description: The SQLite database as Synapse's configuration names it; null for another engine.
  returned: when it exists
  type: str
  sample: /data/homeserver.db
sqlite_path:
  description: The same file on this host; null for another engine.
  returned: when it exists
  type: str
  sample: /srv/synapse/homeserver.db
address:
  description: Where Synapse answers, seen from this host; null where no listener says so.
  returned: when it exists
  type: dict
  contains:
    url:
      description: The address without the page.
      type: str
    ask:
      description: A page that Synapse answers.
      type: str
    socket:
      description: The Unix socket that it answers at, on this host; null for TCP.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import discovery


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            path=dict(type="path", required=True),
            files=dict(type="list", elements="path", default=[]),
            manager=dict(type="str", choices=["systemd", "synctl", "command", "none"], default="none"),
            units=dict(type="list", elements="str", default=[]),
            sqlite_path=dict(type="path", default=""),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        _interpreter.need({"yaml": "PyYAML"}, None)
        result = discovery.inspect(module.params)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
