#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_port_info
short_description: Every reason why a move of Synapse from SQLite to PostgreSQL would fail
description:
  - Looks at Synapse's SQLite database, in use or not, at the PostgreSQL database that it is to move to, at the Synapse that
    would move it and at the disk, and tells in one report what stands in the way.
  - It asks the installed Synapse what its tables look like on PostgreSQL, by letting it make them in the target within a
    transaction that is rolled back, and looks for every value on SQLite that would not fit there, or into one of its indexes,
    which hold a third of a page. Of these the server itself judges the few that are large, on a temporary table.
  - It counts the sessions that the role, the database and the server have left. A move takes three at least.
  - It changes nothing on either side.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.synapse
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.connection.as_synapse
  - matrixops.synapse_postgres.attributes.info
options:
  sqlite_database:
    description:
      - Absolute path of Synapse's SQLite database, as its configuration has it. A symbolic link is followed as SQLite does; a
        second name of the file, a hard link or a mount of the file alone, is a problem.
    type: path
    required: true
  config:
    description:
      - The files and folders of Synapse's configuration, in the order in which Synapse reads them.
      - The target is the database that O(login_user) logs in to; without one, it is that of the C(database) section for
        psycopg2 in the file that counts.
    type: list
    elements: path
    required: true
  allow_unsafe_locale:
    description:
      - Whether Synapse will be told to accept a database of another locale than V(C), as in its C(database) section.
    type: bool
    default: false
  space:
    description:
      - What M(matrixops.synapse_postgres.synapse_database_info) told as C(space) on the server's host. Without it, how much
        room is needed there becomes a note.
    type: dict
  folder:
    description:
      - Absolute path of the folder that the copy of the database will be made in. While it does not exist, the nearest
        folder above it counts.
      - With O(command) it must have the same path where Synapse runs.
    type: path
    required: true
  drain_background_updates:
    description:
      - Whether the move will finish pending background updates on the copy, as
        M(matrixops.synapse_postgres.synapse_port) can. Otherwise they are a problem.
    type: bool
    default: false
  engine:
    description:
      - What will carry the rows over, as in M(matrixops.synapse_postgres.synapse_port). V(synapse) has some problems more, such
        as rows that refer to later rows of their own table, numbers that are to be searched, and names that need quotes.
    type: str
    choices: [copy, synapse]
    default: copy
requirements:
  - psycopg2 and PyYAML, for the Python that Ansible uses there or for O(synapse_python)
seealso:
  - module: matrixops.synapse_postgres.synapse_port
"""

EXAMPLES = r"""
- name: Look whether the homeserver can be moved
  become: true
  matrixops.synapse_postgres.synapse_port_info:
    sqlite_database: /var/lib/matrix-synapse/homeserver.db
    config: [/var/lib/matrix-synapse/port/homeserver-postgres.yaml]
    folder: /var/lib/matrix-synapse/port
    synapse_python: /opt/venvs/matrix-synapse/bin/python
  register: preflight

- name: Refuse what would fail
  ansible.builtin.assert:
    that: preflight.movable
    fail_msg: "{{ preflight.problems | map(attribute='found') | join(' ') }}"
"""

RETURN = r"""
problems:
  description: What stands in the way of a move.
  returned: always
  type: list
  elements: dict
  contains: &finding
    found:
      description: What was found, where.
      type: str
    remedy:
      description: What to do about it.
      type: str
    table:
      description: The table it was found in, if it is about one.
      type: str
    rows:
      description: The row ids of the first 20 rows, if it is about rows.
      type: list
      elements: int
    count:
      description: How many rows there are of the kind.
      type: int
  sample:
    - found: 'users.admin is no whole number that fits smallint in 1 row (row id 7) of /var/lib/matrix-synapse/homeserver.db.'
      remedy: >-
        Look at them by `sqlite3 /var/lib/matrix-synapse/homeserver.db 'SELECT rowid, "admin" FROM "users" WHERE rowid IN (7)'`,
        and correct or delete them with Synapse stopped; keep a copy of the file.
      table: users
      rows: [7]
      count: 1
notes:
  description: What a move changes or leaves behind, and does not stand in its way.
  returned: always
  type: list
  elements: dict
  contains: *finding
movable:
  description: Whether there are no problems.
  returned: always
  type: bool
source:
  description: What the SQLite database holds, as in M(matrixops.synapse_postgres.synapse_sqlite_info); null where it is none of
    Synapse's.
  returned: always
  type: dict
synapse:
  description: The version of the Synapse that would move it; null where it does not answer.
  returned: always
  type: str
sizes:
  description: Sizes in bytes.
  returned: always
  type: dict
  contains:
    sqlite:
      description: The SQLite database with its write-ahead log.
      type: int
    expected_postgres:
      description: The most that it is expected to take in PostgreSQL.
      type: int
    wal:
      description: What the server keeps of its own write-ahead log (max_wal_size); null where it was not reached.
      type: int
    snapshot:
      description: What a copy of the SQLite database needs, beside an older one.
      type: int
    free:
      description: What the file system of O(folder) has left.
      type: int
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import preflight, synapse_rules


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            **_connection.AS_SYNAPSE,
            sqlite_database=dict(type="path", required=True),
            config=dict(type="list", elements="path", required=True),
            allow_unsafe_locale=dict(type="bool", default=False),
            space=dict(type="dict"),
            folder=dict(type="path", required=True),
            **synapse_rules.CALLED,
            drain_background_updates=dict(type="bool", default=False),
            engine=dict(type="str", choices=["copy", "synapse"], default="copy"),
        ),
        mutually_exclusive=[("synapse_python", "command")],
        required_one_of=[("synapse_python", "command")],
        required_by={"python_command": "command"},
        supports_check_mode=True,
    )
    with told_to(module):
        _interpreter.need({"yaml": "PyYAML", "psycopg2": "psycopg2"}, module.params["synapse_python"])
        found = preflight.inspect(module.params)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
