# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One row of 100 MB goes over, is compared and is changed, and no process of ours holds it in memory."""

import contextlib
import hashlib
import pathlib
import sqlite3

import pytest

from benchmarks import measured
from support import move as moves

CACHE = pathlib.Path(__file__).parents[2] / ".cache"

# What all of our processes may have in memory together, in bytes.
MOST = 300 << 20

# Something odd at every place where pieces may meet.
_WORDS = 'ä\x01"\x01\x01\\N\\.\t,\n🐘' * 7
SIZE = 100 << 20
TEXT = (_WORDS * (SIZE // len(_WORDS.encode())))[: SIZE // 2]
BLOB = bytes(range(256)) * (20 << 12)


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    """A Move of a homeserver with rows of 100, 20 and 5 MB; one of them holds what PostgreSQL stores of none."""
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        with contextlib.closing(sqlite3.connect(found.source)) as connection:
            connection.execute("UPDATE event_json SET json = ? WHERE rowid = 3", (TEXT,))
            transaction = "INSERT INTO received_transactions VALUES (?, 'large.example', 1, 200, ?, 0)"
            connection.execute(transaction, ("large", BLOB))
            rejection = "INSERT INTO rejections VALUES (?, ?, 'now')"
            connection.executemany(rejection, [("$nul", "x" * (5 << 20) + "\0"), ("$last", "small")])
            name = "UPDATE devices SET display_name = ? WHERE rowid = (SELECT min(rowid) FROM devices)"
            assert connection.execute(name, ("y" * (5 << 20),)).rowcount == 1
            connection.commit()
        yield found


def measure(module: str, options: dict, move: moves.Move) -> dict:
    """Return the result of a module that has kept below MOST."""
    done = measured.run(module, options, CACHE, move.server.python)
    assert done.memory["ours"] < MOST, f"{module} took {done.memory['ours'] >> 20} MiB"
    return done.result


def test_a_row_of_100_megabytes_goes_over_in_little_memory(move):
    login = {**move.login, "sqlite_database": str(move.source)}
    done = measure("synapse_port", move.options, move)
    assert done["finished"] and done["tables"]["rejections"]["dropped"] == 1, done
    verified = measure("synapse_port_verify", login, move)
    assert verified["equal"] and [one["rows"] for one in verified["expected"] if one["rule"] == "nul"] == [1], verified
    assert move.rows("SELECT octet_length(json), md5(json) FROM event_json ORDER BY 1 DESC LIMIT 1") == [
        (len(TEXT.encode()), hashlib.md5(TEXT.encode()).hexdigest())
    ]
    query = "SELECT md5(response_json) FROM received_transactions WHERE transaction_id = 'large'"
    assert move.rows(query) == [(hashlib.md5(BLOB).hexdigest(),)]
    # One character in the middle, in a table that is only added to, and in one that is carried again on each run.
    move.lite("UPDATE event_json SET json = replace(json, ?, 'changed') WHERE rowid = 3", TEXT[5_000_000:5_000_400])
    move.lite("UPDATE devices SET display_name = display_name || 'z' WHERE length(display_name) > 1000000")
    assert measure("synapse_port", move.options, move)["finished"]
    verified = measure("synapse_port_verify", {**login, "carry_changes": True}, move)
    assert verified["carried"] == {"event_json": {"written": 1, "deleted": 0}}, verified
    (text,) = move.lite("SELECT json FROM event_json WHERE rowid = 3")[0]
    assert text != TEXT and move.rows("SELECT max(octet_length(json)) FROM event_json") == [(len(text.encode()),)]
