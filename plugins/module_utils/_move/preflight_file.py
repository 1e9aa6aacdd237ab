# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why the SQLite file as such cannot be moved: its path, its state, its health. What is in its tables is not looked at."""

from __future__ import annotations

import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.preflight_report import Report
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents, file

# Complaints of SQLite's own check that are told.
_COMPLAINTS = 5


def report_link(report: Report, given: str, path: str) -> None:
    """Note that the path that was ``given`` leads to ``path``, and what then lies beside the link to no avail."""
    if given != path:
        report.note(f"{given} leads to {path}.", "That file is moved, with the log beside it.")
    log = f"{given}-wal"
    if os.path.islink(given) and os.path.isfile(log) and os.path.getsize(log):
        report.note(
            f"{log} holds {os.path.getsize(log)} bytes, and SQLite does not read it, since {given} is a link.",
            "It is of a time when the file was in the place of the link; what is in it alone is not part of the database.",
        )


def report_file(report: Report, path: str, held: contents.Contents, drain: bool) -> None:
    """Report what is wrong with the file at ``path``, which ``held`` is the contents of.

    ``drain``: background updates that are pending will be finished on the copy.
    """
    pending = held.background_updates
    if drain and pending:
        report.note(
            f"{path} has {len(pending)} pending background updates ({', '.join(pending)}).",
            "Synapse's own tool will finish them on the copy.",
        )
    for found, remedy in contents.unfit_to_move(path, held, drain):
        report.problem(found, remedy)
    if held.journal_mode != "wal":
        report.note(
            f"{path} is kept in the journal mode {held.journal_mode}, in which who reads it keeps Synapse from writing.",
            "If Synapse runs on it and complains of a locked database, run "
            f"`sqlite3 {_words.shell(path)} 'PRAGMA journal_mode=WAL'`.",
        )
    with report.catching_refusals(), file.reading(path) as connection:
        complaints = [row[0] for row in connection.execute(f"PRAGMA quick_check({_COMPLAINTS})")]
        if complaints != ["ok"]:
            report.problem(
                f"{path} is damaged: {'; '.join(' '.join(complaint.split()) for complaint in complaints)}.",
                "Restore it from a backup, or recover it with sqlite3's .recover, before moving it.",
            )
