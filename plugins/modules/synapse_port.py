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
    copy of the database adds what is new. What Synapse changed meanwhile in rows that were there already is carried over by
    M(matrixops.synapse_postgres.synapse_port_verify).
  - What the routine leaves undone is done, too. NULL in boolean columns, of which it makes false, is restored; sequences
    are mended before it and after it, as by M(matrixops.synapse_postgres.synapse_sequences); and the planner gets its
    statistics by C(ANALYZE).
  - A target that Synapse has written to is refused, since the routine would empty tables that are in use. What is known of
    the move is kept in the target database itself, in the schema C(synapse_postgres).
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

import concurrent.futures
import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import (
    _connection,
    _copy,
    _database,
    _indexes,
    _interpreter,
    _move,
    _nulls,
    _routine,
    _sequences,
    _sqlite,
    _synapse,
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
    source, python = params["sqlite_database"], _synapse.python_words(params)
    facts = _sqlite.inspect(source)
    _sqlite.require_movable(source, facts, params["drain_background_updates"])
    config = _routine.read_config(params["config"])
    # Synapse takes as long to be imported as a gigabyte to be read.
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        asked = other.submit(_synapse.ask, python)
        stamp, digest = _sqlite.stamp(source), _sqlite.digest(source)
        routine = asked.result()
    target = _routine.connection_keywords(config)
    with _connection.connected(target, autocommit=True, what="synapse_port") as connection, connection.cursor() as cursor:
        require_fit(cursor, config)
        with _move.only_one(cursor, connection.info.dbname):
            if _move.is_finished(cursor, digest, config["server_name"]):
                return {"changed": False, "finished": True}
            _move.require_only_ported(cursor, source)
            _move.require_unused(cursor)
            before = _move.record(cursor)
            if not check_mode and before and not before.broke_off_at(digest):
                _indexes.put_back(cursor, target, source)  # the keys by which rows are found are among them
            _move.require_same_rows(cursor, source, routine["append_only"])
            if check_mode:
                return {"changed": True, "finished": False}
            _move.clear_half_schema(cursor)
            engine = params["engine"] if _copy.knows(routine) else "synapse"
            routine = {**routine, "engine": engine, "again": _move.is_again(cursor, before)}
            _move.begin(cursor, source, digest, config["server_name"], routine, here=before is not None and before.here)
            if facts["background_updates"]:
                _routine.drain(python, config, source)
            return port_all(cursor, params, config, routine, (stamp, digest), before)


def carry_over(cursor, params: dict, config: dict, routine: dict, digest: str, before: _move.Record | None) -> _routine.Progress:
    """Let the engine that was chosen carry the rows over; ``before`` is the record of the move before this run."""
    source, target = params["sqlite_database"], _routine.connection_keywords(config)
    if routine["engine"] == "synapse":
        _indexes.put_back(cursor, target, source)
        command = params["command"] or [params["synapse_python"], "-m", "synapse._scripts.synapse_port_db"]
        return _routine.run(command, config, source, params["batch_size"] or _routine.ROWS)
    laid = _copy.state(cursor, source, routine)
    is_laid = _move.is_laid(cursor, before, laid)
    goes_on = is_laid and before.broke_off_at(digest)
    if not is_laid:
        _indexes.put_back(cursor, target, source)  # Synapse's code may be about to drop one
        tables = _routine.lay(_synapse.python_words(params), config, source)
        _copy.require_same_tables(cursor, source, routine, tables)
        laid = _copy.state(cursor, source, routine)
    progress = _copy.copy(cursor, target, source, routine, laid, goes_on, params["batch_size"] or _copy.ROWS)
    if is_laid:  # Synapse's code has set no sequence in this run
        _sequences.mend(cursor, given_out=_sqlite.given_out(source))
    return progress


def port_all(cursor, params: dict, config: dict, routine: dict, known: tuple, before: _move.Record | None) -> dict:
    """Carry everything over and do what the routine leaves undone; record that all is there; return the module's result.

    ``known`` is the stamp of the SQLite database and its digest.
    """
    source, copy = params["sqlite_database"], os.stat(params["sqlite_database"])
    (stamp, digest), started = known, time.monotonic()
    _sequences.mend(cursor)  # the routine opens the target as Synapse does, which refuses one that lags
    try:
        progress = carry_over(cursor, params, config, routine, digest, before)
    except BaseException:
        _move.end_routine(cursor)
        raise
    _move.require_all_ported(cursor, source, routine)
    restored = _nulls.restore(cursor, source, routine)
    sequences = _sequences.mend(cursor)
    analyze(cursor)
    if os.stat(source).st_ino != copy.st_ino:
        raise Refusal(
            f"{source} was replaced while it was ported: another run has made a newer copy.", "Run this again with that one."
        )
    now = _sqlite.stamp(source)
    _move.end(cursor, [digest, digest if now == stamp else _sqlite.digest(source)], now)
    return {
        "changed": True,
        "finished": True,
        "engine": routine["engine"],
        "tables": progress.tables,
        "restored": restored,
        "sequences": sequences["sequences"],
        "seconds": round(time.monotonic() - started, 1),
        "log": f"{source}.port.log",
    }


def analyze(cursor) -> None:
    """Give the planner statistics of the tables where a tenth has changed since it had them, as autovacuum would in a while."""
    cursor.execute(
        "SELECT string_agg(format('%I.%I', schemaname, relname), ', ') FROM pg_stat_user_tables WHERE schemaname = 'public'"
        " AND (coalesce(last_analyze, last_autoanalyze) IS NULL OR n_mod_since_analyze > 0.1 * n_live_tup)"
    )
    tables = cursor.fetchone()[0]
    if tables:
        cursor.execute(f"ANALYZE {tables}")


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            sqlite_database=dict(type="path", required=True),
            config=dict(type="list", elements="path", required=True),
            **_synapse.CALLED,
            drain_background_updates=dict(type="bool", default=False),
            engine=dict(type="str", choices=["copy", "synapse"], default="copy"),
            batch_size=dict(type="int"),
        ),
        mutually_exclusive=[("synapse_python", "command")],
        required_one_of=[("synapse_python", "command")],
        required_by={"python_command": "command"},
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        _interpreter.need({"yaml": "PyYAML", "psycopg2": "psycopg2"}, params["synapse_python"])
        if params["batch_size"] is not None and params["batch_size"] < 1:
            raise Refusal(f"A batch of {params['batch_size']} rows carries nothing.", "Give a batch_size of 1 or more.")
        result = port(params, module.check_mode)
        if result.get("engine", params["engine"]) != params["engine"]:
            module.warn("The engine copy does not know the port routine of this Synapse; Synapse's own carried the rows over.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
