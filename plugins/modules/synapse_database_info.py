#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_database_info
short_description: Log in to Synapse's database and tell what is there
description:
  - Connects the way Synapse does and tells the server's version, the database's encoding and locale, and what Synapse
    keeps in it. It changes nothing.
  - Run on the Synapse host by the interpreter that runs Synapse (C(ansible_python_interpreter)), a success proves that this
    interpreter has psycopg2 and that the role may log in from there.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.connection.as_synapse
  - matrixops.synapse_postgres.attributes.info
options:
  config:
    description:
      - File with a C(database) section of Synapse's, which may lead to this very database by another name, such as
        C(localhost) for C(127.0.0.1). It is logged in to as well, to see whether it does.
    type: path
  allow_unsafe_locale:
    description:
      - Whether Synapse is told to accept a database of another locale than V(C); its encoding counts all the same.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: The proof that Synapse will reach its database
  matrixops.synapse_postgres.synapse_database_info:
    login_host: db.example.org
    login_user: synapse
    login_password: "{{ synapse_postgres_password }}"
    login_db: synapse
  vars:
    ansible_python_interpreter: /opt/venvs/matrix-synapse/bin/python
  register: proof
"""

RETURN = r"""
server_version:
  description: Version of the server, as a number such as 150018.
  returned: always
  type: int
psycopg2_version:
  description: Version of the psycopg2 that connected.
  returned: always
  type: str
database:
  description: Owner, encoding and locale of the database.
  returned: always
  type: dict
  sample: {owner: synapse, encoding: UTF8, lc_collate: C, lc_ctype: C, locale_provider: libc}
problems:
  description:
    - Why Synapse would refuse this database, or fail in it; empty when it is right.
    - That is its encoding and locale, whether its indexes are in the order that it says, and whether what is in it belongs to the
      role that logged in.
  returned: always
  type: list
  elements: str
remedies:
  description: What to do about RV(problems), in sentences.
  returned: always
  type: list
  elements: str
tables:
  description: How many tables the database holds.
  returned: always
  type: int
sessions:
  description: How many other sessions of this role the database has; those of a running Synapse.
  returned: always
  type: int
schema_version:
  description: Version of Synapse's schema where the role finds it, null when it finds none.
  returned: always
  type: int
schema:
  description:
    - Where the role finds Synapse's tables, by its own C(search_path); where there are none, where it would make them.
  returned: always
  type: str
  sample: public
schemas:
  description: Every schema of the database that holds tables of Synapse's.
  returned: always
  type: list
  elements: str
  sample: [public]
identity:
  description: What tells this database from every other one, whatever the name that leads to it.
  returned: always
  type: dict
  contains:
    system_identifier:
      description: The cluster's, null where the role may not ask for it.
      type: str
    timeline:
      description: The cluster's, null where the role may not ask for it.
      type: int
    database_oid:
      description: The database's number in the cluster.
      type: int
    started:
      description: When the server was started, in seconds since the epoch.
      type: str
    standby:
      description: Whether the server is a standby.
      type: bool
same:
  description: Whether O(config) leads to this very database; null where nobody could log in there.
  returned: when O(config) is given
  type: bool
space:
  description:
    - The room that the database has, in bytes. Null where the server is not on this host, or where the role may not know
      where its files are (that takes a superuser or a member of C(pg_read_all_settings)), or may not look there.
  returned: always
  type: dict
  contains:
    data:
      description: Where the database's tables are made (C(path)), how large the database is (C(size)) and what that file
        system has left (C(free)).
      type: dict
    wal:
      description: Where the server's write-ahead log is (C(path)), what that file system has left (C(free)), and how large the
        log may grow before a checkpoint (C(max_wal_size)).
      type: dict
    same_file_system:
      description: Whether both are on one, and so share what is left.
      type: bool
denied:
  description:
    - What the server's administrator needs to ask M(matrixops.synapse_postgres.postgres_hba_info) why; the options of that module
      that are not in this one's.
  returned: when the server denied the log-in
  type: dict
  contains:
    address:
      description: Address that the connection came from, empty for the Unix socket.
      type: str
    encryption:
      description: How it was encrypted, null where that is not known.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database_facts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port_config


def is_same(config: str, identity: database_facts.Identity) -> bool | None:
    """Tell whether the file ``config`` of Synapse's leads to the database of this ``identity``; None where it leads nowhere."""
    try:
        section = homeserver_yaml.read(config).options.get("database")
        if not isinstance(section, dict) or section.get("name") != "psycopg2" or not isinstance(section.get("args"), dict):
            return False
        with _connection.connected(port_config.connection_keywords(section)) as other, other.cursor() as cursor:
            return identity.is_same(database_facts.identity(cursor))
    except (Refusal, OSError):  # the role may log in without being let read the file
        return None


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            **_connection.AS_SYNAPSE, config=dict(type="path"), allow_unsafe_locale=dict(type="bool", default=False)
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        with _connection.session(params, what="synapse_database_info") as connection, connection.cursor() as cursor:
            found = database_facts.inspect(cursor, params["allow_unsafe_locale"])
        if params["config"]:
            found["same"] = is_same(params["config"], database_facts.Identity(**found["identity"]))
    for warning in found.pop("warnings"):
        module.warn(warning)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
