# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told of a routine that failed, and of a row that the server refused: all that it said but the row's values."""

import psycopg2
import psycopg2.errors
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import synapse_tool

_PRINTED = "FirstError[#93, [Failure instance: Traceback: <class '{}'>: {}"


def last_words(*lines: str) -> str:
    found = synapse_tool.LastWords()
    for line in lines:
        found.add(line)
    return str(found)


def test_the_detail_and_the_hint_of_the_server_are_told():
    told = last_words(
        "Failed to insert: event_relations",
        _PRINTED.format("psycopg2.errors.ProgramLimitExceeded", 'index row size 3536 exceeds maximum 2704 for index "x"'),
        'DETAIL:  Index row references tuple (0,5) in relation "event_relations".',
        "HINT:  Values larger than 1/3 of a buffer page cannot be indexed.",
        "Consider a function index.",
        "",
        "/somewhere/defer.py:1831:_inlineCallbacks",
        "]]",
    )
    assert told.startswith(
        'psycopg2.errors.ProgramLimitExceeded: index row size 3536 exceeds maximum 2704 for index "x" (DETAIL: '
    )
    assert "1/3 of a buffer page" in told and "function index" in told and "defer.py" not in told


def test_the_values_of_a_row_are_not_told():
    printed = _PRINTED.format("psycopg2.errors.InvalidTextRepresentation", 'invalid input syntax for type bigint: "secret"')
    assert last_words(printed, "LINE 1: INSERT INTO t VALUES ('secret')", "") == (
        'psycopg2.errors.InvalidTextRepresentation: invalid input syntax for type bigint: "..."'
    )
    printed = _PRINTED.format("psycopg2.errors.UniqueViolation", 'duplicate key value violates unique constraint "t_key"')
    told = last_words(printed, "DETAIL:  Key (token)=(secret) already exists.", "")
    assert "t_key" in told and "secret" not in told


def test_an_exception_that_is_not_the_servers_is_told_as_it_is():
    assert last_words(_PRINTED.format("TypeError", "argument of type 'int' is not iterable"), "/a.py:1:x") == (
        "TypeError: argument of type 'int' is not iterable"
    )
    assert last_words("one", "", "the last", "  indented") == "the last"


@pytest.mark.parametrize(
    "message",
    [
        "ung\u00fcltige Eingabesyntax f\u00fcr Typ bigint: \u00bbsecret\u00ab",
        "syntaxe en entr\u00e9e invalide pour le type bigint : \u00ab secret \u00bb",
        "bigint\u578b\u306e\u5165\u529b\u69cb\u6587\u304c\u4e0d\u6b63\u3067\u3059: \u300csecret\u300d",
        '"secret" with more" in it',
    ],
)
def test_a_value_is_not_told_in_any_language(message):
    assert "secret" not in _connection.without_values(psycopg2.errors.InvalidTextRepresentation, message, "secret")
    assert "secret" not in _connection.without_values(psycopg2.errors.RaiseException, message)
    assert _connection.without_values(psycopg2.errors.DiskFull, "no room", None, "add\n some") == "no room (add some)"
