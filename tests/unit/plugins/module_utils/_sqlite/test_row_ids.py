# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs of row ids: upwards and downwards, with gaps, up to the ends that SQLite knows."""

import sqlite3

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import row_ids


def test_a_run_is_of_so_many_rows_in_either_direction():
    sqlite = sqlite3.connect(":memory:")
    sqlite.execute('CREATE TABLE "odd ""name" (x)')
    numbers = [row_ids.FIRST, -5, -1, 3, 4, 9, row_ids.LAST]
    sqlite.executemany('INSERT INTO "odd ""name" (rowid) VALUES (?)', [(number,) for number in numbers])

    def run(start, stop, rows=None):
        return row_ids.run(sqlite, 'odd "name', start, stop, rows)

    assert run(1, row_ids.LAST, 2) == (3, 4)
    assert run(5, row_ids.LAST, 2) == (9, row_ids.LAST)
    assert run(5, row_ids.LAST, 9) == (9, row_ids.LAST)
    assert run(0, row_ids.FIRST, 2) == (-1, -5)
    assert run(-2, row_ids.FIRST) == (-5, row_ids.FIRST)
    assert run(1, 8) == (3, 4)
    assert run(5, 8) is None and run(2, 0) is None
    assert run(4, 4, 3) == (4, 4)
