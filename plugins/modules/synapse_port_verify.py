#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_port_verify
short_description: Prove that a move of Synapse's data from SQLite to PostgreSQL lost nothing
description:
  - Compares every table row for row, by content, and fails unless PostgreSQL holds what the SQLite file holds.
  - What Synapse's port routine leaves out or changes on purpose is recognised by rule, counted and listed. Anything else is
    a difference.
  - Both databases are read as they are at one moment. Memory stays small however large they are; the time goes with the
    size, and the server does its half of the work itself, so that little crosses the network.
  - What was compared is remembered in the target database, in the schema C(synapse_postgres), unless in check mode. The next
    comparison sees where nothing has changed, and compares only the rest anew; of SQLite by the file, where nobody has
    written to it, and by a digest of the rows in another, of PostgreSQL by the transactions that its rows are of. To have all
    of it compared anew, empty C(synapse_postgres.sums).
  - With O(carry_changes), rows that Synapse changed or deleted on SQLite between two runs of the routine are carried over,
    which the routine does not do for the tables that it only adds to. All of it is one transaction, which is kept only if
    the databases are equal then.
  - How far it is can be read in C(<sqlite_database>.progress.json) while it runs.
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
    details: What differs is told by keys and counts; the rows themselves hold secrets.
  idempotent:
    support: full
options:
  sqlite_database:
    description:
      - Absolute path of the SQLite database that was ported, which nobody writes to meanwhile. It is only read.
      - SQLite's temporary files are kept in its folder if the user may write there.
    type: path
    required: true
  carry_changes:
    description:
      - Carry over rows that differ in tables which the port routine only adds to. A difference in any other table is a
        defect, and nothing is carried then.
      - It is refused unless the target was ported by M(matrixops.synapse_postgres.synapse_port) from this very file, and
        where Synapse has written to the target since.
    type: bool
    default: false
  original:
    description:
      - Absolute path of the database that O(sqlite_database) is a copy of, as Synapse's configuration has it. Give it when
        Synapse is stopped for good, since the comparison proves only that PostgreSQL holds what the copy holds.
      - What SQLite itself says of the original, through a connection as every program has one, must then be what the copy held
        when it was ported. That is the schema, of each table the lowest and the highest row id, and every value of its newest
        rows, as far as 8 MiB reach, which is the whole of most tables. It takes seconds and writes nothing.
      - So it finds new rows that the copy lacks in any table, and rows that were changed or deleted in tables up to that size
        and among the newest rows of larger ones. Where the original's write-ahead log is not empty, as when Synapse was killed,
        larger tables are compared with the copy row for row, which takes as long as reading both. Where there is no log, a change
        of an old row in a large table, made by somebody else after the copy, which touches nothing else, is not found.
      - It is refused when any process has the original open to write, or when it has a second name, as in
        M(matrixops.synapse_postgres.synapse_sqlite_snapshot).
    type: path
  synapse_python:
    description:
      - The interpreter that runs Synapse. It is asked what the port routine does where the target database holds no record
        of that.
    type: path
seealso:
  - module: matrixops.synapse_postgres.synapse_port
  - module: matrixops.synapse_postgres.synapse_sqlite_snapshot
"""

EXAMPLES = r"""
- name: The proof that nothing was lost
  become: true
  matrixops.synapse_postgres.synapse_port_verify:
    sqlite_database: /var/lib/matrix-synapse/port/snapshot.db
    login_host: db.example.org
    login_user: synapse
    login_password: "{{ synapse_postgres_password }}"
    login_db: synapse

- name: With Synapse stopped, carry over what changed since the first run, and prove it
  become: true
  matrixops.synapse_postgres.synapse_port_verify:
    sqlite_database: /var/lib/matrix-synapse/port/snapshot.db
    carry_changes: true
    login_host: db.example.org
    login_user: synapse
    login_password: "{{ synapse_postgres_password }}"
    login_db: synapse
"""

RETURN = r"""
equal:
  description: Whether PostgreSQL holds what SQLite holds, expected differences apart. When it does not, the module fails.
  returned: when the databases were compared
  type: bool
rows:
  description: How many of SQLite's rows were compared.
  returned: when the databases were compared
  type: int
seconds:
  description: How long it took.
  returned: when the databases were compared
  type: float
tables:
  description: For each table that differs, how many rows SQLite has, how many of them are missing on PostgreSQL, how many
    rows there are unexpected, how many of the missing ones are there with other content, and where the first of them are, by
    their keys or, where these are secret or there are none, by SQLite's row ids and PostgreSQL's.
  returned: when the databases were compared
  type: dict
  sample: {users: {rows: 812, missing: 1, unexpected: 1, changed: 1, examples: ["name=@ann:example.org"]}}
expected:
  description: The differences that a rule explains, each with its number of rows.
  returned: when the databases were compared
  type: list
  elements: dict
  sample:
    - table: user_directory
      rule: ignored
      rows: 3
      why: Synapse makes it anew; the port routine leaves it out.
      examples: []
carried:
  description: For each table, how many rows were written, as new or over old ones, and how many deleted.
  returned: when the databases were compared
  type: dict
  sample: {users: {written: 1, deleted: 0}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import verify
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import paths


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            **_connection.AS_SYNAPSE,
            sqlite_database=dict(type="path", required=True),
            carry_changes=dict(type="bool", default=False),
            original=dict(type="path"),
            synapse_python=dict(type="path"),
        ),
        supports_check_mode=True,
    )
    with told_to(module), paths.resolved_params(module.params, "sqlite_database") as params:
        _interpreter.need({"psycopg2": "psycopg2"}, params["synapse_python"])
        result = verify.verify(params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
