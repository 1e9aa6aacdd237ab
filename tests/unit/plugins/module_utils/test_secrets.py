# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Things that hold a password keep it out of how Python shows them, so that no message or log can have it by accident."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import role, server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml, merging
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port_config

ARGS = {"user": "synapse", "password": "hunter2"}
SECTION = {"name": "psycopg2", "args": ARGS}


@pytest.mark.parametrize(
    "thing",
    [
        role.Desired("synapse", "hunter2"),
        server.Server(None, ARGS, "postgres_role"),
        _target.Target(None, ARGS),
        homeserver_yaml.parse("database: {name: psycopg2, args: {password: hunter2}}"),
        merging.Database("psycopg2", ARGS),
        merging.Merged(["homeserver.yaml"], {"database": SECTION}, {"database": ["homeserver.yaml"]}),
        port_config.PortConfig("example.org", SECTION),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_a_password_is_not_in_what_python_shows(thing):
    assert "hunter2" not in repr(thing)
