# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A server as providers give it: its administrator makes roles and databases, and is no superuser."""

import contextlib

import pytest

from support import commands

OWNER, DATABASE = "provided", "provided"


@pytest.fixture
def provider(cluster):
    """(cluster, connection options of its administrator who is no superuser)."""
    cluster.rows("CREATE ROLE cloud LOGIN CREATEDB CREATEROLE PASSWORD 'of its own'")
    yield cluster, {**cluster.login, "login_user": "cloud", "login_password": "of its own"}
    cluster.rows(f"DROP DATABASE IF EXISTS {DATABASE}")
    cluster.rows(f"DROP OWNED BY cloud CASCADE; DROP ROLE IF EXISTS {OWNER}; DROP ROLE cloud")


def test_who_may_not_give_the_database_to_synapses_role_is_told_the_command_that_helps(run, provider):
    cluster, login = provider
    wished = {**login, "name": DATABASE, "user": OWNER, "password": "synapse's"}
    refused = run("synapse_database", wished)
    assert refused["failed"] and "is no member of 'provided'" in refused["msg"], refused
    with contextlib.closing(cluster.connect(user="cloud", password="of its own")) as connection, connection.cursor() as cursor:
        for command in commands.commands(refused["msg"]):
            cursor.execute(command)
    made = run("synapse_database", wished)
    assert "failed" not in made and made["database"]["owner"] == OWNER, made
    assert run("synapse_database", wished)["changed"] is False
