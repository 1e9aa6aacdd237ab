# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows of the source's tables that PostgreSQL refuses, or that the routine leaves out, as a person reads of them."""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    index_limits,
    preflight_relations,
    preflight_values,
    sequences,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import (
    correction_remedy,
    counted_rows,
    deletion_command,
    repetition,
    row_id_condition,
    sqlite_command,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_tables import BY_COPY, Inspection, Table
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_values import NAMED
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import ForeignKey
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# A constraint that takes the place of NOT NULL in Synapse's schema.
_NOT_NULL = re.compile(r"\(?(\w+) IS NOT NULL\)?")


def report_values(inspection: Inspection, table: Table, keywords: dict, within: str = "1") -> list[str]:
    """Report values that PostgreSQL refuses in the rows of ``table`` for which ``within`` holds, an SQL condition.

    Note those that the routine leaves out, and return the conditions that are true of such a row. libpq's ``keywords`` lead to
    the target, whose server is asked what its indexes can hold.
    """
    limits = index_limits.IndexLimits(inspection.sqlite, table.name, table.columns, inspection.target)
    large = preflight_values.RowCollector(limits.large_rows if table.has_row_ids else None)
    found = preflight_values.scan(inspection.sqlite, table.name, _checks(inspection, table), within, large)
    for one in found:
        _report_found(inspection, table.name, one)
    if large.row_ids:
        _report_oversized(inspection, table, limits, large.row_ids, keywords)
    return [one.defect.where for one in found if one.defect.dropped]


def _checks(inspection: Inspection, table: Table) -> preflight_values.Checks:
    """Return what the values of ``table`` are looked through for."""
    columns = set(table.columns)
    required = {column for column in columns if table.target[column].required}
    checks = inspection.target.checks.get(table.name, ())
    required |= {found[1] for found in map(_NOT_NULL.fullmatch, checks) if found} & columns
    boolean = set(inspection.rules.boolean.get(table.name, ())) & columns
    defects = preflight_values.defects(table.columns, table.target, required, boolean)
    numbered = {column for name, column in sequences.NUMBERED if name == table.name}
    defects += preflight_values.exhausted_numbers(table.columns, numbered)
    broken_text, texts = preflight_values.broken_text(table.columns, table.target)
    if table.name == "event_search" and inspection.row_by_row:
        more, texts = preflight_values.search_defects(texts)
        defects += more
    return preflight_values.Checks(defects, broken_text, texts)


def _report_found(inspection: Inspection, table: str, found: preflight_values.Found) -> None:
    defect, path = found.defect, inspection.path
    words = f"{table}.{defect.column} {defect.words} in {counted_rows(found.count, found.rows)} of {path}."
    if defect.dropped:
        inspection.report.note(
            f"{words} PostgreSQL cannot store that, and the port routine leaves these rows out.",
            f"Nothing is to be done if they may be lost; otherwise take the NUL out of {defect.column} on SQLite, "
            "with Synapse stopped.",
            table=table,
            count=found.count,
            rows=found.rows,
        )
    else:
        remedy = (BY_COPY if defect.alone else "") + correction_remedy(path, table, [defect.column], found.rows)
        inspection.report.problem(words, remedy, table=table, count=found.count, rows=found.rows)


def _report_oversized(
    inspection: Inspection, table: Table, limits: index_limits.IndexLimits, row_ids: Sequence[int], keywords: dict
) -> None:
    """Report those of the rows ``row_ids`` of ``table`` that an index of PostgreSQL's cannot hold, as the server judges."""
    report, path = inspection.report, inspection.path
    try:
        with _connection.connected(
            keywords, what="synapse_port_info", schema=_connection.MOVED
        ) as connection, connection.cursor() as cursor:
            oversized = limits.oversized(cursor, row_ids)
            connection.rollback()
    except Refusal as error:
        report.note(
            f"{table.name} has {counted_rows(len(row_ids), row_ids[:NAMED])} in {path} that may be too large for an "
            f"index, and the server could not be asked. {error.found}",
            error.remedy,
            table=table.name,
            count=len(row_ids),
            rows=list(row_ids[:NAMED]),
        )
        return
    for index, rows in oversized.items():
        columns, named = [table.columns[column] for column in index.columns], rows[:NAMED]
        report.problem(
            f"{table.name} has {counted_rows(len(rows), named)} in {path} whose {', '.join(columns)} are longer than "
            f"PostgreSQL's index {index.name} can hold.",
            correction_remedy(path, table.name, columns, named),
            table=table.name,
            count=len(rows),
            rows=named,
        )


def report_duplicates(inspection: Inspection, table: Table) -> None:
    """Report rows that are equal where only PostgreSQL wants them to differ."""
    on_sqlite = preflight_relations.unique_on_sqlite(inspection.sqlite, table.name)
    for unique in inspection.target.unique.get(table.name, ()):
        is_known = all(column in table.columns for column in unique.columns)
        if not is_known or any(where in (None, unique.where) and known <= set(unique.columns) for known, where in on_sqlite):
            continue
        columns = [table.columns[column] for column in unique.columns]
        count, rows = preflight_relations.duplicates(inspection.sqlite, table.name, columns, unique.where)
        if count:
            inspection.report.problem(
                f"{table.name} has {counted_rows(count, rows)} in {inspection.path} that repeat the {', '.join(columns)} of "
                "another one, which PostgreSQL refuses.",
                "Find out which to keep, keep a copy of the file, and delete these or those that they repeat with Synapse "
                f"stopped: {deletion_command(inspection.path, table.name, rows, count)}.",
                table=table.name,
                count=count,
                rows=rows,
            )


def report_numbered_users(inspection: Inspection) -> None:
    """Report users whose number has none after it: find_max_generated_user_id_localpart() in Synapse's registration.py."""
    if "users" not in inspection.tables:
        return
    query = "SELECT rowid, name FROM users WHERE name >= '@0' AND name < '@a'"
    numbered = ((row_id, re.match(r"@(\d+):", name)) for row_id, name in inspection.sqlite.execute(query))
    rows = [row_id for row_id, number in numbered if number and int(number[1]) >= (1 << 63) - 1]
    if rows:
        inspection.report.problem(
            f"users has {counted_rows(len(rows), rows[:NAMED])} in {inspection.path} whose names are numbers beyond those of "
            "Synapse's sequence user_id_seq, which is set to the next one.",
            "Such a user cannot be moved: deactivate and delete it on SQLite, with Synapse stopped; keep a copy of the file.",
            table="users",
            count=len(rows),
            rows=rows[:NAMED],
        )


def report_references(inspection: Inspection, key: ForeignKey, dropped: dict[str, list[str]]) -> None:
    """Report rows that refer by ``key`` to what PostgreSQL will not have when they come.

    ``dropped`` are, by table, the conditions that are true of a row that the routine leaves out.
    """
    table, parent = inspection.tables[key.table], inspection.tables.get(key.parent)
    if not all(column in table.columns for column in key.columns):
        return
    if parent and not all(column in parent.columns for column in key.parent_columns):
        return
    names = ", ".join(table.columns[column] for column in key.columns)
    parent_dropped = dropped.get(key.parent, [])
    is_sent = "".join(f" AND NOT ifnull({condition}, 0)" for condition in dropped.get(table.name, ()))
    orphans = preflight_relations.orphans(key, table.columns, parent.columns if parent else None, parent_dropped)
    _report_children(
        inspection,
        _Children(
            table.name,
            orphans + is_sent,
            f"refer by {names} to rows of {key.parent}.{', '.join(key.parent_columns)} that are not there"
            + (" or are left out" if parent_dropped else ""),
        ),
        lambda rows, count: (
            "What they belong to is gone: keep a copy of the file, and delete them with Synapse stopped by "
            f"{deletion_command(inspection.path, table.name, rows, count)}."
        ),
    )
    if key.parent == table.name and inspection.row_by_row:
        nulls = ", ".join(f"{identifier(table.columns[column])} = NULL" for column in key.columns)
        update = f"UPDATE {identifier(table.name)} SET {nulls} WHERE "
        _report_children(
            inspection,
            _Children(
                table.name,
                preflight_relations.before_parent(key, table.columns) + is_sent,
                f"refer by {names} to later rows of the same table, which the routine sends after them: PostgreSQL refuses it",
            ),
            lambda rows, count: (
                "Port with engine: copy, if it knows this release; or keep a copy of the file and, with Synapse stopped, run "
                f"{sqlite_command(inspection.path, update + row_id_condition(rows))}{repetition(rows, count)}."
            ),
        )


@dataclasses.dataclass(frozen=True)
class _Children:
    """The rows of ``table`` for which the SQL condition ``where`` holds; ``words`` say what they do."""

    table: str
    where: str
    words: str


def _report_children(inspection: Inspection, children: _Children, remedy: Callable[[list[int], int], str]) -> None:
    """Report ``children``, if there are any; ``remedy`` gets the first row ids, and their number."""
    query = f"SELECT count(*) FROM {identifier(children.table)} AS child WHERE {children.where}"
    count = inspection.sqlite.execute(query).fetchone()[0]
    if count:
        rows = preflight_values.first_row_ids(inspection.sqlite, children.table, children.where)
        found = f"In {inspection.path}, {counted_rows(count, rows)} of {children.table} {children.words}."
        inspection.report.problem(found, remedy(rows, count), table=children.table, count=count, rows=rows)
