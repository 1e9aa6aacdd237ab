# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The database section in odd files: every byte outside it stays, and it says what was wanted."""

import contextlib
import json

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import (
    database_section,
    homeserver_yaml,
    section_editing,
)
from support.generated import GENERATED, SECTION

PASSWORDS = [
    "plain",
    'it\'s "quoted" \\ %s {{ x }} : @ # | > & * !',
    "{{ lookup('pipe', 'id') }}",
    "%percent",
    "*star",
    "&anchor",
    "- item",
    "key: value",
    "a #comment",
    "# comment",
    " spaces around ",
    "\ttab\t",
    "two\nlines\n",
    "\n",
    "carriage\rreturn\r\n",
    "next\x85line\u2028separator\u2029",
    "escape \x1b bell \x07 delete \x7f",
    "\ufeffbom",
    "no-break\u00a0space",
    "päss wörd",
    "🐘🔑",
    "x" * 200,
    "word " * 60,
    "12345",
    "1e3",
    "0x1f",
    "1:30",
    "true",
    "no",
    "null",
    "~",
    "=",
    "<<",
    "2024-01-31",
    "---",
    "...",
    "'",
    '"',
    "\\",
    "?",
    "[",
    "}",
    ",",
    "@at",
    "`tick",
]

# (before, the old section, after): the middle is to be replaced and nothing else.
REPLACED = {
    "as generated": GENERATED,
    "as generated, CRLF": tuple(part.replace("\n", "\r\n") for part in GENERATED),
    "only the section": ("", SECTION, "\n"),
    "end of the file without newline": ("server_name: x\n", SECTION, ""),
    "first key": ("", SECTION, "\nserver_name: x\n"),
    "blank lines after": ("a: 1\n\n\n", SECTION, "\n\n\n\nb: 2\n"),
    "blank lines with spaces after": ("a: 1\n", SECTION, "\n   \n \nb: 2\n"),
    "comment of the next key": ("a: 1\n# ours\n", SECTION, "\n\n# of b\n#\nb: 2\n"),
    "comment of the next key without blank line": ("a: 1\n", SECTION, "\n# of b\nb: 2\n"),
    "comment within": ("a: 1\n", "database:\n  # which\n  name: sqlite3 # this\n\n  # where\n  args: {}", "\nb: 2\n"),
    "comment at column 0 within": ("a: 1\n", "database:\n# which\n  name: sqlite3\n# where\n  args: {}", "\nb: 2\n"),
    "indented comment after": ("a: 1\n", SECTION + "\n    # cp_max: 10\n\n  # name: x", "\n\n# b\nb: 2\n"),
    "indented comment after one at column 0": ("a: 1\n", SECTION, "\n# b\n  # still b\nb: 2\n"),
    "indented comment at the end": ("a: 1\n", SECTION + "\n  # the end", ""),
    "comment on the key's line": ("a: 1\n", "database: # main\n  name: sqlite3", "\nb: 2\n"),
    "one line": ("a: 1\n", "database: {name: sqlite3, args: {database: /x.db}}", "\nb: 2\n"),
    "one line with comment": ("a: 1\n", "database: {name: sqlite3}   # small", "\nb: 2\n"),
    "one line at the end": ("a: 1\n", "database: {name: sqlite3}", ""),
    "one line as JSON": ("a: 1\n", '"database": {"name": "sqlite3", "args": {"database": "/x.db"}}', "\nb: 2\n"),
    "flow over lines": ("a: 1\n", "database: {\n  name: sqlite3, # n\n  args: {\n}\n}", "\n# b\nb: 2\n"),
    "double quotes": ("a: 1\n", '"database":\n  name: sqlite3', "\nb: 2\n"),
    "single quotes": ("a: 1\n", "'database':\n  name: sqlite3", "\nb: 2\n"),
    "escaped key": ("a: 1\n", '"data\\x62ase":\n  name: sqlite3', "\nb: 2\n"),
    "spaces before the colon": ("a: 1\n", "database   :\n  name: sqlite3", "\nb: 2\n"),
    "complex key": ("a: 1\n", "? database\n: name: sqlite3", "\nb: 2\n"),
    "complex key without value": ("a: 1\n", "? database", "\nb: 2\n"),
    "complex key with empty value": ("a: 1\n", "? database\n:", "\nb: 2\n"),
    "tagged": ("a: 1\n", "!!str database: !!map\n  name: sqlite3", "\nb: 2\n"),
    "null": ("a: 1\n", "database:", "\nb: 2\n"),
    "written null": ("a: 1\n", "database: ~  # later", "\nb: 2\n"),
    "null at the end": ("a: 1\n", "database:", ""),
    "null with a comment": ("a: 1\n", "database:\n  # to be set", "\n\n# b\nb: 2\n"),
    "null before a comment at column 0": ("a: 1\n", "database:", "\n# b\nb: 2\n"),
    "empty mapping": ("a: 1\n", "database: {}", "\nb: 2\n"),
    "anchor that nobody uses": ("a: 1\n", "database: &db\n  name: sqlite3\n  args: &args {}", "\nb: 2\n"),
    "anchor used within": ("a: 1\n", "database:\n  name: &n sqlite3\n  args: {database: *n}", "\nb: 2\n"),
    "alias of another key": ("a: &db {name: sqlite3, args: {}}\n", "database: *db", "\nb: *db\n"),
    "merged from another key": ("a: &db {name: sqlite3}\n", "database:\n  <<: *db\n  args: {}", "\nb:\n  <<: *db\n"),
    "anchors elsewhere": ("a: &x [1, &y 2]\n", SECTION, "\nb: *x\nc: *y\n"),
    "byte order mark": ("\ufeffa: 1\n", SECTION, "\nb: 2\n"),
    "byte order mark, first key": ("\ufeff", SECTION, "\nb: 2\n"),
    "document start": ("---\na: 1\n", SECTION, "\n"),
    "directive, start and end": ("%YAML 1.1\n--- # conf\na: 1\n", SECTION, "\n...\n# after\n"),
    "document end after": ("a: 1\n", SECTION, "\n\n...\n"),
    "database elsewhere": ("modules:\n  - module: x\n    database: {name: y}\n", SECTION, "\nb:\n  database: 1\n"),
    "database in text": ("a: |\n  database:\n    name: x\n", SECTION, "\nb: '\n  database: 1'\n"),
    "database in comments": ("# database:\n#   name: x\n", SECTION, "\n#database: y\n"),
    "block scalar last": ("a: 1\n", "database:\n  name: |-\n    sqlite3", "\n\n\n# b\nb: 2\n"),
    "block scalar kept last": ("a: 1\n", "database:\n  name: |+\n    sqlite3", "\n\nb: 2\n"),
    "block scalar with a hash": ("a: 1\n", "database:\n  name: >\n    a\n    # b", "\n# c\nb: 2\n"),
    "plain text over lines": ("a: 1\n", "database:\n  name: one\n    two", "\nb: 2\n"),
    "quoted text over lines": ("a: 1\n", 'database:\n  name: "one\n\n two"', "\nb: 2\n"),
    "list at the key's column": ("a: 1\n", "database:\n  args:\n  - 1\n  - 2", "\nb: 2\n"),
    "deep indentation": ("a: 1\n", "database:\n        name: sqlite3\n        args:\n                x: y", "\nb: 2\n"),
    "trailing spaces": ("a: 1   \n", "database:   \n  name: sqlite3   ", "\nb: 2   \n"),
    "old Macintosh": ("a: 1\r", "database:\r  name: sqlite3", "\rb: 2\r"),
    "mostly CRLF": ("a: 1\r\nc: 3\n", "database:\r\n  name: sqlite3", "\r\nb: 2\r\n"),
    "not ASCII": ("a: 'größe 🐘'\n", "database:\n  name: sqlite3 # ü", "\nb: ☃\n"),
    "not a number": ("a: .nan\n", SECTION, "\nb: [.inf, -.inf]\n"),
    "circle": ("a: &a [*a]\n", SECTION, "\nb: 2\n"),
    "keys of all kinds": ("1: a\n? x y\n: z\nnull: b\n2024-01-31: c\n", SECTION, "\ntrue: d\n"),
    "duplicates of another key": ("a: 1\n", SECTION, "\na: 2\n"),
    "old database_path": ("database_path: /x.db\n", SECTION, "\nb: 2\n"),
    "psycopg2 already": ("a: 1\n", "database:\n  name: psycopg2\n  args: {user: u, sslmode: require}", "\nb: 2\n"),
}

# (text, what stands before the new section, what stands after it)
INSERTED = {
    "empty": ("", "", "\n"),
    "one newline": ("\n", "\n", "\n"),
    "byte order mark only": ("\ufeff", "\ufeff", "\n"),
    "comments only": ("# nothing\n", "# nothing\n\n", "\n"),
    "comment without newline": ("# nothing", "# nothing\n\n", "\n"),
    "keys": ("a: 1\n", "a: 1\n\n", "\n"),
    "keys without newline": ("a: 1", "a: 1\n\n", "\n"),
    "blank line already": ("a: 1\n\n", "a: 1\n\n", "\n"),
    "blank line with spaces": ("a: 1\n  \n", "a: 1\n  \n", "\n"),
    "spaces at the end": ("a: 1\n  ", "a: 1\n  \n", "\n"),
    "CRLF": ("a: 1\r\nb: 2\r\n", "a: 1\r\nb: 2\r\n\r\n", "\r\n"),
    "CRLF without newline": ("a: 1\r\nb: 2", "a: 1\r\nb: 2\r\n\r\n", "\r\n"),
    "document start only": ("---\n", "---\n\n", "\n"),
    "document end": ("---\na: 1\n...\n# end\n", "---\na: 1\n\n", "\n...\n# end\n"),
    "nested": ("a:\n  - b:\n      c: 1\n", "a:\n  - b:\n      c: 1\n\n", "\n"),
    "indented comment at the end": ("a:\n  b: 1\n  # c: 2\n", "a:\n  b: 1\n  # c: 2\n\n", "\n"),
    "block scalar last": ("a: |\n  text\n", "a: |\n  text\n\n", "\n"),
    "commented section": ("a: 1\n#database:\n#  name: x\n", "a: 1\n#database:\n#  name: x\n\n", "\n"),
    "merged section": ("a: &a {database: {name: x}}\n<<: *a\n", "a: &a {database: {name: x}}\n<<: *a\n\n", "\n"),
}

# Whole files in braces, as JSON: (text, before, after), the section being on one line there.
BRACES = {
    "empty": ("{}", "{", "}"),
    "keys": ('{"a": 1, "b": [2]}\n', '{"a": 1, "b": [2], ', "}\n"),
    "trailing comma": ('{\n  "a": 1,\n}\n', '{\n  "a": 1, ', ",\n}\n"),
    "replaced first": ('{"database": {"name": "x"}, "a": 1}', "{", ', "a": 1}'),
    "replaced last": ('{"a": {"b": [1, 2]},\r\n "database": {"name": "x"}\r\n}', '{"a": {"b": [1, 2]},\r\n ', "\r\n}"),
    "replaced between": ("{a: 1, database: , c, d: 2} # x\n", "{a: 1, ", " , c, d: 2} # x\n"),
}

REFUSED = {
    "list": ("- a\n", "not a mapping"),
    "text": ("just text\n", "not a mapping"),
    "written null": ("null\n", "not a mapping"),
    "number": ("42", "not a mapping"),
    "section twice": ("database: {}\na: 1\ndatabase: {}\n", "lines 1, 3"),
    "section twice, once quoted": ("database: {}\n'database': {}\n", "lines 1, 2"),
    "section twice in braces": ("{database: {},\ndatabase: {}}\n", "lines 1, 2"),
    "several databases": ("databases:\n  main: {name: psycopg2}\n", "several databases"),
    "both": ("database: {}\ndatabases: {}\n", "several databases"),
    "several databases by merging": ("a: &a {databases: {}}\n<<: *a\n", "several databases"),
    "two documents": ("a: 1\n---\nb: 2\n", "2 YAML documents"),
    "an empty second document": ("a: 1\n---\n", "2 YAML documents"),
    "anchor used after": ("database:\n  args: &x {a: 1}\nb:\n  c: *x\n", "Line 4"),
    "anchor on the section": ("database: &x {name: y}\nb: 1\nc: *x\n", "Line 3"),
    "anchor on the key": ("&x database: {name: y}\nb: *x\n", "Line 2"),
    "anchor merged after": ("database: &x {name: y}\nb:\n  <<: *x\n", "Line 3"),
    "section is text": ("database: sqlite\n", "holds a str"),
    "section is a list": ("database: [a]\n", "holds a list"),
    "no closing bracket": ("a: 1\nb: [1\n", "line 3, column 1"),
    "tab": ("a:\n\tb: 1\n", "line 2, column 1: while scanning for the next token, found character '\\t'"),
    "wrong indentation": ("a: 1\n  b: 2\n", "line 2, column 4"),
    "colon in plain text": ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
    "anchor defined twice": ("database: &x {name: y}\nb: &x 2\n", "line 2, column 4: found duplicate anchor"),
    "undefined alias": ("a: 1\nb: *nowhere\n", "line 2, column 4: found undefined alias ..."),
    "foreign tag": ("a: 1\nb: !vault x\n", "line 2, column 4"),
    "Python tag": ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4"),
    "no such day": ("a: 1\nb: 2024-02-31\n", "line 2, column 4"),
    "number that is none": ("a: !!int x\n", "line 1, column 4"),
    "timestamp that is none": ("a: !!timestamp x\n", "line 1, column 4"),
    "key that is no key": ("{a: 1}: 2\n? {b: 1}\n: c\n", "line 1, column 1"),
    "control character": ("a: 1\r\nb: \x00\r\n", "line 2, column 4: the character U+0000"),
    "very deep": ("a: " + "[" * 5000, "nested too deeply"),
    "text that a newline would change": ("a: |\n  text", "without changing another part"),
}


def desired(password="secret"):
    args = {"user": "synapse", "password": password, "dbname": "synapse"}
    return database_section.desired(None, args, database_section.Pool(), database_section.Keepalives())


def replace(text, section, path="homeserver.yaml"):
    return section_editing.replace(homeserver_yaml.parse(text, path), section)


def section_of(text):
    return homeserver_yaml.parse(text).section()


def lines(section, newline="\n"):
    """The section's text, without the end of the last line."""
    return section_editing.as_yaml(section).rstrip("\n").replace("\n", newline)


def newline_of(text):
    if text.count("\r\n") > text.count("\n") / 2:
        return "\r\n"
    return "\r" if "\r" in text and "\n" not in text else "\n"


def require_as_expected(text, expected, section):
    new = replace(text, section)
    assert new.encode() == expected.encode()
    meaning = yaml.safe_load(new)
    assert meaning.pop("database") == section
    others = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "database"}
    assert repr(meaning) == repr(others)
    assert section_of(new) == section
    assert replace(new, section) == new


@pytest.mark.parametrize(("before", "old", "after"), REPLACED.values(), ids=REPLACED)
def test_only_the_section_is_replaced(before, old, after):
    text = before + old + after
    require_as_expected(text, before + lines(desired(), newline_of(text)) + after, desired())


@pytest.mark.parametrize(("text", "before", "after"), INSERTED.values(), ids=INSERTED)
def test_a_missing_section_is_appended(text, before, after):
    require_as_expected(text, before + lines(desired(), newline_of(text)) + after, desired())


def is_json(text) -> bool:
    with contextlib.suppress(ValueError):
        json.loads(text)
        return True
    return False


@pytest.mark.parametrize(("text", "before", "after"), BRACES.values(), ids=BRACES)
@pytest.mark.parametrize("password", ["plain", "a, b}: [c] #"])
def test_a_file_in_braces_keeps_them(text, before, after, password):
    section = desired(password)
    new = replace(text, section)
    key = '"database": {"name": "psycopg2", "args": {' if is_json(text) else "database: {name: psycopg2, args: {"
    assert new.startswith(before + key) and new.endswith("}}" + after)
    assert yaml.safe_load("{" + new[len(before) : len(new) - len(after)] + "}") == {"database": section}
    assert section_of(new) == section


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "text",
    [
        '{\n  "server_name": "x",\n  "database": {\n    "name": "psycopg2"\n  }\n}\n',
        '{\n  "server_name": "x"\n}\n',
        '{\r\n    "server_name": "x",\r\n    "a": {"b": 1}\r\n}',
        '{"server_name": "x"}',
        "{}",
    ],
    ids=["replaced", "one line each", "CRLF", "one line", "empty"],
)
def test_json_stays_json(text, password):
    section = desired(password)
    new = replace(text, section)
    assert json.loads(new) == {**json.loads(text), "database": section}
    assert section_of(new) == section and replace(new, section) == new


def test_an_indented_top_level_keeps_its_column():
    before, after = "  a: 1\n", "\n  # of b\n  b: 2\n"
    expected = before + "  " + lines(desired()).replace("\n", "\n  ")
    require_as_expected(before + "  database:\n    name: sqlite3\n    # x" + after, expected + after, desired())
    require_as_expected(before, "  a: 1\n\n  " + lines(desired()).replace("\n", "\n  ") + "\n", desired())


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_odd_passwords_survive(password, newline):
    section = desired(password)
    text = "".join(GENERATED).replace("\n", newline)
    new = replace(text, section)
    assert yaml.safe_load(new)["database"]["args"]["password"] == password
    assert new.count("\n") == text.count("\n") + len(section["args"]) - 1
    before, after = (GENERATED[part].replace("\n", newline) for part in (0, 2))
    assert new.startswith(before + "database:" + newline) and new.endswith(after)


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_edited_safely_is_refused(text, words):
    with pytest.raises(Refusal) as refusal:
        homeserver_yaml.parse(text, "/etc/conf.yaml").section()
        replace(text, desired(), "/etc/conf.yaml")
    assert words in str(refusal.value) and "/etc/conf.yaml" in str(refusal.value)


NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda name: name not in ("database", "databases"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
COMMENTS = st.lists(st.sampled_from(["", "# database:", "#", "## a: b", "# ü 🐘"]), max_size=3)


@st.composite
def files(draw):
    """A homeserver-like file as (text, whether it has a section, its newline): keys of any value, comments, a section or none."""
    has_section = draw(st.booleans())
    keys = [*draw(st.lists(NAMES, max_size=4, unique=True)), *["database"] * has_section]
    blocks = []
    for key in draw(st.permutations(keys)):
        value = draw(st.one_of(st.none(), st.dictionaries(NAMES, VALUES, max_size=3)) if key == "database" else VALUES)
        flow = draw(st.sampled_from([False, True, None]))
        blocks += draw(COMMENTS)
        blocks.append(yaml.safe_dump({key: value}, default_flow_style=flow, allow_unicode=draw(st.booleans())).rstrip("\n"))
        if blocks[-1].startswith("{"):
            blocks[-1] = blocks[-1][1:-1]
    blocks += draw(COMMENTS)
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text = "\n".join(blocks) + draw(st.sampled_from(["", "\n", "\n\n"]))
    return draw(st.sampled_from(["", "\ufeff"])) + text.replace("\n", newline), has_section, newline


def shared_ends(text, new):
    """Return how many characters are the same at the start of both, and then at the end."""
    least = min(len(text), len(new))
    head = next((at for at in range(least) if text[at] != new[at]), least)
    tail = next((at for at in range(least - head) if text[-1 - at] != new[-1 - at]), least - head)
    return head, tail


@settings(max_examples=200, deadline=None)
@given(files(), TEXTS.filter(bool))
@example(("database: {name: sqlite3}\n", True, "\n"), "x\x85y")
def test_whatever_the_file_and_the_password_only_the_section_changes(file, password):
    text, has_section, newline = file
    try:
        before = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        with pytest.raises(Refusal):
            homeserver_yaml.parse(text)
        return
    section = desired(password)
    new = replace(text, section)
    after = yaml.safe_load(new)
    assert after.pop("database") == section
    before.pop("database", None)
    assert repr(after) == repr(before)
    assert replace(new, section) == new
    at = new.index(lines(section, newline if newline in text else "\n"))
    head, tail = shared_ends(text, new)
    assert head >= at or not has_section
    assert tail >= len(new) - at - len(lines(section, newline)) or not has_section
    assert has_section or new.startswith(text)
