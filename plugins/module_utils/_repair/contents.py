# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that two databases of one server hold the same: every row, by another way than it was copied, and what is around.

Rows go as text where they were copied in binary, and the server adds up a digest of each in either database, so that neither
order nor place counts. What is around them (tables, indexes, constraints, owners, grants) is read from both catalogues.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair import filling, pairs
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._repair.filling import Table, Tell
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier, listed

# Two sums of 64-bit digests with other seeds (src/backend/access/hash/hashfunc.c, hashtextextended): rows that differ give the
# same pair in one of 2^128 cases. The text is of UTF8 on both sides, and of bytes, whatever the encodings of the two are.
_DIGEST = """
SELECT count(*), coalesce(sum(hashtextextended(text, 0)::numeric), 0), coalesce(sum(hashtextextended(text, 1)::numeric), 0)
FROM (SELECT {text} AS text FROM ONLY {table} AS synapse_row{where}) AS rows
"""
_SAME_TEXT = (
    "SET extra_float_digits = 3; SET bytea_output = hex; SET DateStyle = 'ISO'; SET IntervalStyle = postgres; SET TimeZone = UTC"
)

# A list of grants has no order, and none where the owner's are meant.
_GRANTS = '(SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(coalesce({0}, acldefault({1}))) AS a)'
_OF_RELATION = _GRANTS.format("relacl", """CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner""")

# Each object as (what it is, how it is), apart from the numbers that the server gives anew.
_AROUND = f"""
WITH spaces AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema')
SELECT 'schema ' || nspname, concat_ws(' ', nspowner::regrole, {_GRANTS.format("nspacl", "'n', nspowner")}) FROM spaces
UNION ALL SELECT 'extension ' || extname, extversion FROM pg_extension
UNION ALL SELECT 'relation ' || c.oid::regclass, concat_ws(' ', relkind, relpersistence, relreplident, relowner::regrole,
    reloptions, {_OF_RELATION},
    obj_description(c.oid, 'pg_class')) FROM pg_class c JOIN spaces n ON n.oid = relnamespace
UNION ALL SELECT format('column %s.%I', c.oid::regclass, attname), concat_ws(' ', format_type(atttypid, atttypmod), attnotnull,
    attidentity, attgenerated, attstorage, attstattarget, attacl, pg_get_expr(adbin, adrelid), attcollation::regcollation)
    FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid AND relkind IN ('r', 'p', 'v', 'c')
    JOIN spaces n ON n.oid = relnamespace LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
    WHERE attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'index ' || indexrelid::regclass,
    concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid, indisreplident, indisclustered)
    FROM pg_index i JOIN pg_class c ON c.oid = indrelid JOIN spaces n ON n.oid = relnamespace
UNION ALL SELECT format('constraint %I of %s', conname, conrelid::regclass),
    concat_ws(' ', pg_get_constraintdef(k.oid), convalidated) FROM pg_constraint k JOIN spaces n ON n.oid = connamespace
UNION ALL SELECT format('trigger %I of %s', tgname, tgrelid::regclass), concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled)
    FROM pg_trigger t WHERE NOT tgisinternal
UNION ALL SELECT 'function ' || p.oid::regprocedure, concat_ws(' ', md5(prosrc), proowner::regrole, provolatile, proconfig,
    {_GRANTS.format("proacl", "'f', proowner")}) FROM pg_proc p JOIN spaces n ON n.oid = pronamespace
UNION ALL SELECT 'view ' || c.oid::regclass, pg_get_viewdef(c.oid) FROM pg_class c JOIN spaces n ON n.oid = relnamespace
    WHERE relkind = 'v'
"""


@dataclasses.dataclass
class Comparison:
    """``rows`` is how many were compared, in how many ``tables``."""

    rows: int = 0
    tables: int = 0


def require_same(server: Server, work: filling.Filling, tables: list[Table], tell: Tell) -> Comparison:
    """Raise Refusal unless the new database of ``work`` holds what the old one does, apart from the rows that are left out."""
    _require_same_around(server, work)
    found, differing, done = Comparison(tables=len(tables)), [], 0
    total = sum(table.bytes for table in tables)
    with pairs.opened(server, work.old, work.new, work.workers) as sessions:
        with concurrent.futures.ThreadPoolExecutor(work.workers) as pool:
            futures = {pool.submit(_digests, sessions, work.left_out.get(table.name), table): table for table in tables}
            for future in concurrent.futures.as_completed(futures):
                table = futures[future]
                (count, *old), (new_count, *new) = future.result()
                found.rows += count
                if (count, *old) != (new_count, *new):
                    differing.append(f"{table.name} ({count} rows, and {new_count} in the new database)")
                done += table.bytes
                tell(table.name, done >> 20, total >> 20)
    if differing:
        raise Refusal(
            f"The new database does not hold what the old one does in {listed(differing)}.",
            "The old database is as it was, and Synapse can be started on it. Report this with the server's log; it is a defect.",
        )
    return found


def _digests(sessions: pairs.Pairs, left_out: list[str] | None, table: Table) -> list[tuple]:
    """Return (count, digest, digest) of the ``table`` in the old database, without the rows ``left_out``, and in the new one."""
    found = []
    with sessions.borrowed() as cursors:
        same = len({cursor.connection.info.parameter_status("server_encoding") for cursor in cursors}) == 1
        text = "(synapse_row.*)::text"
        text = text if same else f"encode(convert_to({text}, 'UTF8'), 'escape')"
        for cursor, excluded in zip(cursors, (left_out, None)):
            cursor.execute(_SAME_TEXT)
            where = f" WHERE ctid <> ALL ('{{{','.join(map(identifier, excluded))}}}'::tid[])" if excluded else ""
            cursor.execute(_DIGEST.format(text=text, table=table.name, where=where))
            found.append(only_row(cursor))
    return found


def _require_same_around(server: Server, work: filling.Filling) -> None:
    """Raise Refusal unless all around the rows is the same."""
    sides = []
    for name in (work.old, work.new):
        with server.within(name) as cursor:
            sides.append({**_around(cursor), **filling.sequences(cursor)})
    differing = [key for key in sorted({*sides[0], *sides[1]}) if sides[0].get(key) != sides[1].get(key)]
    if differing:
        raise Refusal(
            f"The new database is not made as the old one is: {listed(differing)}.",
            "The old database is as it was, and Synapse can be started on it. Report this; it is a defect.",
            differing=differing,
        )


def _around(cursor: Cursor) -> dict[str, object]:
    cursor.execute(_AROUND)
    return dict(cursor.fetchall())
