# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's own client programs, run as the server's administrator."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import shutil
import subprocess

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    import psycopg2.extensions
except ImportError:
    pass

# Where Debian's and the PostgreSQL project's packages, and Red Hat's, have those of each release.
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")

# What a role or a database may carry as a default would end long work, or keep it from writing.
_OPTIONS = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off"
)


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs in ``folder``, which connect by ``libpq``'s keywords; the password goes by the environment."""

    folder: str
    libpq: dict[str, object] = dataclasses.field(repr=False)

    def start(self, program: str, database: str, *words: str, **streams: object) -> subprocess.Popen:
        """Return ``program``, at work with ``words`` in the ``database``; ``streams`` are Popen's."""
        keywords = {**_connection.with_options(self.libpq, _OPTIONS), "dbname": database}
        password = keywords.pop("password", None)
        given = {**os.environ, "PGAPPNAME": "matrixops.synapse_postgres repair", "LC_MESSAGES": "C"}
        if password:
            given["PGPASSWORD"] = str(password)
        dsn = psycopg2.extensions.make_dsn(**keywords)
        command = [os.path.join(self.folder, program), "-w", "-d", dsn, *words]
        return subprocess.Popen(command, env=given, **{"stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **streams})  # type: ignore[call-overload]

    def run(self, program: str, database: str, *words: str) -> None:
        """Run ``program`` to its end; Refusal where it fails."""
        with self.start(program, database, *words, stdout=subprocess.DEVNULL) as process:
            said = process.communicate()[1]
        require(program, process.returncode, said, f"in the database {database!r}")


def require(program: str, status: int, said: bytes, where: str) -> None:
    """Raise Refusal unless a ``program`` has ended well: in its own words, but for what a row may hold."""
    if status == 0:
        return
    # Behind a DETAIL or a CONTEXT the server quotes rows.
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if re.search(r"error|fatal|\bERROR", line)]
    words = re.sub(r"\"[^\"]*\"|'[^']*'", '"..."', lines[0]) if lines else f"it ended with {status}"
    raise Refusal(
        f"PostgreSQL's {program} has failed {where}: {words}.",
        "The database is as it was; mend the cause (the server's log has the whole of it), then run this again.",
    )


def find(libpq: dict[str, object], server_version: int) -> Programs:
    """Return the Programs for a server of ``server_version``, such as 150018: of its major release, or a newer one; Refusal."""
    wanted = server_version // 10000
    found: dict[int, str] = {}
    on_path = shutil.which("pg_dump")
    folders = [os.path.dirname(on_path)] if on_path else []
    for folder in folders + [place for pattern in _FOLDERS for place in sorted(glob.glob(pattern))]:
        if all(os.access(os.path.join(folder, program), os.X_OK) for program in ("pg_dump", "pg_restore", "psql")):
            found.setdefault(_major(folder), folder)
    fit = [major for major in found if major >= wanted]
    if not fit:
        older = f", only of {', '.join(map(str, sorted(found)))}" if found else ""
        raise Refusal(
            f"The server is PostgreSQL {wanted}, and this host has no pg_dump, pg_restore and psql of that release or a newer "
            f"one{older}.",
            f"Install them (on Debian: the package postgresql-client-{wanted}), then run this again.",
        )
    return Programs(found[min(fit)], libpq)


def _major(folder: str) -> int:
    """Return the release of the programs in ``folder``; 0 where pg_dump does not say."""
    words = [os.path.join(folder, "pg_dump"), "--version"]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    number = re.search(r"\) (\d+)", said)
    return int(number[1]) if number else 0
