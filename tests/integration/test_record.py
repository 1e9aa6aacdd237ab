# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The record of a move against a real server: what the first release has written there is read, and a port goes on from it."""

import json
import sqlite3

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import shares
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import record
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import guard
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target

# What Synapse decided, and what the first release kept beside it.
RULES = {
    "version": "1.163.0",
    "schema_version": 93,
    "append_only": ["events"],
    "ignored": ["user_directory"],
    "boolean": {"users": ["shadow_banned"]},
    "autoincrement": [],
    "carrying": "carrying",
    "fingerprint": "fingerprint",
    "asked": "asked",
}
RECORDED = {**RULES, "engine": "copy", "again": True, "laid": "state"}
CONTENT = {"users": [1, 2, "digest", True]}


@pytest.fixture
def source(tmp_path):
    path = str(tmp_path / "copy.db")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name)")
    connection.close()
    return Source.at(path)


@pytest.fixture
def cursor(any_cluster, source):
    """The cursor of a database to which the first release has ported a file."""
    any_cluster.rows("CREATE DATABASE recorded")
    connection = any_cluster.connect(dbname="recorded")
    found = connection.cursor()
    found.execute(f"{record._RECORD}; CREATE TABLE port_from_sqlite3 (table_name text)")
    found.execute(
        "INSERT INTO synapse_postgres.move (status, source, stamp, server_name, routine, content, last_transaction, started_at)"
        " VALUES ('ported', %s, %s, 'synapse', %s, %s, pg_current_xact_id()::text::bigint, now())",
        (source.path, source.stamp(), json.dumps(RECORDED), json.dumps(CONTENT)),
    )
    found.execute(
        "INSERT INTO synapse_postgres.sums (table_name, side, low, high, mark, dropped, sums)"
        " VALUES ('users', 'here', 1, 2, 'mark', 0, ''), ('users', 'there', 0, 512, 'mark', 0, '')"
    )
    yield found
    connection.close()
    any_cluster.rows("DROP DATABASE recorded WITH (FORCE)")


def test_the_record_of_the_first_release_is_read(cursor, source):
    found = record.read(cursor)
    assert (found.status, found.stamp, found.ported_before, found.restored) == ("ported", source.stamp(), True, False)
    assert json.loads(json.dumps(found.rules.to_json())) == RULES
    assert found.content == CONTENT
    assert record.has_ported(cursor, found)
    assert record.is_schema_created(cursor, found, "state") and not record.is_schema_created(cursor, found, "another")


def test_a_port_that_begins_writes_the_names_of_the_first_release(cursor, source):
    before = record.read(cursor)
    assert not shares.Kept(cursor, source.stamp(), usable=True, keeping=True).knows("users")
    record.begin(record.Port(source, Target(cursor, {}), before.rules, "copy", before, True, False), "synapse")
    cursor.execute("SELECT status, routine, content, (SELECT count(*) FROM synapse_postgres.sums) FROM synapse_postgres.move")
    held = {name: list(summary) for name, summary in guard.summarize(source.path).items()}
    assert cursor.fetchone() == ("running", {**RULES, "engine": "copy", "again": True}, held, 0)
    # Killed now, it goes on with the same file, which Synapse's code may have written to since it was looked at.
    cursor.execute("UPDATE synapse_postgres.move SET content = %s", (json.dumps(CONTENT),))
    before = record.read(cursor)
    assert before.broke_off_at(source.stamp()) and before.schema_created is None
    record.begin(record.Port(source, Target(cursor, {}), before.rules, "copy", before, True, True), "synapse")
    assert record.read(cursor).content == CONTENT
