# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told to the server's administrator about a role that is not let in, or works elsewhere: it runs, and helps."""

import contextlib

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import target_checks
from support import commands

NAME = 'matrix "synapse'
QUOTED = '"matrix ""synapse"'


@pytest.fixture
def login(any_cluster):
    """The options by which a role logs in to a database of its own; both have a name that needs quotes."""
    any_cluster.rows(f"CREATE ROLE {QUOTED} LOGIN PASSWORD 'secret'")
    any_cluster.rows(f"CREATE DATABASE {QUOTED} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8'")
    yield {**any_cluster.login, "login_user": NAME, "login_password": "secret", "login_db": NAME}
    any_cluster.rows(f"DROP DATABASE {QUOTED}")
    any_cluster.rows(f"DROP ROLE {QUOTED}")


@pytest.mark.parametrize(
    "shut",
    [
        f"ALTER ROLE {QUOTED} NOLOGIN",
        f"ALTER DATABASE {QUOTED} ALLOW_CONNECTIONS false",
        f"REVOKE CONNECT ON DATABASE {QUOTED} FROM PUBLIC",
    ],
)
def test_who_was_not_let_in_is_let_in_by_the_command_that_is_told(any_cluster, login, shut):
    any_cluster.rows(shut)
    with pytest.raises(Refusal) as refused, _connection.session(login):
        pass
    commands.run(refused.value.remedy, any_cluster)
    with _connection.session(login) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_role_of_another_schema_works_in_public_by_what_is_told(any_cluster, login):
    any_cluster.rows(f"ALTER ROLE {QUOTED} SET search_path = elsewhere")
    entry = {"dbname": NAME, "user": NAME, "password": "secret"}
    with contextlib.closing(any_cluster.connect(**entry)) as connection, connection.cursor() as cursor:
        with pytest.raises(Refusal) as refused:
            target_checks.require_home(cursor)
    commands.run(refused.value.remedy, any_cluster)
    with contextlib.closing(any_cluster.connect(**entry)) as connection, connection.cursor() as cursor:
        target_checks.require_home(cursor)
