#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_role
short_description: A PostgreSQL role that logs in with a SCRAM verifier
description:
  - Makes a role exist with the given attributes and password, or not exist.
  - The password's SCRAM-SHA-256 verifier is computed by the module, so that the password itself is never sent to the
    server and cannot appear in its log.
  - A stored verifier is compared with the password by its own salt and iteration count, so that an unchanged password is
    not set again. A password stored as MD5, or by a server before 10 as it is, is replaced by a SCRAM verifier.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  name:
    description:
      - Name of the role, at most 63 bytes.
    type: str
    required: true
  password:
    description:
      - Password of the role. Without it the role's password is left as it is, and a new role has none.
    type: str
  attributes:
    description:
      - Attributes as in C(CREATE ROLE). Those that are not named are left as they are.
    type: list
    elements: str
    choices:
      - LOGIN
      - NOLOGIN
      - SUPERUSER
      - NOSUPERUSER
      - CREATEDB
      - NOCREATEDB
      - CREATEROLE
      - NOCREATEROLE
      - INHERIT
      - NOINHERIT
      - REPLICATION
      - NOREPLICATION
      - BYPASSRLS
      - NOBYPASSRLS
    default: [LOGIN, NOSUPERUSER, NOCREATEDB, NOCREATEROLE]
  connection_limit:
    description:
      - How many connections the role may have at once; V(-1) for no limit. Without it the limit is left as it is.
    type: int
  state:
    description:
      - Whether the role exists. A role that still owns something is not dropped.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Synapse's role
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_role:
    name: synapse
    password: "{{ synapse_postgres_password }}"

- name: A role for monitoring on a server of a provider's
  matrixops.synapse_postgres.postgres_role:
    login_host: db.example.org
    login_user: admin
    login_password: "{{ admin_password }}"
    name: watcher
    password: "{{ watcher_password }}"
    connection_limit: 3
"""

RETURN = r"""
role:
  description: The role as it is now, or would be. The password is told by the way it is stored.
  returned: always
  type: dict
  sample:
    name: synapse
    state: present
    attributes: [LOGIN, NOSUPERUSER, NOCREATEDB, NOCREATEROLE, INHERIT, NOREPLICATION, NOBYPASSRLS]
    connection_limit: -1
    password: scram-sha-256
changes:
  description: What was changed, or would be.
  returned: always
  type: list
  elements: str
  sample: [password]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import role
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            name=dict(type="str", required=True),
            password=dict(type="str", no_log=True),
            attributes=dict(type="list", elements="str", choices=role.KEYWORDS, default=role.LEAST),
            connection_limit=dict(type="int"),
            state=dict(type="str", choices=["present", "absent"], default="present"),
        ),
        supports_check_mode=True,
    )
    params = module.params
    step = role.present if params["state"] == "present" else role.absent
    desired = role.Desired(params["name"], params["password"], params["attributes"], params["connection_limit"])
    with told_to(module):
        desired.require_possible()
        with connected(params, "postgres_role", autocommit=False) as server:
            result = step(server, desired, module.check_mode)
            warnings = [*result.pop("warnings"), *role.expiry_warnings(server.cursor, desired.name)]
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
