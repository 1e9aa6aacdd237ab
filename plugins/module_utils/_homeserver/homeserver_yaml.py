# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file of Synapse's configuration as YAML: its text, the mapping that it stands for, and where its top-level keys stand.

YAML is read and emitted by PyYAML; where a key stands in the text is told by the positions of PyYAML's tokens.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

if TYPE_CHECKING:
    import yaml
    from yaml import SafeDumper, SafeLoader
else:
    try:
        import yaml
        from yaml import SafeDumper, SafeLoader
    except ImportError:
        # The module that imports this then starts itself again under a Python that has PyYAML.
        yaml, SafeDumper, SafeLoader = None, object, object

# The top-level key of the section that this collection looks after.
SECTION_KEY = "database"

# YAML 1.1, section 5.4: what PyYAML takes for the end of a line.
LINE_BREAK = "(?:\r\n|[\r\n\x85\u2028\u2029])"
NO_LINE_BREAK = "[^\r\n\x85\u2028\u2029]"
_BLANKS = " \t\r\n\x85\u2028\u2029"

# PyYAML's emitter writes text with these over several lines or plainly, and reads some of it back otherwise.
FRAGILE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\ufeff]")

# What Python's own conversions raise within PyYAML for a value such as 2024-02-31 or !!int x.
_CONVERSION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


class _Loader(SafeLoader):
    """SafeLoader, with the position of a value that Python cannot convert."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _CONVERSION_ERRORS as error:
            raise yaml.constructor.ConstructorError(None, None, "this is no value of its type", node.start_mark) from error


class _Dumper(SafeDumper):
    """SafeDumper that quotes text so that it takes one line and comes back as it was."""

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        return super().represent_scalar(tag, value, '"' if FRAGILE.search(value) else style)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A top-level key and its value, as PyYAML's ``tokens`` of them."""

    tokens: list[yaml.Token]

    @property
    def key(self) -> str | None:
        """The key, None when it is no plain text."""
        properties = (yaml.KeyToken, yaml.AnchorToken, yaml.TagToken)
        first = next((token for token in self.tokens if not isinstance(token, properties)), None)
        return first.value if isinstance(first, yaml.ScalarToken) else None

    @property
    def start(self) -> yaml.Mark:
        """Where the key starts: ``index`` in the text, ``line`` and ``column`` from 0."""
        return self.tokens[0].start_mark

    @property
    def line(self) -> int:
        """The number of the key's line, from 1."""
        return self.start.line + 1

    def line_of(self, value: str) -> int | None:
        """Return the number of the line, from 1, on which the scalar ``value`` stands; None where an alias stands for it."""
        scalars = (token for token in self.tokens if isinstance(token, yaml.ScalarToken) and token.value == value)
        return next((token.start_mark.line + 1 for token in scalars), None)

    def column_of_keys(self) -> int | None:
        """Return the column, from 0, of the first key in the entry's value; None where it has none."""
        return next((token.start_mark.column for token in self.tokens[1:] if isinstance(token, yaml.KeyToken)), None)

    def anchors(self) -> set[str]:
        """Return the names of the anchors that are defined in it."""
        return {token.value for token in self.tokens if isinstance(token, yaml.AnchorToken)}

    def aliases(self) -> list[tuple[str, int]]:
        """Return the aliases in it, each with the number of its line, from 1."""
        return [(token.value, token.start_mark.line + 1) for token in self.tokens if isinstance(token, yaml.AliasToken)]


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where the ``entries`` of a text's top level stand, and whether that ``is_flow``, in braces.

    ``opening`` is the offset after the opening brace, 0 without one; ``end`` the offset where the document ends.
    """

    entries: list[Entry]
    is_flow: bool
    opening: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
    """The file at ``path`` of Synapse's configuration: its ``text``, and the ``options`` that it stands for."""

    path: str
    text: str = dataclasses.field(repr=False)
    options: dict[Any, Any] = dataclasses.field(repr=False)
    layout: Layout = dataclasses.field(repr=False)

    def section(self) -> dict[Any, Any] | None:
        """Return the ``database:`` section, None when there is none or a null one; Refusal for one that is no mapping."""
        found = self.options.get(SECTION_KEY)
        if found is not None and not isinstance(found, dict):
            raise not_a_mapping(self.path, found)
        return found

    def section_entry(self) -> Entry | None:
        """Return the entry of the ``database:`` section, None where there is none."""
        return next((entry for entry in self.layout.entries if entry.key == SECTION_KEY), None)

    def section_line(self) -> int:
        """Return the number of the line, from 1, on which the section stands, or would come to stand."""
        entry = self.section_entry()
        return entry.line if entry else len(self.lines())

    def lines(self) -> list[str]:
        """Return the lines of the text without their ends; the last one is empty where the text ends with a newline."""
        return re.split(LINE_BREAK, self.text)

    def span(self, entry: Entry) -> tuple[int, int]:
        """Return the offsets at which the ``entry`` starts and ends; its last line's end stays outside.

        To it belong its lines from the key to the last value, and the comments that follow at a deeper indentation than the key.
        """
        written = [token for token in entry.tokens if token.start_mark.index < token.end_mark.index]
        start, end = entry.start.index, written[-1].end_mark.index
        if self.layout.is_flow:
            return start, end
        # A block scalar ends where the next line starts.
        end = start + len(self.text[start:end].rstrip(_BLANKS))
        indent = f" {{{entry.start.column}}}[ \t]+"
        rest = re.compile(f"{NO_LINE_BREAK}*(?:(?:{LINE_BREAK}[ \t]*)*{LINE_BREAK}{indent}#{NO_LINE_BREAK}*)*")
        found = rest.match(self.text, end)
        return start, found.end() if found else end

    def last_line(self, entry: Entry) -> int:
        """Return the number of the last line, from 1, that belongs to the ``entry``."""
        start, end = self.span(entry)
        return entry.line + len(re.findall(LINE_BREAK, self.text[start:end]))


def not_a_mapping(path: str, section: object) -> Refusal:
    """Return the Refusal for a ``section`` of the file at ``path`` that is no mapping."""
    return Refusal(
        f"The key database in {path} holds a {type(section).__name__}, where Synapse expects a mapping with name and args.",
        "Correct the section or remove it.",
    )


def require_yaml() -> None:
    """Raise Refusal unless the interpreter that runs the module has PyYAML."""
    if yaml is None:
        raise Refusal(
            f"The Python that Ansible uses here, {sys.executable}, has no PyYAML, and no other one that has it was found.",
            "Install it for that interpreter (on Debian: `apt-get install python3-yaml`), or give synapse_python, the Python "
            "that Synapse runs under, which has it.",
        )


def read(path: str) -> Document:
    """Return the file ``path``, parsed; Refusal when it is not UTF-8, which Synapse reads it as, and as parse() does."""
    return parse(read_text(path), path)


def read_text(path: str) -> str:
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


def parse(text: str, path: str = "homeserver.yaml") -> Document:
    """Return ``text``, the content of ``path``, as a Document; an empty file is one without options.

    Raises Refusal, with line and column, for text that is no YAML as Synapse reads it (one document, a mapping, no tags of
    other programs'), that has ``database:`` twice, or that has ``databases:``, with which Synapse divides its tables.
    """
    require_yaml()
    loaded = _load(text, path)
    if len(loaded) > 1:
        raise Refusal(
            f"{path} holds {len(loaded)} YAML documents; Synapse reads a file with one.",
            "Remove the lines --- between them, or all documents but one.",
        )
    options = loaded[0] if loaded else None
    if options is None and not _has_content(text):
        options = {}
    if not isinstance(options, dict):
        raise Refusal(
            f"The top level of {path} is not a mapping but a value of Python's type {type(options).__name__}.",
            "Check that this is Synapse's configuration file: lines such as server_name: example.org.",
        )
    document = Document(path, text, options, _layout(text))
    _require_one_section(document)
    return document


def dump(value: dict[str, Any], flow: bool = False) -> str:
    """Return the mapping ``value`` as YAML, in the order of its keys, ended by a newline; in braces where ``flow`` says so."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=sys.maxsize)


def _load(text: str, path: str) -> list[Any]:
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "some line"
        problem = _without_content(", ".join(filter(None, [error.context, error.problem])))
    except yaml.reader.ReaderError as error:
        before = re.split(LINE_BREAK, text[: error.position])
        place = f"line {len(before)}, column {len(before[-1]) + 1}"
        problem = f"the character U+{ord(text[error.position]):04X} is not allowed"
    except RecursionError:
        place, problem = "some line", "values are nested too deeply"
    raise Refusal(
        f"{path} is not YAML that Synapse can read: {place}: {problem}.", "Correct the file there, then run this again."
    )


def _without_content(problem: str) -> str:
    """Take what the parser quotes from the file out of its words on a ``problem``: it may be a piece of a password.

    Its own quotations are single characters and names of tokens such as '<block end>'.
    """
    own = re.compile(r"'<[a-z ]+>'|'[^']?'|\"[^\"]?\"|'\\[a-z]'")
    return re.sub("'[^']*'|\"[^\"]*\"", lambda quoted: quoted[0] if own.fullmatch(quoted[0]) else "...", problem)


def _has_content(text: str) -> bool:
    """Tell whether the one document of ``text`` has a top-level node, be it a null that is written out."""
    nodes = (yaml.ScalarToken, yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)
    return any(isinstance(token, nodes) for token in yaml.scan(text, Loader=SafeLoader))


def _require_one_section(document: Document) -> None:
    lines = [entry.line for entry in document.layout.entries if entry.key == SECTION_KEY]
    if len(lines) > 1:
        raise Refusal(
            f"{document.path} has the key database {len(lines)} times, on the lines {', '.join(map(str, lines))}; only the last "
            "one counts.",
            "Remove all but the one that is meant.",
        )
    if "databases" in document.options:
        raise Refusal(
            f"{document.path} has the key databases: Synapse's tables are divided among several databases.",
            "Edit that section by hand; this collection looks after a single database.",
        )


def _layout(text: str) -> Layout:
    """Return where the top-level keys of ``text``, which is valid, stand; without entries for an empty document."""
    opening = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
    closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
    entries: list[list[yaml.Token]] = []
    depth, is_flow, inside, end = 0, False, 0, len(text)
    for token in yaml.scan(text, Loader=SafeLoader):
        if isinstance(token, closing):
            depth -= 1
        if depth == 1 and isinstance(token, yaml.FlowEntryToken if is_flow else yaml.KeyToken):
            entries.append([])
        if depth and entries:
            entries[-1].append(token)
        if isinstance(token, opening):
            depth += 1
            if depth == 1 and isinstance(token, yaml.FlowMappingStartToken):
                is_flow, inside = True, token.end_mark.index
                entries.append([])
        if isinstance(token, yaml.DocumentEndToken):
            end = token.start_mark.index
    commas = (yaml.FlowEntryToken,) if is_flow else ()
    entries = [entry[1:] if entry and isinstance(entry[0], commas) else entry for entry in entries]
    return Layout([Entry(entry) for entry in entries if entry], is_flow, inside, end)
