# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of several rows stays where a unique index should have let in one: by a rule of that table, and none is lost.

Rows that say the same in every column are one row, of any table. Of others it is known of some tables which one Synapse goes by,
since it overwrites the row whenever it learns something newer; of the rest it is not, and they are for a person to decide.
"""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import unique_indexes
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.unique_indexes import UniqueIndex
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

# Table -> the column whose greatest value is the newest row's, where Synapse overwrites the row as a whole: an upsert in the file
# of synapse/storage/databases/main that is named.
NEWEST = {
    "public.event_push_summary": "stream_ordering",  # event_push_actions.py
    "public.local_current_membership": "event_stream_ordering",  # events.py
    "public.monthly_active_users": '"timestamp"',  # monthly_active_users.py
    "public.receipts_linearized": "stream_id",  # receipts.py
    "public.server_keys_json": "ts_added_ms",  # keys.py
    "public.server_signature_keys": "ts_added_ms",  # keys.py
    "public.sliding_sync_joined_rooms": "event_stream_ordering",  # events.py
    "public.sliding_sync_membership_snapshots": "event_stream_ordering",  # events.py
    "public.user_ips": "last_seen",  # client_ips.py
}

# Within a key's rows the one that stays comes first. Another one that is as new and says something else leaves it open.
_RANKED = """
SELECT ctid::text, place, as_new = 1 AND low <> high, row FROM (
    SELECT it.ctid, row_to_json(it.*)::text AS row, count(*) OVER (PARTITION BY {key}) AS many,
        row_number() OVER (PARTITION BY {key} ORDER BY {newest}, it.ctid) AS place,
        rank() OVER (PARTITION BY {key} ORDER BY {newest}) AS as_new,
        min((it.*)::text COLLATE "C") OVER (PARTITION BY {key}) AS low,
        max((it.*)::text COLLATE "C") OVER (PARTITION BY {key}) AS high
    FROM ONLY {table} AS it WHERE {covered} AND it.ctid <> ALL (%s::tid[])) AS ranked
WHERE many > 1
"""


@dataclasses.dataclass
class Removal:
    """A row that is not copied: its ``table``, its ``ctid`` there, the unique ``index`` it offends, itself as ``row`` (JSON)."""

    table: str
    ctid: str
    index: str
    row: str


def resolve(cursor: Cursor) -> list[Removal]:
    """Return the rows to leave out, so that every unique index of the connected database can be made. Nothing is changed.

    Raises Refusal where no rule tells which, for all of them at once.
    """
    removals: list[Removal] = []
    unresolved: list[str] = []
    with unique_indexes.scans_off(cursor):
        for index in unique_indexes.present(cursor):
            if unique_indexes.duplicated(cursor, index):
                _resolve_index(cursor, index, removals, unresolved)
    if unresolved:
        listing = "; ".join(unresolved)
        raise Refusal(
            f"Rows are there that a unique index should keep apart, and nobody but you can tell which of them counts: {listing}.",
            "Look at them by the commands that the playbook matrixops.synapse_postgres.doctor tells, keep one of each, then run "
            "this again.",
            duplicates=unresolved,
        )
    return removals


def _resolve_index(cursor: Cursor, index: UniqueIndex, removals: list[Removal], unresolved: list[str]) -> None:
    """Add to ``removals`` the rows that ``index`` makes leave, or to ``unresolved`` what of it no rule is known for."""
    newest = f"it.{NEWEST[index.table]} DESC NULLS LAST" if index.table in NEWEST else "1"
    query = _RANKED.format(key=index.key, newest=newest, table=index.table, covered=index.covered.replace("%", "%%"))
    cursor.execute(query, ([removal.ctid for removal in removals if removal.table == index.table],))
    rows = [row for row in cursor.fetchall() if row[1] > 1]
    unclear = sum(place == 2 and open_ for _ctid, place, open_, _row in rows)
    if unclear:
        unresolved.append(f"{unclear} values of {index.key} in {index.table} (index {index.name})")
    else:
        removals += [Removal(index.table, ctid, index.name, row) for ctid, _place, _open, row in rows]
