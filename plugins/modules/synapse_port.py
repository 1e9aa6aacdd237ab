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
  - A port that has been finished is recognised, by the very file, and not repeated; one that was killed goes on where it
    stopped; a newer copy of the database adds what is new. What Synapse changed meanwhile in rows that were there already
    is carried over by M(matrixops.synapse_postgres.synapse_port_verify).
  - What the routine leaves undone is done, too. NULL in boolean columns, of which it makes false, is restored; sequences
    are mended before it and after it, as by M(matrixops.synapse_postgres.synapse_sequences); and the planner gets its
    statistics by C(ANALYZE).
  - A target that Synapse has written to is refused, since the routine would empty tables that are in use. What is known of
    the move is kept in the target database itself, in the schema C(synapse_postgres).
  - A value that PostgreSQL would store as another one, such as a blob in a column of text, is refused, by its table and row. A
    row that the server refuses is told in the server's words, but for its values. When it is mended on SQLite, the next run
    goes on in the same database.
  - It makes do with the sessions that the role, the database and the server have left.
  - The routine reads a private configuration with just the server's name and the database, so that modules, media stores
    and C(conf.d) layouts do not stop it.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.synapse
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
        makes it. The routine writes to it and to its folder. A symbolic link is followed, and refused with O(command).
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
  drain_background_updates:
    description:
      - Whether background updates of Synapse's that are still pending in O(sqlite_database) are finished there, by
        Synapse's own tool. Otherwise they are a reason to refuse.
    type: bool
    default: false
  engine:
    description:
      - What carries the rows over. V(synapse) is Synapse's own routine, which sends them one by one. V(copy) sends the same
        rows by C(COPY), from several processes; it lets Synapse's own code do the rest, and on a later run compares what the
        routine would carry again.
      - A release of Synapse whose routine has other rules than those that V(copy) knows is ported by V(synapse), with a warning.
    type: str
    choices: [copy, synapse]
    default: copy
  batch_size:
    description:
      - How many rows are carried over in one transaction. By default 1000 by the engine V(synapse), and 50000 by V(copy).
    type: int
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
engine:
  description: What carried the rows over.
  returned: when the routine ran
  type: str
  sample: copy
tables:
  description: For each table that the routine ported, how many rows are there, how many it counted, and how many it dropped
    because PostgreSQL cannot store them (NUL characters).
  returned: when the routine ran
  type: dict
  sample: {events: {rows: 4211, total: 4211, dropped: 0}}
restored:
  description: For each boolean column, in how many rows the routine made false of a NULL, which means true to Synapse in
    some, and which is NULL again.
  returned: when the routine ran
  type: dict
  sample: {pushers.enabled: 12}
sequences:
  description: The sequences that the routine left behind their tables or streams, as in
    M(matrixops.synapse_postgres.synapse_sequences).
  returned: when the routine ran
  type: dict
seconds:
  description: How long the routine ran, and what was done after it.
  returned: when the routine ran
  type: float
log:
  description: Where all that the routine said is kept.
  returned: when the routine ran
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port, synapse_rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import paths


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            sqlite_database=dict(type="path", required=True),
            config=dict(type="list", elements="path", required=True),
            **synapse_rules.CALLED,
            drain_background_updates=dict(type="bool", default=False),
            engine=dict(type="str", choices=["copy", "synapse"], default="copy"),
            batch_size=dict(type="int"),
        ),
        mutually_exclusive=[("synapse_python", "command")],
        required_one_of=[("synapse_python", "command")],
        required_by={"python_command": "command"},
        supports_check_mode=True,
    )
    # Where Synapse runs in a container, only the path as it was given is the same there.
    followed = [] if module.params["command"] else ["sqlite_database"]
    with told_to(module), paths.resolved_params(module.params, *followed) as params:
        _interpreter.need({"yaml": "PyYAML", "psycopg2": "psycopg2"}, params["synapse_python"])
        if params["batch_size"] is not None and params["batch_size"] < 1:
            raise Refusal(f"A batch of {params['batch_size']} rows carries nothing.", "Give a batch_size of 1 or more.")
        if os.path.islink(params["sqlite_database"]):
            raise Refusal(
                f"{params['sqlite_database']} is a link, which may lead elsewhere where the command runs.",
                "Give the path of the file itself.",
            )
        result = port.port(params, module.check_mode)
        if result.get("engine", params["engine"]) != params["engine"]:
            module.warn("The engine copy does not know the port routine of this Synapse; Synapse's own carried the rows over.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
