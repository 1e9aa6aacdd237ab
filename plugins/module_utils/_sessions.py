# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many sessions a server has left for a role: by the limits of the role, of the database and of the server itself."""

from __future__ import annotations

import dataclasses
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# What a move needs at once, at least: the session that keeps its lock, one that keeps what is compared, and one at work.
LEAST = 3

# How long a session that has ended may take to give its place back, in seconds.
_PATIENCE = 15.0

# A superuser is bound by max_connections alone. Others see of a session whose it is and where, and not what it does.
_LIMITS = """
SELECT current_user, current_database(),
    CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END, CASE WHEN rolsuper THEN -1 ELSE datconnlimit END,
    current_setting('max_connections')::int - CASE WHEN rolsuper THEN 0
        ELSE current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true), '0')::int END,
    count(*) FILTER (WHERE s.usesysid = r.oid), count(*) FILTER (WHERE s.datid = d.oid), count(*)
FROM pg_roles r, pg_database d, pg_stat_activity s
WHERE rolname = current_user AND d.datname = current_database() AND s.datid IS NOT NULL
    AND coalesce(s.backend_type, 'client backend') = 'client backend'
GROUP BY r.oid, rolsuper, rolconnlimit, d.oid, datconnlimit
"""


@dataclasses.dataclass(frozen=True)
class Room:
    """``left`` sessions more than there are now; ``limit`` says what ends them, as words, and ``current`` where that stands.

    ``command`` raises it, with ``{}`` for the new number.
    """

    left: int
    limit: str
    current: int
    command: str

    def raised(self, more: int) -> str:
        """Return what makes room for so many sessions ``more``."""
        return self.command.format(self.current + more)


def of(cursor: Cursor) -> Room:
    """Return the room for the role of the session of ``cursor``, in its database, which the session itself has a part of."""
    # What a transaction has once seen of other sessions it goes on seeing.
    cursor.execute("SELECT pg_stat_clear_snapshot()")
    cursor.execute(_LIMITS)
    role, database, of_role, of_database, of_server, by_role, in_database, everywhere = only_row(cursor)
    found = [
        Room(
            of_server - everywhere,
            f"The server's max_connections leaves {of_server} sessions for roles that are no superuser's",
            of_server,
            "Let other sessions end, or raise max_connections so far that {} are left (ALTER SYSTEM, and a restart).",
        )
    ]
    for limit, used, words, kind, name in (
        (of_role, by_role, f"The role {role}", "ROLE", role),
        (of_database, in_database, f"The database {database}", "DATABASE", database),
    ):
        if limit >= 0:
            quoted = identifier(name).replace("{", "{{").replace("}", "}}")
            command = f"As a superuser: `ALTER {kind} {quoted} CONNECTION LIMIT {{}}`."
            found.append(Room(limit - used, f"{words} has a CONNECTION LIMIT of {limit}", limit, command))
    return min(found, key=lambda room: room.left)


def workers(cursor: Cursor) -> int:
    """Return how many sessions may be opened beside those that are open now; wait for one that is just ending.

    Raises Refusal where there is none.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        room = of(cursor)
        if room.left > 0:
            return room.left
        if time.monotonic() > deadline:
            raise Refusal(f"{room.limit}, and all of them are taken.", f"{room.raised(LEAST)} Then run this again.")
        time.sleep(0.2)
