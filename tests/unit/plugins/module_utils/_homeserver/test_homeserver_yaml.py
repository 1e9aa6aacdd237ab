# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A file of Synapse's configuration as YAML: what it stands for, and what a Refusal tells of it."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml
from support.generated import GENERATED


@pytest.mark.parametrize(
    "text", ["a: 1\nb: *hunter2\n", "a: !hunter2 x\n", "a: 'hunter2' hunter2\n", "a: !!int hunter2\n", "a: &hunter2! x"]
)
def test_a_parse_error_quotes_nothing_of_the_file(text):
    with pytest.raises(Refusal, match="line") as refusal:
        homeserver_yaml.parse(text)
    assert "hunter2" not in str(refusal.value)


def section_of(text):
    return homeserver_yaml.parse(text).section()


def test_the_present_section():
    assert section_of("".join(GENERATED)) == {"name": "sqlite3", "args": {"database": "/data/homeserver.db"}}
    assert section_of("a: 1") is None
    assert section_of("") is None
    assert section_of("database:\n") is None
