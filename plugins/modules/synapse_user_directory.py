#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_user_directory
short_description: Have Synapse make its user directory anew where a move left it empty
description:
  - After a move from SQLite nobody is found by the search for users, since the port routine leaves the user directory out and
    Synapse does not begin to fill it. This queues the background updates that make it, as the admin API's job
    C(regenerate_directory) does.
  - Synapse runs them when it is started next. Nothing is queued where the directory has users in it, or is being made.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.connection.as_synapse
  - matrixops.synapse_postgres.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: What is queued is always the same.
  idempotent:
    support: full
options:
  state:
    description:
      - V(queued) queues the updates where they are needed.
      - V(taken_back) removes them where no Synapse has begun with them, as for a move that is taken back.
    type: str
    choices: [queued, taken_back]
    default: queued
seealso:
  - module: matrixops.synapse_postgres.synapse_port
"""

EXAMPLES = r"""
- name: A user directory with the users in it, after the next start of Synapse
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_user_directory:
    login_db: synapse
"""

RETURN = r"""
users:
  description: How many users would be in the directory.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import sequences, user_directory


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            **_connection.AS_SYNAPSE,
            state=dict(type="str", choices=["queued", "taken_back"], default="queued"),
        ),
        supports_check_mode=True,
    )
    step = user_directory.queue if module.params["state"] == "queued" else user_directory.take_back
    with told_to(module):
        with _connection.session(module.params, what="synapse_user_directory", schema=_connection.MOVED) as connection:
            with connection.cursor() as cursor:
                sequences.require_synapses(cursor)
                users = user_directory.read(cursor).users
                changed = step(cursor, module.check_mode)
    module.exit_json(changed=changed, users=users)


if __name__ == "__main__":
    main()
