# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Numbers with units, as the server reads and writes them: '1.5GB', '0x10 kB', '90s'."""

from __future__ import annotations

import math
import re

KB, MB, GB = 1024, 1024**2, 1024**3

# What a parameter's units are worth, the largest first (manual, section 20.1.1): bytes, microseconds.
MEMORY = {"TB": 1024**4, "GB": 1024**3, "MB": 1024**2, "kB": 1024, "B": 1}
TIME = {"d": 86400 * 10**6, "h": 3600 * 10**6, "min": 60 * 10**6, "s": 10**6, "ms": 1000, "us": 1}

# What C's isspace(), strtol() with base 0 and strtod() accept, which is what the server parses numbers with.
SPACE = " \t\n\v\f\r"
_INTEGER = re.compile(rf"[{SPACE}]*([+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*))")
_REAL = re.compile(
    rf"[{SPACE}]*([+-]?(?:0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
    r"|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?))"
)
_INT_MAX = 2**31 - 1


def quantity(text: str, unit: str | None) -> float:
    """Return what ``text`` ('1.5GB', '0x10 kB', '512') amounts to in ``unit`` (B, kB, 8kB, MB, us, ms, s, min and so on).

    ValueError says what is wrong. Numbers, units and their rounding are those of the server's parse_int() and
    convert_to_base_unit(), src/backend/utils/misc/guc.c: '30.1GB' is rounded to whole MB, the next smaller unit.
    """
    number, rest = _number(text, _INTEGER)
    if rest[:1] in (".", "e", "E") or (number is not None and not -(2**63) <= number < 2**63):
        number, rest = _number(text, _REAL)
    return _in_unit(number, rest, unit)


def real(text: str, unit: str | None) -> float:
    """Return what ``text`` amounts to in ``unit`` for a parameter that is no integer; ValueError says what is wrong."""
    return _in_unit(*_number(text, _REAL), unit)


def whole(value: float) -> int:
    """Return ``value`` rounded as C's rint() does; ValueError when it is too large for the server's int."""
    if not math.isfinite(value) or not -_INT_MAX - 1 <= round(value) <= _INT_MAX:
        raise ValueError("it is too large")
    return round(value)


def size(count: int) -> str:
    """Return ``count`` bytes as PostgreSQL writes sizes, in the largest unit that divides it: 256MB, 2GB, 64kB."""
    for unit, worth in (("GB", GB), ("MB", MB), ("kB", KB)):
        if count % worth == 0:
            return f"{count // worth}{unit}"
    raise ValueError(f"{count} bytes are no whole kB")


def with_unit(text: str, unit: str | None) -> str:
    """Return ``text``, a bare number of it with its ``unit``, as SHOW would have it: 16384 of 8kB is 128MB."""
    if unit is None or not re.fullmatch(r"[1-9]\d*", text):
        return text
    count, base = _parts(unit)
    family = MEMORY if base in MEMORY else TIME
    amount = int(text) * count * family[base]
    larger = next(name for name, worth in family.items() if amount % worth == 0)
    return f"{amount // family[larger]}{larger}"


def _parts(unit: str) -> tuple[int, str]:
    """Return the number and the name that a parameter's ``unit`` consists of: 8kB is 8 of kB."""
    name = unit.lstrip("0123456789")
    return int(unit[: -len(name)] or 1), name


def _number(text: str, pattern: re.Pattern[str]) -> tuple[float | None, str]:
    """Return the number that ``text`` begins with, None for none, and what follows it."""
    found = pattern.match(text)
    if not found:
        return None, text
    digits, rest = found[1].lower(), text[found.end() :]
    bare = digits.lstrip("+-")
    if pattern is _INTEGER:
        return int(digits, 16 if bare.startswith("0x") else 8 if bare.startswith("0") else 10), rest
    number = float.fromhex(digits) if bare.startswith("0x") else float(digits)
    return (None if math.isinf(number) and not bare.startswith("inf") else number), rest


def _in_unit(number: float | None, rest: str, unit: str | None) -> float:
    """Return ``number`` of the unit that ``rest`` names, as a number of the base ``unit`` (None: no unit)."""
    if number is None:
        raise ValueError("it is not a number")
    spelt = rest.strip(SPACE)
    if not spelt:
        return number
    if unit is None:
        raise ValueError(f"it has a unit, or more, after the number ({spelt!r}), and the parameter has none")
    count, base = _parts(unit)
    family = MEMORY if base in MEMORY else TIME
    if spelt not in family:
        raise ValueError(f"{spelt!r} is not a unit of it; it has {', '.join(reversed(list(family)))}")
    worth = [amount / (count * family[base]) for amount in family.values()]
    place = list(family).index(spelt)
    value = number * worth[place]
    if place + 1 < len(worth) and math.isfinite(value):
        return round(value / worth[place + 1]) * worth[place + 1]
    return value
