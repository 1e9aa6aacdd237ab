# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_ident.conf: what is already there counts, what is missing goes to the end, and every other byte stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, ident
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

LINE = 'synapse "matrix-synapse" "synapse"\n'


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("", LINE),
        ("# a comment\n", LINE),
        ("# no end", "\n" + LINE),
        ("a b c\\\n", "\n" + LINE),
        ("a b c\r\n", LINE.replace("\n", "\r\n")),
        (LINE, ""),
        ("synapse matrix-synapse synapse", ""),
        ("synapse\tmatrix-synapse  synapse # mine\nothers a b\n", ""),
        ("others matrix-synapse synapse\n", LINE),
        ("# synapse matrix-synapse synapse\n", LINE),
        ("include others.conf\n", LINE),
    ],
)
def test_a_missing_line_goes_to_the_end(text, added):
    assert ident.with_users(text, ["matrix-synapse"], "synapse") == text + added


@given(st.text(alphabet='ab \t\n\r\\",#synapse', max_size=60), st.lists(st.text('ab" ,#', min_size=1, max_size=5), min_size=1))
def test_a_second_time_nothing_is_added(text, users):
    once = ident.with_users(text, users, "synapse")
    assert once.startswith(text) and ident.with_users(once, users, "synapse") == once
    present = [tuple(field[0].text for field in line.fields) for line in hba.parse(once) if len(line.fields) == 3]
    assert all(present.count((ident.MAP, user, "synapse")) == 1 for user in users)


@pytest.mark.parametrize("users", [[], [""], ["a\nb"], ["/^(.*)$"]])
def test_what_no_line_can_hold_is_refused(users):
    with pytest.raises(Refusal):
        ident.require_possible(users, "synapse")
