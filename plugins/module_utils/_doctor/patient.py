# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is examined: the server, Synapse's database on it, and Synapse's configuration, as far as each can be seen from here."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from typing import Any, Mapping

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import NotApplicable, Unseen
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, system_refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

try:
    import psycopg2
except ImportError:
    psycopg2 = None  # type: ignore[assignment]

# By SQLSTATE, why a question has no answer (manual, appendix A).
_UNANSWERED = {
    "42501": "the role {role!r} may not ask for it",
    "57014": "the server had not answered within the time that a check may take",
    "55P03": "somebody holds a lock on what it would have to read",
    "42P01": "the server or the database does not have what is asked for",
}


@dataclasses.dataclass
class Patient:
    """``server`` is our session in Synapse's database, None where there is none, for the reason in ``no_session``.

    ``role`` is Synapse's; ``config`` are the files of its configuration, none where they are not on this host; ``processes`` is
    how many processes Synapse has; ``synapse_python`` runs Synapse, empty where nothing on this host does; ``limits`` are those
    of the check that is carried out, and ``allow_unsafe_locale`` says that Synapse is told to accept another locale than C.
    """

    server: Server | None
    no_session: Refusal | None
    role: str
    config: list[str] = dataclasses.field(default_factory=list)
    processes: int = 1
    synapse_python: str = ""
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def session(self) -> Server:
        """The session; Unseen without one."""
        if self.server is None:
            raise Unseen("there is no session on the server")
        return self.server

    @property
    def cursor(self) -> Cursor:
        """The session's cursor; Unseen without a session."""
        return self.session.cursor

    @property
    def version(self) -> int:
        """The server's version, such as 150018."""
        return self.cursor.connection.server_version

    @property
    def database(self) -> str:
        """The name of Synapse's database."""
        return self.cursor.connection.info.dbname

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of ``query``; Unseen where the server refuses to answer."""
        try:
            self.cursor.execute(query, values or None)
            return self.cursor.fetchall()
        except psycopg2.Error as error:
            raise unanswered(error, self.connected_role) from error

    def value(self, query: str, *values: object) -> Any:
        """Return the first value of the only row of ``query``, None where it has no row."""
        found = self.rows(query, *values)
        return found[0][0] if found else None

    def setting(self, name: str) -> str:
        """Return the parameter ``name`` as new sessions have it, in its unit; Unseen where the server keeps it from us."""
        found = self.rows("SELECT setting FROM pg_settings WHERE name = %s", name)
        if not found:
            raise Unseen(f"the server does not show {name} to {self.connected_role!r}")
        return str(found[0][0])

    @property
    def connected_role(self) -> str:
        """The role that we are connected as."""
        return self.cursor.connection.info.user

    def require_member(self, *groups: str) -> None:
        """Raise Unseen unless our role is a superuser or a member of one of the predefined roles ``groups``."""
        found = self.value(
            "SELECT rolsuper OR EXISTS (SELECT 1 FROM pg_roles g WHERE g.rolname = ANY(%s) AND pg_has_role(g.oid, 'USAGE'))"
            " FROM pg_roles WHERE rolname = current_user",
            list(groups),
        )
        if not found:
            raise Unseen(f"that takes a superuser or a member of {' or '.join(groups)}, and {self.connected_role!r} is neither")

    def require_synapses(self) -> None:
        """Raise NotApplicable unless the database holds Synapse's tables in the schema public."""
        found = database.synapse_schemas(self.cursor)
        if "public" not in found:
            where = f"in the schema {', '.join(found)}" if found else "not in this database"
            raise NotApplicable(f"Synapse's tables are {where}, and public is the one that is looked into")

    @functools.cached_property
    def merged(self) -> merging.Merged:
        """Synapse's configuration, merged as Synapse merges it; Unseen where it is not on this host or cannot be read."""
        if not self.config:
            raise Unseen("Synapse's configuration is not looked for on this host")
        missing = [path for path in self.config if not os.path.exists(path)]
        if missing:
            raise Unseen(f"this host has no {', '.join(missing)}")
        try:
            return merging.read(self.config)
        except Refusal as refusal:
            raise Unseen(refusal.found) from refusal
        except OSError as error:
            raise Unseen(system_refusal(error).found) from error

    @property
    def section_path(self) -> str:
        """The file whose section ``database`` counts."""
        return self.merged.effective_file("database") or self.merged.files[-1]

    @property
    def section(self) -> dict[str, Any]:
        """The section ``database`` of Synapse's configuration; NotApplicable where Synapse is not on PostgreSQL."""
        found = self.merged.config.get("database")
        if not isinstance(found, dict) or found.get("name") != "psycopg2":
            raise NotApplicable("Synapse's configuration names no PostgreSQL database")
        return found

    @property
    def section_args(self) -> dict[str, Any]:
        """Its ``args``: libpq's keywords and the pool's ``cp_*``."""
        found = self.section.get("args")
        return found if isinstance(found, dict) else {}

    @property
    def remote_host(self) -> str:
        """The host of the configuration's section; NotApplicable where Synapse does not connect across a network."""
        host = str(self.section_args.get("host") or self.section_args.get("hostaddr") or "")
        if not host or host.startswith(("/", "@", "127.")) or host in ("localhost", "::1"):
            raise NotApplicable("Synapse's connections stay on its own host")
        return host

    def psql(self, *statements: str, within: str | None = None) -> str:
        """Return the command, in backticks, that runs ``statements`` in Synapse's database or ``within`` another one.

        Several are several commands: what may stand in no transaction, such as VACUUM, would be in one otherwise.
        """
        words = ["psql", "-X", "-d", database.dsn(within or self.database)]
        for statement in statements:
            words += ["-c", statement]
        return f"`{' '.join(map(shlex.quote, words))}`"


def unanswered(error: psycopg2.Error, role: str) -> Unseen:
    """Return why the question that psycopg2's ``error`` is about has no answer for ``role``."""
    reason = _UNANSWERED.get(error.pgcode or "")
    return Unseen(reason.format(role=role) if reason else f"the server refused to answer, SQLSTATE {error.pgcode or 'none'}")
