# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Merging of Synapse's files, and what they come to says of the database; tests/integration has Synapse's own."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging


def made(folder, texts):
    """Write ``texts`` (path: content) below ``folder``."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def merged(text, folder):
    """Return the Merged of one file with ``text``."""
    (folder / "homeserver.yaml").write_text(text)
    return merging.read([str(folder / "homeserver.yaml")])


def test_the_later_file_decides_about_the_database(tmp_path):
    made(
        tmp_path,
        {"1.yaml": "database: {name: sqlite3, args: {database: /old}}", "2.yaml": "database: {name: psycopg2, args: {user: u}}"},
    )
    found = merging.read([str(tmp_path)])
    assert merging.database(found) == merging.Database("psycopg2", {"user": "u"})
    assert found.effective_file("database") == str(tmp_path / "2.yaml") and found.effective_file("databases") is None


@pytest.mark.parametrize("text", ["only words", "- a\n- b", "7", "a: 1\n---\nb: 1", "a: ["])
def test_a_file_that_synapse_ignores_or_cannot_read_is_refused(tmp_path, text):
    made(tmp_path, {"1.yaml": "server_name: x", "2.yaml": text})
    with pytest.raises(Refusal, match=str(tmp_path / "2.yaml")):
        merging.read([str(tmp_path)])


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"is to read .*/none.yaml, which is not there"):
        merging.read([str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("", None),
        ("database:", None),
        ("database: {}", None),
        ("database: {name: sqlite3}", merging.Database("sqlite3", {})),
        ("database_path: /old", merging.Database("sqlite3", {"database": "/old"})),
        ("database_path: /old\ndatabase: {name: psycopg2}", merging.Database("psycopg2", {})),
    ],
)
def test_the_section_is_what_synapse_takes_it_for(tmp_path, text, section):
    assert merging.database(merged(text, tmp_path)) == section


def test_without_a_section_the_option_of_the_command_names_the_database(tmp_path):
    assert merging.database(merged("", tmp_path), "/given") == merging.Database("sqlite3", {"database": "/given"})
    assert merging.database(merged("database_path: /old", tmp_path), "/given").args == {"database": "/old"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("database: words", "holds a str"),
        ("database: [1]", "holds a list"),
        ("database: 7", "holds a int"),
        ("database: {name: SQLite3, args: {database: /a}}", "the engine 'SQLite3', and Synapse knows sqlite3 and psycopg2"),
        ("database: {name: null}", "names no engine"),
        ("database: {args: {database: /a}}", "names no engine"),
        ("database: {name: [sqlite3]}", "the engine"),
        ("database: {name: sqlite3, args: null}", "args holds nothing"),
        ("database: {name: psycopg2, args: text}", "args holds a str"),
    ],
)
def test_a_section_that_synapse_does_not_start_with_is_refused_in_a_sentence(tmp_path, text, words):
    with pytest.raises(Refusal, match=words):
        merging.database(merged(text, tmp_path))


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({"database": "/a/b"}, "/a/b"),
        ({"database": "homeserver.db"}, "homeserver.db"),
        ({"database": "file:/a%20b/c?mode=rw&cache=shared", "uri": True}, "/a b/c"),
        ({"database": "file://localhost/a", "uri": True}, "/a"),
        ({"database": "file:rel.db", "uri": True}, "rel.db"),
        ({"database": "file:odd"}, "file:odd"),
    ],
)
def test_the_path_of_a_sqlite_database(args, path):
    assert merging.Database("sqlite3", args).sqlite_path("homeserver.yaml") == path


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "args.database is missing"),
        ({"database": None}, "args.database is missing"),
        ({"database": ["/a"]}, "args.database is a list"),
        ({"database": ":memory:"}, "in memory"),
        ({"database": ""}, "in memory"),
        ({"database": "file::memory:", "uri": True}, "in memory"),
        ({"database": "file:x?mode=memory", "uri": True}, "in memory"),
    ],
)
def test_a_section_without_a_file_is_refused_in_a_sentence(args, words):
    with pytest.raises(Refusal, match=words):
        merging.Database("sqlite3", args).sqlite_path("homeserver.yaml")
