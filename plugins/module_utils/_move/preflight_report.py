# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a preflight has found: its report, and the commands of SQLite's shell that its remedies name."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterator, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, system_refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier


@dataclasses.dataclass
class Report:
    """What was found, each a dict of ``found``, ``remedy`` and, of rows, ``table``, ``count`` and ``rows`` (the first ids).

    ``problems`` stand in the way of a move, ``notes`` do not.
    """

    problems: list[dict] = dataclasses.field(default_factory=list)
    notes: list[dict] = dataclasses.field(default_factory=list)

    def problem(self, found: str, remedy: str, **where: object) -> None:
        self.problems.append({"found": found, "remedy": remedy, **where})

    def note(self, found: str, remedy: str, **where: object) -> None:
        self.notes.append({"found": found, "remedy": remedy, **where})

    @contextlib.contextmanager
    def catching_refusals(self) -> Iterator[None]:
        """Take a Refusal, or the operating system's, within the block for a problem, and go on after it."""
        try:
            yield
        except (Refusal, OSError) as error:
            refusal = error if isinstance(error, Refusal) else system_refusal(error)
            self.problem(refusal.found, refusal.remedy)


def counted_rows(count: int, row_ids: Sequence[int]) -> str:
    """Return ``3 rows (row ids 1, 7, 9)``; ``row_ids`` may be only the first of ``count``."""
    named = f"row id{'s' if len(row_ids) > 1 else ''} {', '.join(map(str, row_ids))}{' ...' if count > len(row_ids) else ''}"
    return f"{count} row{'s' if count > 1 else ''} ({named})"


def sqlite_command(path: str, *statements: str) -> str:
    """Return the command by which SQLite's shell runs ``statements`` on the database at ``path``."""
    return f"`sqlite3 {_words.shell(path)} {_words.shell('; '.join(statements))}`"


def row_id_condition(row_ids: Sequence[int]) -> str:
    return f"rowid IN ({', '.join(map(str, row_ids))})"


def repetition(row_ids: Sequence[int], count: int) -> str:
    """Return what is to be added where a command is about ``row_ids``, and there are more: ``count``."""
    return f" (these are the first {len(row_ids)}: run this again for the others)" if count > len(row_ids) else ""


def deletion_command(path: str, table: str, row_ids: Sequence[int], count: int) -> str:
    """Return the command that deletes ``row_ids``, the first of ``count``, from ``table`` of the database at ``path``."""
    command = sqlite_command(path, f"DELETE FROM {identifier(table)} WHERE {row_id_condition(row_ids)}")
    return command + repetition(row_ids, count)


def correction_remedy(path: str, table: str, columns: Sequence[str], row_ids: Sequence[int]) -> str:
    """Return the sentence that says how ``columns`` of the rows ``row_ids`` are seen, and what is to be done about them."""
    names = ", ".join(map(identifier, columns))
    query = sqlite_command(path, f"SELECT rowid, {names} FROM {identifier(table)} WHERE {row_id_condition(row_ids)}")
    return f"Look at them by {query}, and correct or delete them with Synapse stopped; keep a copy of the file."
