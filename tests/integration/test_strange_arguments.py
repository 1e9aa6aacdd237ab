# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Arguments of a log-in that the libpq at hand cannot take."""

import pytest


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"such_a_keyword": "x", "nor_such_a_one": 1}, "does not know such_a_keyword, nor_such_a_one"),
        ({"host": "127.0.0.1\0"}, "The value of host holds a NUL"),
        ({"options": "secret\0"}, "The value of options holds a NUL"),
    ],
)
def test_what_libpq_cannot_take_is_no_traceback(run, args, said):
    found = run("synapse_database_info", {"login_args": {"host": "127.0.0.1", "port": "1", **args}})
    assert found["failed"] and said in found["msg"] and "secret" not in found["output"].split("invocation")[0], found
