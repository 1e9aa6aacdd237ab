# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order the parts of tables go over, as far as it does not depend on a server; the rest is in the integration tests."""

import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import transfer_plan


def test_a_table_begins_as_soon_as_those_that_it_refers_to_are_over():
    sqlite = sqlite3.connect(":memory:")
    sqlite.executescript(
        "CREATE TABLE child (x); INSERT INTO child VALUES (1), (2), (3); CREATE TABLE parent (x); INSERT INTO parent VALUES (1);"
    )
    plan = transfer_plan.TransferPlan(rows=2)  # without a server to ask for watermarks and foreign keys
    plan._parents = {"child": {"parent"}}
    plan._left, plan._at_work = ["child", "parent"], {"child": 0, "parent": 0}
    plan._watermarks = {name: {"forward_rowid": 1, "backward_rowid": 0} for name in plan._left}
    both = {"child", "parent"}
    assert plan.next(sqlite, {"child"}) is None
    first = plan.next(sqlite, both)
    assert (first.table, first.low, first.high) == ("parent", 1, 1)
    # It ends at the same moment as all others, and nobody has asked since.
    plan._at_work["parent"] = 0
    parts = [plan.next(sqlite, both), plan.next(sqlite, both)]
    assert [(part.table, part.low, part.high, part.before, part.after) for part in parts] == [
        ("child", 1, 2, 1, 3),
        ("child", 3, 3, 3, 4),
    ]
    plan._at_work["child"] = 0
    assert plan.next(sqlite, both) is None
    plan.require_over()
