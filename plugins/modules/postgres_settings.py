#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_settings
short_description: PostgreSQL's parameters, in a configuration file of their own
description:
  - Writes the given parameters, and no others, to one file of the server's C(conf.d) folder and makes the server reload.
  - Every value is checked before anything is written, with the server's own list of parameters and by the server's own
    rules for units, ranges and choices. Afterwards the server is asked what it makes of the file; when it objects, or does
    not read the file at all, the file is put back as it was and the task fails with the server's words.
  - Tells which parameters wait for a restart. The module never restarts the server.
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
    type: dict
    required: true
  path:
    description:
      - The configuration file. It belongs to this module as a whole, and everybody may read it.
      - Without it, the file is C(conf.d/90-synapse-postgres.conf) beside the server's C(postgresql.conf).
    type: path
  comments:
    description:
      - Texts to write above parameters, by name. Those for parameters that are not in O(settings) are left out.
    type: dict
    default: {}
notes:
  - Run it on the server's host, as root or as the operating system user of the server; the role must be a superuser.
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
  register: settings

- name: Restart the server when a parameter needs it
  become: true
  ansible.builtin.service:
    name: postgresql
    state: restarted
  when: settings.restart_required
"""

RETURN = r"""
path:
  description: The configuration file.
  returned: always
  type: str
  sample: /etc/postgresql/15/main/conf.d/90-synapse-postgres.conf
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
  description: In check mode, whether the run would make the server reload. Otherwise false, because that was done.
  returned: always
  type: bool
overridden:
  description: Parameters of O(settings) whose value comes from elsewhere, and from which file and line.
  returned: always
  type: dict
  sample:
    work_mem: /var/lib/postgresql/15/main/postgresql.auto.conf, line 3
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _settings_file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            settings=dict(type="dict", required=True),
            path=dict(type="path"),
            comments=dict(type="dict", default={}),
            at_least=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        with _connection.session(module.params, autocommit=True, what="postgres_settings") as connection:
            result = _settings_file.step(module, connection.cursor())
    for name, place in result["overridden"].items():
        module.warn(f"The parameter {name} of {result['path']} has no effect: {place} overrides it.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
