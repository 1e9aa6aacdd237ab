# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``database:`` section of Synapse's homeserver.yaml: read, wished for and replaced, every other byte left as it is.

YAML is read and emitted by PyYAML; where the section stands in the text is told by the positions of PyYAML's tokens.
"""

from __future__ import annotations

import collections
import json
import re
import sys

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import libpq

try:
    import yaml
    from yaml import SafeDumper, SafeLoader
except ImportError:
    # The module that imports this then starts itself again under a Python that has PyYAML.
    yaml, SafeDumper, SafeLoader = None, object, object

KEY = "database"
MASK = "********"

# Siblings of ``args`` that Synapse reads and the module has no option for: synapse/storage/database.py (txn_limit) and
# synapse/storage/engines/postgres.py, PostgresEngine. An administrator who set one keeps it.
_KEPT = ("txn_limit", "synchronous_commit", "statement_timeout", "idle_in_transaction_session_timeout")

# What a diff may show of a section; all else might be a misplaced or misspelt secret. ``database`` is SQLite's file.
_SHOWN = {"name", "allow_unsafe_locale", "database", "check_same_thread", *_KEPT, *libpq.KEYWORDS} - libpq.SECRETS

# YAML 1.1, section 5.4: what PyYAML takes for the end of a line.
_BREAK = "(?:\r\n|[\r\n\x85\u2028\u2029])"
_NO_BREAK = "[^\r\n\x85\u2028\u2029]"
_BLANK = " \t\r\n\x85\u2028\u2029"

# PyYAML's emitter writes text with these over several lines or plainly, and reads some of it back otherwise.
_ODD_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\ufeff]")

# The spelling of ``dbname`` that psycopg2 knows besides, and other programs that read the section know alone.
_ALIAS = "database"

# What a database of SQLite's is called, by Synapse and by those who move it.
_FILE = re.compile(r"/.*|.*\.(db|db3|sqlite|sqlite3)|:memory:", re.DOTALL)

# What Python's own conversions raise within PyYAML for a value such as 2024-02-31 or !!int x.
_CONVERSION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


class _Loader(SafeLoader):
    """SafeLoader, with the position of a value that Python cannot convert."""

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except _CONVERSION_ERRORS as error:
            raise yaml.constructor.ConstructorError(None, None, "this is no value of its type", node.start_mark) from error


class _Dumper(SafeDumper):
    """SafeDumper that quotes text so that it takes one line and comes back as it was."""

    def represent_scalar(self, tag, value, style=None):
        return super().represent_scalar(tag, value, '"' if _ODD_TEXT.search(value) else style)


# A homeserver.yaml as its tokens have it. ``entries``: the tokens of each top-level key and its value; ``flow``: whether the
# top level is in braces; ``inside``: the offset after the opening brace; ``end``: the offset where the document ends.
_Layout = collections.namedtuple("_Layout", "entries flow inside end")


def require_yaml() -> None:
    """Raise Refusal unless the interpreter that runs the module has PyYAML."""
    if yaml is None:
        raise Refusal(
            f"The Python that Ansible uses here, {sys.executable}, has no PyYAML, and no other one that has it was found.",
            "Install it for that interpreter (on Debian: `apt-get install python3-yaml`), or give synapse_python, the Python "
            "that Synapse runs under, which has it.",
        )


def read(path: str) -> str:
    """Return the text of the file ``path``; Refusal when it is not UTF-8, which Synapse reads it as."""
    with open(path, "rb") as stream:
        content = stream.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line, file, new = content.count(b"\n", 0, error.start) + 1, _words.shell(path), _words.shell(f"{path}.utf-8")
        encoding = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "ISO-8859-1"
        raise Refusal(
            f"{path} is not UTF-8, as which Synapse reads it: line {line} has the byte 0x{content[error.start]:02x}.",
            f"If it is {encoding}, convert it by "
            f"`umask 077 && iconv -f {encoding} -t UTF-8 {file} > {new} && cat {new} > {file} && rm {new}`, then run this again.",
        ) from error


def parse(text: str, path: str = "homeserver.yaml") -> dict:
    """Return the mapping that ``text``, the content of ``path``, stands for; an empty file is an empty mapping.

    Raises Refusal, with line and column, for text that is no YAML as Synapse reads it (one document, a mapping, no tags of
    other programs'), that has ``database:`` twice, or that has ``databases:``, with which Synapse divides its tables.
    """
    require_yaml()
    documents = _documents(text, path)
    if len(documents) > 1:
        raise Refusal(
            f"{path} holds {len(documents)} YAML documents; Synapse reads a file with one.",
            "Remove the lines --- between them, or all documents but one.",
        )
    document = documents[0] if documents else None
    if document is None and not _has_content(text):
        return {}
    if not isinstance(document, dict):
        raise Refusal(
            f"The top level of {path} is not a mapping but a value of Python's type {type(document).__name__}.",
            "Check that this is Synapse's configuration file: lines such as server_name: example.org.",
        )
    _require_one_section(text, document, path)
    return document


def section(text: str, path: str = "homeserver.yaml") -> dict | None:
    """Return the ``database:`` section of ``text``, None when there is none or a null one.

    Raises Refusal as parse() does, and for a section that is no mapping.
    """
    found = parse(text, path).get(KEY)
    if found is not None and not isinstance(found, dict):
        raise Refusal(
            f"The key database in {path} holds a {type(found).__name__}, where Synapse expects a mapping with name and args.",
            "Correct the section or remove it.",
        )
    return found


def line_of_section(text: str, path: str = "homeserver.yaml") -> int:
    """Return the number of the line, from 1, on which the section of ``text`` stands, or would come to stand."""
    parse(text, path)
    own = (entry[0].start_mark.line + 1 for entry in _layout(text).entries if _name(entry) == KEY)
    return next(own, len(re.findall(_BREAK, text)) + 1)


def replace(text: str, wished: dict, path: str = "homeserver.yaml") -> str:
    """Return ``text`` with ``wished`` as its ``database:`` section, in the old one's place or else at the end.

    Text outside the section, comments and ends of lines included, is the same as before. To the section belong its lines
    from the key to the last value, and the comments that follow at a deeper indentation than the key. The new lines end as
    most lines of ``text`` do. Raises Refusal as parse(), when a later key refers to an anchor in the old section, and when
    the new text would not mean what is wished: all other keys as before.
    """
    before = parse(text, path)
    _require_legible(text, path)
    layout = _layout(text)
    own = next((index for index, entry in enumerate(layout.entries) if _name(entry) == KEY), None)
    if own is not None:
        _require_unshared(layout.entries, own, path)
        start, end = _span(text, layout, own)
        new = text[:start] + _emitted(text, layout, wished) + text[end:]
    else:
        new = _inserted(text, layout, wished)
    _require_equal(text, before, wished, new, path)
    return new


def wished_section(present: dict | None, args: dict, pool: dict, keepalives: dict, allow_unsafe_locale: bool = False) -> dict:
    """Return the section for Synapse to use PostgreSQL with ``args``, the keywords of libpq.KEYWORDS.

    ``pool`` is ``{min, max}`` in connections, ``keepalives`` is ``{idle, interval, count}`` in seconds, seconds and probes; what
    ``args`` says itself goes before them. Keywords that are None or empty are left out. Of the ``present`` section those
    siblings of ``args`` stay that Synapse reads and no option sets, and the name of the database is called as it is there,
    dbname or database. Raises Refusal for values that cannot work.
    """
    for keyword in sorted(libpq.SECRETS):
        if args.get(keyword) == "":
            raise Refusal(
                f"args.{keyword} is empty; Synapse could not log in with it.",
                f"Give {keyword}, or leave it out for a login without one.",
            )
    given = {keyword: args[keyword] for keyword in libpq.KEYWORDS if args.get(keyword) not in (None, "")}
    if "port" in given:
        given["port"] = _port(given["port"])
    for name in ("idle", "interval", "count"):
        given.setdefault(f"keepalives_{name}", keepalives[name])
    for name in ("min", "max"):
        given.setdefault(f"cp_{name}", pool[name])
    _require_possible(given)
    kept = {name: present[name] for name in _KEPT if present and present.get(name) is not None}
    unsafe = {"allow_unsafe_locale": True} if allow_unsafe_locale else {}
    if _is_called_database(present):
        given = {_ALIAS if keyword == "dbname" else keyword: value for keyword, value in given.items()}
    return {"name": "psycopg2", **kept, "args": given, **unsafe}


def require_meant(text: str, wished: dict, path: str = "homeserver.yaml") -> None:
    """Raise Refusal for a section of ``text`` that somebody left half edited: where the users are is not known from it.

    That is one of PostgreSQL's with SQLite's file, or of SQLite's with keywords of PostgreSQL's, or one whose keys stand at the
    top level. ``wished`` is the section that is to take its place.
    """
    document, present = parse(text, path), section(text, path)
    strays = _strays(document, present)
    if strays and not _is_whole(present):
        raise _refuse_strays(text, strays, present, path)
    args = present.get("args") if present else None
    if not isinstance(args, dict):
        return
    name, database = present.get("name"), args.get(_ALIAS)
    others = sorted(set(args) & set(libpq.LIBPQ))
    is_file = isinstance(database, str) and bool(_FILE.fullmatch(database))
    if name == "psycopg2" and is_file and database != wished["args"].get(_ALIAS):
        found, other, is_clear = f"PostgreSQL, and args names the file {database}, which is SQLite's", "sqlite3", not others
    elif name == "sqlite3" and others:
        found, other, is_clear = f"SQLite, and args has PostgreSQL's {', '.join(others)}", "psycopg2", not is_file
    else:
        return
    line = _line_of(text, name)
    command = f"correct the name by `sed -i '{line}s/{name}/{other}/' {_words.shell(path)}`; otherwise correct args"
    remedy = (
        f"If they are where args says, {command}."
        if is_clear and line
        else "Leave in it what is of the one, and take the other's out."
    )
    raise Refusal(
        f"The database section of {path} is half edited: its name is {name}, {found}. Where the users are is not known from it.",
        f"{remedy} Then run this again.",
    )


def leftovers(text: str, path: str = "homeserver.yaml") -> str:
    """Return a warning of keys that stand at the top level of ``text`` beside a section which needs them not; else ""."""
    document, present = parse(text, path), section(text, path)
    strays = _strays(document, present)
    layout = _layout(text)
    if not strays or not _is_whole(present) or layout.flow:
        return ""
    ranges = _ranges(text, layout, strays)
    doomed = ";".join(f"{first},{last}d" for first, last in ranges)
    return (
        f"{path} has {' and '.join(strays)} at the top level ({_on_lines(ranges)}), where Synapse does not read them; they may "
        f"hold an old password. Remove them by `sed -i '{doomed}' {_words.shell(path)}`."
    )


def masked(found: dict | None, other: dict | None = None) -> dict | None:
    """Return the section ``found`` as a person may see it: MASK for secrets and for what is not known to be none.

    With ``other``, the section that it replaces, a value under MASK that is not the same there is marked as changed.
    """
    if found is None:
        return None
    shown = {}
    for key, value in found.items():
        elsewhere = (other or {}).get(key)
        if key == "args" and isinstance(value, dict):
            shown[key] = masked(value, elsewhere if isinstance(elsewhere, dict) else None)
        elif key in _SHOWN and not isinstance(value, (dict, list)):
            shown[key] = value
        else:
            shown[key] = MASK if elsewhere is None or elsewhere == value else f"{MASK} (changed)"
    return shown


def dumped(wished: dict | None) -> str:
    """Return the lines ``database: ...`` for a section, each ended by a newline; nothing for None."""
    if wished is None:
        return ""
    return yaml.dump(
        {KEY: wished}, Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True, width=sys.maxsize
    )


def _documents(text: str, path: str) -> list:
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        words = _without_content(", ".join(filter(None, [error.context, error.problem])))
    except yaml.reader.ReaderError as error:
        head = text[: error.position]
        place = f"line {len(re.findall(_BREAK, head)) + 1}, column {len(re.split(_BREAK, head)[-1]) + 1}"
        words = f"the character U+{ord(text[error.position]):04X} is not allowed"
    except RecursionError:
        place, words = "some line", "values are nested too deeply"
    raise Refusal(f"{path} is not YAML that Synapse can read: {place}: {words}.", "Correct the file there, then run this again.")


def _without_content(words: str) -> str:
    """Take what the parser quotes from the file out of its ``words``: it may be a piece of a password.

    Its own quotations are single characters and names of tokens such as '<block end>'.
    """
    own = re.compile(r"'<[a-z ]+>'|'[^']?'|\"[^\"]?\"|'\\[a-z]'")
    return re.sub("'[^']*'|\"[^\"]*\"", lambda quoted: quoted[0] if own.fullmatch(quoted[0]) else "...", words)


def _has_content(text: str) -> bool:
    """Tell whether the one document of ``text`` has a top-level node, be it a null that is written out."""
    nodes = (yaml.ScalarToken, yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)
    return any(isinstance(token, nodes) for token in yaml.scan(text, Loader=SafeLoader))


def _require_one_section(text: str, document: dict, path: str) -> None:
    own = [entry[0].start_mark.line + 1 for entry in _layout(text).entries if _name(entry) == KEY]
    if len(own) > 1:
        raise Refusal(
            f"{path} has the key database {len(own)} times, on the lines {', '.join(map(str, own))}; only the last one counts.",
            "Remove all but the one that is meant.",
        )
    if "databases" in document:
        raise Refusal(
            f"{path} has the key databases: Synapse's tables are divided among several databases.",
            "Edit that section by hand; this collection looks after a single database.",
        )


def _require_legible(text: str, path: str) -> None:
    """Raise Refusal for a key that a person reads as database and Synapse does not: with a character that is not seen."""
    for entry in _layout(text).entries:
        name = _name(entry) or ""
        character = _words.misleading(name)
        if character and _words.plain(name).strip() == KEY:
            line = entry[0].start_mark.line + 1
            raise Refusal(
                f"The key database on line {line} of {path} is {_words.visible(name)}, so that Synapse does not know it.",
                f"Correct it by `{_words.removal(character, line, path)}`, then run this again.",
            )


def _is_called_database(present: dict | None) -> bool:
    """Tell whether the ``present`` section, of PostgreSQL's, names its database by the keyword database."""
    args = present.get("args") if present and present.get("name") == "psycopg2" else None
    return isinstance(args, dict) and _ALIAS in args and "dbname" not in args


def _is_whole(present: dict | None) -> bool:
    return bool(present and present.get("name") and isinstance(present.get("args"), dict))


def _strays(document: dict, present: dict | None) -> list:
    """Return the top-level keys of ``document`` that are a database section's, in their order.

    Synapse has no such options: the section was written without its indentation, or half of it was removed.
    """
    args = document.get("args")
    own = {"name", "args", "allow_unsafe_locale", *_KEPT}
    known = {*libpq.KEYWORDS, KEY, "check_same_thread"}
    if document.get("name") in ("psycopg2", "sqlite3") or (isinstance(args, dict) and known.intersection(args)):
        return [key for key in document if key in own]
    if present and "args" in present and present["args"] is None:
        found = [key for key in document if key in libpq.KEYWORDS]
        return found if len(found) > 1 else []
    return []


def _ranges(text: str, layout: _Layout, keys: list) -> list[tuple[int, int]]:
    """Return the first and last lines, from 1, of the top-level ``keys``; ranges with nothing but comments between are one."""
    found: list = []
    lines = re.split(_BREAK, text)
    for index, entry in enumerate(layout.entries):
        if _name(entry) in keys:
            start, end = _span(text, layout, index)
            first = entry[0].start_mark.line + 1
            last = first + len(re.findall(_BREAK, text[start:end]))
            if found and not _says_something(lines[found[-1][1] : first - 1]):
                first = found.pop()[0]
            found.append((first, last))
    return found


def _says_something(lines: list[str]) -> bool:
    return any(line.strip() and not line.strip().startswith("#") for line in lines)


def _on_lines(ranges: list[tuple[int, int]]) -> str:
    return "lines " + ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in ranges)


def _line_of(text: str, value: str) -> int | None:
    """Return the number of the line, from 1, on which ``value`` stands in the section; None where an alias stands for it."""
    layout = _layout(text)
    own = next(entry for entry in layout.entries if _name(entry) == KEY)
    scalars = (token for token in own if isinstance(token, yaml.ScalarToken) and token.value == value)
    return next((token.start_mark.line + 1 for token in scalars), None)


def _refuse_strays(text: str, strays: list, present: dict | None, path: str) -> Refusal:
    """Return the Refusal for a section that is not whole while keys of it stand at the top level, as ``strays``."""
    layout = _layout(text)
    ranges = _ranges(text, layout, strays)
    remedy = "Move them into the section database, then run this again."
    own = next((entry for entry in layout.entries if _name(entry) == KEY), None)
    if own and not layout.flow and len(ranges) == 1:
        lines = re.split(_BREAK, text)
        start, end = _span(text, layout, layout.entries.index(own))
        between = lines[own[0].start_mark.line + 1 + len(re.findall(_BREAK, text[start:end])) : ranges[0][0] - 1]
        if not _says_something(between):
            columns = [token.start_mark.column for token in own[1:] if isinstance(token, yaml.KeyToken)]
            deeper = 2 if present is None or strays[0] in ("name", "args") else 4
            blanks = " " * (columns[0] if columns and deeper == 2 else deeper)
            command = f"sed -i '{ranges[0][0]},{ranges[0][1]}s/^/{blanks}/' {_words.shell(path)}"
            remedy = f"If they are the section, indent them by `{command}`; otherwise remove them. Then run this again."
    return Refusal(
        f"The database section of {path} is not whole, and {' and '.join(strays)} stand at the top level ({_on_lines(ranges)}), "
        "where Synapse does not read them.",
        remedy,
    )


def _layout(text: str) -> _Layout:
    """Return where the top-level keys of ``text``, which is valid, stand; without keys for an empty document."""
    opening = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
    closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
    entries, depth, flow, inside, end = [], 0, False, 0, len(text)
    for token in yaml.scan(text, Loader=SafeLoader):
        if isinstance(token, closing):
            depth -= 1
        if depth == 1 and isinstance(token, yaml.FlowEntryToken if flow else yaml.KeyToken):
            entries.append([])
        if depth and entries:
            entries[-1].append(token)
        if isinstance(token, opening):
            depth += 1
            if depth == 1 and isinstance(token, yaml.FlowMappingStartToken):
                flow, inside = True, token.end_mark.index
                entries.append([])
        if isinstance(token, yaml.DocumentEndToken):
            end = token.start_mark.index
    commas = (yaml.FlowEntryToken,) if flow else ()
    entries = [entry[1:] if entry and isinstance(entry[0], commas) else entry for entry in entries]
    return _Layout([entry for entry in entries if entry], flow, inside, end)


def _name(entry: list) -> str | None:
    """Return the key of an entry's tokens, None when it is no plain text."""
    properties = (yaml.KeyToken, yaml.AnchorToken, yaml.TagToken)
    first = next((token for token in entry if not isinstance(token, properties)), None)
    return first.value if isinstance(first, yaml.ScalarToken) else None


def _require_unshared(entries: list, own: int, path: str) -> None:
    """Raise Refusal when a key after the section refers to an anchor that would go with it."""
    defined = {token.value for token in entries[own] if isinstance(token, yaml.AnchorToken)}
    for token in (token for entry in entries[own + 1 :] for token in entry):
        if isinstance(token, yaml.AliasToken) and token.value in defined:
            raise Refusal(
                f"Line {token.start_mark.line + 1} of {path} refers to &{token.value}, an anchor in the database section.",
                "Write the value out there, then run this again.",
            )


def _span(text: str, layout: _Layout, own: int) -> tuple[int, int]:
    """Return the offsets at which the section, the entry ``own``, starts and ends; its last line's end stays outside."""
    written = [token for token in layout.entries[own] if token.start_mark.index < token.end_mark.index]
    first, start, end = layout.entries[own][0], layout.entries[own][0].start_mark.index, written[-1].end_mark.index
    if layout.flow:
        return start, end
    # A block scalar ends where the next line starts.
    end = start + len(text[start:end].rstrip(_BLANK))
    indent = f" {{{first.start_mark.column}}}[ \t]+"
    rest = re.compile(f"{_NO_BREAK}*(?:(?:{_BREAK}[ \t]*)*{_BREAK}{indent}#{_NO_BREAK}*)*")
    return start, rest.match(text, end).end()


def _emitted(text: str, layout: _Layout, wished: dict) -> str:
    """Return the section as it stands in ``text``: from the key's column on, without the end of the last line."""
    if _is_json(text):
        return _json_section(layout, wished).replace("\n", _newline(text))
    if layout.flow:
        line = yaml.dump(
            {KEY: wished}, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize
        )
        return line.strip()[1:-1]
    column = layout.entries[0][0].start_mark.column if layout.entries else 0
    return (_newline(text) + " " * column).join(dumped(wished).splitlines())


def _inserted(text: str, layout: _Layout, wished: dict) -> str:
    """Return ``text`` with the section after its last key: at the end of the document, after a blank line."""
    new = _emitted(text, layout, wished)
    if layout.flow:
        marks = [token.end_mark.index for entry in layout.entries for token in entry]
        at = max(marks, default=layout.inside)
        column = _own_column(layout) if _is_json(text) else 0
        gap = f",{_newline(text)}{' ' * column}" if column else ", "
        return f"{text[:at]}{gap if marks else ''}{new}{text[at:]}"
    head, tail, newline = text[: layout.end], text[layout.end :], _newline(text)
    lines = re.split(_BREAK, head.lstrip("\ufeff"))
    if lines[-1]:
        head += newline
        lines.append("")
    if lines[-2:-1] and lines[-2].strip():
        head += newline
    column = layout.entries[0][0].start_mark.column if layout.entries else 0
    return f"{head}{' ' * column}{new}{newline}{tail}"


def _is_json(text: str) -> bool:
    """Tell whether ``text`` is JSON, which is YAML as well: programs that know no YAML may read it."""
    try:
        json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return True


def _json_section(layout: _Layout, wished: dict) -> str:
    """Return the section as JSON, which YAML reads alike; over several lines where the file's own keys are on lines of theirs."""
    column = _own_column(layout)
    written = json.dumps(wished, ensure_ascii=False, indent=column or None)
    # What JSON may hold as it is and YAML may not.
    escaped = _ODD_TEXT.sub(lambda odd: odd[0] if odd[0] == "\n" else f"\\u{ord(odd[0]):04x}", written)
    return f'"{KEY}": ' + escaped.replace("\n", "\n" + " " * column)


def _own_column(layout: _Layout) -> int:
    """Return the column of the keys of a mapping in braces that are indented, on lines of their own; 0 where they are not."""
    starts = [entry[0].start_mark for entry in layout.entries]
    alone = len({start.line for start in starts}) == len(starts) and starts and starts[0].line and starts[-1].column > 1
    return starts[-1].column if alone else 0


def _newline(text: str) -> str:
    """Return how most lines of ``text`` end."""
    found = collections.Counter(re.findall("\r\n|\n|\r", text)).most_common(1)
    return found[0][0] if found else "\n"


def _require_equal(text: str, before: dict, wished: dict, new: str, path: str) -> None:
    """Raise Refusal unless ``new`` means ``before``, which is ``text``, with ``wished`` as its section; and is JSON as that is.

    They are compared as Python writes them: so .nan equals itself, 1 differs from true, and aliases may form a circle.
    """
    after = dict(parse(new, f"{path}, as it would be written,"))
    if _is_json(text) and not _is_json(new):
        raise Refusal(f"{path} is JSON, and would be none with the new section; nothing was written.", "Write it by hand.")
    others = {key: value for key, value in before.items() if key != KEY}
    if repr(after.pop(KEY, None)) != repr(wished) or repr(after) != repr(others):
        raise Refusal(
            f"The database section could not be put into {path} without changing another part of it; nothing was written.",
            "Put a line with nothing but the key database: where the section is to stand, then run this again.",
        )


def _port(port: str) -> int | str:
    """Return the ``port`` as a number, or as it is when there is one for each of several hosts; Refusal when it is none."""
    text = str(port)
    for part in text.split(","):
        if part and not (re.fullmatch("[0-9]{1,5}", part) and 1 <= int(part) <= 65535):
            raise Refusal(f"args.port is {text!r}, which is no TCP port.", "Give a number between 1 and 65535.")
    return int(text) if text.isdigit() else text


def _require_possible(args: dict) -> None:
    """Raise Refusal for keywords that Synapse could not connect with."""
    if "dbname" not in args and "service" not in args:
        raise Refusal("args names no database.", "Give args.dbname, or args.service for one that pg_service.conf describes.")
    if args["cp_min"] < 1 or args["cp_min"] > args["cp_max"]:
        raise Refusal(
            f"A pool of at least {args['cp_min']} and at most {args['cp_max']} connections is impossible.",
            "Give pool.min and pool.max (or args.cp_min and args.cp_max) with 1 <= min <= max.",
        )
    for keyword, value in args.items():
        if isinstance(value, int) and value < 0:
            raise Refusal(
                f"args.{keyword} is {value}.", "Give a number that is not negative; 0 is the operating system's default."
            )
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise Refusal(
                f"args.{keyword} holds a NUL or a character that UTF-8 does not have; libpq cannot take it.",
                f"Give {keyword} without it.",
            )
