#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_hba
short_description: Rules of pg_hba.conf that are in force
description:
  - Makes rules of C(pg_hba.conf) effective, or removes them. The first line that matches a connection decides, so a rule is
    effective when it stands before every line that could match one of its connections and treat it differently. It is put
    directly before the first such line, or at the end of the file when there is none.
  - A line for exactly the same connections with another method or other options is rewritten where it stands, and moved when
    it stands too late. A line that is already effective is left as it is, however it is spaced.
  - A line that rejects a part of a rule's connections was put there on purpose; where it stands in front it stays there, and a
    warning names it. A rule is put behind such a line where it is as effective there; where it is not, a warning names the line.
  - Whatever depends on more than the file shows, such as an included file, a list of names in a file, a role's members, a
    regular expression or a host name, is taken for a match.
  - Every other byte of the file stays as it is. The server is asked whether it accepts the new file; when it does not, the
    old one is put back. The server reloads its configuration only when the file was changed.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  path:
    description:
      - The file, on the host that the task runs on. Without it, it is the one that the server names as its C(hba_file).
      - A file that the server reads neither as its C(hba_file) nor by way of it is written all the same, with a warning, and
        without asking the server.
      - In a file that the server includes, a rule is placed before what stands in that file. Lines of other files that come first
        are named in a warning.
    type: path
  content:
    description:
      - All of the file but for the rules, which are placed in it. What the file holds now goes, so give it only for a server
        whose file nobody else writes.
      - Without it, the rules are placed in the file as it is.
    type: str
  rules:
    description:
      - The rules. With O(state=present), new ones are put in in the given order, and of two that could match the same
        connection the first one stays first.
      - At least one of O(rules) and O(content) is needed.
    type: list
    elements: dict
    suboptions:
      type:
        description:
          - The kind of connection.
        type: str
        required: true
        choices: [local, host, hostssl, hostnossl, hostgssenc, hostnogssenc]
      database:
        description:
          - Names of databases, separated by commas. The keywords V(all), V(sameuser), V(samerole) and V(replication), a
            leading V(@) and a leading V(/) mean what they mean in the file.
          - A name in double quotes is just a name, so that V("all") is the database called all. Names with blanks and the like
            need no quotes here; one that holds a comma does.
        type: str
        default: all
      user:
        description:
          - Names of roles, separated by commas and written as in O(rules[].database). The keyword is V(all), and a leading
            V(+) means the members of a role.
        type: str
        default: all
      address:
        description:
          - The client's address, such as V(10.0.0.0/8), V(::1/128), V(db.example.org), V(.example.org), V(samehost), V(samenet)
            or V(all). Required unless O(rules[].type=local), which has none.
        type: str
      method:
        description:
          - How the client proves who it is. With O(state=present) it is V(scram-sha-256) unless given.
          - With O(state=absent), lines of any method are removed unless it is given.
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
        description:
          - Options of the method. With O(state=absent), lines with any options are removed unless they are given.
          - The options C(ldapbindpasswd) and C(radiussecrets) are refused, since Ansible logs what a task is given.
        type: dict
  state:
    description:
      - Whether the rules are effective, or gone. Those that are to be gone are told by type, database, user and address.
    type: str
    choices: [present, absent]
    default: present
  backup:
    description:
      - Keep a copy of the file as it was, beside it, when it is changed.
    type: bool
    default: false
  allow_managed_file:
    description:
      - Whether to change a file that another manager will write again, such as Patroni, Puppet or a template of Ansible's. It is
        told by the file's head and by what that manager keeps beside it. Such a file is refused unless this is given, since
        the access would be lost with the next writing; with it there is a warning.
      - A file in a place where nothing can be changed, such as the store of Nix or a ConfigMap of Kubernetes, is always refused.
    type: bool
    default: false
notes:
  - The role that connects must be a superuser, or be a member of C(pg_read_all_settings) and have been granted C(SELECT) on
    C(pg_hba_file_rules), and C(EXECUTE) on C(pg_hba_file_rules()) and C(pg_reload_conf()).
  - The task runs on the server's host, as the user that owns the file or as root.
  - A server takes a reload up after it was told to, not at once. The module waits up to 10 seconds for that.
  - A rule's V(hostssl) cannot match while the server has C(ssl) off; that is told as a warning.
"""

EXAMPLES = r"""
- name: Synapse logs in with its password
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_hba:
    rules:
      - {type: local, database: synapse, user: synapse}
      - {type: host, database: synapse, user: synapse, address: 127.0.0.1/32}
      - {type: host, database: synapse, user: synapse, address: "::1/128"}
    backup: true

- name: Nobody but the administrator and Synapse, on a server of Synapse's own
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_hba:
    content: |
      local all all peer
    rules:
      - {type: host, database: synapse, user: synapse, address: 127.0.0.1/32}

- name: The old host of Synapse has no business here any more
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_hba:
    rules:
      - {type: hostssl, database: synapse, user: synapse, address: 192.0.2.7/32}
    state: absent
"""

RETURN = r"""
path:
  description: The file, with symbolic links followed.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/pg_hba.conf
placed:
  description:
    - For each of the rules, in their order, the rule as a line, the number of its line and what was done, or would be.
    - With O(state=present), C(action) is V(present), V(inserted), V(moved) or V(replaced). With O(state=absent) it is
      V(removed), with the number the first removed line had, or V(absent), without a number.
  returned: success
  type: list
  elements: dict
  sample:
    - rule: "host    synapse         synapse         127.0.0.1/32            scram-sha-256"
      line: 97
      action: inserted
backup_file:
  description: The copy of the file as it was.
  returned: when O(backup=true) and the file was changed
  type: str
  sample: /etc/postgresql/17/main/pg_hba.conf.4711.2026-01-31@12:00:00~
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_file, hba_option
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            path=dict(type="path"),
            content=dict(type="str"),
            rules=dict(type="list", elements="dict", options=hba_option.SPEC),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            backup=dict(type="bool", default=False),
            allow_managed_file=dict(type="bool", default=False),
        ),
        required_one_of=[("content", "rules")],
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        rules = hba_option.rules(params["rules"] or [], params["state"])
        options = {name: params[name] for name in ("state", "path", "content", "backup", "allow_managed_file")}
        with connected(params, "postgres_hba") as server:
            result = hba_file.apply(module, server, hba_file.Desired(rules, **options), module.check_mode)
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
