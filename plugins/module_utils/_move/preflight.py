# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a move from SQLite to PostgreSQL would fail: every reason that can be seen beforehand, looked for in order."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    copy_engine,
    port_config,
    preflight_file,
    preflight_room,
    preflight_rows,
    preflight_tables,
    preflight_target,
    preflight_values,
    synapse_rules,
    target_checks,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import Report
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_tables import Inspection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.synapse_rules import Answer
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents, paths
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source, tables
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target

# Problems that a Refusal tells; the module synapse_port_info tells them all.
_PROBLEMS_TOLD = 5


def inspect(params: dict) -> dict:
    """Return the result of the module synapse_port_info, whose ``params`` these are; nothing is changed.

    ``{problems, notes, movable, source (as contents.Contents, None where it is no database of Synapse's), synapse (its
    version, None where it does not answer), sizes}``, sizes in bytes: see preflight_room.report_room().
    """
    report, path = Report(), params["sqlite_database"]
    source = held = config = target = synapse = None
    with report.catching_refusals():
        path = paths.resolve(path)
        held = contents.inspect(path)
        source = Source.at(path)
    preflight_file.report_link(report, params["sqlite_database"], path)
    if held:
        preflight_file.report_file(report, path, held, params["drain_background_updates"])
    with report.catching_refusals():
        config = port_config.read(params["config"], _section(params))
    if config:
        target = preflight_target.report_target(report, source, config)
    with report.catching_refusals():
        # A container sees the folder that the copy will be in; elsewhere any will do.
        folder = preflight_room.existing_folder(params["folder"]) if params["command"] else None
        synapse = synapse_rules.ask_with_target(synapse_rules.python_words(params), target.config if target else None, folder)
    if held and synapse:
        _report_versions(report, path, held.schema_version, synapse)
        if synapse.target is None:
            _report_no_schema(report, synapse, is_refusal_told=bool(target and target.is_unfit))
        elif source and config:
            # A row that refers to a later one of its own table goes over with it by the engine copy, and alone by the routine.
            row_by_row = params["engine"] == "synapse" or not copy_engine.knows(synapse.rules)
            _report_tables(report, source, synapse, config.keywords, row_by_row)
    sizes = preflight_room.report_room(report, path, params["folder"], params["space"], target.max_wal_size if target else None)
    return {
        "problems": report.problems,
        "notes": report.notes,
        "movable": not report.problems,
        "source": dataclasses.asdict(held) if held else None,
        "synapse": synapse.rules.version if synapse else None,
        "sizes": sizes,
    }


def require_carried(source: Source, synapse: Answer, keywords: dict, watermarks: dict[str, tuple[int, int]]) -> None:
    """Raise Refusal for what Synapse's routine would fail at, or change, in what it has still to carry of ``source``.

    ``synapse`` is the answer with the target, to which libpq's ``keywords`` lead; ``watermarks`` are the routine's in it, as of
    watermarks.read(): of tables that it only adds to, no more than the rows beyond them is looked at.
    """
    if synapse.target is None:  # why Synapse cannot make its tables there, the routine says itself
        return
    report = Report()
    with source.reading() as sqlite:
        preflight_values.add_functions(sqlite)
        inspection = Inspection.of(report, source.path, sqlite, synapse, row_by_row=True)
        beyond = {}
        for name in set(synapse.rules.append_only) & set(watermarks):
            forward, backward = watermarks[name]
            beyond[name] = f"rowid >= {forward} OR rowid <= {backward}"
        _report_forms(inspection)
        for table in inspection.tables.values():
            with inspection.reading(table.name):
                preflight_rows.report_values(inspection, table, keywords, beyond.get(table.name, "1"))
    if report.problems:
        words = " ".join(f"{one['found']} {one['remedy']}" for one in report.problems[:_PROBLEMS_TOLD])
        raise Refusal(
            f"Synapse's port routine would fail at {len(report.problems)} things, and nothing was carried over. {words}",
            "The module synapse_port_info tells them all.",
        )


def _section(params: dict) -> dict | None:
    """Return the ``database:`` section for the log-in of the module's ``params``, None where they name no user."""
    if not params["login_user"] and not params["login_args"]:
        return None
    args = _connection.keywords(params)
    return {"name": "psycopg2", "args": args, "allow_unsafe_locale": params["allow_unsafe_locale"]}


def _report_versions(report: Report, path: str, version: int | None, synapse: Answer) -> None:
    """Report that the database at ``path``, whose schema has this ``version``, is not of the installed Synapse's version."""
    rules = synapse.rules
    if version is not None and version > rules.schema_version:
        report.problem(
            f"{path} has the schema version {version}, and Synapse {rules.version} knows versions up to {rules.schema_version}.",
            "Use the Synapse that wrote it, or a newer one.",
        )
    elif version is not None and version < rules.schema_version:
        report.note(
            f"{path} has the schema version {version}, which Synapse {rules.version} brings to {rules.schema_version}, on the "
            "copy.",
            "Nothing is to be done; the file itself stays as it is.",
        )


def _report_no_schema(report: Report, synapse: Answer, is_refusal_told: bool) -> None:
    """Report that it is not known what the target looks like.

    ``is_refusal_told`` says that the report tells already why the target would not take Synapse's tables.
    """
    if synapse.refused and not is_refusal_told:
        report.problem(
            f"Synapse {synapse.rules.version} cannot make its tables in the target database: {synapse.refused}.",
            "If an earlier attempt left tables behind there, give it a new, empty database (synapse_postgres_database).",
        )
    report.note(
        "The values were not compared with PostgreSQL's types, since what the target looks like is not known.",
        "Mend what stands under problems, then run this again.",
    )


def _report_tables(report: Report, source: Source, synapse: Answer, keywords: dict, row_by_row: bool) -> None:
    """Report what of ``source`` the installed Synapse cannot carry over to the target that ``keywords`` lead to."""
    rules, target = synapse.rules, synapse.target
    if target is None:
        raise AssertionError("it is looked at only where it is known")
    with report.catching_refusals(), source.reading() as sqlite:
        is_current = target.schema_version == rules.schema_version  # else Synapse makes some of the tables yet
        missing = rules.missing(tables(sqlite), target.columns) if is_current else []
        if missing:
            report.problem(
                f"The target database is not whole: {len(missing)} tables of Synapse {rules.version} are missing there "
                f"({', '.join(missing[:3])}).",
                "Give the move a new, empty database (synapse_postgres_database).",
            )
            return
        preflight_values.add_functions(sqlite)
        inspection = Inspection.of(report, source.path, sqlite, synapse, row_by_row)
        if is_current:
            preflight_tables.report_left_behind(inspection)
        _report_forms(inspection)
        _report_rows(inspection, keywords)
    if target.created:
        with report.catching_refusals():
            _report_renumbered(report, source, synapse, keywords)


def _report_forms(inspection: Inspection) -> None:
    """Report what is wrong with the tables as such."""
    for table in inspection.tables.values():
        with inspection.reading(table.name):
            preflight_tables.report_columns(inspection, table)
    for table in inspection.tables.values():
        with inspection.reading(table.name):
            preflight_tables.report_row_ids(inspection, table)


def _report_rows(inspection: Inspection, keywords: dict) -> None:
    """Report what is wrong with the rows of all tables."""
    dropped = {}
    for table in inspection.tables.values():
        with inspection.reading(table.name):
            dropped[table.name] = preflight_rows.report_values(inspection, table, keywords)
    for table in inspection.tables.values():
        with inspection.reading(table.name):
            preflight_rows.report_duplicates(inspection, table)
    preflight_rows.report_numbered_users(inspection)
    preflight_tables.report_circles(inspection)
    for key in inspection.target.foreign_keys:
        if key.table in inspection.tables:
            with inspection.reading(key.table):
                preflight_rows.report_references(inspection, key, dropped)


def _report_renumbered(report: Report, source: Source, synapse: Answer, keywords: dict) -> None:
    """Report tables whose row ids were given anew since an earlier run, by VACUUM: later rows would be left out."""
    with Target.opened(keywords, "synapse_port_info") as target:
        for table, row_id in target_checks.renumbered(target.cursor, source, synapse.rules.append_only):
            refusal = target_checks.renumbered_refusal(source.path, table, row_id)
            report.problem(refusal.found, refusal.remedy, table=table, count=1, rows=[row_id])
