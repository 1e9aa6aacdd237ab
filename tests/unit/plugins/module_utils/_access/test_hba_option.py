# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules of pg_hba.conf as users give them: what cannot be meant is refused, and any name can be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, hba_option
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import Name
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

HOST = {"type": "host", "database": "synapse", "user": "synapse", "address": "127.0.0.1/32"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "hots"}, "type 'hots'"),
        ({"method": "scram"}, "method 'scram'"),
        ({"database": "a\nhost all all all trust"}, "line end"),
        ({"user": "a\0b"}, "NUL"),
        ({"address": "10.0.0.0/8\r"}, "line end"),
        ({"options": {"map": "a\nb"}}, "line end"),
        ({"options": {"map": None}}, "option map"),
        ({"options": {"a b": "c"}}, "'a b'"),
        ({"options": {"ldapbindpasswd": "c"}}, "secret"),
        ({"database": ""}, "name is missing"),
        ({"database": '""'}, "name is missing"),
        ({"database": "a,,b"}, "name is missing"),
        ({"user": '"a'}, "name is missing"),
        ({"user": '"a"b'}, "name is missing"),
        ({"user": "x" * 64}, "64 bytes"),
        ({"address": None}, "no address"),
        ({"type": "local"}, "is local"),
        ({"address": "127.0.0.1"}, "127.0.0.1/32"),
        ({"address": "::1"}, "::1/128"),
        ({"address": "10.0.0.0/33"}, "neither"),
        ({"address": "10.0.0.0/255.0.0.0"}, "without the length"),
        ({"address": "10.0.0.300"}, "neither"),
        ({"address": "10.0.0/8"}, "neither"),
        ({"address": "a.example.org/32"}, "neither"),
        ({"address": "10.0.0.0 255.0.0.0"}, "neither"),
        ({"address": "fe80::1%eth0/64"}, "without the length"),
        ({"address": "a,b"}, "neither"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, words):
    with pytest.raises(Refusal, match=r"^Rule 2 |^The name of the ") as refusal:
        hba_option.rule({**HOST, **change}, 2)
    assert words in str(refusal.value)


@given(st.text(alphabet='ab ,"#@+/\\=ü', min_size=1, max_size=8), st.text(alphabet='ab ,"#@+/\\=\t', max_size=8))
def test_any_name_in_quotes_and_any_option_survive(name, value):
    quoted = '"' + name.replace('"', '""') + '"'
    rule = hba_option.rule({"type": "local", "database": quoted, "user": quoted, "options": {"map": value}}, 1)
    (line,) = hba.parse(hba.rule_text(rule) + "\n")
    assert (line.rule.selector, line.rule.effect) == (rule.selector, rule.effect)
    assert line.rule.options == (("map", value),)
    if not name.startswith("/"):
        assert line.rule.users == (Name("name", name),)
