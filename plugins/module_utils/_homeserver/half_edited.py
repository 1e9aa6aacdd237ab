# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A ``database:`` section that somebody left half edited: of two engines at once, or with its keys at the top level.

Where the users are is not known from it, and so it is not replaced before a person has said which part is meant.
"""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import database_section, libpq
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver.homeserver_yaml import Document

# What a database of SQLite's is called, by Synapse and by those who move it.
_SQLITE_FILE = re.compile(r"/.*|.*\.(db|db3|sqlite|sqlite3)|:memory:", re.DOTALL)


def require_unambiguous(document: Document, desired: dict[str, Any]) -> None:
    """Raise Refusal for a section of ``document`` from which it is not known where the users are.

    That is one of PostgreSQL's with SQLite's file, or of SQLite's with keywords of PostgreSQL's, or one whose keys stand at the
    top level. ``desired`` is the section that is to take its place.
    """
    present = document.section()
    misplaced = _misplaced_keys(document)
    if misplaced and not database_section.is_whole(present):
        raise _misplaced_refusal(document, misplaced)
    args = present.get("args") if present else None
    if present and isinstance(args, dict):
        _require_one_engine(document, present.get("name"), args, desired)


def misplaced_warning(document: Document) -> str:
    """Return a warning of keys that stand at the top level beside a section which needs them not; else ""."""
    misplaced = _misplaced_keys(document)
    if not misplaced or not database_section.is_whole(document.section()) or document.layout.is_flow:
        return ""
    ranges = _line_ranges(document, misplaced)
    deletions = ";".join(f"{first},{last}d" for first, last in ranges)
    return (
        f"{document.path} has {' and '.join(misplaced)} at the top level ({_on_lines(ranges)}), where Synapse does not read "
        f"them; they may hold an old password. Remove them by `sed -i '{deletions}' {_words.shell(document.path)}`."
    )


def _require_one_engine(document: Document, name: Any, args: dict[Any, Any], desired: dict[str, Any]) -> None:
    """Raise Refusal where the engine ``name`` is one and ``args`` are the other's."""
    database = args.get(database_section.ALIAS)
    libpq_keywords = sorted(set(args) & set(libpq.LIBPQ))
    is_file = isinstance(database, str) and bool(_SQLITE_FILE.fullmatch(database))
    if name == "psycopg2" and is_file and database != desired["args"].get(database_section.ALIAS):
        contradiction = f"PostgreSQL, and args names the file {database}, which is SQLite's"
        other, is_clear = "sqlite3", not libpq_keywords
    elif name == "sqlite3" and libpq_keywords:
        contradiction = f"SQLite, and args has PostgreSQL's {', '.join(libpq_keywords)}"
        other, is_clear = "psycopg2", not is_file
    else:
        return
    remedy = "Leave in it what is of the one, and take the other's out."
    entry = document.section_entry()
    line = entry.line_of(name) if entry else None
    if is_clear and line:
        command = f"sed -i '{line}s/{name}/{other}/' {_words.shell(document.path)}"
        remedy = f"If they are where args says, correct the name by `{command}`; otherwise correct args."
    raise Refusal(
        f"The database section of {document.path} is half edited: its name is {name}, {contradiction}. Where the users are is "
        "not known from it.",
        f"{remedy} Then run this again.",
    )


def _misplaced_keys(document: Document) -> list[str]:
    """Return the top-level keys of ``document`` that are a database section's, in their order.

    Synapse has no such options: the section was written without its indentation, or half of it was removed.
    """
    options, present = document.options, document.section()
    args = options.get("args")
    known = {*libpq.KEYWORDS, database_section.ALIAS, "check_same_thread"}
    if options.get("name") in ("psycopg2", "sqlite3") or (isinstance(args, dict) and known.intersection(args)):
        own = {"name", "args", "allow_unsafe_locale", *database_section.SIBLINGS}
        return [key for key in options if key in own]
    if present and "args" in present and present["args"] is None:
        found = [key for key in options if key in libpq.KEYWORDS]
        return found if len(found) > 1 else []
    return []


def _misplaced_refusal(document: Document, misplaced: list[str]) -> Refusal:
    """Return the Refusal for a section that is not whole while keys of it stand at the top level, as ``misplaced``."""
    ranges = _line_ranges(document, misplaced)
    command = _indentation(document, misplaced[0], ranges)
    return Refusal(
        f"The database section of {document.path} is not whole, and {' and '.join(misplaced)} stand at the top level "
        f"({_on_lines(ranges)}), where Synapse does not read them.",
        f"If they are the section, indent them by `{command}`; otherwise remove them. Then run this again."
        if command
        else "Move them into the section database, then run this again.",
    )


def _indentation(document: Document, first_key: str, ranges: list[tuple[int, int]]) -> str:
    """Return the command that makes the lines of ``ranges`` a part of the section; "" where they do not follow it at once."""
    entry, present = document.section_entry(), document.section()
    if entry is None or document.layout.is_flow or len(ranges) != 1:
        return ""
    first, last = ranges[0]
    if _has_options(document.lines()[document.last_line(entry) : first - 1]):
        return ""
    column = entry.column_of_keys()
    deeper = 2 if present is None or first_key in ("name", "args") else 4
    blanks = " " * (column if column is not None and deeper == 2 else deeper)
    return f"sed -i '{first},{last}s/^/{blanks}/' {_words.shell(document.path)}"


def _line_ranges(document: Document, keys: list[str]) -> list[tuple[int, int]]:
    """Return the first and last lines, from 1, of the top-level ``keys``; ranges with nothing but comments between are one."""
    found: list[tuple[int, int]] = []
    lines = document.lines()
    for entry in document.layout.entries:
        if entry.key in keys:
            first = entry.line
            if found and not _has_options(lines[found[-1][1] : first - 1]):
                first = found.pop()[0]
            found.append((first, document.last_line(entry)))
    return found


def _has_options(lines: list[str]) -> bool:
    return any(line.strip() and not line.strip().startswith("#") for line in lines)


def _on_lines(ranges: list[tuple[int, int]]) -> str:
    return "lines " + ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in ranges)
