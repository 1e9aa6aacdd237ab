# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Text that is no UTF-8, where the preflight looks at it for another reason: it is that, and no damage of the file."""

import contextlib
import sqlite3

from support import move as moves


def test_a_text_that_is_no_utf_8_is_not_told_as_damage_of_the_file(run, tmp_path, homeserver, any_cluster):
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as move:
        with contextlib.closing(sqlite3.connect(move.source)) as connection:
            mangled = "CAST(x'ff' || CAST(hex(randomblob(3000)) AS BLOB) AS TEXT)"  # of a length at which the server is asked
            connection.execute(
                "INSERT INTO event_relations (rowid, event_id, relates_to_id, relation_type, aggregation_key)"
                f" VALUES (9001, '$r', '$e', 'm.annotation', {mangled})"
            )
            connection.execute("INSERT INTO users (rowid, name) VALUES (9002, CAST(x'4039ff' AS TEXT))")  # a number of a user
            connection.commit()
        found = run("synapse_port_info", {**move.called, "folder": str(move.folder)})
    told = {(one.get("table"), tuple(one.get("rows", ()))): one["found"] for one in found["problems"]}
    assert "event_relations.aggregation_key is not UTF-8" in told["event_relations", (9001,)], found["problems"]
    assert "users.name is not UTF-8" in told["users", (9002,)]
    assert len(told) == len(found["problems"]) == 2, found["problems"]
