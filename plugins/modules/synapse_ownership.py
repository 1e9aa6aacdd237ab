#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_ownership
short_description: All that is Synapse's in its database belongs to Synapse's role
description:
  - Gives the tables, sequences, functions and types of Synapse's, and the database itself, to Synapse's role, whoever owns them,
    as after a dump that was restored by somebody else. Synapse alters its tables when it is upgraded, and only an owner may.
  - What an owner has that has none of the tables that every Synapse has is another program's, and is left alone, with a warning.
  - No row is touched, and Synapse may run; each table is locked for a moment.
  - The module M(matrixops.synapse_postgres.synapse_database) does so for one former owner that is named.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description:
      - Name of Synapse's database.
    type: str
    required: true
  user:
    description:
      - Name of Synapse's role.
    type: str
    required: true
seealso:
  - module: matrixops.synapse_postgres.synapse_database
  - module: matrixops.synapse_postgres.synapse_doctor_info
"""

EXAMPLES = r"""
- name: Everything of Synapse's is Synapse's
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_ownership:
    name: synapse
    user: synapse
"""

RETURN = r"""
adopted:
  description: What was, or would be, given to Synapse's role, as words of ALTER with names.
  returned: success
  type: list
  elements: str
  sample: ["TABLE public.events", "DATABASE synapse"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            name=dict(type="str", required=True),
            user=dict(type="str", required=True),
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        _connection.require_name("database", params["name"])
        _connection.require_name("role", params["user"])
        with connected(params, "synapse_ownership") as server:
            result = ownership.repaired(server, params["name"], params["user"], module.check_mode)
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
