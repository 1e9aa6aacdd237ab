# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_hba.conf: read as the server reads it, every byte of it kept, secrets not shown."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("local all all peer", [["local"], ["all"], ["all"], ["peer"]]),
        ("a,b , c\t,d,,e", [["a", "b"], ["c"], ["d", "e"]]),
        ("a, b,#c", [["a", "b"]]),
        ('"a b",c"d, e"#f', [["a b", "cd, e"]]),
        ('"a""b" """" "" a""b', [['a"b'], ['"'], [""], ["ab"]]),
        ('a "b c # d', [["a"], ["b c # d"]]),
        ("a\\\nb \\\r\n c", [["ab"], ["c"]]),
        ("a\\\\\n\\\nb", [["a\\b"]]),
        ("a\r b", [["a"], ["b"]]),
        ("# a", []),
        (" \t,\r\n", []),
    ],
)
def test_a_line_is_cut_as_the_server_cuts_it(line, fields):
    (read,) = hba.parse(line)
    assert [[token.text for token in field] for field in read.fields] == fields


def test_two_backslashes_before_two_line_ends_are_not_two_continuations():
    assert [line.raw for line in hba.parse("a\\\\\n\nb\n")] == ["a\\\\\n\n", "b\n"]


def test_secrets_of_other_lines_are_not_shown():
    text = 'host all all all ldap ldapbinddn=x ldapbindpasswd="a ""b" \\\n c\r\n# radiussecrets=d, e\nlocal all all peer\n'
    assert hba.masked(text) == (
        "host all all all ldap ldapbinddn=x ldapbindpasswd=********\r\n# radiussecrets=********\nlocal all all peer\n"
    )
    for spelled in ("ldapbind\\\npasswd=a", 'ldapbind"passwd=a"', '"ldapbindpasswd"=a', 'ldap"bindpass"wd\\\r\n=a # b'):
        assert "=a" not in hba.masked(f"host all all all ldap {spelled}\nlocal all all peer\n")


def test_what_the_server_shows():
    text = 'local all all ident\n\ninclude x\nhost all \\\nall 127.0.0.1 255.0.0.0 md5\n@x all all md5\n"host" all all all md5\n'
    view = {1: ("local", "peer"), 4: ("host", "md5"), 6: None, 7: ("host", "md5")}
    assert hba.server_view(text) == view


@given(st.binary())
def test_any_bytes_come_back(data):
    text = hba.decode(data.replace(b"\0", b""))
    assert hba.encode(hba.render(hba.parse(text))) == data.replace(b"\0", b"")


@given(st.text(alphabet=' \t\r\n\\",#@/=ab01.:\u2028\udcff', max_size=60))
def test_any_text_comes_back_whole_and_in_order(text):
    read = hba.parse(text)
    assert hba.render(read) == text
    for line in read:
        assert text.split("\n")[line.number - 1].startswith(line.raw.split("\n")[0])
        tokens = list(itertools.chain.from_iterable(line.fields))
        assert [token.start for token in tokens] == sorted(token.start for token in tokens)
