# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The schema that the installed Synapse makes in the target database, as synapse_rules.ask_with_target() reads it there."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class TargetColumn:
    """A column of the type ``type``, as format_type() says it, of at most ``length`` characters where that is said.

    ``required``: it refuses NULL; ``default``: it has one; ``always``: only the server gives it.
    """

    type: str
    required: bool = False
    length: int | None = None
    default: bool = False
    always: bool = False


@dataclasses.dataclass(frozen=True)
class ForeignKey:
    """The foreign key ``name`` by which ``columns`` of ``table`` refer to ``parent_columns`` of ``parent``."""

    name: str
    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Unique:
    """A unique index or constraint on ``columns``, of the rows for which the SQL ``where`` holds; None is for all."""

    columns: tuple[str, ...]
    where: str | None = None


@dataclasses.dataclass(frozen=True)
class TargetIndex:
    """An index: ``using`` is what follows USING in its definition, ``columns`` are all that it looks at."""

    name: str
    using: str
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TargetSchema:
    """Synapse's tables in the target. ``created``: they were there already; else Synapse made them, and it was rolled back.

    ``columns`` maps a table to its columns by their names, ``unique``, ``checks`` (SQL) and ``indexes`` a table to its own.
    ``page`` is the server's block_size in bytes; ``reserved`` are words that name no table or column without quotes.
    """

    created: bool
    schema_version: int
    columns: dict[str, dict[str, TargetColumn]]
    foreign_keys: tuple[ForeignKey, ...]
    unique: dict[str, tuple[Unique, ...]]
    checks: dict[str, tuple[str, ...]]
    indexes: dict[str, tuple[TargetIndex, ...]]
    sequences: tuple[str, ...]
    page: int
    reserved: frozenset[str]

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> TargetSchema:
        """Return the TargetSchema of what target() in synapse_rules' program has written."""
        unique = {table: [Unique(tuple(columns)) for columns in some] for table, some in found["unique"].items()}
        for table, some in found["partial_unique"].items():
            unique.setdefault(table, []).extend(Unique(tuple(one["columns"]), one["where"]) for one in some)
        return cls(
            created=found["made"],
            schema_version=found["schema_version"],
            columns={
                table: {name: TargetColumn(**column) for name, column in columns.items()}
                for table, columns in found["columns"].items()
            },
            foreign_keys=tuple(
                ForeignKey(**{**key, "columns": tuple(key["columns"]), "parent_columns": tuple(key["parent_columns"])})
                for key in found["foreign_keys"]
            ),
            unique={table: tuple(some) for table, some in unique.items()},
            checks={table: tuple(checks) for table, checks in found["checks"].items()},
            indexes={
                table: tuple(TargetIndex(one["name"], one["using"], tuple(one["columns"])) for one in some)
                for table, some in found["indexes"].items()
            },
            sequences=tuple(found["sequences"]),
            page=found["page"],
            reserved=frozenset(found["reserved"]),
        )
