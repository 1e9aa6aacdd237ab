# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A new ``database:`` section in the text of a file: in the place of the old one, every other byte left as it is."""

from __future__ import annotations

import collections
import json
import re
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver.homeserver_yaml import (
    SECTION_KEY,
    Document,
    Entry,
)


def replace(document: Document, section: dict[str, Any]) -> str:
    """Return the text of ``document`` with ``section`` as its ``database:`` section, in the old one's place or else at the end.

    Text outside the section, comments and ends of lines included, is the same as before; what belongs to it, Document.span()
    says. The new lines end as most lines of the text do. Raises Refusal when a later key refers to an anchor in the old section,
    and when the new text would not mean what is wanted: all other keys as before.
    """
    _require_legible(document)
    entry = document.section_entry()
    if entry:
        _require_unshared(document, entry)
        start, end = document.span(entry)
        new = document.text[:start] + _rendered(document, section) + document.text[end:]
    else:
        new = _inserted(document, section)
    _require_equal(document, section, new)
    return new


def as_yaml(section: dict[Any, Any] | None) -> str:
    """Return the lines ``database: ...`` for a section, each ended by a newline; nothing for None."""
    return "" if section is None else homeserver_yaml.dump({SECTION_KEY: section})


def _require_legible(document: Document) -> None:
    """Raise Refusal for a key that a person reads as database and Synapse does not: with a character that is not seen."""
    for entry in document.layout.entries:
        key = entry.key or ""
        character = _words.misleading(key)
        if character and _words.plain(key).strip() == SECTION_KEY:
            raise Refusal(
                f"The key database on line {entry.line} of {document.path} is {_words.visible(key)}, so that Synapse does not "
                "know it.",
                f"Correct it by `{_words.removal(character, entry.line, document.path)}`, then run this again.",
            )


def _require_unshared(document: Document, section: Entry) -> None:
    """Raise Refusal when a key after the ``section`` refers to an anchor that would go with it."""
    entries = document.layout.entries
    for entry in entries[entries.index(section) + 1 :]:
        for name, line in entry.aliases():
            if name in section.anchors():
                raise Refusal(
                    f"Line {line} of {document.path} refers to &{name}, an anchor in the database section.",
                    "Write the value out there, then run this again.",
                )


def _rendered(document: Document, section: dict[str, Any]) -> str:
    """Return the ``section`` as it stands in the document: from the key's column on, without the end of the last line."""
    newline = _newline(document.text)
    if _is_json(document.text):
        return _as_json(_key_column_in_braces(document), section).replace("\n", newline)
    if document.layout.is_flow:
        return homeserver_yaml.dump({SECTION_KEY: section}, flow=True).strip()[1:-1]
    return (newline + " " * _key_column(document)).join(as_yaml(section).splitlines())


def _inserted(document: Document, section: dict[str, Any]) -> str:
    """Return the document's text with the ``section`` after its last key: at the end of the document, after a blank line."""
    text, layout, newline = document.text, document.layout, _newline(document.text)
    new = _rendered(document, section)
    if layout.is_flow:
        ends = [token.end_mark.index for entry in layout.entries for token in entry.tokens]
        at = max(ends, default=layout.opening)
        column = _key_column_in_braces(document) if _is_json(text) else 0
        gap = f",{newline}{' ' * column}" if column else ", "
        return f"{text[:at]}{gap if ends else ''}{new}{text[at:]}"
    head, tail = text[: layout.end], text[layout.end :]
    lines = re.split(homeserver_yaml.LINE_BREAK, head.lstrip("\ufeff"))
    if lines[-1]:
        head += newline
        lines.append("")
    if lines[-2:-1] and lines[-2].strip():
        head += newline
    return f"{head}{' ' * _key_column(document)}{new}{newline}{tail}"


def _key_column(document: Document) -> int:
    """Return the column, from 0, of the top-level keys of a document that is not in braces."""
    entries = document.layout.entries
    return entries[0].start.column if entries else 0


def _key_column_in_braces(document: Document) -> int:
    """Return the column of the keys of a mapping in braces that are indented, on lines of their own; 0 where they are not."""
    starts = [entry.start for entry in document.layout.entries]
    alone = len({start.line for start in starts}) == len(starts) and starts and starts[0].line and starts[-1].column > 1
    return starts[-1].column if alone else 0


def _is_json(text: str) -> bool:
    """Tell whether ``text`` is JSON, which is YAML as well: programs that know no YAML may read it."""
    try:
        json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return True


def _as_json(column: int, section: dict[str, Any]) -> str:
    """Return the ``section`` as JSON, which YAML reads alike; over several lines where the file's own keys have a ``column``."""
    written = json.dumps(section, ensure_ascii=False, indent=column or None)
    # What JSON may hold as it is and YAML may not.
    escaped = homeserver_yaml.FRAGILE.sub(lambda odd: odd[0] if odd[0] == "\n" else f"\\u{ord(odd[0]):04x}", written)
    return f'"{SECTION_KEY}": ' + escaped.replace("\n", "\n" + " " * column)


def _newline(text: str) -> str:
    """Return how most lines of ``text`` end."""
    found = collections.Counter(re.findall("\r\n|\n|\r", text)).most_common(1)
    return found[0][0] if found else "\n"


def _require_equal(document: Document, section: dict[str, Any], new: str) -> None:
    """Raise Refusal unless ``new`` means what the document does, with ``section`` as its section; and is JSON as that is.

    They are compared as Python writes them: so .nan equals itself, 1 differs from true, and aliases may form a circle.
    """
    after = dict(homeserver_yaml.parse(new, f"{document.path}, as it would be written,").options)
    if _is_json(document.text) and not _is_json(new):
        raise Refusal(
            f"{document.path} is JSON, and would be none with the new section; nothing was written.", "Write it by hand."
        )
    others = {key: value for key, value in document.options.items() if key != SECTION_KEY}
    if repr(after.pop(SECTION_KEY, None)) != repr(section) or repr(after) != repr(others):
        raise Refusal(
            f"The database section could not be put into {document.path} without changing another part of it; nothing was "
            "written.",
            "Put a line with nothing but the key database: where the section is to stand, then run this again.",
        )
