#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_indexes
short_description: No index of Synapse's is invalid
description:
  - Makes every invalid index of Synapse's tables anew, as one is left by a background update of Synapse's, or by C(CREATE INDEX)
    or C(REINDEX) with C(CONCURRENTLY), that was cut short. What C(REINDEX) has left of itself is dropped.
  - It takes no lock that Synapse waits for, so that Synapse may run. An index that somebody is making at the moment is left
    alone.
  - It is refused where rows are there that a unique index should have kept apart; none is ever removed.
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
    details: What is done is in RV(statements).
  idempotent:
    support: full
seealso:
  - module: matrixops.synapse_postgres.synapse_doctor_info
"""

EXAMPLES = r"""
- name: Every index of Synapse's serves
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_indexes:
    login_db: synapse
"""

RETURN = r"""
statements:
  description: What was, or would be, run.
  returned: success
  type: list
  elements: str
  sample: ["REINDEX INDEX CONCURRENTLY public.events_ts"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import invalid_indexes
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(**_connection.AS_SYNAPSE),
        supports_check_mode=True,
    )
    with told_to(module):
        with _connection.session(module.params, autocommit=True, what="synapse_indexes") as connection:
            with connection.cursor() as cursor:
                statements = invalid_indexes.rebuild(cursor, module.check_mode)
    module.exit_json(changed=bool(statements), statements=statements)


if __name__ == "__main__":
    main()
