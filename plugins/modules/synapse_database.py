#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_database
short_description: Synapse's role, its database and the way to it, in one step
description:
  - Makes a login role, a database that it owns, and rules in pg_hba.conf that let it in, as the modules
    M(matrixops.synapse_postgres.postgres_role), M(matrixops.synapse_postgres.postgres_database) and
    M(matrixops.synapse_postgres.postgres_hba) do, with what Synapse needs for all that they can be told.
  - All three are looked at before any is touched, so that a database of the wrong locale or a rule that cannot be placed
    is refused while everything is still as it was; and it takes one connection instead of three.
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
  user:
    description:
      - Name of the role that owns it, at most 63 bytes.
    type: str
    required: true
  password:
    description:
      - Password of the role.
    type: str
    required: true
  connection_limit:
    description:
      - How many connections the role may have at once; V(-1) for no limit. Without it the limit is left as it is.
    type: int
  clients:
    description:
      - Addresses that the role may connect from to the database with its password, as in pg_hba.conf.
    type: list
    elements: str
    default: []
  hba_content:
    description:
      - All of pg_hba.conf but for the rules, as the option O(matrixops.synapse_postgres.postgres_hba#module:content).
    type: str
  rules:
    description:
      - Further rules for pg_hba.conf. Where there are none, and no O(clients) and no O(hba_content), the file is left alone.
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description: Kind of connection.
        type: str
        required: true
        choices: [local, host, hostssl, hostnossl, hostgssenc, hostnogssenc]
      database:
        description: Database names, as in the file.
        type: str
        default: all
      user:
        description: Role names, as in the file.
        type: str
        default: all
      address:
        description: Address, as in the file; for every type but V(local).
        type: str
      method:
        description: How the role proves who it is.
        type: str
        choices:
          - scram-sha-256
          - md5
          - password
          - peer
          - ident
          - cert
          - trust
          - reject
          - gss
          - sspi
          - ldap
          - radius
          - pam
          - bsd
          - oauth
      options:
        description: Options of the method.
        type: dict
"""

EXAMPLES = r"""
- name: Synapse's database, for a homeserver on this host and one on another
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_database:
    name: synapse
    user: synapse
    password: "{{ synapse_postgres_password }}"
    clients: [127.0.0.1/32, 10.1.2.3/32]
"""

RETURN = r"""
role:
  description: The role, as M(matrixops.synapse_postgres.postgres_role) returns it.
  returned: always
  type: dict
database:
  description: The database, as M(matrixops.synapse_postgres.postgres_database) returns it.
  returned: always
  type: dict
placed:
  description: The rules, as M(matrixops.synapse_postgres.postgres_hba) returns them.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _database, _hba_file, _role
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def steps(module, params: dict) -> list:
    """Return the steps, each a function of (cursor, check_mode); Refusal for what cannot be meant."""
    role = {**params, "name": params["user"], "attributes": _role.LEAST}
    _role.require_possible(role)
    _connection.require_name("database", params["name"])
    locale = {"encoding": "UTF8", "lc_collate": "C", "lc_ctype": "C", "template": "template0"}
    database = {**params, "owner": params["user"], **locale}
    # Names are quoted, so that a database called all, or a role with a comma, means itself.
    names = {key: '"' + params[given].replace('"', '""') + '"' for key, given in {"database": "name", "user": "user"}.items()}
    ours = [
        {"type": "host", **names, "address": client, "method": "scram-sha-256", "options": None} for client in params["clients"]
    ]
    hba = {**params, "content": params["hba_content"], "rules": _hba_file.rules(ours + params["rules"]), "path": None}
    hba.update(state="present", backup=False)
    found = [
        lambda cursor, check: _role.present(cursor, role, check),
        lambda cursor, check: _database.present(cursor, database, check),
    ]
    return (
        [*found, lambda cursor, check: _hba_file.step(module, cursor, hba, check)]
        if hba["rules"] or hba["content"] is not None
        else found
    )


def take(module, params: dict) -> list[dict]:
    """Look at every step, and then take the ones that change something; return their results."""
    planned = steps(module, params)
    with _connection.session(params, autocommit=True, what="synapse_database") as connection, connection.cursor() as cursor:
        foretold = [step(cursor, True) for step in planned]
        if module.check_mode:
            return foretold
        return [step(cursor, False) if result["changed"] else result for step, result in zip(planned, foretold)]


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            name=dict(type="str", required=True),
            user=dict(type="str", required=True),
            password=dict(type="str", required=True, no_log=True),
            connection_limit=dict(type="int"),
            clients=dict(type="list", elements="str", default=[]),
            hba_content=dict(type="str"),
            rules=dict(type="list", elements="dict", default=[], options=_hba_file.RULE),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        results = take(module, module.params)
    role, database, *hba = results
    for result in hba:
        for warning in result["warnings"]:
            module.warn(warning)
    module.exit_json(
        changed=any(result["changed"] for result in results),
        role=role["role"],
        database=database["database"],
        placed=hba[0]["placed"] if hba else [],
        diff=[result["diff"] for result in results if result["changed"]],
    )


if __name__ == "__main__":
    main()
