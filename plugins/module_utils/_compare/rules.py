# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of a move: what the installed Synapse's port routine decides of tables and columns."""

from __future__ import annotations

import dataclasses
from typing import Any, Collection

# Tables that each database keeps on its own: run() in synapse/_scripts/synapse_port_db.py, whose own the last one is.
BOOKKEEPING = {"schema_version", "applied_schema_deltas", "port_from_sqlite3"}


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a Synapse of this ``version`` and ``schema_version`` decides: synapse/_scripts/synapse_port_db.py.

    Lists of tables: those that it only adds to, that it leaves out, and with a column that PostgreSQL numbers; ``boolean`` maps
    tables to columns. ``carrying`` is a digest of its code that carries rows, None where it cannot be read, ``fingerprint`` one
    of all of Synapse's files, and ``asked`` one of the program that gave this answer: see synapse_rules.ask().
    """

    version: str
    schema_version: int
    append_only: tuple[str, ...]
    ignored: tuple[str, ...]
    boolean: dict[str, tuple[str, ...]]
    autoincrement: tuple[str, ...] = ()
    carrying: str | None = None
    fingerprint: str = ""
    asked: str = ""

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Rules:
        """Return the Rules of an answer of Synapse's, or of a record of a move that an earlier release may have written."""
        return cls(
            version=found.get("version", "unknown"),
            schema_version=found.get("schema_version", 0),
            append_only=tuple(found.get("append_only", ())),
            ignored=tuple(found.get("ignored", ())),
            boolean={table: tuple(columns) for table, columns in found.get("boolean", {}).items()},
            autoincrement=tuple(found.get("autoincrement", ())),
            carrying=found.get("carrying"),
            fingerprint=found.get("fingerprint", ""),
            asked=found.get("asked", ""),
        )

    def to_json(self) -> dict[str, object]:
        """Return what from_json() takes."""
        return dataclasses.asdict(self)

    def carried(self, sqlite: Collection[str], postgres: Collection[str]) -> set[str]:
        """Return the tables that the routine carries over by their rows, of SQLite's and PostgreSQL's.

        After run() and handle_table() in synapse/_scripts/synapse_port_db.py.
        """
        both = set(sqlite) & set(postgres) - set(self.ignored) - BOOKKEEPING - {"user_directory_stream_pos"}
        return {table for table in both if not table.startswith("sqlite_")}

    def missing(self, sqlite: Collection[str], postgres: Collection[str]) -> list[str]:
        """Return the tables that the routine knows by name and SQLite has, but not PostgreSQL.

        A database without one of them is no whole database of Synapse's.
        """
        return sorted({*self.append_only, *self.boolean} & set(sqlite) - set(postgres))
