# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The commands that a message to the user holds, taken out of it and run as they stand there.

A message holds a command between backticks. One that begins with a word of SQL's is for psql, any other is for a shell.
"""

import contextlib
import re
import subprocess

_SQL = re.compile(r"(ALTER|CREATE|DROP|GRANT|REASSIGN|REVOKE|SELECT|SET|UPDATE|DELETE|CHECKPOINT|REINDEX)\b")


def commands(message: str) -> list[str]:
    """Return the commands of ``message``, in their order."""
    return re.findall("`([^`]+)`", message)


def run(message: str, cluster=None, dbname: str = "postgres") -> list[str]:
    """Run every command of ``message``, SQL as the superuser of ``cluster`` in its database ``dbname``; return them.

    AssertionError when there is none or one fails.
    """
    found = commands(message)
    assert found, f"no command in: {message}"
    for command in found:
        if _SQL.match(command):
            with contextlib.closing(cluster.connect(dbname=dbname)) as connection, connection.cursor() as cursor:
                cursor.execute(command)
        else:
            done = subprocess.run(
                command, shell=True, executable="/bin/sh", capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return found
