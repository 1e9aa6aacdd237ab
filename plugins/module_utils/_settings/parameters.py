# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's parameters: values as the server reads them, the file that sets them, and what the server makes of it.

A parameter is here a row of pg_settings as a dict of its columns, and a line of a configuration file is a row of
pg_file_settings likewise (manual, System Views).
"""

from __future__ import annotations

import collections
import difflib
import math
import os
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

HEADER = "# Ansible managed (matrixops.synapse_postgres)"

# What a parameter's units are worth, the largest first (manual, section 20.1.1): bytes, microseconds.
MEMORY = {"TB": 1024**4, "GB": 1024**3, "MB": 1024**2, "kB": 1024, "B": 1}
TIME = {"d": 86400 * 10**6, "h": 3600 * 10**6, "min": 60 * 10**6, "s": 10**6, "ms": 1000, "us": 1}

# What C's isspace(), strtol() with base 0 and strtod() accept, which is what the server parses numbers with.
_SPACE = " \t\n\v\f\r"
_INTEGER = re.compile(rf"[{_SPACE}]*([+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*))")
_REAL = re.compile(
    rf"[{_SPACE}]*([+-]?(?:0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
    r"|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?))"
)
_INT_MAX = 2**31 - 1

# Spellings that the server takes and pg_settings.enumvals keeps quiet about, for the enums that have the value named first:
# src/backend/utils/misc/guc_tables.c (guc.c before 16).
_HIDDEN = {
    "off": {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off"},
    "debug2": {"debug": "debug2", "info": "info"},
    "minimal": {"archive": "replica", "hot_standby": "replica"},
}

# Names of an extension's parameters: src/backend/utils/misc/guc.c, valid_custom_variable_name().
_CUSTOM = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*(\.[A-Za-z_\u0080-\U0010ffff][\w$]*)+")

# A running value with one of these sources is what the server chose itself, starting from the built-in default.
_CHOSEN = ("default", "dynamic default", "override")

# Parameters that are lists of quoted names (GUC_LIST_QUOTE), and how the server reads each: as identifiers or as paths
# (SplitIdentifierString() and SplitDirectoriesString(), src/backend/utils/adt/varlena.c).
LISTS = {
    "search_path": "names",
    "temp_tablespaces": "names",
    "local_preload_libraries": "paths",
    "oauth_validator_libraries": "paths",
    "session_preload_libraries": "paths",
    "shared_preload_libraries": "paths",
    "unix_socket_directories": "paths",
}
_NAME = re.compile(rf'[{_SPACE}]*(?:"((?:[^"]|"")*)"|([^,"{_SPACE}][^,{_SPACE}]*))[{_SPACE}]*(,|\Z)')
_PATH = re.compile(rf'[{_SPACE}]*(?:"((?:[^"]|"")*)"|([^,"{_SPACE}](?:[^,]*[^,{_SPACE}])?))[{_SPACE}]*(,|\Z)')

# Texts that may hold a password or a key: shell commands and connection strings of the server's, and extensions' own.
_SECRET = re.compile(r"conninfo|_command$|passw|passphrase|secret|token|credential|salt|getkey|(^|[._])key$", re.IGNORECASE)
NOT_SHOWN = "(not shown)"

# Parameters of the server's own whose names say so, and that are switches and choices.
_NO_SECRETS = ("password_encryption", "ssl_passphrase_command_supports_reload", "md5_password_warnings")

# The place of a value that comes from no file.
COMMAND_LINE = "the server's command line"

# pg_file_settings on a value that is invalid, and also on one that only a restart brings into force.
_NOT_APPLIED = "setting could not be applied"


def quantity(text: str, unit: str) -> float:
    """Return what ``text`` ('1.5GB', '0x10 kB', '512') amounts to in ``unit`` (B, kB, 8kB, MB, us, ms, s, min and so on).

    ValueError says what is wrong. Numbers, units and their rounding are those of the server's parse_int() and
    convert_to_base_unit(), src/backend/utils/misc/guc.c: '30.1GB' is rounded to whole MB, the next smaller unit.
    """
    number, rest = _number(text, _INTEGER)
    if rest[:1] in (".", "e", "E") or (number is not None and not -(2**63) <= number < 2**63):
        number, rest = _number(text, _REAL)
    return _converted(number, rest, unit)


def meaning(row: dict, text: str) -> bool | float | str | list[str]:
    """Return what the server understands by ``text`` for the parameter ``row``: bool, number in its unit, list, or string.

    Two spellings mean the same when this is equal. ValueError says why the server would not take ``text``.
    """
    kind = row["vartype"]
    if kind == "bool":
        return _boolean(text)
    if kind == "enum":
        return _choice(row, text)
    if kind == "integer":
        return _within(row, _whole(quantity(text, row["unit"])))
    if kind == "real":
        # pg_settings shows reals with %g: more digits than that cannot be compared.
        return float(f"{_within(row, _converted(*_number(text, _REAL), row['unit'])):g}")
    return elements(row["name"], text) if row["name"] in LISTS and text is not None else text


def elements(name: str, text: str) -> list[str]:
    """Return the elements of ``text`` for the parameter ``name`` of LISTS; ValueError when it is not a list."""
    pattern = _NAME if LISTS[name] == "names" else _PATH
    found, place, more = [], 0, bool(text.strip(_SPACE))
    while more:
        element = pattern.match(text, place)
        if not element:
            raise ValueError("it is not a list of names with commas between them")
        plain = element[2] and (element[2].lower() if pattern is _NAME else element[2])
        found.append(element[1].replace('""', '"') if plain is None else plain)
        place, more = element.end(), element[3] == ","
    return found


def secret(name: str, row: dict | None) -> bool:
    """Tell whether the value of the parameter ``name``, whose ``row`` is None for one unknown, must not be shown."""
    return (row is None or row["vartype"] == "string") and bool(_SECRET.search(name))


def secrets(settings: dict) -> set[str]:
    """Return the values of a task's ``settings`` that Ansible must not show, by their names: no server has been asked yet."""
    hidden_ones = {name: value for name, value in settings.items() if secret(str(name), None)}
    return {str(value) for name, value in hidden_ones.items() if value and str(name).lower() not in _NO_SECRETS}


def wished(parameters: dict, settings: dict) -> dict[str, str]:
    """Return ``{name: text}`` for the ``settings`` of a task, names and texts as they are to be written, sorted by name.

    ``parameters`` is what the server has: ``{name in lower case: row}``. Refusal for a name that it does not have, for one
    that cannot be set, and for a value that it would not take. A name with a dot is an extension's and may be unknown.
    """
    found: dict[str, str] = {}
    for given, value in settings.items():
        row = parameters.get(str(given).lower())
        name = row["name"] if row else custom(parameters, str(given))
        if name.lower() in (other.lower() for other in found):
            raise Refusal(f"The settings name the parameter {name} twice.", "Keep one of them: case does not matter in names.")
        if row and row["context"] == "internal":
            raise Refusal(
                f"The parameter {name} shows what the server or its cluster was built with; no file can set it.",
                "Leave it out of the settings.",
            )
        found[name] = spelt(name, row, value)
    if found.get("ssl") == "on" and not parameters["ssl_library"]["setting"]:
        raise Refusal(
            "This PostgreSQL was built without TLS, and ssl cannot be on.",
            "Use one that knows TLS, such as the distribution's, or leave TLS out (synapse_postgres_sslmode).",
        )
    return dict(sorted(found.items()))


def render(settings: dict[str, str], comments: dict[str, str]) -> str:
    """Return a configuration file of ``settings``, each below its comment's lines if it has one."""
    return f"{HEADER}\n{assignments(settings, comments)}"


def assignments(settings: dict[str, str], comments: dict[str, str]) -> str:
    """Return the lines of a configuration file for ``settings``, each below its comment's lines if it has one."""
    lines = []
    for name, text in settings.items():
        lines += [f"# {line}".rstrip() for line in str(comments.get(name, "")).splitlines()]
        lines.append(f"{name} = '{_escaped(text)}'")
    return "".join(f"{line}\n" for line in lines)


def hidden(known: dict, text: str) -> str:
    """Return the configuration file ``text`` for people to see: without the values of secret parameters, commented or not."""

    def masked(line: re.Match) -> str:
        name = line["name"]
        return f"{line['start']}{NOT_SHOWN}" if secret(name, known.get(name.lower())) else line[0]

    return re.sub(r"(?m)^(?P<start>[\t #]*(?P<name>[\w$.]+)(?:[\t ]*=[\t ]*|[\t ]+(?!=)))\S[^\n]*$", masked, text)


def differs(row: dict, text: str) -> bool:
    """Tell whether ``text`` means another value than the running one of the parameter ``row``.

    A wish for the built-in default, as in ``wal_buffers = -1``, is met by whatever value the server chose by itself.
    """
    now, then = meaning(row, row["setting"]), meaning(row, text)
    chosen = row["source"] in _CHOSEN and row["boot_val"] is not None and then == meaning(row, row["boot_val"])
    return then != now and not chosen


def same_file(one: str | None, other: str) -> bool:
    """Tell whether two paths are of one file, by whatever links they lead there."""
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def reading_order(config_file: str, path: str) -> list[tuple[str, int]]:
    """Return ``(file, line)`` for all lines that the server reads from ``config_file`` on, in its order.

    Where it would read ``path``, which need not exist, stands ``(path, 0)``. The rules of include, include_if_exists and
    include_dir are the manual's, section 20.1.5. OSError when a file may not be read.
    """
    order: list[tuple[str, int]] = []
    _read_in(order, config_file, path, depth=0)
    return order


def parameters(cursor) -> dict[str, dict]:
    """Return the server's parameters, ``{name in lower case: row of pg_settings}``, each with its value as SHOW has it.

    Those that the role may not see are missing.
    """
    columns = "name setting unit vartype min_val max_val enumvals context boot_val source sourcefile pending_restart"
    cursor.execute(f"SELECT {', '.join(columns.split())}, current_setting(name, true) FROM pg_catalog.pg_settings")
    return {row[0].lower(): dict(zip([*columns.split(), "shown"], row)) for row in cursor.fetchall()}


def lines_alone(cursor) -> list[dict]:
    """Return the rows of pg_file_settings as the files are on disk now, in reading order."""
    columns = "seqno sourcefile sourceline name setting applied error"
    cursor.execute(f"SELECT {', '.join(columns.split())} FROM pg_catalog.pg_file_settings ORDER BY seqno")
    return [dict(zip(columns.split(), row)) for row in cursor.fetchall()]


def file_lines(cursor) -> list[dict]:
    """Return what lines_alone() does, each line with the server's ``words``; for superusers.

    The view says of an invalid value no more than that it could not be applied; what is wrong with it, the server tells at
    the level debug3. The connection autocommits.
    """
    connection = cursor.connection
    kept, connection.notices = connection.notices, collections.deque()
    cursor.execute("SET lc_messages = 'C'; SET client_min_messages = debug3")
    try:
        lines = lines_alone(cursor)
        told = [" ".join(notice.split()) for notice in connection.notices]
    finally:
        connection.notices = kept
        cursor.execute("RESET client_min_messages; RESET lc_messages")
    for line in lines:
        about = [notice for notice in told if f'"{line["name"]}"'.lower() in notice.lower()]
        line["words"] = re.sub(r"^\w+:\s+", "", about[-1]) if about else line["error"] or ""
    return lines


def require_superuser(cursor) -> None:
    """Raise Refusal unless we are a superuser, whom alone the server tells of its files and lets reload them."""
    cursor.execute("SELECT rolsuper, rolname FROM pg_catalog.pg_roles WHERE rolname = current_user")
    superuser, name = cursor.fetchone()
    if not superuser:
        raise Refusal(
            f"The role {name!r} is no superuser and may not see which files the server reads (pg_file_settings).",
            "Run the task as the server's operating system user (become_user=postgres) or give login_user a superuser; "
            "where a provider runs the server, use method=alter_system.",
        )


def require_readable(lines: list[dict], path: str) -> None:
    """Raise Refusal when an error in another file than ``path`` would make the server ignore every change."""
    for line in lines:
        blocking = line["error"] not in (None, _NOT_APPLIED) and line["sourcefile"]
        if blocking and not same_file(line["sourcefile"], path):
            raise Refusal(
                f"The server cannot reload its configuration: {line['sourcefile']}, line {line['sourceline']}: {line['error']}.",
                "Mend that line, then run this again.",
            )


def require_accepted(known: dict, lines: list[dict], path: str) -> None:
    """Raise Refusal in the server's words when it objects to a line of ``path``, other than that it needs a restart."""
    for line in lines:
        if not line["error"] or not same_file(line["sourcefile"], path):
            continue
        row = known.get((line["name"] or "").lower())
        waits = line["error"] == _NOT_APPLIED and row is not None and row["context"] == "postmaster"
        if not waits or "without restarting" not in line["words"]:
            named = line["name"] or "the line"
            value, words = repr(line["setting"]), line["words"]
            if line["setting"] and secret(named, row):
                value, words = NOT_SHOWN, words.replace(" ".join(line["setting"].split()), NOT_SHOWN)
            raise Refusal(
                f"The server does not take {named} = {value} in {path}: {words}",
                "Correct the value; nothing was changed.",
            )


def not_included(path: str, config_file: str) -> Refusal:
    """Return the Refusal for a server that does not read ``path``."""
    return Refusal(
        f"The server does not read {path}: {config_file} includes neither the file nor its folder.",
        f"Put the line include_dir = '{os.path.basename(os.path.dirname(path))}' at the end of {config_file}, where the "
        "folder is beside that file, or give a path that the server reads; then run this again.",
    )


def place(line: dict) -> str:
    """Return where ``line`` is, for people: its file and number."""
    return f"{line['sourcefile']}, line {line['sourceline']}"


def elsewhere(row: dict, lines: list[dict], path: str | None) -> dict | None:
    """Return the last of ``lines`` that gives the parameter ``row`` a valid value and is not of ``path``, None for none."""
    found = None
    for line in lines:
        if (line["name"] or "").lower() == row["name"].lower() and not (path and same_file(line["sourcefile"], path)):
            found = line if _valid(row if "vartype" in row else None, line["setting"]) else found
    return found


def overriding(known: dict, lines: list[dict], names: list[str], path: str, order: list[tuple[str, int]] | None) -> dict:
    """Return ``{name: {place, setting}}`` for those of ``names`` whose value comes from elsewhere than from ``path``.

    That is the server's command line, or the last valid one of ``lines`` that is read after ``path``. ``order`` (see
    reading_order) says where that is when the server has not read ``path`` yet.
    """
    ours = [line["seqno"] for line in lines if same_file(line["sourcefile"], path)]
    found = {}
    wanted = {name.lower() for name in names}
    for line in lines:
        name = (line["name"] or "").lower()
        if name not in wanted:
            continue
        later = line["seqno"] > ours[-1] if ours else _after(order or [], line, path)
        if later and not same_file(line["sourcefile"], path) and _valid(known.get(name), line["setting"]):
            found[name] = {"place": place(line), "setting": line["setting"]}
    for name, row in known.items():
        if row["source"] == "command line":
            found[name] = {"place": COMMAND_LINE, "setting": row["setting"]}
    return {name: found[name.lower()] for name in names if name.lower() in found}


def _number(text: str, pattern: re.Pattern) -> tuple[float | None, str]:
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


def _converted(number: float | None, rest: str, unit: str | None) -> float:
    """Return ``number`` of the unit that ``rest`` names, as a number of the base ``unit`` (None: no unit)."""
    if number is None:
        raise ValueError("it is not a number")
    spelt = rest.strip(_SPACE)
    if not spelt:
        return number
    if unit is None:
        raise ValueError(f"it has a unit, or more, after the number ({spelt!r}), and the parameter has none")
    count, base = re.fullmatch(r"(\d*)(\D+)", unit).groups()
    family = MEMORY if base in MEMORY else TIME
    if spelt not in family:
        raise ValueError(f"{spelt!r} is not a unit of it; it has {', '.join(reversed(list(family)))}")
    worth = [size / (int(count or 1) * family[base]) for size in family.values()]
    place = list(family).index(spelt)
    value = number * worth[place]
    if place + 1 < len(worth) and math.isfinite(value):
        return round(value / worth[place + 1]) * worth[place + 1]
    return value


def _whole(value: float) -> int:
    """Return ``value`` rounded as C's rint() does; ValueError when it is too large for the server's int."""
    if not math.isfinite(value) or not -_INT_MAX - 1 <= round(value) <= _INT_MAX:
        raise ValueError("it is too large")
    return round(value)


def _within(row: dict, value: float) -> float:
    """Return ``value``; ValueError when it is outside the range of the parameter ``row``."""
    if not float(row["min_val"]) <= value <= float(row["max_val"]):
        unit = f", in units of {row['unit']}," if row["unit"] else ""
        raise ValueError(f"{value:g}{unit} is outside {row['min_val']} to {row['max_val']}")
    return value


def _boolean(text: str) -> bool:
    """Return the boolean of ``text``; the rules are of parse_bool(), src/backend/utils/adt/bool.c."""
    spelt = text.lower()
    if spelt == "1" or (spelt and ("true".startswith(spelt) or "yes".startswith(spelt))) or spelt == "on":
        return True
    if spelt == "0" or (spelt and ("false".startswith(spelt) or "no".startswith(spelt))) or spelt in ("of", "off"):
        return False
    raise ValueError("it is not a boolean; allowed are on and off, true and false, yes and no, 1 and 0")


def _choice(row: dict, text: str) -> str:
    """Return the value among ``row``'s enumvals that ``text`` spells."""
    spelt, allowed = text.lower(), row["enumvals"]
    for value in allowed:
        if value.lower() == spelt:
            return value
    for value, spellings in _HIDDEN.items():
        if value in allowed and spelt in spellings:
            return spellings[spelt]
    raise ValueError(f"allowed are {', '.join(allowed)}")


def spelt(name: str, row: dict | None, value: object) -> str:
    """Return how the task's ``value`` is written for the parameter; Refusal when the server would not take it."""
    if not isinstance(value, (bool, int, float, str)):
        raise Refusal(f"The parameter {name} has {type(value).__name__} for a value.", "Give it a text, a number or a boolean.")
    if isinstance(value, bool):
        if row and row["vartype"] == "string":
            raise Refusal(
                f"The parameter {name} takes a text and has the boolean {value}.",
                "Put the value in quotes: yes, no, on and off without them are booleans in YAML.",
            )
        value = "on" if value else "off"
    text = str(value)
    if "\0" in text:
        raise Refusal(f"The value of the parameter {name} holds a NUL character.", "Remove it.")
    if row is None:
        return text
    try:
        found = meaning(row, text)
    except ValueError as error:
        raise Refusal(f"The parameter {name} cannot be {text!r}: {error}.", "Correct the value.") from None
    # Jinja makes 'True' of true: spelling switches and choices one way keeps the file the same, whichever arrives.
    if isinstance(found, bool):
        return "on" if found else "off"
    return found if row["vartype"] == "enum" else text


def custom(known: dict, name: str) -> str:
    """Return ``name``, which is not among the ``known`` parameters, if it can be an extension's."""
    if _CUSTOM.fullmatch(name):
        return name
    close = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f"Did you mean {known[close[0]]['name']}?" if close else "Compare with the view pg_settings."
    raise Refusal(f"The server has no parameter {name!r}.", meant)


def _escaped(text: str) -> str:
    """Return ``text`` for between single quotes in a configuration file: guc-file.l, DeescapeQuotedString()."""
    for plain, escaped in (("\\", "\\\\"), ("'", "''"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return text


_INCLUDE = re.compile(
    r"\s*(include|include_if_exists|include_dir)(?![\w$.])\s*=?\s*(?:'((?:[^'\\]|''|\\.)*)'|([^\s#']+))", re.IGNORECASE
)
_DEEPEST_INCLUDE = 10


def _read_in(order: list, file: str, path: str, depth: int) -> None:
    if depth > _DEEPEST_INCLUDE:
        raise Refusal(f"The file {file} is included more than {_DEEPEST_INCLUDE} deep.", "Remove the circle of includes.")
    with open(file, encoding="utf-8", errors="surrogateescape") as stream:
        lines = stream.read().split("\n")
    for number, line in enumerate(lines, 1):
        order.append((file, number))
        found = _INCLUDE.match(line)
        if found:
            target = os.path.normpath(os.path.join(os.path.dirname(file), (found[2] or found[3] or "").replace("''", "'")))
            for included in _files(found[1].lower(), target, path):
                if same_file(included, path):
                    order.append((path, 0))
                else:
                    _read_in(order, included, path, depth + 1)


def _files(directive: str, target: str, path: str) -> list[str]:
    """Return the files that an include ``directive`` for ``target`` reads, ``path`` among them even before it exists."""
    if directive != "include_dir":
        return [target] if os.path.exists(target) or same_file(target, path) else []
    names = set(os.listdir(target)) if os.path.isdir(target) else set()
    if same_file(target, os.path.dirname(path)):
        names.add(os.path.basename(path))
    return [os.path.join(target, name) for name in sorted(names, key=os.fsencode) if re.fullmatch(r"[^.].*\.conf", name)]


def _after(order: list[tuple[str, int]], line: dict, path: str) -> bool:
    """Tell whether ``line`` is read after ``path``; a file that is not in ``order`` is postgresql.auto.conf, the last."""
    place = (line["sourcefile"], line["sourceline"])
    return place not in order or order.index(place) > order.index((path, 0))


def _valid(row: dict | None, text: str | None) -> bool:
    try:
        return text is not None and (row is None or meaning(row, text) is not None)
    except ValueError:
        return False
