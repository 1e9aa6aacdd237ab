#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_port
short_description: Port Synapse's SQLite database to PostgreSQL with Synapse's own routine, once
description:
  - Runs C(synapse_port_db) on a copy of Synapse's SQLite database until it has ended well.
  - A port that has been finished is recognised and not repeated; one that was killed goes on where it stopped; a newer
    copy of the database adds what is new.
  - A target that Synapse has written to is refused, since the routine would empty tables that are in use. What is known of
    the move is kept in the target database itself, in the schema C(synapse_postgres).
  - The routine reads a private configuration with just the server's name and the database, so that modules, media stores
    and C(conf.d) layouts do not stop it.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: What changes is the content of a whole database.
  idempotent:
    support: full
options:
  sqlite_database:
    description:
      - Absolute path of a copy of Synapse's SQLite database, as M(matrixops.synapse_postgres.synapse_sqlite_snapshot)
        makes it. The routine writes to it and to its folder.
      - The routine's log is kept beside it, as C(<sqlite_database>.port.log).
    type: path
    required: true
  config:
    description:
      - The files and folders of Synapse's configuration, in the order in which Synapse reads them; the one that counts
        must have a C(database) section for psycopg2, which is the target.
    type: list
    elements: path
    required: true
  synapse_python:
    description:
      - The interpreter that runs Synapse. Exactly one of O(synapse_python) and O(command) is needed.
    type: path
  command:
    description:
      - The routine's command, as a list of words, where it does not run from O(synapse_python), in a container for
        example. The folder of O(sqlite_database) must have the same path there.
    type: list
    elements: str
  engine:
    description:
      - What carries the rows over. V(synapse) is Synapse's own routine.
    type: str
    choices: [synapse]
    default: synapse
  batch_size:
    description:
      - How many rows the routine carries at a time.
    type: int
    default: 1000
requirements:
  - psycopg2 and PyYAML, for the Python that Ansible uses there or for O(synapse_python)
seealso:
  - name: Porting from SQLite
    description: Synapse's own description of the procedure.
    link: https://element-hq.github.io/synapse/latest/postgres.html#porting-from-sqlite
"""

EXAMPLES = r"""
- name: Port the copy
  become: true
  matrixops.synapse_postgres.synapse_port:
    sqlite_database: /var/lib/matrix-synapse/port/snapshot.db
    config: [/var/lib/matrix-synapse/port/homeserver-postgres.yaml]
    synapse_python: /opt/venvs/matrix-synapse/bin/python

- name: Port the copy where Synapse lives in a container
  matrixops.synapse_postgres.synapse_port:
    sqlite_database: /srv/synapse/port/snapshot.db
    config: [/srv/synapse/homeserver-postgres.yaml]
    command: [docker, exec, synapse, synapse_port_db]
"""

RETURN = r"""
finished:
  description: Whether everything in O(sqlite_database) is in PostgreSQL now.
  returned: always
  type: bool
tables:
  description: For each table that the routine ported, how many rows are there, how many it counted, and how many it dropped
    because PostgreSQL cannot store them (NUL characters).
  returned: when the routine ran
  type: dict
  sample: {events: {rows: 4211, total: 4211, dropped: 0}}
seconds:
  description: How long the routine ran.
  returned: when the routine ran
  type: float
log:
  description: Where all that the routine said is kept.
  returned: when the routine ran
  type: str
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import (
    _connection,
    _database,
    _interpreter,
    _move,
    _routine,
    _sqlite,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to


def require_fit(cursor, config: dict) -> None:
    """Raise Refusal when Synapse would refuse the target database for its encoding or locale."""
    name = cursor.connection.info.dbname
    wrong = _database.unfit_for_synapse(_database.find(cursor, name))
    if wrong and not config["database"].get("allow_unsafe_locale"):
        raise _database.refuse_locale(name, wrong)


def port(params: dict, check_mode: bool) -> dict:
    """Port what is not ported yet; return the module's result."""
    source = params["sqlite_database"]
    _sqlite.require_movable(source, _sqlite.inspect(source))
    config = _routine.read_config(params["config"])
    command = params["command"] or [params["synapse_python"], "-m", "synapse._scripts.synapse_port_db"]
    if params["synapse_python"]:
        _routine.require_synapse(params["synapse_python"])
    digest = _sqlite.digest(source)
    target = _routine.connection_keywords(config)
    with _connection.connected(target, autocommit=True, what="synapse_port") as connection, connection.cursor() as cursor:
        require_fit(cursor, config)
        with _move.only_one(cursor, connection.info.dbname):
            if _move.is_finished(cursor, digest, config["server_name"]):
                return {"changed": False, "finished": True}
            _move.require_only_ported(cursor, source)
            _move.require_unused(cursor)
            if check_mode:
                return {"changed": True, "finished": False}
            _move.begin(cursor, source, digest, config["server_name"])
            started = time.monotonic()
            progress = _routine.run(command, config, source, params["batch_size"])
            _move.end(cursor, [digest, _sqlite.digest(source)])
    return {
        "changed": True,
        "finished": True,
        "tables": progress.tables,
        "seconds": round(time.monotonic() - started, 1),
        "log": f"{source}.port.log",
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            sqlite_database=dict(type="path", required=True),
            config=dict(type="list", elements="path", required=True),
            synapse_python=dict(type="path"),
            command=dict(type="list", elements="str"),
            engine=dict(type="str", choices=["synapse"], default="synapse"),
            batch_size=dict(type="int", default=1000),
        ),
        mutually_exclusive=[("synapse_python", "command")],
        required_one_of=[("synapse_python", "command")],
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        _interpreter.need({"yaml": "PyYAML", "psycopg2": "psycopg2"}, params["synapse_python"])
        if params["batch_size"] < 1:
            raise Refusal(f"A batch of {params['batch_size']} rows carries nothing.", "Give a batch_size of 1 or more.")
        result = port(params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
