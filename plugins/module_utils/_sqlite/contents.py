# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the SQLite database of a homeserver holds, and whether that can be moved."""

from __future__ import annotations

import dataclasses
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file, other_names


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a homeserver's database holds: ``size`` in bytes, ``users`` and ``events`` in rows.

    ``background_updates`` are the names of those that Synapse has not finished. ``schema_version`` is None where a homeserver was
    killed at its first start.
    """

    size: int
    journal_mode: str
    auto_vacuum: bool
    users: int
    events: int
    background_updates: list[str]
    schema_version: int | None


def inspect(path: str) -> Contents:
    """Return what the homeserver's database at ``path`` holds, without writing to it.

    Raises Refusal when it is no SQLite database, or not one of Synapse's.
    """
    file.require_database(path)
    with file.reading(path) as connection:
        file.require_utf8(connection)

        def values(query: str) -> list:
            return [row[0] for row in connection.execute(query)]

        tables = set(values("SELECT name FROM sqlite_master WHERE type = 'table'"))
        missing = sorted({"users", "events", "schema_version", "background_updates"} - tables)
        if missing:
            raise Refusal(
                f"{path} is a SQLite database but not one of Synapse's: it has no table {missing[0]}.",
                "Give the path from database.args.database in homeserver.yaml.",
            )
        return Contents(
            size=os.path.getsize(path),
            journal_mode=values("PRAGMA journal_mode")[0],
            auto_vacuum=values("PRAGMA auto_vacuum")[0] != 0,
            users=values("SELECT count(*) FROM users")[0],
            events=values("SELECT count(*) FROM events")[0],
            background_updates=values("SELECT update_name FROM background_updates ORDER BY 1"),
            schema_version=next(iter(values("SELECT version FROM schema_version")), None),
        )


def unfit_to_move(path: str, contents: Contents, drain: bool = False) -> list[tuple[str, str]]:
    """Return why the database at ``path`` cannot be moved, as (found, remedy) pairs; ``contents`` are inspect()'s.

    ``drain``: background updates that are pending will be finished on the copy, and are no reason.
    """
    second_name = other_names.find(path)
    problems = [second_name] if second_name else []
    if contents.users == 0:
        problems.append(
            (
                f"{path} holds no users: it is an empty homeserver's database.",
                "A mistyped path makes Synapse create one; give the path that homeserver.yaml names.",
            )
        )
    if contents.auto_vacuum:
        problems.append(
            (
                f"{path} has auto_vacuum on, which changes the row ids that the port routine goes by.",
                f"Stop Synapse, run `sqlite3 {_words.shell(path)} 'PRAGMA auto_vacuum=off; VACUUM'`, and start Synapse again.",
            )
        )
    if contents.background_updates and not drain:
        names = ", ".join(contents.background_updates)
        problems.append(
            (
                f"{path} has {len(contents.background_updates)} pending background updates ({names}).",
                "Let Synapse run until it has finished them, or let its own tool do it on the copy (in the role synapse_port: "
                "synapse_port_drain_background_updates: true). Never delete them.",
            )
        )
    return problems


def require_movable(path: str, contents: Contents, drain: bool) -> None:
    """Raise one Refusal that tells every reason why the database at ``path`` cannot be moved; see unfit_to_move()."""
    problems = unfit_to_move(path, contents, drain)
    if problems:
        found, remedies = zip(*problems)
        raise Refusal(" ".join(found), " ".join(remedies))
