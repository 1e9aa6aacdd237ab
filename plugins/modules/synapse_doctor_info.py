#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_doctor_info
short_description: What is wrong with Synapse's PostgreSQL, and what mends it
description:
  - Examines the server, Synapse's database on it and Synapse's configuration, and tells what is wrong, why that matters, and the
    command that mends it. It changes nothing; its session is read-only, and no question takes longer than O(timeout).
  - Where no option of the connection is given, it connects as O(config) says that Synapse does.
  - Each check stands alone. What one cannot see, by the rights of the connected role or from this host, is named in RV(unseen).
    With O(before), the result of the module somewhere else or as somebody else, just that is looked at again, so that two looks
    come to one result.
version_added: 0.2.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.connection.as_synapse
  - matrixops.synapse_postgres.attributes.info
options:
  role:
    description:
      - Name of Synapse's role.
    type: str
    default: synapse
  config:
    description:
      - Files and folders of Synapse's configuration, in its order. Empty where they are not on this host.
    type: list
    elements: path
    default: []
  synapse_python:
    description:
      - The interpreter that runs Synapse. Without one, what the installed Synapse says of itself is not seen.
    type: path
    default: ""
  processes:
    description:
      - How many processes Synapse has, workers included; each of them has a pool of its own.
    type: int
    default: 1
  limits:
    description:
      - From which number on a check finds something, by the check's name and the severity V(critical), V(warning) or V(notice),
        in place of its own limits.
    type: dict
    default: {}
  skip:
    description:
      - Names of checks that are not carried out.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - How long the server may take over one question, in seconds.
    type: int
    default: 20
  before:
    description:
      - The result of this module from another point of view.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Examine Synapse's database as the server's administrator
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_doctor_info:
    login_db: synapse
  register: as_administrator

- name: Examine what only Synapse's host can see
  matrixops.synapse_postgres.synapse_doctor_info:
    login_host: db.example.org
    login_user: synapse
    login_password: "{{ synapse_postgres_password }}"
    login_db: synapse
    config: [/etc/matrix-synapse/homeserver.yaml]
    synapse_python: /opt/venvs/matrix-synapse/bin/python
    before: "{{ as_administrator }}"
  register: doctor

- name: Show what was found
  ansible.builtin.debug:
    msg: "{{ doctor.report }}"
"""

RETURN = r"""
findings:
  description: What is wrong, the worst first.
  returned: always
  type: list
  elements: dict
  contains:
    check:
      description: Name of the check, as in O(limits) and O(skip).
      type: str
    severity:
      description: V(critical), V(warning) or V(notice).
      type: str
    title:
      description: What the check looks at.
      type: str
    found:
      description: What is wrong.
      type: str
    why:
      description: Why it matters.
      type: str
    remedy:
      description: What mends it; a command in it runs as printed.
      type: str
    source:
      description: Where the rule is from.
      type: str
  sample:
    - check: prepared_transactions
      severity: warning
      title: Prepared transactions
      found: "the transaction 'left', prepared 26 hours ago, is neither committed nor rolled back"
      why: It holds its locks and keeps vacuum from removing anything, across restarts.
      remedy: "Roll it back, unless its program will finish it: `psql -X -d synapse -c 'ROLLBACK PREPARED '\"'\"'left'\"'\"''`."
      source: PostgreSQL's manual, PREPARE TRANSACTION
unseen:
  description: By the name of a check, why it could not be carried out.
  returned: always
  type: dict
not_applicable:
  description: By the name of a check, why there was nothing to look at.
  returned: always
  type: dict
healthy:
  description: Names of the checks that found nothing wrong.
  returned: always
  type: list
  elements: str
report:
  description: All of it as lines for people.
  returned: always
  type: list
  elements: str
portrait:
  description: What a report draws beside the findings; what cannot be seen is left out.
  returned: always
  type: dict
  contains:
    server:
      description: The server's version.
      type: str
    database:
      description: The database's name.
      type: str
    bytes:
      description: Its size.
      type: int
    tables:
      description: The largest tables, each with C(name), C(bytes) (indexes included) and the estimated C(rows).
      type: list
      elements: dict
    memory:
      description: What the server may take for each C(use), in C(bytes).
      type: list
      elements: dict
    ages:
      description: How long ago something happened, with C(what) and C(seconds).
      type: list
      elements: dict
metrics:
  description: The number of findings by severity, and the state of each check, in Prometheus' text format.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor import catalogue, examination, portrait, visit
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            **_connection.AS_SYNAPSE,
            role=dict(type="str", default="synapse"),
            config=dict(type="list", elements="path", default=[]),
            synapse_python=dict(type="path", default=""),
            processes=dict(type="int", default=1),
            limits=dict(type="dict", default={}),
            skip=dict(type="list", elements="str", default=[]),
            timeout=dict(type="int", default=20),
            before=dict(type="dict", default={}),
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        limits = catalogue.require_limits(params["limits"])
        checks = catalogue.without(params["skip"])
        with visit.patient(params) as patient:
            result = examination.examine(patient, checks, limits, params["before"])
            drawn = portrait.portray(patient)
    module.exit_json(
        changed=False, report=examination.report(result), metrics=examination.metrics(result), portrait=drawn, **result
    )


if __name__ == "__main__":
    main()
