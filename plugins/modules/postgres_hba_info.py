#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_hba_info
short_description: Which line of pg_hba.conf decides about a connection
description:
  - Tells by the server's own first match which line of C(pg_hba.conf), or of the files that it includes, decides about a
    connection, or that there is none; what that line asks for; how the role's password is stored; and what to change for
    the connection to be let in with its password. It changes nothing, and logs in as nobody but the administrator.
  - The files are read through the server, so the task may run anywhere. Only on the server's own host are the addresses
    known that V(samehost) and V(samenet) mean, and the client's name; elsewhere a line with these is one that may decide.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.info
options:
  database:
    description:
      - Name of the database that somebody wants to connect to.
    type: str
    required: true
  user:
    description:
      - Name of the role that they want to connect as.
    type: str
    required: true
  address:
    description:
      - Address that they come from, as the server sees it; empty for the Unix socket.
    type: str
    default: ""
  encryption:
    description:
      - How their connection is encrypted, where they come from an address.
      - By default V(tls) where the server has C(ssl) on, else V(none).
    type: str
    choices: [none, tls, gss]
notes:
  - The role that connects must be a superuser, or a member of C(pg_read_server_files) and C(pg_read_all_settings) that has been
    granted C(EXECUTE) on C(pg_read_binary_file(text)), and the like for C(pg_ls_dir(text)), C(pg_stat_file(text)) and
    C(pg_hba_file_rules).
"""

EXAMPLES = r"""
- name: Why Synapse is not let in from its host
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_hba_info:
    database: synapse
    user: synapse
    address: 10.1.2.3
  register: access

- name: Say it
  ansible.builtin.debug:
    msg: "{{ access.explanation }}"
"""

RETURN = r"""
decides:
  description: The line that decides, null when none matches; then nobody is let in.
  returned: success
  type: dict
  contains:
    file:
      description: The file it stands in.
      type: str
    line:
      description: The number of its line.
      type: int
    text:
      description: The line, with secrets masked.
      type: str
    method:
      description: How the client has to prove who it is.
      type: str
    sure:
      description: Whether all is known that this depends on.
      type: bool
  sample:
    file: /etc/postgresql/17/main/pg_hba.conf
    line: 120
    text: host all all 127.0.0.1/32 ident
    method: ident
    sure: true
password:
  description:
    - How the role's password is stored, one of V(scram-sha-256), V(md5), V(plain), V(none), V(expired) or V(unreadable);
      or V(nologin) where the role may not log in at all.
      Null where there is no such role.
  returned: success
  type: str
  sample: scram-sha-256
explanation:
  description: All of that and what to change, in sentences.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_server, host_addresses
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            database=dict(type="str", required=True),
            user=dict(type="str", required=True),
            address=dict(type="str", default=""),
            encryption=dict(type="str", choices=["none", "tls", "gss"]),
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        host_addresses.require_address(params["address"])
        with connected(params, "postgres_hba_info") as server:
            found = hba_server.explain(server, params)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
