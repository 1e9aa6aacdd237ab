#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_database_config
short_description: The database section of Synapse's configuration
description:
  - Makes the C(database:) section of C(homeserver.yaml), or of a file that Synapse reads beside it, describe a PostgreSQL
    database, and leaves every other byte of the file as it is, comments and ends of lines included.
  - The section is what this task says. Keywords that are not given here are removed from an existing section. Of the
    siblings of C(args), C(txn_limit), C(synchronous_commit), C(statement_timeout) and
    C(idle_in_transaction_session_timeout) are kept.
  - The new text is read again before it is written, and refused if anything else in it had changed its meaning.
  - Synapse reads its configuration when it starts, so restart it after a change.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.step
requirements:
  - PyYAML on the managed host, for the Python that Ansible uses there, or for O(synapse_python), C(/usr/bin/python3) or
    the Python of the matrix.org packages, under which the module then runs itself again
options:
  path:
    description:
      - The file that holds the section. A symbolic link is followed.
    type: path
    required: true
  args:
    description:
      - Keywords with which Synapse connects. Those of libpq are explained in PostgreSQL's manual, section Database
        Connection Control Functions; the library that Synapse uses must be new enough to know them. Those that start with
        C(cp_) are of Twisted's connection pool.
      - An empty value is as good as none, but for secrets, where it is refused.
    type: dict
    required: true
    suboptions:
      user:
        description: Role to log in as.
        type: str
      password:
        description: Password of the role.
        type: str
      dbname:
        description: Name of the database. It is required unless O(args.service) is given.
        type: str
      host:
        description: Host name, address, or folder of the Unix socket; several are divided by commas.
        type: str
      hostaddr:
        description: Address of the host, to save the look-up of its name.
        type: str
      port:
        description: Port of the server; several, one for each host, are divided by commas.
        type: str
      service:
        description: Name of an entry of C(pg_service.conf).
        type: str
      passfile:
        description: File that passwords are looked up in.
        type: str
      require_auth:
        description: Methods of authentication that the server may ask for.
        type: str
      channel_binding:
        description: Whether the login is bound to the TLS connection.
        type: str
        choices: [disable, prefer, require]
      connect_timeout:
        description: Seconds to wait for a connection.
        type: int
      client_encoding:
        description: Encoding of the session. Synapse sets UTF8 itself.
        type: str
      options:
        description: Command line options for the server's session.
        type: str
      application_name:
        description: Name that the server shows the session under.
        type: str
      fallback_application_name:
        description: The same, when there is no O(args.application_name).
        type: str
      keepalives:
        description: Whether the operating system probes idle connections.
        type: int
        choices: [0, 1]
      keepalives_idle:
        description: Seconds without traffic before the first probe. It goes before O(keepalives.idle).
        type: int
      keepalives_interval:
        description: Seconds between probes. It goes before O(keepalives.interval).
        type: int
      keepalives_count:
        description: Lost probes until the connection is given up. It goes before O(keepalives.count).
        type: int
      tcp_user_timeout:
        description: Milliseconds that sent data may stay unacknowledged.
        type: int
      target_session_attrs:
        description: Which kind of server to accept among several hosts.
        type: str
        choices: [any, read-write, read-only, primary, standby, prefer-standby]
      load_balance_hosts:
        description: Whether several hosts are tried in random order.
        type: str
        choices: [disable, random]
      sslmode:
        description: Whether the connection is encrypted and the server's certificate checked.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      sslnegotiation:
        description: How TLS is started.
        type: str
        choices: [postgres, direct]
      sslcompression:
        description: Whether TLS compresses.
        type: int
        choices: [0, 1]
      sslcert:
        description: File with the client's certificate.
        type: str
      sslkey:
        description: File with the key of O(args.sslcert).
        type: str
      sslpassword:
        description: Password of the file O(args.sslkey).
        type: str
      sslcertmode:
        description: Whether the client's certificate is sent.
        type: str
        choices: [disable, allow, require]
      sslrootcert:
        description: File with the certificates of authorities, or V(system).
        type: str
      sslcrl:
        description: File with revoked certificates.
        type: str
      sslcrldir:
        description: Folder with revoked certificates.
        type: str
      sslsni:
        description: Whether the host's name is told to the server when TLS starts.
        type: int
        choices: [0, 1]
      sslkeylogfile:
        description: File that the keys of TLS are written to, for debugging.
        type: str
      ssl_min_protocol_version:
        description: Oldest version of TLS.
        type: str
        choices: [TLSv1, TLSv1.1, TLSv1.2, TLSv1.3]
      ssl_max_protocol_version:
        description: Newest version of TLS.
        type: str
        choices: [TLSv1, TLSv1.1, TLSv1.2, TLSv1.3]
      min_protocol_version:
        description: Oldest version of PostgreSQL's protocol, such as V(3.0).
        type: str
      max_protocol_version:
        description: Newest version of PostgreSQL's protocol, such as V(3.2) or V(latest).
        type: str
      requirepeer:
        description: Operating system user that the server must run as, on a Unix socket.
        type: str
      gssencmode:
        description: Whether GSSAPI encrypts.
        type: str
        choices: [disable, prefer, require]
      krbsrvname:
        description: Name of the Kerberos service.
        type: str
      gsslib:
        description: Library for GSSAPI.
        type: str
        choices: [gssapi, sspi]
      gssdelegation:
        description: Whether GSSAPI credentials are handed on to the server.
        type: int
        choices: [0, 1]
      scram_client_key:
        description: SCRAM client key in base64, instead of a password.
        type: str
      scram_server_key:
        description: SCRAM server key in base64.
        type: str
      oauth_issuer:
        description: URL of the OAuth issuer.
        type: str
      oauth_client_id:
        description: OAuth client identifier.
        type: str
      oauth_client_secret:
        description: OAuth client secret.
        type: str
      oauth_scope:
        description: OAuth scope.
        type: str
      cp_min:
        description: Connections that each process of Synapse holds. It goes before O(pool.min).
        type: int
      cp_max:
        description: Connections that each process of Synapse opens at most. It goes before O(pool.max).
        type: int
      cp_reconnect:
        description: Whether lost connections are opened anew. Synapse does so unless told otherwise.
        type: bool
      cp_noisy:
        description: Whether the pool logs what it does.
        type: bool
      cp_good_sql:
        description: Query that tests a connection.
        type: str
      cp_name:
        description: Name of the pool.
        type: str
  pool:
    description:
      - Size of the connection pool of each process of Synapse.
    type: dict
    suboptions:
      min:
        description: Connections that are held.
        type: int
        default: 5
      max:
        description: Connections that are opened at most.
        type: int
        default: 10
  keepalives:
    description:
      - When the operating system finds out that a TCP connection has died silently. V(0) is its own default.
    type: dict
    suboptions:
      idle:
        description: Seconds without traffic before the first probe.
        type: int
        default: 10
      interval:
        description: Seconds between probes.
        type: int
        default: 10
      count:
        description: Lost probes until the connection is given up.
        type: int
        default: 3
  allow_unsafe_locale:
    description:
      - Makes Synapse start on a database whose collation is not C(C). Its indexes break when the system's C library is
        upgraded; dump the database and make it anew instead.
    type: bool
    default: false
  layout:
    description:
      - V(section) edits the section in a file that exists, C(homeserver.yaml).
      - V(drop-in) makes a file of its own, with nothing but the section, for a folder that Synapse reads besides, such as
        C(conf.d). A new one belongs to the user that the task runs as and has mode C(0640).
    type: str
    choices: [section, drop-in]
    default: section
  backup:
    description:
      - Keep a copy of the old file beside it when it is changed. The copy holds the old file's secrets and keeps its mode.
    type: bool
    default: true
  allow_managed_file:
    description:
      - Whether to change a file that another manager will write again, such as Puppet or a template of Ansible's. It is told by
        the file's head and by its place. Such a file is refused unless this is given, since Synapse would be back on the
        database of before with the next writing; with it there is a warning.
      - A file in a place where nothing can be changed, such as the store of Nix or a ConfigMap of Kubernetes, is always refused.
    type: bool
    default: false
  synapse_python:
    description:
      - The Python that Synapse runs under, for hosts where the one that Ansible uses has no PyYAML.
    type: path
seealso:
  - name: Synapse's documentation on PostgreSQL
    description: What the section may hold.
    link: https://element-hq.github.io/synapse/latest/postgres.html
"""

EXAMPLES = r"""
- name: Synapse's database section
  matrixops.synapse_postgres.synapse_database_config:
    path: /etc/matrix-synapse/homeserver.yaml
    args:
      user: synapse
      password: "{{ synapse_postgres_password }}"
      dbname: synapse
      host: db.example.org
      sslmode: verify-full
      sslrootcert: system
    pool:
      max: 20
  notify: Restart Synapse

- name: The section in a file of its own
  matrixops.synapse_postgres.synapse_database_config:
    path: /etc/matrix-synapse/conf.d/database.yaml
    layout: drop-in
    args:
      user: synapse
      dbname: synapse
      host: /run/postgresql
  notify: Restart Synapse

- name: Synapse may read that file
  ansible.builtin.file:
    path: /etc/matrix-synapse/conf.d/database.yaml
    owner: matrix-synapse
"""

RETURN = r"""
path:
  description: The file that holds the section.
  returned: always
  type: str
  sample: /etc/matrix-synapse/homeserver.yaml
backup_file:
  description: The copy of the old file.
  returned: when one was made
  type: str
  sample: /etc/matrix-synapse/homeserver.yaml.4242.2026-01-31@12:00:00~
psycopg2:
  description: Whether the interpreter that ran the module, Synapse's where C(ansible_python_interpreter) says so, has psycopg2.
  returned: success
  type: bool
before:
  description: The section as it was, with secrets masked; null when there was none.
  returned: always
  type: dict
  sample: {name: sqlite3, args: {database: /var/lib/matrix-synapse/homeserver.db}}
after:
  description: The section as it is now, or would be, with secrets masked.
  returned: always
  type: dict
  sample:
    name: psycopg2
    args: {user: synapse, password: '********', dbname: synapse, host: db.example.org, cp_min: 5, cp_max: 20}
"""

import importlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import libpq, section_file


def has_psycopg2() -> bool:
    """Tell whether psycopg2 loads; in the matrix.org packages it is there, but does not load before libpq is."""
    try:
        importlib.import_module("psycopg2")
    except ImportError:
        return False
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            path=dict(type="path", required=True),
            args=dict(type="dict", required=True, options=libpq.KEYWORDS),
            pool=dict(
                type="dict",
                apply_defaults=True,
                options=dict(min=dict(type="int", default=5), max=dict(type="int", default=10)),
            ),
            keepalives=dict(
                type="dict",
                apply_defaults=True,
                options=dict(
                    idle=dict(type="int", default=10),
                    interval=dict(type="int", default=10),
                    count=dict(type="int", default=3),
                ),
            ),
            allow_unsafe_locale=dict(type="bool", default=False),
            layout=dict(type="str", choices=["section", "drop-in"], default="section"),
            backup=dict(type="bool", default=True),
            allow_managed_file=dict(type="bool", default=False),
            synapse_python=dict(type="path"),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        _interpreter.need({"yaml": "PyYAML"}, module.params["synapse_python"])
        result = {**section_file.apply(module), "psycopg2": has_psycopg2()}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
