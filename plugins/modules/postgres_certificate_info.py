#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_certificate_info
short_description: Whether a server and its clients will take a certificate
description:
  - Looks at a certificate and its key, and tells which names it carries and why PostgreSQL or its clients would not take it.
    It changes nothing.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.info
options:
  certificate:
    description:
      - Path of the certificate, which other certificates may follow in that file.
    type: path
    required: true
  key:
    description:
      - Path of its key, for which the server has rules.
    type: path
    required: true
  names:
    description:
      - Host names and addresses that it is to carry.
    type: list
    elements: str
    default: []
requirements:
  - openssl, 1.1.1 or newer
notes:
  - Run it on the server's host as the operating system user of the server, who reads the key.
"""

EXAMPLES = r"""
- name: Look at the certificate that others provide
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_certificate_info:
    certificate: /etc/ssl/certs/db.example.org.pem
    key: /etc/ssl/private/db.example.org.key
    names: [db.example.org]
  register: looked
  failed_when: looked.problems | length > 0
"""

RETURN = r"""
names:
  description: The names that it carries.
  returned: always
  type: list
  elements: str
  sample: [db.example.org]
not_after:
  description: When it expires, in seconds since the epoch.
  returned: always
  type: int
  sample: 1893456000
problems:
  description: Why the server or its clients would not take it; empty when it is right.
  returned: always
  type: list
  elements: str
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _tls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            certificate=dict(type="path", required=True),
            key=dict(type="path", required=True, no_log=False),
            names=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        found = _tls.read(params["certificate"])
        problems = _tls.problems(params["certificate"], params["key"], params["names"])
    module.exit_json(changed=False, problems=problems, **dataclasses.asdict(found))


if __name__ == "__main__":
    main()
