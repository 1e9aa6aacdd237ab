# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a database that says LC_COLLATE C sorts so, and one that says UTF8 holds it: labels in the catalog, which people edit.

Of the order there are two witnesses: the catalog itself, which keeps a collation's version only for one that has versions, and
the btree indexes, whose entries stand in the order that the database had when they were written. Nothing tells of a C.UTF-8
that was relabelled: it has no version, and its order is C's (code points of UTF-8 sort as its bytes do), so that no index is
harmed either. Nor does anything tell of LC_CTYPE alone, which orders nothing. Of the encoding only the text is a witness.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import listed

# How many entries of each index are read in passing, and how many where the catalog speaks against the label.
PASSING, WHOLE = 200, 1_000_000


# C and POSIX have no version, and with the provider libc no locale of the provider's: get_collation_actual_version() in
# src/backend/utils/adt/pg_locale*.c. The columns are there since PostgreSQL 15 (daticulocale) and 17 (datlocale).
_CONTRADICTION = """
SELECT coalesce('datcollversion is ' || (j ->> 'datcollversion'),
    'a locale of another provider''s stands there, ' || coalesce(j ->> 'datlocale', j ->> 'daticulocale'))
FROM pg_catalog.pg_database, to_jsonb(pg_database) AS j
WHERE datname = %s AND datcollate IN ('C', 'POSIX') AND coalesce(j ->> 'datlocprovider', 'c') = 'c'
"""

# Every valid btree index with a key that sorts by the database's collation (pg_collation's ``default``, oid 100), by the
# operator classes that do: text_pattern_ops goes by bytes whatever the collation.
_INDEXES = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, x.relname, pg_get_expr(i.indpred, i.indrelid),
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k),
    ARRAY(SELECT i.indcollation[k - 1] = 100 FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k),
    ARRAY(SELECT i.indoption[k - 1]::int FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k),
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT')
FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    JOIN pg_catalog.pg_am a ON a.oid = x.relam AND a.amname = 'btree'
    JOIN pg_catalog.pg_class t ON t.oid = i.indrelid AND t.relkind IN ('r', 'm')
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
WHERE i.indisvalid AND 100 = ANY (i.indcollation::oid[]) AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM generate_series(1, i.indnkeyatts) AS k JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[k - 1]
        WHERE NOT o.opcdefault)
ORDER BY 1
"""

# Columns that do not sort as the database does, whatever it says.
_COLUMNS = """
SELECT a.attrelid::regclass || '.' || quote_ident(a.attname) || ' (' || quote_ident(c.collname) || ')'
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
WHERE a.attnum > 0 AND NOT a.attisdropped AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
    AND c.collname NOT IN ('default', 'C', 'POSIX', 'ucs_basic')
ORDER BY 1
"""

# Text that is not what its label says, in the first rows of each table. To SQL_ASCII nothing is converted, and from UTF8 all is
# checked: pg_do_encoding_conversion() in src/backend/utils/mb/mbutils.c.
_NOT_UTF8 = f"""
DO $$DECLARE it record; found text[] := '{{}}'; BEGIN
FOR it IN SELECT a.attrelid::regclass AS place, a.attname AS name FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'm')
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
        AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
        AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT') ORDER BY 1, a.attnum
LOOP
    BEGIN
        EXECUTE format('SELECT count(convert_from(convert_to(%1$I::text, ''SQL_ASCII''), ''UTF8''))'
            ' FROM (SELECT %1$I FROM ONLY %2$s LIMIT {PASSING}) AS first', it.name, it.place);
    EXCEPTION WHEN character_not_in_repertoire THEN
        found := found || format('%s.%I', it.place, it.name);
    END;
END LOOP;
PERFORM set_config('synapse_postgres.not_utf8', array_to_json(found)::text, false);
END$$
"""

# An index is read by an ordered scan of it, or not at all.
_BY_INDEX = (
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_sort = off",
    "enable_incremental_sort = off",
    "max_parallel_workers_per_gather = 0",
)


@dataclasses.dataclass(frozen=True)
class _Index:
    """An index of text: its name, qualified and as EXPLAIN has it; its table; the condition of a partial one.

    Of each of its keys: the SQL, whether it sorts by the database's collation, pg_index.indoption (1 descending, 2 nulls first).
    """

    qualified: str
    table: str
    name: str
    condition: str | None
    keys: list[str]
    by_label: list[bool]
    options: list[int]


@dataclasses.dataclass
class _Order:
    """What reading indexes came to: names of those out of C's order, of those not read to their end, and how many there are."""

    broken: list[str]
    unread: list[str]
    count: int


def contradiction(cursor: Cursor, name: str) -> str | None:
    """Return what the catalog has against the label C of the database ``name``; None where there is nothing, or no such label."""
    cursor.execute(_CONTRADICTION, (name,))
    row = cursor.fetchone()
    return row[0] if row else None


def inspect(cursor: Cursor, contradicted: str | None) -> tuple[list[str], list[str]]:
    """Return (problems, warnings) of the connected database, whose label is C and ``contradicted`` by that: contradiction()."""
    order = _inspect_indexes(cursor, WHOLE if contradicted else PASSING)
    problems, warnings = [], []
    said = f"LC_COLLATE says C, and it was another when the database was made: in pg_database {contradicted}"
    if order.broken:
        why = f" ({contradicted})" if contradicted else ""
        problems.append(
            f"LC_COLLATE says C, and indexes are in another order, so that rows are not found by them ({listed(order.broken)}): "
            f"the catalog was edited{why}"
        )
    elif contradicted and order.unread:
        problems.append(f"{said}, and the order of {listed(order.unread)} could not be read to its end")
    elif contradicted:
        warnings.append(
            f"{said}. Its {order.count} indexes of text were read, and are in C's order, so that it works as it is; make it anew "
            "when there is an occasion."
        )
    cursor.execute(_COLUMNS)
    columns = [column for (column,) in cursor.fetchall()]
    if columns:
        warnings.append(
            f"Columns have a collation of their own, whose order another version of it may change: {listed(columns)}."
        )
    return problems, warnings


def not_utf8(cursor: Cursor) -> list[str]:
    """Return what is wrong with the text of the connected database, whose label is UTF8, as far as the first rows tell."""
    cursor.execute(_NOT_UTF8)
    cursor.execute("SELECT current_setting('synapse_postgres.not_utf8')::json")
    found = only_row(cursor)[0]
    if not found:
        return []
    return [
        f"the encoding says UTF8, and text is in another ({listed(found)}): the catalog was edited, and a dump is of use only "
        "once pg_database.encoding is again what the database was made with"
    ]


def _inspect_indexes(cursor: Cursor, entries: int) -> _Order:
    """Return the order of the connected database's indexes of text, of which ``entries`` are read each, from the first on."""
    cursor.execute(_INDEXES)
    every = cursor.fetchall()
    indexes = [_Index(*index[:-1]) for index in every if index[-1]]
    order = _Order([], [index[0] for index in every if not index[-1]], len(every))
    if not indexes:
        return order
    # One question for all, for servers that are far away.
    readings = " UNION ALL ".join(_reading(place, index, entries) for place, index in enumerate(indexes))
    with _by_index(cursor):
        cursor.execute("EXPLAIN (FORMAT JSON) " + readings)
        plan = only_row(cursor)[0][0]["Plan"]
        cursor.execute(readings)
        found = dict((place, rest) for place, *rest in cursor.fetchall())
    for place, part in enumerate(plan["Plans"] if len(indexes) > 1 else [plan]):
        index, (read, broken) = indexes[place], found[place]
        if _scanned(part) != index.name or (read >= entries and not broken):
            order.unread.append(index.qualified)
        elif broken:
            order.broken.append(index.qualified)
    return order


@contextlib.contextmanager
def _by_index(cursor: Cursor) -> Iterator[None]:
    """Let the planner read in an index's order within the block, wherever it can."""
    for setting in _BY_INDEX:
        cursor.execute(f"SET {setting}")
    yield
    for setting in _BY_INDEX:
        cursor.execute(f"RESET {setting.split()[0]}")


def _reading(place: int, index: _Index, entries: int) -> str:
    """Return the SELECT of (``place``, how many of an index's first ``entries`` there are, how many C has before the one before).

    All names in it are the server's own, quoted by it.
    """
    keys = list(zip(index.keys, index.by_label, index.options))
    sorting = [
        f"{key} {'DESC' if option & 1 else 'ASC'} NULLS {'FIRST' if option & 2 else 'LAST'}" for key, _text, option in keys
    ]
    values = [f"k{number}" + ' COLLATE "C"' * text for number, (_key, text, _option) in enumerate(keys)]
    late = "false"
    for number, (_key, _text, option) in reversed(list(enumerate(keys))):
        comes_after = "<" if option & 1 else ">"
        late = f"(p{number} {comes_after} c{number} OR (p{number} = c{number} AND {late}))"
    found = ", ".join(f"{key} AS k{number}" for number, (key, _text, _option) in enumerate(keys))
    pairs = ", ".join(f"{value} AS c{number}, lag({value}) OVER () AS p{number}" for number, value in enumerate(values))
    where = f" WHERE {index.condition}" if index.condition else ""
    first = f"SELECT {found} FROM ONLY {index.table}{where} ORDER BY {', '.join(sorting)} LIMIT {entries}"
    return f"(SELECT {place}, count(*), count(*) FILTER (WHERE {late}) FROM (SELECT {pairs} FROM ({first}) AS first) AS pairs)"


def _scanned(node: dict) -> str | None:
    """Return the index that is read below the ``node`` of a plan of EXPLAIN's."""
    while "Plans" in node:
        node = node["Plans"][0]
    return node.get("Index Name")
