# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told of a routine that ends in an error."""

import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import synapse_port_db
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.port_config import PortConfig

_CONFIG = PortConfig("example.org", {"name": "psycopg2", "args": {"dbname": "synapse"}})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Traceback (most recent call last):\n"
            '  File "synapse_port_db.py", line 1, in run\n'
            'psycopg2.errors.DiskFull: could not extend file "base/16384/1259": No space left on device\n'
            "HINT:  Check free disk space.\n\n",
            'could not extend file "base/16384/1259": No space left on device',
        ),
        (
            "psycopg2.OperationalError: server closed the connection unexpectedly\n"
            "\tThis probably means the server terminated abnormally\n"
            "\tbefore or while processing the request.\n",
            "server closed the connection unexpectedly",
        ),
        (
            "psycopg2.errors.UniqueViolation: duplicate key value violates unique constraint\n"
            "DETAIL:  Key (id)=(1) already exists.\n"
            "CONTEXT:  COPY events, line 1\n",
            "duplicate key value violates unique constraint",
        ),
        ("[Failure instance: Traceback: <class 'ValueError'>: no such thing\n--- <exception caught here> ---\n", "no such thing"),
        ("the end\n", "the end"),
        ("", "none"),
    ],
    ids=["disk", "server", "constraint", "twisted", "plain", "silent"],
)
def test_the_last_words_are_those_that_say_why(tmp_path, said, told):
    command = [sys.executable, "-c", f"import sys; sys.stdout.write({said!r}); sys.exit(5)"]
    with pytest.raises(Refusal) as refused:
        synapse_port_db.run(command, _CONFIG, str(tmp_path / "homeserver.db"), 1000)
    words = refused.value.found.partition("Its last words: ")[2]
    assert words.endswith(told)
