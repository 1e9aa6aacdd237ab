# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the PostgreSQL server.
      - Empty means the Unix socket in O(login_unix_socket), or where libpq looks for it.
    type: str
    default: ""
  login_port:
    description:
      - Port of the PostgreSQL server; it also names the Unix socket.
    type: int
    default: 5432
  login_user:
    description:
      - Role to connect as. Without it libpq takes the name of the operating system's user.
    type: str
    default: ""
  login_password:
    description:
      - Password of O(login_user).
    type: str
  login_unix_socket:
    description:
      - Folder of the Unix socket. Used when O(login_host) is empty.
    type: path
  login_db:
    description:
      - Database to connect to.
    type: str
    default: postgres
  ssl_mode:
    description:
      - How the connection is encrypted and the server's certificate checked, as libpq's C(sslmode).
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  ca_cert:
    description:
      - File with the certificates of the authorities that may sign the server's certificate, as libpq's C(sslrootcert).
    type: path
  ssl_cert:
    description:
      - File with the client's certificate.
    type: path
  ssl_key:
    description:
      - File with the key of O(ssl_cert).
    type: path
requirements:
  - psycopg2 on the managed host, for the Python that Ansible uses there
notes:
  - To reach a local server as its superuser without a password, run the task with C(become_user=postgres) and leave
    O(login_host) empty.
"""

    AS_SYNAPSE = r"""
options:
  login_args:
    description:
      - Keywords of libpq's as they stand in Synapse's section C(database.args), to log in by just these; C(cp_*) are passed over,
        and so are all other options of the connection.
    type: dict
  login_secrets:
    description:
      - Those of O(login_args) that are secret, such as C(password) and C(sslpassword).
    type: dict
"""
