# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table that both databases have, and what the port routine would have PostgreSQL store of SQLite's values."""

from __future__ import annotations

import dataclasses
import decimal
import re
from typing import Any

_KINDS = {"smallint": "int", "integer": "int", "bigint": "int", "text": "text", "bytea": "bytea"}
SIZED = re.compile(r"character( varying)?(?:\((\d+)\))?")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table on both sides: ``name`` in PostgreSQL, ``sqlite``, an expression on SQLite.

    ``kind`` is how its text is compared: int, bool, bool or null, text, char, bytea, or special, for which only the server
    knows what it makes of a value; ``takes`` is the SQL by which it does, with ``{}`` for the value as text.
    """

    name: str
    sqlite: str
    kind: str
    type: str
    takes: str = "{}"

    @classmethod
    def of(cls, name: str, sqlite: str, kind: str, boolean: bool, nullable: bool = False) -> Column:
        """Return the Column of the PostgreSQL type ``kind`` (as format_type() says it); ``boolean``: the routine knows it as one.

        What the routine gives to psycopg2 for a column (synapse/_scripts/synapse_port_db.py, _convert_rows) decides what is
        stored: any value of a boolean column becomes true or false, NULL too, unless nulls.restore() brings it
        back: ``nullable``.
        """
        sized = SIZED.fullmatch(kind)
        if kind == "boolean" and boolean:
            return cls(name, sqlite, "bool or null" if nullable else "bool", kind)
        if kind in _KINDS:
            return cls(name, sqlite, _KINDS[kind], kind)
        if sized:
            return cls(name, sqlite, "text" if sized[1] else "char", kind)
        return cls(name, sqlite, "special", kind, f"CAST({{}} AS {kind})")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table on both sides; ``key`` names the columns of a unique index.

    ``source`` follows FROM on SQLite, where it calls the table ``t``.
    """

    name: str
    source: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def plain(self) -> list[Column]:
        """The columns that both sides can write as text alone."""
        return [column for column in self.columns if column.kind != "special"]

    @property
    def special(self) -> list[Column]:
        return [column for column in self.columns if column.kind == "special"]

    @property
    def keys(self) -> list[Column]:
        return [column for name in self.key for column in self.columns if column.name == name]


def stored(value: object, kind: str) -> str | None:
    """Return the text by which PostgreSQL gets the ``value`` of a column of ``kind`` from the routine, None for NULL.

    After _convert_rows and psycopg2's literals: bytes are a bytea, which a text column takes as its hexadecimal text; a
    float is a numeric, which an integer column rounds.
    """
    if kind == "bool" or (kind == "bool or null" and value is not None):
        return "true" if value else "false"
    if value is None:
        return None
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, float):
        number = decimal.Decimal(repr(value))
        if not number.is_finite():
            return "-Infinity" if value < 0 else "Infinity"
        if kind == "int":
            return str(int(number.to_integral_value(decimal.ROUND_HALF_UP)))
        return format(number + 0, "f")  # a numeric has no negative zero
    return str(value)


def changed(value: Any, sqlite_type: str, kind: str) -> str | None:
    """Return what is wrong with a value of which the routine would have PostgreSQL store another one; None for a sound one.

    ``sqlite_type`` is its type on SQLite, as typeof() says it, and ``kind`` that of the Column; a text is given as bytes. These
    are the conditions of preflight_values, which looks before a move, for what carries rows over and for what compares them.
    """
    if kind in ("text", "char", "special") and sqlite_type == "blob":
        return "is a blob, where PostgreSQL needs text"
    if kind == "int" and sqlite_type == "real" and not value.is_integer():
        return "is no whole number"
    if kind in ("bool", "bool or null") and value not in (0, 1, None):
        return "is neither 1 (true) nor 0 (false)"
    if kind == "bytea" and (sqlite_type in ("integer", "real") or (sqlite_type == "text" and b"\\" in value)):
        return "is neither a blob nor text without a backslash"
    return None


def is_no_text(text: str | None) -> bool:
    """Tell whether ``text``, as stored() returns it, is none that PostgreSQL can be sent: with a NUL character, or no UTF-8."""
    return text is not None and ("\0" in text or any("\ud800" <= char <= "\udfff" for char in text))


def lenient(text: bytes) -> str:
    """Decode SQLite's ``text``, which may be no UTF-8, so that nothing of it is lost."""
    return text.decode("utf-8", "surrogateescape")
