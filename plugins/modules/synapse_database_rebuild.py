#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_database_rebuild
short_description: Synapse's database made anew in the locale C, without losing a row
description:
  - Makes a database whose locale or encoding is not the one that Synapse insists on, or whose indexes are in another order than
    their collation has, anew in UTF8 and C, as Synapse's documentation asks for. The catalog is never edited.
  - The new database is made beside the old one, from C(template0), by PostgreSQL's own dump of the schema and the rows of each
    table by C(COPY), several at a time. Owners, grants, comments, extensions, and the parameters of the database and of roles in
    it come along.
  - Then every row is compared, by another way than it was copied, and all around the rows as well. Only if all is the same do the
    two databases change their names, in one transaction. The old one is kept as C(<name>_before), and is the backup.
  - Nobody can write to the old database meanwhile, and whatever fails, or a kill at any moment, leaves it as it was under its own
    name. What was made beside it has never been in use, and is taken away by the next run.
  - Synapse and all its workers have to be stopped. It is refused while anybody is connected to the database.
  - An index in the wrong order lets rows in that it should keep apart, and a new one could not be made. Such rows are looked for
    first, and listed; with O(resolve_duplicates) those that it is known of which one counts are left out.
  - It needs C(pg_dump), C(pg_restore) and C(psql) of the server's release or a newer one where it runs, a role that may make
    databases and read this one whole (a superuser), and as much room as the database takes.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: The contents stay the same; what was wrong with the database is in RV(reasons).
  idempotent:
    support: full
options:
  name:
    description:
      - Name of the database.
    type: str
    required: true
  folder:
    description:
      - Absolute path of a folder that the user of the task may write to, for the dump of the schema and the rows that are left
        out.
      - How far it is can be read in C(rebuild.progress.json) there while it runs.
    type: path
    required: true
  resolve_duplicates:
    description:
      - Whether rows are left out that a unique index should have kept apart, where it is known which of them counts. That is one
        of those that say the same in every column, and the newest one in tables whose rows Synapse overwrites as a whole.
      - The others are kept in a file in O(folder), in the table C(synapse_postgres.removed_rows) of the new database, and in the
        old database. Where it is not known, the module fails and lists them, and nothing is changed.
    type: bool
    default: false
  state:
    description:
      - V(rebuilt) makes the database anew if there is a reason to.
      - V(given_back) puts the old database back in its place, with what it held then. The new one is kept as
        C(<name>_given_back).
      - V(old_removed) drops the old database.
    type: str
    choices: [rebuilt, given_back, old_removed]
    default: rebuilt
seealso:
  - module: matrixops.synapse_postgres.synapse_doctor_info
  - module: matrixops.synapse_postgres.synapse_database
"""

EXAMPLES = r"""
- name: Synapse's database in the locale C
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_database_rebuild:
    name: synapse
    folder: /var/lib/postgresql/repair

- name: No need for the old one any more
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_database_rebuild:
    name: synapse
    folder: /var/lib/postgresql/repair
    state: old_removed
"""

RETURN = r"""
reasons:
  description: Why the database was, or would be, made anew; empty where there is no reason.
  returned: with O(state=rebuilt)
  type: list
  elements: str
  sample: ["LC_COLLATE is en_US.UTF-8, not C", "LC_CTYPE is en_US.UTF-8, not C"]
removed:
  description: For each table and unique index, how many rows were, or would be, left out.
  returned: with O(state=rebuilt)
  type: list
  elements: dict
  sample: [{table: public.user_ips, index: public.user_ips_user_token_ip_unique_index, rows: 3}]
removed_file:
  description: The file that keeps them.
  returned: when rows were left out
  type: str
rows:
  description: How many rows were compared.
  returned: with O(state=rebuilt)
  type: int
tables:
  description: How many tables they are in.
  returned: with O(state=rebuilt)
  type: int
seconds:
  description: How long each part took.
  returned: with O(state=rebuilt)
  type: dict
  sample: {copy: 11.2, make indexes: 14.0, compare: 6.1, total: 31.9}
size:
  description: The size of the old database in bytes.
  returned: with O(state=rebuilt) where there was a reason, and with O(state=old_removed)
  type: int
kept:
  description: The name of the database that is kept.
  returned: when the names were changed
  type: str
  sample: synapse_before
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair import rebuild


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            name=dict(type="str", required=True),
            folder=dict(type="path", required=True),
            resolve_duplicates=dict(type="bool", default=False),
            state=dict(type="str", choices=["rebuilt", "given_back", "old_removed"], default="rebuilt"),
        ),
        supports_check_mode=True,
    )
    params, name = module.params, module.params["name"]
    with told_to(module):
        _connection.require_name("database", name)
        with connected(params, "synapse_database_rebuild") as server:
            if params["state"] == "rebuilt":
                result = rebuild.rebuilt(server, name, params["folder"], params["resolve_duplicates"], module.check_mode)
            else:
                step = rebuild.given_back if params["state"] == "given_back" else rebuild.old_removed
                result = step(server, name, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
