#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_database
short_description: A PostgreSQL database with the encoding and locale that Synapse needs
description:
  - Makes a database exist with the given owner, encoding and locale, by default the ones that Synapse insists on.
  - The encoding and the locale of a database are fixed when it is made. One that exists with others is refused, with the
    way to repair it; the catalog is never edited. So is one that only says V(C) since its catalog was edited, unless its
    indexes are seen to be in that order; there is then a warning.
  - A database that holds tables is never dropped.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  name:
    description:
      - Name of the database, at most 63 bytes.
    type: str
    required: true
  owner:
    description:
      - Role that owns the database. Without it the owner is left as it is, and a new database belongs to O(login_user).
    type: str
  encoding:
    description:
      - Encoding of the database's text.
    type: str
    default: UTF8
  lc_collate:
    description:
      - How the database sorts. Synapse refuses any other than V(C).
    type: str
    default: C
  lc_ctype:
    description:
      - How the database classes characters. Synapse refuses any other than V(C).
    type: str
    default: C
  template:
    description:
      - Database that a new one is copied from. Only V(template0) can be given another locale.
    type: str
    default: template0
  state:
    description:
      - Whether the database exists.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Synapse's database
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_database:
    name: synapse
    owner: synapse
"""

RETURN = r"""
database:
  description: The database as it is now, or would be.
  returned: always
  type: dict
  sample:
    name: synapse
    state: present
    owner: synapse
    encoding: UTF8
    lc_collate: C
    lc_ctype: C
    locale_provider: libc
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            name=dict(type="str", required=True),
            owner=dict(type="str"),
            encoding=dict(type="str", default="UTF8"),
            lc_collate=dict(type="str", default="C"),
            lc_ctype=dict(type="str", default="C"),
            template=dict(type="str", default="template0"),
            state=dict(type="str", choices=["present", "absent"], default="present"),
        ),
        supports_check_mode=True,
    )
    params = module.params
    step = database.present if params["state"] == "present" else database.absent
    desired = database.Desired(
        *(params[option] for option in ("name", "owner", "encoding", "lc_collate", "lc_ctype", "template"))
    )
    with told_to(module):
        _connection.require_name("database", desired.name)
        with connected(params, "postgres_database") as server:
            result = step(server, desired, module.check_mode)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
