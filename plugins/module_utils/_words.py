# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes into a sentence for a person so that it can be seen, and into a command so that it runs as printed."""

from __future__ import annotations

import re
import shlex

# Characters that a terminal shows as nothing, and ones that it shows as a blank though they divide no words for a program.
_UNSEEN = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_BLANKS = "\u00a0\u2000-\u200a\u202f\u205f\u3000"
_ODD = re.compile(f"[\0-\x08\x0b-\x1f\x7f-\x9f{_UNSEEN}{_BLANKS}\u2028\u2029]")
_MISLEADING = re.compile(f"[{_UNSEEN}{_BLANKS}]")


def identifier(name: str) -> str:
    """Return ``name`` as SQL has it (manual, section 4.1.1); SQLite and pg_hba.conf quote a name in the same way."""
    return '"' + name.replace('"', '""') + '"'


def visible(text: str) -> str:
    """Return ``text`` with its characters that are not seen, or look like another one, told by number: ``<U+FEFF>``."""
    return _ODD.sub(lambda odd: f"<U+{ord(odd[0]):04X}>", text)


def misleading(text: str) -> str:
    """Return the first character of ``text`` that is not seen or looks like a blank and is none; "" where there is none."""
    found = _MISLEADING.search(text)
    return found[0] if found else ""


def plain(text: str) -> str:
    """Return ``text`` as a person reads it: without its characters that are not seen, blanks as blanks."""
    return re.sub(f"[{_BLANKS}]", " ", re.sub(f"[{_UNSEEN}]", "", text))


def removal(character: str, number: int, path: str) -> str:
    """Return the command that takes a misleading ``character`` out of the line ``number``, from 1, of the file at ``path``."""
    code = "".join(f"\\x{byte:02x}" for byte in character.encode())
    return f"LC_ALL=C sed -i '{number}s/{code}/{plain(character)}/g' {shell(path)}"


def shell(word: str) -> str:
    """Return ``word`` as a shell has it."""
    return shlex.quote(word)


def listed(names: list[str], most: int = 3) -> str:
    """Return the first ``most`` of ``names`` as a sentence names them, and how many there are beside: ``a, b, c and 2 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
