# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Synapse takes of a database's locale, and names as PostgreSQL's programs take them."""

import dataclasses

import psycopg2.extensions
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _diagnosis
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database

RIGHT = database.Database(owner="synapse", encoding="UTF8", lc_collate="C", lc_ctype="C")


@pytest.mark.parametrize(
    ("other", "unsafe", "words"),
    [
        ({}, False, []),
        ({"lc_collate": "C.UTF-8"}, False, ["LC_COLLATE is C.UTF-8, not C"]),
        ({"lc_ctype": "de_DE.UTF-8", "locale_provider": "icu"}, True, []),
        ({"lc_collate": "C.UTF-8", "encoding": "SQL_ASCII"}, True, ["encoding is SQL_ASCII, not UTF8"]),
    ],
)
def test_the_switch_is_for_the_locale_alone(other, unsafe, words):
    assert dataclasses.replace(RIGHT, **other).unfit_for_synapse(unsafe) == words


@pytest.mark.parametrize("name", ["a=b", "postgres://x", "it's = \\", "postgresql://y'"])
def test_a_name_that_looks_like_keywords_stays_a_name(name):
    assert psycopg2.extensions.parse_dsn(database.dsn(name)) == {"dbname": name}
    assert database.dsn("matrix-synapse 'x'") == "matrix-synapse 'x'"


def test_the_keywords_of_synapses_section_go_alone():
    ours = {"login_port": 5432, "login_db": "postgres", "ssl_mode": "prefer"}
    args = {"service": "synapse", "host": None, "port": "", "cp_max": 10, "passfile": "/x"}
    found = _connection.keywords({**ours, "login_args": args, "login_secrets": {"sslpassword": "y"}})
    assert found == {"service": "synapse", "passfile": "/x", "sslpassword": "y"}
    assert _diagnosis.place(found) == "the service synapse"
    assert _diagnosis.place({"hostaddr": "10.0.0.1"}) == "10.0.0.1:5432"
