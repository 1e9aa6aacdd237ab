# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The user directory, which a move leaves empty and Synapse then never fills: it waits for updates that are done already.

The port routine leaves the tables out and the directory's position empty, which is what Synapse has before its first background
updates for it (synapse/_scripts/synapse_port_db.py; synapse/handlers/user_directory.py, _unsafe_process). They are queued again,
as the job regenerate_directory of the admin API does (synapse/rest/admin/background_updates.py), and run when Synapse starts.
"""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

# Each with the one that has to be done before; their order in the table follows from that.
UPDATES = {
    "populate_user_directory_createtables": None,
    "populate_user_directory_process_rooms": "populate_user_directory_createtables",
    "populate_user_directory_process_users": "populate_user_directory_process_rooms",
    "populate_user_directory_cleanup": "populate_user_directory_process_users",
}

# Users that would be in it: after should_include_local_user_in_dir() in synapse/storage/databases/main/user_directory.py.
_STATE = """
SELECT (SELECT count(*) FROM users WHERE deactivated = 0 AND is_guest = 0 AND appservice_id IS NULL AND user_type IS NULL),
    EXISTS (SELECT FROM user_directory), (SELECT max(stream_id) FROM user_directory_stream_pos),
    ARRAY(SELECT update_name FROM background_updates WHERE update_name = ANY (%s) ORDER BY update_name)
"""
# The rows of background_updates that nobody has begun with.
UNTOUCHED = "update_name IN ({}) AND progress_json = '{{}}'".format(", ".join(map(repr, UPDATES)))

_QUEUE = "INSERT INTO background_updates (update_name, progress_json, depends_on) VALUES {} ON CONFLICT DO NOTHING"


@dataclasses.dataclass(frozen=True)
class State:
    """How many ``users`` belong in it, whether ``anybody`` is, up to which ``position``, and the updates that are ``queued``."""

    users: int
    anybody: bool
    position: int | None
    queued: list[str]

    @property
    def is_forgotten(self) -> bool:
        """Whether users are missing from it and nothing is going to add them."""
        return self.users > 0 and not self.queued and (self.position is None or not self.anybody)


def read(cursor: Cursor) -> State:
    """Return the state of the user directory in the connected database of Synapse's."""
    cursor.execute(_STATE, (list(UPDATES),))
    return State(*only_row(cursor))


def queue_statement() -> str:
    """Return the statement that queues the updates."""
    rows = [f"('{name}', '{{}}', {repr(before) if before else 'NULL'})" for name, before in UPDATES.items()]
    return _QUEUE.format(", ".join(rows))


def queue(cursor: Cursor, check_mode: bool) -> bool:
    """Queue the updates where the directory is forgotten; tell whether that was, or would be, done."""
    needed = read(cursor).is_forgotten
    if needed and not check_mode:
        cursor.execute(queue_statement())
    return needed


def take_back(cursor: Cursor, check_mode: bool) -> bool:
    """Remove the updates from the queue where no Synapse has begun with them; tell whether that was, or would be, done."""
    cursor.execute(f"SELECT count(*) FROM public.background_updates WHERE {UNTOUCHED}")
    untouched = only_row(cursor)[0] == len(UPDATES)
    if untouched and not check_mode:
        cursor.execute(f"DELETE FROM public.background_updates WHERE {UNTOUCHED}")
    return untouched
