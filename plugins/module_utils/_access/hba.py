# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pg_hba.conf as the server reads it: its lines, which connections they match, and where a rule must stand to count.

The file's text is a str that holds every byte: decode() and encode() are inverse to each other for any bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import itertools
import re
import socket

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# Type of a line -> the kinds of connection it is for. One connection is never both TLS and GSSAPI encrypted.
TYPES = {
    "local": frozenset({"socket"}),
    "host": frozenset({"plain", "tls", "gss"}),
    "hostssl": frozenset({"tls"}),
    "hostnossl": frozenset({"plain", "gss"}),
    "hostgssenc": frozenset({"gss"}),
    "hostnogssenc": frozenset({"plain", "tls"}),
}
METHODS = [
    "scram-sha-256",
    "md5",
    "password",
    "peer",
    "ident",
    "cert",
    "trust",
    "reject",
    "gss",
    "sspi",
    "ldap",
    "radius",
    "pam",
    "bsd",
    "oauth",
]

# Options whose values are secrets: neither shown nor written by us. Their names may be broken by quotes and continuations.
_SECRETS = ("ldapbindpasswd", "radiussecrets")
_BROKEN = r'(?:"|\\\r*\n)*'
_SECRET = re.compile(rf"({'|'.join(map(_BROKEN.join, _SECRETS))}).*?(\r?\n)?\Z", re.DOTALL)

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
_DIRECTIVES = ("include", "include_if_exists", "include_dir")

# How next_token() of src/backend/libpq/hba.c cuts a line: blanks and commas separate, # ends it, quotes may start and
# end anywhere in a token, a doubled quote within quotes is one quote, an unclosed quote reaches to the line's end.
_GAP = re.compile(r"[ \t\r,]*")
_TOKEN = re.compile(r'(?:[^ \t\r,#"]|"(?:[^"]|"")*(?:"|\Z))+')
_QUOTED = re.compile(r'"((?:[^"]|"")*)(?:"|\Z)')

# One name of a comma list as a user of the module writes it.
_ITEM = re.compile(r'[ \t]*(?:("(?:[^"]|"")+")|([^", \t][^,]*?))[ \t]*(,|\Z)')
_HOST_NAME = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


@dataclasses.dataclass(frozen=True)
class Token:
    """A word of a line without its quotes; ``quoted`` when it began with one; where it stands in the raw line."""

    text: str
    quoted: bool
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Name:
    """What one word of the database or user column stands for.

    ``kind`` is name, all, replication, sameuser, samerole, member (of the role ``text``), regex or file (of names).
    """

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Address:
    """What the address column stands for: ``kind`` is all, samehost, samenet, host (``name``, lower case) or net.

    A net has its socket family and, as integers, its masked ``base`` and its ``mask``. ``shown`` is how it is written.
    """

    kind: str
    shown: str = dataclasses.field(compare=False)
    name: str = ""
    family: int = 0
    base: int = 0
    mask: int = 0


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a line means: which connections it is for (its selector) and what happens to them (its effect).

    ``address`` is None for local; ``method`` and ``options`` are None in a rule that is to be removed whatever they are.
    """

    type: str
    databases: tuple[Name, ...]
    users: tuple[Name, ...]
    address: Address | None
    method: str | None
    options: tuple[tuple[str, str], ...] | None

    @functools.cached_property
    def selector(self) -> tuple:
        return self.type, frozenset(self.databases), frozenset(self.users), self.address

    @functools.cached_property
    def effect(self) -> tuple:
        return _method_in_force(self.type, self.method), dict(self.options or ())


@dataclasses.dataclass(eq=False)
class Line:
    """A line as the server joins it from physical ones: ``raw`` is all of it, ``number`` is the first one's, from 1.

    ``fields`` is empty for blank and comment lines. ``rule`` is None where there is none to be read: an include, or what
    the server would refuse. ``effect`` is where in ``raw`` the method and the options stand. ``open`` tells that the
    file ended where a continuation was announced.
    """

    raw: str
    number: int
    fields: list[list[Token]]
    open: bool
    rule: Rule | None = None
    effect: tuple[int, int] = (0, 0)

    @property
    def directive(self) -> bool:
        """Whether PostgreSQL 16 and later read this line as the inclusion of other files."""
        return includes(self.fields)


@dataclasses.dataclass
class Outcome:
    """A file's new text, per given rule ``{rule, line, action}``, and what a person should know.

    ``gone`` holds the numbers, in the old text, of lines that are no longer there as they were.
    """

    text: str
    placed: list[dict]
    warnings: list[str]
    gone: set[int]


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
        (rule.address.shown if rule.address else "").ljust(23),
        _effect_text(rule),
    ]
    return " ".join(columns).rstrip()


def wished(given: dict, position: int, complete: bool = True) -> Rule:
    """Return the Rule that a user's ``given`` describes: ``{type, database, user, address, method, options}``.

    ``database`` and ``user`` are comma lists in which a keyword is one unless it is quoted; ``address`` has CIDR form, is
    a host name or a keyword; ``options`` is a dict. ``complete`` rules have a method (scram-sha-256 unless given).
    Raises Refusal, naming the rule by its ``position`` from 1, for what the server would refuse or read as something else.
    """
    where = f"Rule {position}"
    for column in ("type", "database", "user", "address", "method"):
        _require_one_line(where, column, given.get(column) or "")
    kind, method = given.get("type"), given.get("method")
    if kind not in TYPES:
        raise Refusal(f"{where} has the type {kind!r}.", f"Use one of {', '.join(TYPES)}.")
    if method is not None and method not in METHODS:
        raise Refusal(f"{where} has the method {method!r}.", f"Use one of {', '.join(METHODS)}.")
    options = given.get("options")
    return Rule(
        kind,
        _given_names(where, "database", given.get("database", "all")),
        _given_names(where, "user", given.get("user", "all")),
        _given_address(where, kind, given.get("address")),
        method or ("scram-sha-256" if complete else None),
        _given_options(where, options or {}) if options or complete else None,
    )


def could_meet(one: Rule, other: Rule) -> bool:
    """Tell whether some connection could match both rules; True wherever that depends on what the file does not show."""
    return (
        bool(TYPES[one.type] & TYPES[other.type])
        and _addresses_meet(one.address, other.address)
        and any(_people_meet(*four) for four in itertools.product(one.databases, one.users, other.databases, other.users))
    )


def covers(wide: Rule, narrow: Rule) -> bool:
    """Tell whether every connection that matches ``narrow`` surely matches ``wide`` too."""
    return (
        TYPES[wide.type] >= TYPES[narrow.type]
        and all(any(_name_covers(mine, theirs) for mine in wide.databases) for theirs in narrow.databases)
        and all(any(_name_covers(mine, theirs) for mine in wide.users) for theirs in narrow.users)
        and _address_covers(wide.address, narrow.address)
    )


def could_take(other: Rule, rule: Rule) -> bool:
    """Tell whether ``other``, before ``rule``, could treat one of its connections otherwise, and is no exception to it."""
    return _conflict(rule, other) and not _guards(other, rule)


def place(text: str, rules: list[Rule]) -> Outcome:
    """Return ``text`` with each of ``rules`` effective: before every line that would treat one of its connections otherwise.

    The first line that matches a connection decides (manual, section 21.1), so a rule goes directly before the first line
    that could match with another effect, or at the end. A line for the very same connections is rewritten where it
    stands, or moved when it stands too late. Lines that reject a part of a rule's connections stay before it. Rules that
    are put in keep the order in which they are given. Actions: present, inserted, moved, replaced.
    """
    _require_reachable(rules)
    lines = parse(text)
    before, newline = list(lines), _newline(text)
    distinct = _distinct(rules)
    settled: dict[int, tuple[Line, str]] = {}
    following = None
    for index in reversed(range(len(distinct))):
        earlier = [rule.selector for rule in distinct[:index]]
        following, action = _settle(lines, distinct[index], earlier, following, newline)
        settled[index] = following, action
    numbers = _numbers(lines)
    placed = []
    for rule in rules:
        home, action = settled[_index(distinct, rule)]
        placed.append({"rule": rule_text(rule), "line": numbers[home], "action": action})
    warnings = _warnings(lines, [(rule, *settled[index]) for index, rule in enumerate(distinct)], numbers)
    return Outcome(render(lines), placed, warnings, _gone(before, lines))


def remove(text: str, rules: list[Rule]) -> Outcome:
    """Return ``text`` without the lines that have the selector of one of ``rules``, and its method and options if it has any.

    Actions: removed (``line`` is where the first such line stood), absent (``line`` is None).
    """
    before = parse(text)
    lines, placed = list(before), []
    for rule in rules:
        doomed = [line for line in before if line.rule and _is_meant(rule, line.rule)]
        lines = [line for line in lines if line not in doomed]
        action, number = ("removed", doomed[0].number) if doomed else ("absent", None)
        placed.append({"rule": rule_text(rule), "line": number, "action": action})
    return Outcome(render(lines), placed, [], _gone(before, lines))


def server_view(text: str) -> dict[int, tuple[str, str] | None]:
    """Return ``{line number: (type, method)}`` as the server's pg_hba_file_rules shows ``text``; None where we cannot tell."""
    return {
        line.number: (line.rule.type, _method_in_force(line.rule.type, line.rule.method)) if line.rule else None
        for line in parse(text)
        if line.fields and not line.directive
    }


def shown(text: str) -> str:
    """Return ``text`` for the eyes of a person: secret options cut off, what is not UTF-8 replaced."""
    lines = parse(text) if _SECRET.search(text) else []
    masked = "".join(_SECRET.sub(r"\1=********\2", line.raw) for line in lines) or text
    return encode(masked).decode("utf-8", "replace")


def meaning(fields: list[list[Token]]) -> tuple[Rule, tuple[int, int]] | None:
    """Return the rule of a line's ``fields`` and where its method and options stand (hba.c, parse_hba_line), or None."""
    if len(fields) < 4 or len(fields[0]) > 1 or fields[0][0].text not in TYPES:
        return None
    kind, method_at, address = fields[0][0].text, 3, None
    if kind != "local":
        address = _address(fields[3:5])
        bare_net = address and address.kind == "net" and "/" not in address.shown
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
        column: tuple(_name(column, token.text, token.quoted) for token in fields[at])
        for column, at in (("database", 1), ("user", 2))
    }
    method = fields[method_at][0]
    rule = Rule(kind, names["database"], names["user"], address, method.text, tuple(options.items()))
    return rule, (method.start, fields[-1][-1].end)


def includes(fields: list[list[Token]]) -> bool:
    """Tell whether PostgreSQL 16 and later read a line's ``fields`` as the inclusion of other files; quotes do not matter."""
    return len(fields) == 2 and fields[0][0].text in _DIRECTIVES


def is_host(pattern: str, name: str) -> bool:
    """Tell whether the host name of a line means ``name``, both in lower case (hba.c, hostname_match)."""
    return name == pattern or (pattern.startswith(".") and name.endswith(pattern))


def _read_line(pieces: list[str], first: int) -> tuple[Line, int]:
    """Return the line that begins with ``pieces[first]``, and how many pieces it takes."""
    logical, places = "", []
    size = kept = count = 0
    ended = False
    while not ended and first + count < len(pieces):
        piece = pieces[first + count]
        logical = (logical + piece).rstrip("\r\n")
        places += range(size, size + len(piece))
        size += len(piece)
        count += 1
        # A backslash continues the line unless it was there before: two of them before one line end are not two.
        ended = not (len(logical) > kept and logical.endswith("\\"))
        if not ended:
            logical = logical[:-1]
            kept = len(logical)
        del places[len(logical) :]
    fields = _fields(logical, places)
    line = Line("".join(pieces[first : first + count]), first + 1, fields, not ended)
    found = meaning(fields)
    if found:
        line.rule, line.effect = found
    return line, count


def _fields(logical: str, places: list[int]) -> list[list[Token]]:
    """Return the fields of a line, each a list of the tokens that commas join."""
    fields: list[list[Token]] = []
    position, joined = 0, False
    while True:
        found = _TOKEN.match(logical, _GAP.match(logical, position).end())
        if not found:
            return fields
        text = _QUOTED.sub(lambda quoted: quoted[1].replace('""', '"'), found[0])
        token = Token(text, found[0][0] == '"', places[found.start()], places[found.end() - 1] + 1)
        if joined:
            fields[-1].append(token)
        else:
            fields.append([token])
        position = found.end()
        joined = logical[position : position + 1] == ","


def _name(column: str, text: str, quoted: bool) -> Name:
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
    family, address = found[0][0], found[0][4][0].partition("%")[0]
    return family, int.from_bytes(socket.inet_pton(family, address), "big")


def _mask(bits: int, size: int) -> int:
    return ((1 << bits) - 1) << (size - bits)


def _method_in_force(kind: str, method: str | None) -> str | None:
    """Return the method the server uses: on a Unix socket, ident means peer (manual, section 21.8)."""
    return "peer" if (kind, method) == ("local", "ident") else method


def _names_meet(one: Name, other: Name) -> bool:
    kinds = {one.kind, other.kind}
    if "file" in kinds:
        return True
    if "replication" in kinds:
        return len(kinds) == 1  # "all" does not match a physical replication connection
    return one.text == other.text if kinds == {"name"} else True


def _people_meet(database: Name, user: Name, other_database: Name, other_user: Name) -> bool:
    """Tell whether some user of some database could be meant by both; ``sameuser`` ties the one to the other."""
    if not (_names_meet(database, other_database) and _names_meet(user, other_user)):
        return False
    databases = {database.kind: database.text, other_database.kind: other_database.text}
    if databases.keys() != {"sameuser", "name"}:
        return True
    return all(name.text == databases["name"] for name in (user, other_user) if name.kind == "name")


def _name_covers(wide: Name, narrow: Name) -> bool:
    if wide.kind == "all":
        return narrow.kind not in ("replication", "file")
    return wide == narrow or (wide.kind == "member" and narrow == Name("name", wide.text))


def _addresses_meet(one: Address | None, other: Address | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.kind == other.kind == "net":
        return one.family == other.family and not (one.base ^ other.base) & one.mask & other.mask
    if one.kind == other.kind == "host":
        return _address_covers(one, other) or _address_covers(other, one)
    return True


def _address_covers(wide: Address | None, narrow: Address | None) -> bool:
    if wide is None or narrow is None:
        return wide is narrow
    if wide.kind == narrow.kind == "net":
        # The narrow one fixes every bit that the wide one fixes, and to the same value.
        return wide.family == narrow.family and not (wide.mask & ~narrow.mask or (wide.base ^ narrow.base) & wide.mask)
    if wide.kind == narrow.kind == "host":
        return is_host(wide.name, narrow.name)  # the server looks up one name for the client (hba.c, check_hostname)
    return wide.kind == "all" or wide == narrow or (wide.kind, narrow.kind) == ("samenet", "samehost")


def _conflict(rule: Rule, other: Rule) -> bool:
    """Tell whether some connection could match both rules and would be treated differently."""
    return rule.effect != other.effect and could_meet(rule, other)


def _guards(other: Rule, rule: Rule) -> bool:
    """Tell whether ``other`` rejects a part of what ``rule`` lets in: an exception that somebody meant."""
    return other.method == "reject" and rule.effect != other.effect and covers(rule, other) and not covers(other, rule)


def _shared(rule: Rule, other: Rule) -> Rule:
    """Return a rule for all connections that match both, and for no other than ``rule``'s."""
    types = [kind for kind in (rule.type, other.type) if TYPES[kind] <= TYPES[rule.type] & TYPES[other.type]]
    address = other.address if _address_covers(rule.address, other.address) else rule.address
    return dataclasses.replace(
        rule,
        type=types[0] if types else rule.type,
        databases=_shared_names(rule.databases, other.databases),
        users=_shared_names(rule.users, other.users),
        address=address,
    )


def _shared_names(ours: tuple[Name, ...], theirs: tuple[Name, ...]) -> tuple[Name, ...]:
    """Return names for all that both mean: where one name covers the other the narrower one, else ours."""
    return tuple(other if _name_covers(name, other) else name for name in ours for other in theirs if _names_meet(name, other))


def _is_taken(rule: Rule, line: Line, before: list[Line]) -> bool:
    """Tell whether what ``line`` could take of the rule's connections never gets to it: a line before it has it all.

    That line treats them as the rule does, or is an exception to it.
    """
    shared = _shared(rule, line.rule)
    others = [other.rule for other in before if other.rule]
    return any((other.effect == rule.effect or _guards(other, rule)) and covers(other, shared) for other in others)


def _must_precede(rule: Rule, line: Line, earlier: list[tuple]) -> bool:
    """Tell whether ``rule`` counts only before ``line``, which is not one of the ``earlier`` rules given with it."""
    if not line.rule:
        return bool(line.fields)
    if line.rule.selector == rule.selector or line.rule.selector in earlier:
        return False
    return could_take(line.rule, rule)


def _limits(lines: list[Line], rule: Rule, earlier: list[tuple]) -> tuple[int, int]:
    """Return before which line ``rule`` belongs, and before which one it counts at the latest, as indexes.

    It belongs before the first line that could take its connections from it; but behind an exception to it that comes
    after that, where nothing of the rule is lost so. It is not looked further than there are exceptions, or the rule itself.
    """
    rivals = (index for index, line in enumerate(lines) if _must_precede(rule, line, earlier))
    first = last = next(rivals, len(lines))
    guards = [index for index in range(first, len(lines)) if lines[index].rule and _guards(lines[index].rule, rule)]
    own = [index for index in range(first, len(lines)) if lines[index].rule and lines[index].rule.selector == rule.selector]
    end = max(guards + own, default=-1)
    while last <= end and lines[last].rule and _is_taken(rule, lines[last], lines[:last]):
        last = next(rivals, len(lines))
    return next((index + 1 for index in reversed(guards) if index < last), first), last


def _settle(lines: list[Line], rule: Rule, earlier: list, following: Line | None, newline: str) -> tuple[Line, str]:
    """Make ``rule`` effective in ``lines``, before ``following`` where that is free to choose; return its line and action."""
    limit, last = _limits(lines, rule, earlier)
    own = [line for line in lines if line.rule and line.rule.selector == rule.selector]
    same = [line for line in own if line.rule.effect == rule.effect]
    ahead = [line for line in own if line in lines[:last]]
    if ahead and ahead[0] in same:
        return ahead[0], "present"
    if ahead:
        fresh = _with_effect(ahead[0], rule)
        lines[lines.index(ahead[0])] = fresh
        for line in same:
            lines.remove(line)
        return fresh, "replaced"
    for line in own:
        lines.remove(line)
    old = (same or own or [None])[0]
    if old is None or old.open:
        fresh = parse(rule_text(rule) + newline)[0]
    else:
        fresh = old if old in same else _with_effect(old, rule)
        fresh.raw += "" if fresh.raw.endswith("\n") else newline
    _insert(lines, _position(lines, rule, limit, following), fresh, newline)
    return fresh, "moved" if own else "inserted"


def _position(lines: list[Line], rule: Rule, limit: int, following: Line | None) -> int:
    """Return where to put ``rule``: at ``limit``, or before ``following`` unless that would pass a line that guards it."""
    wanted = lines.index(following) if following else limit
    passed = lines[wanted:limit]
    return limit if wanted > limit or any(line.rule and _guards(line.rule, rule) for line in passed) else wanted


def _insert(lines: list[Line], index: int, fresh: Line, newline: str) -> None:
    """Put ``fresh`` at ``index``; at the end, first end the line before it, which may lack its end or want a continuation."""
    if lines and index == len(lines):
        last = lines[-1]
        last.raw += "" if last.raw.endswith("\n") else newline
        last.raw += newline if last.open else ""
        last.open = False
    lines.insert(index, fresh)


def _with_effect(line: Line, rule: Rule) -> Line:
    """Return ``line`` with the method and options of ``rule``; its spacing, comment and end stay."""
    start, end = line.effect
    return parse(line.raw[:start] + _effect_text(rule) + line.raw[end:])[0]


def _is_meant(rule: Rule, other: Rule) -> bool:
    """Tell whether ``other`` is the line that ``rule``, perhaps without method and options, wants removed."""
    return (
        rule.selector == other.selector
        and (rule.method is None or rule.effect[0] == other.effect[0])
        and (rule.options is None or rule.effect[1] == other.effect[1])
    )


def _require_reachable(rules: list[Rule]) -> None:
    """Raise Refusal when one of ``rules`` takes all connections of a later one and treats them differently."""
    for index, rule in enumerate(rules):
        for later in range(index + 1, len(rules)):
            if covers(rule, rules[later]) and rule.effect != rules[later].effect:
                raise Refusal(
                    f"Rule {later + 1} ({_one_space(rules[later])}) would never be used: "
                    f"rule {index + 1} ({_one_space(rule)}) comes first and matches all of its connections.",
                    "Put the narrower rule first, or leave one of them out.",
                )


def _distinct(rules: list[Rule]) -> list[Rule]:
    """Return ``rules`` without repetitions, in their order."""
    return [rule for index, rule in enumerate(rules) if _index(rules, rule) == index]


def _index(rules: list[Rule], rule: Rule) -> int:
    """Return where the first of ``rules`` stands that means the same as ``rule``."""
    return next(i for i, other in enumerate(rules) if (other.selector, other.effect) == (rule.selector, rule.effect))


def _numbers(lines: list[Line]) -> dict[Line, int]:
    """Return the number of the first physical line of each of ``lines`` as they stand now."""
    numbers, number = {}, 1
    for line in lines:
        numbers[line] = number
        number += line.raw.count("\n")
    return numbers


def _gone(before: list[Line], after: list[Line]) -> set[int]:
    return {line.number for line in set(before).difference(after)}


def _warnings(lines: list[Line], settled: list[tuple[Rule, Line, str]], numbers: dict[Line, int]) -> list[str]:
    """Return what a person should know about ``settled`` rules: open doors, exceptions in front, lines put out of use."""
    ours = {rule.selector for rule, _home, _action in settled}
    foreign = [line for line in lines if line.rule and line.rule.selector not in ours]
    warnings = []

    @functools.lru_cache(maxsize=None)
    def is_spent(index: int) -> bool:
        """Tell whether lines before this one have taken all of its connections all along."""
        return any(covers(other.rule, foreign[index].rule) for other in foreign[:index])

    for rule, home, action in settled:
        if rule.method == "trust":
            warnings.append(f"The rule '{_one_space(rule)}' lets these connections in without any proof of who they are.")
        is_new = action in ("inserted", "moved")
        for index, line in enumerate(foreign):
            is_behind = numbers[line] > numbers[home]
            remark = (is_new and _loss(rule, line.rule)) if is_behind else _exception(rule, line.rule)
            if remark and not (is_behind and is_spent(index)):
                warnings.append(f"Line {numbers[line]} ({_one_space(line.rule)}) {remark.format(_one_space(rule))}")
    return warnings


def _exception(rule: Rule, other: Rule) -> str:
    """Return what is to be said of ``other``, which stands before ``rule``."""
    return "rejects a part of what the rule '{}' lets in; it was left in front of it." if _guards(other, rule) else ""


def _loss(rule: Rule, other: Rule) -> str:
    """Return what is to be said of ``other``, before which ``rule`` was put."""
    rejects = other.method == "reject"
    if not _conflict(rule, other) or (rejects and covers(other, rule)):
        return ""
    if rejects:
        return (
            "may have rejected connections that the rule '{}', now before it, lets in. "
            "Move it before that rule if it is to reject them still."
        )
    return "is out of use: the rule '{}' stands before it and matches all of its connections." if covers(rule, other) else ""


def _one_space(rule: Rule) -> str:
    """Return the rule on one line with single blanks, for a message."""
    return re.sub(" +", " ", shown(rule_text(rule)))


def _newline(text: str) -> str:
    """Return the line end that most lines of ``text`` have."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _effect_text(rule: Rule) -> str:
    options = [f"{name}={_word(value)}" for name, value in rule.options or ()]
    return " ".join(([rule.method] if rule.method else []) + options)


def _name_text(column: str, name: Name) -> str:
    """Return ``name`` as it is written in ``column`` of the file, quoted where it would be read as something else."""
    prefix = {"member": "+", "file": "@"}.get(name.kind)
    if prefix:
        return prefix + _word(name.text)
    if name.kind not in ("name", "regex"):
        return name.kind
    return _word(name.text, misread=_name(column, name.text, False) != name)


def _word(text: str, misread: bool = False) -> str:
    """Return ``text`` as a token, in quotes when it needs them; a backslash must not end the line."""
    if text and not misread and not re.search(r'[\s,#"\\]', text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _require_one_line(where: str, what: str, text: str) -> None:
    if any(char in text for char in "\n\r\0"):
        raise Refusal(
            f"{where} has a line end or a NUL character in its {what}.",
            "pg_hba.conf cannot hold that; give the value without it.",
        )


def _given_names(where: str, column: str, text: str) -> tuple[Name, ...]:
    """Return the names of a user's comma list; an item in quotes is a name, whatever it looks like."""
    names, position, more = [], 0, True
    while more:
        item = _ITEM.match(text, position)
        if not item:
            raise Refusal(
                f"{where} has the {column} {text!r}, in which a name is missing or a quote is not closed.",
                "Separate names with commas, and write a name that holds a comma or a quote, or is a keyword, "
                'in double quotes (a quote within as "").',
            )
        quoted = item[1] is not None
        name = _name(column, item[1][1:-1].replace('""', '"') if quoted else item[2], quoted)
        if name.kind in ("name", "member"):
            _connection.require_name("database" if column == "database" else "role", name.text)
        names.append(name)
        position, more = item.end(), item[3] == ","
    return tuple(names)


def _given_address(where: str, kind: str, text: str | None) -> Address | None:
    """Return a user's address; None for local. Stricter than the server, which takes a mistyped number for a host name."""
    if kind == "local":
        if text:
            raise Refusal(f"{where} is local and has the address {text!r}.", "A Unix socket has none; leave it away.")
        return None
    if not text:
        raise Refusal(f"{where} has the type {kind} and no address.", "Give one, such as 127.0.0.1/32, or all.")
    if text in ("all", "samehost", "samenet"):
        return Address(text, text)
    if _HOST_NAME.fullmatch(text) and not text.rstrip(".").rpartition(".")[2].isdigit():
        return Address("host", text, name=text.lower())
    base, slash, bits = text.partition("/")
    try:
        net = ipaddress.ip_network(text, strict=False) if slash else None
        ipaddress.ip_address(base)
    except ValueError as error:
        raise Refusal(
            f"{where} has the address {text!r}, which is neither an address with a mask length nor a host name.",
            "Write it like 10.0.0.0/8, fd00::/8, db.example.org or .example.org, or use all, samehost or samenet.",
        ) from error
    if net is None or not (bits.isdigit() and bits.isascii()) or "%" in text:
        raise Refusal(
            f"{where} has the address {text!r} without the length of its mask.",
            f"For this one address write {base}/{32 if '.' in base else 128}.",
        )
    family = socket.AF_INET if net.version == 4 else socket.AF_INET6
    numbers = {"base": int(net.network_address), "mask": int(net.netmask)}
    return Address("net", f"{ipaddress.ip_address(base)}/{net.prefixlen}", family=int(family), **numbers)


def _given_options(where: str, options: dict) -> tuple[tuple[str, str], ...]:
    """Return a user's options as text; true and false as the 1 and 0 that the server knows."""
    found = []
    for name, value in options.items():
        if not re.fullmatch(r"[a-z_]+", str(name)):
            raise Refusal(f"{where} has an option named {name!r}.", "Use the names of the manual, section 21.1.")
        if name in _SECRETS:
            raise Refusal(
                f"{where} has the option {name}, which holds a secret, and Ansible logs the options of a task.",
                "Keep such a line by hand; this module leaves it as it is.",
            )
        if not isinstance(value, (str, int)):
            raise Refusal(f"{where} has no text or number for the option {name}.", "Give the option a value.")
        text = str(int(value)) if isinstance(value, bool) else str(value)
        _require_one_line(where, f"option {name}", text)
        found.append((name, text))
    return tuple(found)
