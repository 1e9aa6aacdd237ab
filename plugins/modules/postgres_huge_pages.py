#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_huge_pages
short_description: Huge pages of the kernel's for PostgreSQL's shared memory
description:
  - Has the server count the huge pages that it will need after its next start, and reserves them in the kernel's pool, now
    and for every boot, with room for what others use.
  - Huge pages are wanted when C(huge_pages) was chosen by somebody, in a file, by O(settings) or on the server's command
    line, and also by default when C(shared_buffers) is 2 GB or more. When they are not wanted, or C(huge_pages) is V(off), what
    this module had added to the pool is given back.
  - When the kernel has too few at first, it is asked to move memory together, and asked again. When that does not do, the
    pool is put back as it was, and the next boot reserves them.
  - Where they cannot be had, in a container for instance, or the server's process cannot be seen, the module changes nothing,
    does not fail, and tells in RV(ignore:note) what an administrator can do. Unless C(huge_pages) is V(on), the server then
    uses ordinary pages.
  - Run it before the server is restarted, for the pages to be there, and again afterwards, to see whether they are in use.
    The module never restarts the server.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  account:
    description:
      - The operating system user to connect as, for a server that knows its superuser by that (C(peer)). The rest is done by
        the user that the task runs as.
      - Empty is the user that the task runs as.
    type: str
    default: ""
  settings:
    description:
      - Parameters that the server is going to have and whose file may not be written yet, as the option
        O(matrixops.synapse_postgres.postgres_settings#module:settings) takes them. They count like the last lines of the
        configuration, but for those of C(ALTER SYSTEM).
    type: dict
    default: {}
  sysctl_file:
    description:
      - The file that has the pages reserved at boot. It belongs to this module as a whole, and to all servers of the host.
    type: path
    default: /etc/sysctl.d/90-synapse-postgres-huge-pages.conf
notes:
  - Run it on the server's host as root; the role must be a superuser. The server's own operating system user can run it too,
    but cannot change the pool.
  - PostgreSQL 14 does not count its huge pages. There the module changes nothing and says so.
  - Check mode cannot foresee that memory is in too small pieces.
"""

EXAMPLES = r"""
- name: Have the huge pages that the server will need
  become: true
  matrixops.synapse_postgres.postgres_huge_pages:
    account: postgres
    settings: "{{ tuning.settings }}"
  register: pages

- name: Restart the server when it does not use them yet
  become: true
  ansible.builtin.service:
    name: postgresql
    state: restarted
  when: settings.restart_required or pages.restart_required

- name: See that they are in use
  become: true
  matrixops.synapse_postgres.postgres_huge_pages:
    account: postgres
  register: pages

- name: Tell
  ansible.builtin.debug:
    msg: "{{ pages.note or (pages.needed ~ ' huge pages in use' if pages.in_use else 'no huge pages') }}"
"""

RETURN = r"""
needed:
  description:
    - How many huge pages the server will need, by its own count. 0 when none are wanted, or when it cannot count them.
  returned: always
  type: int
  sample: 1066
page_size:
  description: The size of a huge page in bytes, 0 where the kernel has none.
  returned: always
  type: int
  sample: 2097152
total:
  description: The pages in the pool, or in check mode that would be.
  returned: always
  type: int
  sample: 1066
others:
  description: How many of the pool's pages others than this server use.
  returned: always
  type: int
  sample: 0
got:
  description: How many of RV(needed) are there for the server, or would be.
  returned: always
  type: int
  sample: 1066
enough:
  description: Whether that is all of them. False too when they are wanted and the server cannot count them.
  returned: always
  type: bool
in_use:
  description: Whether the running server's shared memory is in huge pages.
  returned: always
  type: bool
restart_required:
  description:
    - Whether the pages are there, or would be, since the server was started, and it does not use them. It stays true, on runs
      that change nothing too, until the server was restarted.
  returned: always
  type: bool
start_fails:
  description: Whether the server would not start, because C(huge_pages) is V(on) and the pages are not there.
  returned: always
  type: bool
note:
  description: What an administrator should know, or do; empty when there is nothing.
  returned: always
  type: str
  sample: ""
path:
  description: The file that has the pages reserved at boot. It is absent when none are needed, or something else does that.
  returned: always
  type: str
  sample: /etc/sysctl.d/90-synapse-postgres-huge-pages.conf
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account, _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import huge_pages_host, secrecy


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            account=dict(type="str", default=""),
            settings=dict(type="dict", default={}),
            sysctl_file=dict(type="path", default="/etc/sysctl.d/90-synapse-postgres-huge-pages.conf"),
        ),
        supports_check_mode=True,
        no_log=True,  # parameters may hold secrets, and the options would be in the host's log
    )
    module.no_log_values.update(secrecy.secret_values(module.params["settings"]))
    with told_to(module), contextlib.ExitStack() as stack:
        with _account.acting(_account.named(module.params["account"])):
            session = _connection.session(module.params, autocommit=True, what="postgres_huge_pages", schema=None)
            connection = stack.enter_context(session)
        result = huge_pages_host.apply(module, connection.cursor())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
