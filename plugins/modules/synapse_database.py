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
  - The database is its owner's alone. What every role may do with a new database (C(CONNECT), C(TEMPORARY), and before
    PostgreSQL 15 C(CREATE) in the schema C(public)) is revoked from C(PUBLIC); the owner may make tables in that schema
    whatever the server's version, and what a role was granted by name stays. Where the role that connects may not revoke it,
    a warning says so.
  - All of it is looked at before any is touched, so that a database of the wrong locale or a rule that cannot be placed
    is refused while everything is still as it was.
  - Tables that belong to another role, as after a dump that was restored by one, are told by a warning with the command that
    hands them over; O(adopt_from) does so.
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
      - Password of the role. The methods V(scram-sha-256) and V(md5) need one; without it, a role that exists keeps its own.
    type: str
  allow_unsafe_locale:
    description:
      - Whether an existing database of another locale than V(C) is left as it is, as Synapse does by the switch of that name;
        its encoding has to be UTF8 all the same. A new database is made with V(C) in any case.
    type: bool
    default: false
  adopt_from:
    description:
      - Role whose tables, sequences, views, functions, types and schemas, where Synapse has its own in this database, are
        given to O(user), in one transaction. What an extension brought, and what other roles own, stays.
    type: str
  connection_limit:
    description:
      - How many connections the role may have at once; V(-1) for no limit. Without it the limit is left as it is.
    type: int
  connections:
    description:
      - How many connections Synapse's processes can open together, C(cp_max) of each. A warning says so where the server
        (C(max_connections) but for what it reserves) or the role's limit has fewer.
    type: int
  clients:
    description:
      - Addresses that the role may connect from to the database, as in pg_hba.conf, and V(local) for the Unix socket.
    type: list
    elements: str
    default: []
  method:
    description:
      - How the role proves at O(clients) who it is.
      - V(scram-sha-256) and V(md5) by its password; V(md5) is for clients that know nothing better. The password is kept as
        a SCRAM verifier with either, and V(md5) then still lets in who proves it by SCRAM.
      - V(peer) by the operating system user, which O(system_users) names; through the Unix socket alone.
      - V(cert) by a client certificate that has the role's name as its common name and was issued by an authority that the
        server trusts (C(ssl_ca_file)); by TLS alone.
      - V(trust) not at all. Whoever can connect from one of O(clients) is let in; there is a warning.
    type: str
    choices: [scram-sha-256, md5, peer, cert, trust]
    default: scram-sha-256
  system_users:
    description:
      - Operating system users who may be the role by the method V(peer), in the map C(synapse) of pg_ident.conf.
    type: list
    elements: str
    default: []
  tls:
    description:
      - Whether only encrypted connections are let in from addresses. A rule of this module's for the same connections
        without TLS is then removed.
    type: bool
    default: false
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
  allow_managed_file:
    description:
      - Whether to change a pg_hba.conf that another manager will write again, as the option
        O(matrixops.synapse_postgres.postgres_hba#module:allow_managed_file).
    type: bool
    default: false
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

- name: The same without a password, for a homeserver that comes through the Unix socket
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_database:
    name: synapse
    user: synapse
    clients: [local]
    method: peer
    system_users: [matrix-synapse]
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
rights:
  description:
    - What every role may do with the database, and what its owner was given, as it is now, or would be; but for the rights that
      an owner has in any case.
  returned: always
  type: dict
  sample: {everybody: [], owner: [CREATE ON SCHEMA public]}
adopted:
  description: What was taken over from O(adopt_from), or would be.
  returned: always
  type: list
  elements: str
  sample: [TABLE public.users, SEQUENCE public.user_id_seq]
placed:
  description: The rules, as M(matrixops.synapse_postgres.postgres_hba) returns them.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_option, provision
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            name=dict(type="str", required=True),
            user=dict(type="str", required=True),
            password=dict(type="str", no_log=True),
            allow_unsafe_locale=dict(type="bool", default=False),
            adopt_from=dict(type="str"),
            connection_limit=dict(type="int"),
            connections=dict(type="int"),
            clients=dict(type="list", elements="str", default=[]),
            method=dict(type="str", choices=[*provision.WITH_PASSWORD, "peer", "cert", "trust"], default="scram-sha-256"),
            system_users=dict(type="list", elements="str", default=[]),
            tls=dict(type="bool", default=False),
            hba_content=dict(type="str"),
            rules=dict(type="list", elements="dict", default=[], options=hba_option.SPEC),
            allow_managed_file=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        results = provision.apply(module, params)
    if params["method"] == "trust":
        module.warn(
            f"Whoever can connect from {', '.join(params['clients']) or 'nowhere'} is let in to the database {params['name']!r} "
            "as Synapse, without a password (method trust)."
        )
    for warning in [warning for result in results.values() for warning in result.get("warnings", [])]:
        module.warn(warning)
    module.exit_json(
        changed=any(result["changed"] for result in results.values()),
        role=results["role"]["role"],
        database=results["database"]["database"],
        rights=results["rights"]["rights"],
        adopted=results["ownership"]["adopted"],
        placed=results["rules"]["placed"] if "rules" in results else [],
        diff=[result["diff"] for result in results.values() if result["changed"]],
    )


if __name__ == "__main__":
    main()
