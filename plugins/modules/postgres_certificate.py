#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_certificate
short_description: A certificate for a server or its client, from a private authority
description:
  - Makes an authority in a folder, once, and with it a certificate that carries the names by which clients know the server, or
    the name of the role that a client logs in as. The program C(openssl) does it.
  - A certificate is made anew when it does not carry a name, when it will soon expire, or when another authority issued it.
    The new one comes under a new path, so that the server takes it and its key at once, when its C(ssl_cert_file) and
    C(ssl_key_file) are set to O(ignore:certificate) and O(ignore:key); the old one stays until the next.
  - The authority's key does not leave the host, and nobody but the user that the task runs as can read it.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.step
options:
  folder:
    description:
      - Absolute path of the authority's folder. It is made where it is not there; the folder that holds it has to be.
    type: path
    required: true
  purpose:
    description:
      - Who shows the certificate.
    type: str
    choices: [server, client]
    default: server
  names:
    description:
      - Host names and addresses that a server's certificate is to carry. It may carry more.
      - For a client, the one role that it logs in as by the method C(cert).
    type: list
    elements: str
    required: true
  days:
    description:
      - How many days a new certificate is valid.
    type: int
    default: 1095
  renew_days:
    description:
      - How many days before it expires a certificate is made anew.
    type: int
    default: 90
requirements:
  - openssl, 1.1.1 or newer
notes:
  - Run it on the server's host as the operating system user of the server, who reads the key.
"""

EXAMPLES = r"""
- name: A certificate for the database's host
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_certificate:
    folder: /var/lib/postgresql/tls
    names: [db.example.org, 10.1.2.3]
  register: made

- name: The server shows it
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_settings:
    settings:
      ssl: true
      ssl_cert_file: "{{ made.certificate }}"
      ssl_key_file: "{{ made.key }}"
"""

RETURN = r"""
certificate:
  description: Path of the certificate.
  returned: always
  type: str
  sample: /var/lib/postgresql/tls/server-1.crt
key:
  description: Path of its key.
  returned: always
  type: str
  sample: /var/lib/postgresql/tls/server-1.key
authority:
  description: Path of the authority's certificate.
  returned: always
  type: str
  sample: /var/lib/postgresql/tls/ca.crt
authority_text:
  description: The authority's certificate, for C(sslrootcert) of clients. Empty in check mode where there is none yet.
  returned: always
  type: str
reason:
  description: Why the certificate was made, or would be; empty where it was right.
  returned: always
  type: str
  sample: it does not carry db.example.org
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _authority
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            folder=dict(type="path", required=True),
            purpose=dict(type="str", choices=["server", "client"], default="server"),
            names=dict(type="list", elements="str", required=True),
            days=dict(type="int", default=1095),
            renew_days=dict(type="int", default=90),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        result = _authority.ensure(_authority.Request(**module.params), module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
