# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_hba.conf as the server reads it and as people write it: its lines, their words, the rules that they are.

The file's text is a str that holds every byte: decode() and encode() are inverse to each other for any bytes.
"""

from __future__ import annotations

import dataclasses
import re
import socket

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import TYPES, Address, Name, Rule
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# Options whose values are secrets: neither shown nor written by us. Their names may be broken by quotes and continuations.
SECRETS = ("ldapbindpasswd", "radiussecrets")
_BROKEN = r'(?:"|\\\r*\n)*'
_SECRET = re.compile(rf"({'|'.join(map(_BROKEN.join, SECRETS))}).*?(\r?\n)?\Z", re.DOTALL)

_KEYWORDS = {
    "database": {
        "all": "all",
        "replication": "replication",
        "sameuser": "sameuser",
        "samerole": "samerole",
        "samegroup": "samerole",
    },
    "user": {"all": "all"},
}
_PREFIXES = {"database": {"@": "file"}, "user": {"@": "file", "+": "member"}}
# Included files, and regular expressions for names, came with PostgreSQL 16 (its release notes, section E.1.3.1.7).
INCLUDES_SINCE = 160000

_DIRECTIVES = ("include", "include_if_exists", "include_dir")

# How next_token() of src/backend/libpq/hba.c cuts a line: blanks and commas separate, # ends it, quotes may start and
# end anywhere in a token, a doubled quote within quotes is one quote, an unclosed quote reaches to the line's end.
_TOKEN = re.compile(r'[ \t\r,]*((?:[^ \t\r,#"]|"(?:[^"]|"")*(?:"|\Z))+)')
_QUOTED = re.compile(r'"((?:[^"]|"")*)(?:"|\Z)')


@dataclasses.dataclass(frozen=True)
class Token:
    """A word of a line without its quotes; ``quoted`` when it began with one; where it stands in the raw line."""

    text: str
    quoted: bool
    start: int
    end: int


@dataclasses.dataclass(eq=False)
class Line:
    """A line as the server joins it from physical ones: ``raw`` is all of it, ``number`` is the first one's, from 1.

    ``fields`` is empty for blank and comment lines. ``rule`` is None where there is none to be read: an include, or what
    the server would refuse. ``effect_span`` is where in ``raw`` the method and the options stand. ``unfinished`` tells
    that the file ended where a continuation was announced.
    """

    raw: str
    number: int
    fields: list[list[Token]]
    unfinished: bool
    rule: Rule | None = None
    effect_span: tuple[int, int] = (0, 0)

    @property
    def is_include(self) -> bool:
        """Whether PostgreSQL 16 and later read this line as the inclusion of other files."""
        return is_include(self.fields)


def decode(data: bytes) -> str:
    """Return a file's bytes as text; what is not UTF-8 survives as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Return the bytes of a text from decode()."""
    return text.encode("utf-8", "surrogateescape")


def parse(text: str) -> list[Line]:
    """Return the lines of a pg_hba.conf; joined, their ``raw`` is ``text`` (manual, section 21.1; hba.c, tokenize_auth_file).

    Raises Refusal for a NUL character, at which the server's C library loses the rest of a line.
    """
    if "\0" in text:
        number = text[: text.index("\0")].count("\n") + 1
        raise Refusal(f"Line {number} of the file holds a NUL character.", "Remove it with an editor.")
    pieces = re.findall(r"[^\n]*\n|[^\n]+", text)
    lines: list[Line] = []
    taken = 0
    while taken < len(pieces):
        line, count = _read_line(pieces, taken)
        lines.append(line)
        taken += count
    return lines


def render(lines: list[Line]) -> str:
    """Return the text of ``lines``; the inverse of parse()."""
    return "".join(line.raw for line in lines)


def rule_text(rule: Rule) -> str:
    """Return the line for ``rule``, without its end, in the columns of the file that initdb makes."""
    columns = [
        rule.type.ljust(7),
        ",".join(_name_text("database", name) for name in rule.databases).ljust(15),
        ",".join(_name_text("user", name) for name in rule.users).ljust(15),
        (rule.address.text if rule.address else "").ljust(23),
        effect_text(rule),
    ]
    return " ".join(columns).rstrip()


def effect_text(rule: Rule) -> str:
    """Return the method and options of ``rule`` as a line has them."""
    options = [f"{name}={_word(value)}" for name, value in rule.options or ()]
    return " ".join(([rule.method] if rule.method else []) + options)


def server_view(text: str) -> dict[int, tuple[str, str | None] | None]:
    """Return ``{line number: (type, method)}`` as the server's pg_hba_file_rules shows ``text``; None where we cannot tell."""
    return {
        line.number: (line.rule.type, line.rule.effect[0]) if line.rule else None
        for line in parse(text)
        if line.fields and not line.is_include
    }


def masked(text: str) -> str:
    """Return ``text`` for the eyes of a person: secret options cut off, what is not UTF-8 replaced."""
    lines = parse(text) if _SECRET.search(text) else []
    shown = "".join(_SECRET.sub(r"\1=********\2", line.raw) for line in lines) or text
    return encode(shown).decode("utf-8", "replace")


def rule_of(fields: list[list[Token]]) -> tuple[Rule, tuple[int, int]] | None:
    """Return the rule of a line's ``fields`` and where its method and options stand (hba.c, parse_hba_line), or None."""
    if len(fields) < 4 or len(fields[0]) > 1 or fields[0][0].text not in TYPES:
        return None
    kind, method_at, address = fields[0][0].text, 3, None
    if kind != "local":
        address = _address(fields[3:5])
        bare_net = address and address.kind == "net" and "/" not in address.text
        method_at = 5 if bare_net else 4
        if address is None:
            return None
    if len(fields) <= method_at or len(fields[method_at]) > 1:
        return None
    options = {}
    for token in (token for field in fields[method_at + 1 :] for token in field):
        name, value = [*token.text.split("=", 1), ""][:2]
        options[name] = value
    names = {
        column: tuple(name_of(column, token.text, token.quoted) for token in fields[at])
        for column, at in (("database", 1), ("user", 2))
    }
    method = fields[method_at][0]
    rule = Rule(kind, names["database"], names["user"], address, method.text, tuple(options.items()))
    return rule, (method.start, fields[-1][-1].end)


def name_of(column: str, text: str, quoted: bool) -> Name:
    """Return what a token of ``column`` stands for.

    Quotes take the meaning from keywords, + and @, but not from the / of a regular expression: regcomp_auth_token() of
    PostgreSQL 16 and later does not ask for them. Before 16 the / is a letter; taken for a regular expression, it errs
    on the side of matching.
    """
    if text.startswith("/"):
        return Name("regex", text)
    if not quoted and text in _KEYWORDS[column]:
        return Name(_KEYWORDS[column][text], "")
    if not quoted and text[:1] in _PREFIXES[column] and text != "@":
        return Name(_PREFIXES[column][text[0]], text[1:])
    return Name("name", text)


def is_include(fields: list[list[Token]]) -> bool:
    """Tell whether PostgreSQL 16 and later read a line's ``fields`` as the inclusion of other files; quotes do not matter."""
    return len(fields) == 2 and fields[0][0].text in _DIRECTIVES


def _read_line(pieces: list[str], first: int) -> tuple[Line, int]:
    """Return the line that begins with ``pieces[first]``, and how many pieces it takes."""
    logical = ""
    offsets: list[int] = []  # of each character of the line in the raw text
    size = kept = count = 0
    ended = False
    while not ended and first + count < len(pieces):
        piece = pieces[first + count]
        logical = (logical + piece).rstrip("\r\n")
        offsets += range(size, size + len(piece))
        size += len(piece)
        count += 1
        # A backslash continues the line unless it was there before: two of them before one line end are not two.
        ended = not (len(logical) > kept and logical.endswith("\\"))
        if not ended:
            logical = logical[:-1]
            kept = len(logical)
        del offsets[len(logical) :]
    fields = _fields(logical, offsets)
    line = Line("".join(pieces[first : first + count]), first + 1, fields, not ended)
    found = rule_of(fields)
    if found:
        line.rule, line.effect_span = found
    return line, count


def _fields(logical: str, offsets: list[int]) -> list[list[Token]]:
    """Return the fields of a line, each a list of the tokens that commas join."""
    fields: list[list[Token]] = []
    position, joined = 0, False
    while True:
        found = _TOKEN.match(logical, position)
        if not found:
            return fields
        text = _QUOTED.sub(lambda quoted: quoted[1].replace('""', '"'), found[1])
        token = Token(text, found[1][0] == '"', offsets[found.start(1)], offsets[found.end() - 1] + 1)
        if joined:
            fields[-1].append(token)
        else:
            fields.append([token])
        position = found.end()
        joined = logical[position : position + 1] == ","


def _address(fields: list[list[Token]]) -> Address | None:
    """Return the address of the field ``fields[0]``, with the mask of ``fields[1]`` where it has none of its own."""
    token = fields[0][0]
    if len(fields[0]) > 1 or (token.text.startswith("@") and not token.quoted):
        return None
    if token.text in ("all", "samehost", "samenet") and not token.quoted:
        return Address(token.text, token.text)
    text, slash, bits = token.text.partition("/")
    found = _number(text)
    if found is None:
        return None if slash else Address("host", token.text, name=text.lower())
    family, base = found
    size = 32 if family == socket.AF_INET else 128
    if slash:
        if not (bits.isascii() and bits.isdigit()) or int(bits) > size:
            return None
        mask = _mask(int(bits), size)
    else:
        column = _number(fields[1][0].text) if len(fields) > 1 and len(fields[1]) == 1 else None
        if column is None or column[0] != family:
            return None
        mask = column[1]
    return Address("net", token.text, family=int(family), base=base & mask, mask=mask)


def _number(text: str) -> tuple[int, int] | None:
    """Return the socket family and the integer of a numeric address, by the C library's reading, which is the server's."""
    if not text:
        return None
    try:
        found = socket.getaddrinfo(encode(text), None, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None
    family, address = found[0][0], str(found[0][4][0]).partition("%")[0]
    return family, int.from_bytes(socket.inet_pton(family, address), "big")


def _mask(bits: int, size: int) -> int:
    return ((1 << bits) - 1) << (size - bits)


def _name_text(column: str, name: Name) -> str:
    """Return ``name`` as it is written in ``column`` of the file, quoted where it would be read as something else."""
    prefix = {"member": "+", "file": "@"}.get(name.kind)
    if prefix:
        return prefix + _word(name.text)
    if name.kind not in ("name", "regex"):
        return name.kind
    return _word(name.text, misread=name_of(column, name.text, False) != name)


def _word(text: str, misread: bool = False) -> str:
    """Return ``text`` as a token, in quotes when it needs them; a backslash must not end the line."""
    if text and not misread and not re.search(r'[\s,#"\\]', text):
        return text
    return '"' + text.replace('"', '""') + '"'
