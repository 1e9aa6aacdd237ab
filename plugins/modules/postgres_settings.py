#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_settings
short_description: PostgreSQL's parameters, in a configuration file of their own or by ALTER SYSTEM
description:
  - Writes the given parameters, and no others, to one file of the server's C(conf.d) folder and makes the server reload.
    Where the server's files are out of reach, O(method=alter_system) sets them through the connection.
  - Every value is checked before anything is touched, with the server's own list of parameters and by the server's own
    rules for units, ranges and choices. Afterwards the server is asked what it makes of the file; when it objects, or does
    not read the file at all, the file is put back as it was and the task fails with the server's words. So are parameters that
    were set by C(ALTER SYSTEM) before one that the server refuses.
  - Tells which parameters wait for a restart, and keeps the file that the running server came up with until then. The module
    never restarts the server.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  settings:
    description:
      - Parameters and their values, as the configuration file has them. V({}) empties the file.
      - A boolean is written as V(on) or V(off); a number without a unit counts in the parameter's own unit, as in the
        file.
      - Parameters of extensions, which have a dot in the name, may be unknown to the server.
      - The values of parameters that may hold a secret, such as C(primary_conninfo) or C(archive_command), are shown nowhere, and
        a file with one is not for everybody to read.
    type: dict
    required: true
  method:
    description:
      - V(file) writes O(path), on the server's host and as a superuser.
      - V(alter_system) uses C(ALTER SYSTEM) for each parameter that has another value, from wherever the server can be reached.
        What the role may not set is not tried and is told in RV(not_permitted). What was set so stays set when it is taken out
        of O(settings).
    type: str
    choices: [file, alter_system]
    default: file
  path:
    description:
      - The configuration file. It belongs to this module as a whole, and everybody may read it unless it holds a secret. One
        whose head says that another manager writes it is refused.
      - Without it, the file is C(conf.d/90-synapse-postgres.conf) beside the server's C(postgresql.conf).
      - Not used with O(method=alter_system).
    type: path
  comments:
    description:
      - Texts to write above parameters, by name. Those for parameters that are not in O(settings) are left out.
    type: dict
    default: {}
  at_least:
    description:
      - Names of parameters in O(settings) that are numbers and only ever raised. Where the server's other files, or its default
        where they do not set it, give a larger number, that one stays and ours is not set.
      - With O(method=file), what C(ALTER SYSTEM) has set counts as another file; with O(method=alter_system) it is what the
        module itself sets. A role that may not see the server's files goes by the running value.
      - Numbers are compared as they are, those too with which a parameter means that there is no limit, such as V(-1) or V(0).
    type: list
    elements: str
    default: []
notes:
  - With O(method=file), run it on the server's host, as root or as the operating system user of the server; the role must be a
    superuser.
  - With O(method=alter_system), a statement with a secret stays out of the server's log if the role is a superuser. The server
    itself logs the new value of a parameter when it reloads one.
"""

EXAMPLES = r"""
- name: What this host's PostgreSQL is to be set to
  matrixops.synapse_postgres.postgres_tuning_info:
    synapse_on_host: true
  register: tuning

- name: Set it
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_settings:
    settings: "{{ tuning.settings | combine({'log_min_duration_statement': '5s'}) }}"
    comments: "{{ tuning.comments }}"
    at_least: [max_connections, max_worker_processes]
  register: settings

- name: Restart the server when a parameter needs it
  become: true
  ansible.builtin.service:
    name: postgresql
    state: restarted
  when: settings.restart_required

- name: Set what a provider's server lets us set
  matrixops.synapse_postgres.postgres_settings:
    login_host: db.example.org
    login_user: dba
    login_password: "{{ database_admin_password }}"
    method: alter_system
    settings:
      work_mem: 16MB
      random_page_cost: 1.1
  register: settings

- name: Show what changed and what is left to set in the provider's console
  ansible.builtin.debug:
    var: settings.table
"""

RETURN = r"""
path:
  description: The configuration file. Empty with O(method=alter_system).
  returned: always
  type: str
  sample: /etc/postgresql/15/main/conf.d/90-synapse-postgres.conf
previous:
  description:
    - A copy of the file that the running server came up with, while a parameter of ours waits for a restart. To go back when the
      server does not start, put it in the place of RV(path) and start the server.
    - Empty when there is none. In check mode, where it would be.
  returned: always
  type: str
  sample: /etc/postgresql/15/main/conf.d/90-synapse-postgres.conf.before
restart_required:
  description:
    - Whether a parameter waits for a restart of the server, or would. It stays true, on runs that change nothing too,
      until the server was restarted.
  returned: always
  type: bool
restart_parameters:
  description: The parameters that wait for a restart, whose value by the files means another one than the running one.
  returned: always
  type: list
  elements: str
  sample: [shared_buffers]
reload_required:
  description:
    - In check mode, whether the run would make the server reload. Otherwise false, because that was done, unless the role of
      O(method=alter_system) may not make the server reload.
  returned: always
  type: bool
overridden:
  description: Parameters of O(settings) whose value comes from elsewhere, and from which file and line.
  returned: always
  type: dict
  sample:
    work_mem: /var/lib/postgresql/15/main/postgresql.auto.conf, line 3
kept:
  description: Parameters of O(at_least) that are larger elsewhere and were left so, each with the C(value) and its C(place).
  returned: always
  type: dict
  sample:
    max_connections:
      value: "200"
      place: /etc/postgresql/15/main/postgresql.conf, line 64
not_permitted:
  description:
    - Parameters that have another value than in O(settings), and that the role may not set by C(ALTER SYSTEM) or not see.
  returned: always
  type: list
  elements: str
  sample: [shared_buffers]
not_visible:
  description:
    - Parameters that O(method=alter_system) left as they are, because another value is in force than the server's files may
      give and the role may not see those. Most often they wait for a restart.
  returned: always
  type: list
  elements: str
  sample: [shared_buffers]
changes:
  description:
    - The parameters that came to another value than the one in force, or would, and those that wait for a restart. Values that
      may be secrets read "(not shown)".
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The parameter.
      type: str
    old:
      description: The value in force before the run, as C(SHOW) has it.
      type: str
    new:
      description: The value to come, as it is wished. For a parameter that was taken away, the value that it goes back to.
      type: str
    waits:
      description: Whether it waits for a restart.
      type: bool
  sample:
    - {name: shared_buffers, old: 128MB, new: 1GB, waits: true}
table:
  description: The lines of a table of RV(changes) and RV(not_permitted) for people, its header first. Empty when there are none.
  returned: always
  type: list
  elements: str
  sample:
    - parameter       old    new  needs    reason
    - shared_buffers  128MB  1GB  restart  25 % of the budget (budget 4096MB).
settings_text:
  description: The parameters as lines of a configuration file, with their comments and without values that may be secrets.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import alter_system, conf_file, secrecy


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            settings=dict(type="dict", required=True),
            method=dict(type="str", choices=["file", "alter_system"], default="file"),
            path=dict(type="path"),
            comments=dict(type="dict", default={}),
            at_least=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
        no_log=True,  # parameters may hold secrets, and the options would be in the host's log
    )
    module.no_log_values.update(secrecy.secret_values(module.params["settings"]))
    with told_to(module):
        with _connection.session(module.params, autocommit=True, what="postgres_settings", schema=None) as connection:
            method = alter_system if module.params["method"] == "alter_system" else conf_file
            result = method.apply(module, connection.cursor())
            role, database = _words.identifier(connection.info.user), connection.info.dbname
    for name, place in result["overridden"].items():
        module.warn(f"The parameter {name} of {result['path'] or 'ALTER SYSTEM'} has no effect: {place} overrides it.")
    if result["not_permitted"]:
        module.warn(
            f"The server does not let this role set {', '.join(result['not_permitted'])} by ALTER SYSTEM: set them in the "
            "provider's console; their lines are in settings_text."
        )
    if result["reload_required"] and not module.check_mode:
        module.warn(
            "The values are set, but this role may not make the server load them: have the provider reload it, or allow it by "
            f"`GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {role}` as a superuser, in the database {database!r}."
        )
    if result["not_visible"]:
        module.warn(
            f"This role cannot see what the server's files give {', '.join(result['not_visible'])}, which were left as they are: "
            "restart the server if they wait for that, or let it see them by "
            f"`GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO {role}; GRANT SELECT ON pg_file_settings TO {role}` "
            f"as a superuser, in the database {database!r}."
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
