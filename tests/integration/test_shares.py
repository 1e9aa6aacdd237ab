# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""shares against a real server: kept sums are what they would be if they were worked out anew, whatever was done meanwhile."""

import os
import random
import sqlite3

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import row_digests, shares, unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import sides as sides_of
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.table import Column, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import record
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target

COLUMNS = {"id": "bigint", "words": "text", "fields": "jsonb"}


class Sides:
    """A table ``talk`` on either side, in shares of a few rows, and what is known of it."""

    def __init__(self, cluster, name: str, path: str) -> None:
        self.connections = [cluster.connect(dbname=name) for _each in range(3)]
        self.cursor, self.other = (connection.cursor() for connection in self.connections[:2])
        self.cursor.execute("DROP SCHEMA IF EXISTS synapse_postgres CASCADE; DROP TABLE IF EXISTS talk, before")
        self.cursor.execute(record._RECORD)
        self.cursor.execute(f"CREATE TABLE talk ({', '.join(map(' '.join, COLUMNS.items()))}) WITH (autovacuum_enabled = off)")
        self.path = path
        self.here = sqlite3.connect(path, isolation_level=None)
        self.here.execute("CREATE TABLE talk (id, words, fields)")
        unmatched.prepare(self.here)
        columns = [Column.of(name, f"t.{name}", kind, False) for name, kind in COLUMNS.items()]
        self.table = Table("talk", "talk AS t", tuple(columns), ("id",))

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *_reason) -> None:
        for connection in [*self.connections, self.here]:
            connection.close()

    def put(self, *numbers: int, words: str = "w") -> None:
        """Write rows of these numbers on both sides."""
        for number in numbers:
            row = (number, words * 100, '{"b": 1}')
            self.here.execute("INSERT INTO talk (rowid, id, words, fields) VALUES (?, ?, ?, ?)", (number, *row))
            self.other.execute("INSERT INTO talk VALUES (%s, %s, %s)", row)

    def look(self, usable: bool = True, keeping: bool = True) -> tuple[dict, int]:
        """Return {side: (counts, sums)} of the table, and how many shares had to be worked out."""
        found, new = {side: row_digests.Sums() for side in ("sqlite", "postgres")}, 0
        self.cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        kept = shares.Kept(self.cursor, file.stamp(self.path), usable, keeping)
        both = sides_of.Sides(Source.at(self.path), Target(self.cursor, {}), self.here)
        known = {entry.mark for entry in kept._entries.values()}
        for share in kept.cut(both, self.table):
            part, what = kept.sums(both, self.table, share)
            found[share.side].add(part)
            new += bool(what) and (share.side == "postgres" or what.mark not in known)
            kept.keep(share, part, what)
        kept.settle(self.other)
        self.cursor.execute("COMMIT")
        return {side: (one.counts, one.sums) for side, one in found.items()}, new

    def require_right(self) -> int:
        """See that what is known is right; return how many shares had to be worked out."""
        found, new = self.look()
        assert found == self.look(usable=False)[0]
        return new


@pytest.fixture(scope="module")
def database(cluster):
    cluster.rows("CREATE DATABASE shares")
    yield "shares"
    cluster.rows("DROP DATABASE shares WITH (FORCE)")


@pytest.fixture
def sides(cluster, database, monkeypatch, tmp_path):
    monkeypatch.setattr(shares, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(shares, "_ROWS", 20)
    monkeypatch.setattr(shares, "_BLOCKS", 1)
    with Sides(cluster, database, str(tmp_path / "copy.db")) as found:
        yield found


def test_what_has_not_changed_is_known(sides):
    sides.put(*range(1, 301))
    found, new = sides.look()
    assert found["sqlite"] == found["postgres"]
    assert new > 20
    assert sides.require_right() == 0


def test_a_file_that_nobody_has_written_to_is_not_read_again(sides, monkeypatch):
    sides.put(*range(1, 301))
    found = sides.look()[0]
    with monkeypatch.context() as patched:
        patched.setattr(row_digests, "sqlite_mark", None)
        assert sides.look()[0] == found
    sides.here.execute("UPDATE talk SET words = 'other' WHERE id = 1")
    assert sides.require_right() > 0
    os.utime(sides.path)  # the same rows in a file that may be another one
    assert sides.require_right() == 0


def test_what_was_appended_is_worked_out_and_nothing_else(sides):
    sides.put(*range(1, 301))
    whole = sides.look()[1]
    sides.put(*range(301, 311))
    assert 2 <= sides.require_right() <= 4 < whole


# What is done to the table on PostgreSQL, and on SQLite.
POSTGRES = [
    "UPDATE talk SET words = 'other' WHERE id = 150",
    "UPDATE talk SET words = words WHERE id = 150",
    "DELETE FROM talk WHERE id = 150",
    "DELETE FROM talk WHERE id = 150; INSERT INTO talk VALUES (150, 'other', '{}')",
    "DELETE FROM talk WHERE id = 300; INSERT INTO talk VALUES (1000, 'other', '{}')",
    "CREATE TABLE before AS SELECT * FROM talk; TRUNCATE talk; INSERT INTO talk SELECT id, 'other', fields FROM before",
    "DELETE FROM talk",
    "ALTER TABLE talk ALTER words TYPE varchar(50) USING left(words, 50)",
    "DELETE FROM talk WHERE id % 2 = 0; VACUUM FULL talk",
    "DELETE FROM talk WHERE id < 100; VACUUM talk; INSERT INTO talk SELECT n, 'other', '{}' FROM generate_series(1, 99) AS n",
    "CREATE INDEX on_both ON talk (words, id DESC); CLUSTER talk USING on_both",
    "SELECT * FROM talk FOR UPDATE",
    "VACUUM (FREEZE) talk",
]
SQLITE = [
    "UPDATE talk SET words = 'other' WHERE id = 150",
    "UPDATE talk SET words = CAST(words AS BLOB) WHERE id = 150",
    "UPDATE talk SET fields = '{\"b\": 2}' WHERE id = 150",
    "UPDATE talk SET rowid = 1000 WHERE id = 150",
    "UPDATE talk SET rowid = -5 WHERE id = 150",
    "DELETE FROM talk WHERE id = 150",
    "DELETE FROM talk WHERE id > 150",
    "DELETE FROM talk WHERE id < 150; INSERT INTO talk (rowid, id) VALUES (7, 7), (-3, -3), (1001, 1001)",
    "DELETE FROM talk",
    "DELETE FROM talk WHERE id = 150; INSERT INTO talk (rowid, id, words) VALUES (150, 150, 'other')",
    "CREATE TABLE other AS SELECT * FROM talk ORDER BY id DESC; DELETE FROM talk; INSERT INTO talk SELECT * FROM other",
]


@pytest.mark.parametrize(
    ("side", "statements"), [*(("postgres", each) for each in POSTGRES), *(("sqlite", each) for each in SQLITE)]
)
def test_a_change_is_seen(sides, side, statements):
    sides.put(*range(1, 301))
    sides.look()
    changed = sides.other if side == "postgres" else sides.here
    for statement in statements.split(";"):
        changed.execute(statement)
    sides.require_right()
    sides.require_right()


def test_any_changes_are_seen(sides):
    chance, number = random.Random(7), 300
    sides.put(*range(1, 301))
    for _round in range(25):
        for _change in range(chance.randrange(4)):
            one = chance.randrange(1, number)
            kind = chance.choice(["put", "update", "delete", "update here", "delete here"])
            if kind == "put":
                sides.put(number + 1)
                number += 1
            elif kind.endswith("here"):
                what = "DELETE FROM talk" if kind.startswith("delete") else f"UPDATE talk SET words = words || {number}"
                sides.here.execute(f"{what} WHERE id = {one}")
            else:
                what = "DELETE FROM talk" if kind == "delete" else f"UPDATE talk SET words = words || {number}"
                sides.other.execute(f"{what} WHERE id = {one}")
        sides.require_right()


def test_a_transaction_that_was_under_way_is_seen_when_it_has_ended(sides):
    sides.put(*range(1, 101))
    sides.look()
    writer = sides.connections[2]
    writer.autocommit = False
    with writer.cursor() as cursor:
        cursor.execute("DELETE FROM talk WHERE id = 1")
        cursor.execute("INSERT INTO talk VALUES (1, 'other', '{}')")
        sides.other.execute("UPDATE talk SET words = 'another' WHERE id = 2")  # a later one, which ends earlier
        sides.require_right()
        writer.commit()
    assert sides.require_right() > 0


def test_in_check_mode_nothing_is_kept(sides):
    sides.put(*range(1, 101))
    whole = sides.look(keeping=False)[1]
    assert sides.look(keeping=False)[1] == whole > 0


def test_nothing_is_known_without_a_place_for_it(sides):
    sides.put(*range(1, 101))
    sides.cursor.execute("DROP TABLE synapse_postgres.sums")
    assert sides.look()[0] == sides.look()[0]
