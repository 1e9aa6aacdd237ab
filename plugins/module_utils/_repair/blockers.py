# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps a database from being made anew: what a dump does not carry, whoever is at work in it, and a disk without room."""

from __future__ import annotations

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database_facts
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import listed

# Each with how it is told: what the copy would leave out, or the name could not be changed for.
_NOT_CARRIED = """
SELECT 'large objects' WHERE EXISTS (SELECT FROM pg_largeobject_metadata)
UNION ALL SELECT 'the materialized view ' || oid::regclass::text FROM pg_class WHERE relkind = 'm'
UNION ALL SELECT 'the foreign table ' || oid::regclass::text FROM pg_class WHERE relkind = 'f'
UNION ALL SELECT 'a logical replication slot, ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'a prepared transaction, ' || gid FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL SELECT 'the subscription ' || subname FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid
    WHERE datname = current_database()
"""

# An invalid index is not in a dump, and nobody would know that it was meant to be there.
_INVALID = """
SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready) AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1
"""

_SESSIONS = """
SELECT format('%%s (%%s, process %%s)', usename, coalesce(nullif(application_name, ''), 'no name'), pid) FROM pg_stat_activity
WHERE datname = %s AND pid <> ALL (%s) AND coalesce(backend_type, 'client backend') <> 'autovacuum worker' ORDER BY pid
"""


def require_carried(cursor: Cursor) -> None:
    """Raise Refusal where the connected database holds what would not come along."""
    cursor.execute(_NOT_CARRIED)
    found = [what for (what,) in cursor.fetchall()]
    if found:
        raise Refusal(
            f"The database {cursor.connection.info.dbname!r} has what is not carried into a new one: {listed(found)}.",
            "Synapse makes nothing of the kind. Have whoever made it take it away, then run this again.",
        )
    cursor.execute(_INVALID)
    broken = [name for (name,) in cursor.fetchall()]
    if broken:
        raise Refusal(
            f"Indexes are invalid, and would not come along: {listed(broken)}.",
            "Make them anew: the playbook matrixops.synapse_postgres.doctor tells the command of each. Then run this again.",
        )


def sessions(cursor: Cursor, name: str, ours: list[int]) -> list[str]:
    """Return who has a session in the database ``name``, apart from the server's processes in ``ours``."""
    cursor.execute("SELECT pg_stat_clear_snapshot()")
    cursor.execute(_SESSIONS, (name, ours))
    return [words for (words,) in cursor.fetchall()]


def require_unused(cursor: Cursor, name: str, ours: list[int]) -> None:
    """Raise Refusal where somebody is connected to the database ``name``."""
    found = sessions(cursor, name, ours)
    if found:
        raise Refusal(
            f"The database {name!r} is in use by {listed(found)}.",
            "Stop Synapse and all its workers, on every host, and whatever else connects there, then run this again.",
        )


def require_room(cursor: Cursor) -> int:
    """Raise Refusal where the connected database would not fit beside itself; return its size in bytes.

    What is copied is no larger than what is there. The log is written besides, as far as max_wal_size.
    """
    cursor.execute("SELECT pg_database_size(current_database())")
    (size,) = only_row(cursor)
    space = database_facts.space(cursor)
    needed = size + (space["wal"]["max_wal_size"] if space and space["same_file_system"] else 0)
    if space and space["data"]["free"] < needed:
        raise Refusal(
            f"The file system of {space['data']['path']} has {space['data']['free'] >> 20} MiB left, and the new database and "
            f"the server's log may take {needed >> 20} MiB beside the old one.",
            "Make room, then run this again.",
        )
    return int(size)
