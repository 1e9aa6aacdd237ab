# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether rows are equal that a unique index keeps apart."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Check, Finding
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# An index in the wrong order does not find the rows that it should keep apart, so that none is asked.
_WITHOUT_INDEXES = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")

# How large a table may be to be read whole; in another locale than C all are, as far as the time for one question lasts.
_LARGEST = 64 << 20

# Of columns, as Synapse's are; one over an expression is left to REINDEX. NULLS NOT DISTINCT came with PostgreSQL 15.
_INDEXES = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY k.place),
    coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE c.relnamespace = 'public'::regnamespace AND i.indisunique AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
    AND (pg_relation_size(c.oid) <= %s
        OR (SELECT datcollate NOT IN ('C', 'POSIX') FROM pg_database WHERE datname = current_database()))
GROUP BY i.indexrelid, i.indrelid, i.indpred, to_jsonb(i) ->> 'indnullsnotdistinct' ORDER BY 1
"""


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_synapses()
    _set_index_scans(patient, "off")
    try:
        for index, table, columns, condition, nulls_equal in patient.rows(_INDEXES, _LARGEST):
            present = "" if nulls_equal else f" AND ({columns}) IS NOT NULL"
            listing = f"SELECT {columns}, count(*) FROM {table} WHERE {condition}{present} GROUP BY {columns} HAVING count(*) > 1"
            count = patient.value(f"SELECT count(*) FROM ({listing}) AS duplicates".replace("%", "%%") + " WHERE %s", True)
            if count:
                shown = patient.psql(*(f"SET {name} = off" for name in _WITHOUT_INDEXES), listing)
                yield Finding(
                    "critical",
                    f"{count} values of {columns} stand in several rows of {table}, which its unique index {index} should forbid",
                    f"With Synapse stopped and a backup taken, list them, keep one of each, and REINDEX TABLE {table}: {shown}.",
                )
    finally:
        _set_index_scans(patient, "on")


def _set_index_scans(patient: Patient, value: str) -> None:
    for name in _WITHOUT_INDEXES:
        patient.rows("SELECT set_config(%s, %s, false)", name, value)


CHECK = Check(
    name="duplicates",
    title="Duplicates under unique indexes",
    why="Synapse counts on there being one: users are joined twice or not at all, and a dump cannot be restored.",
    source="Synapse's documentation, Using Postgres, Fixing incorrect COLLATE or CTYPE; element-hq/synapse issue 6696",
    examine=_examine,
)
