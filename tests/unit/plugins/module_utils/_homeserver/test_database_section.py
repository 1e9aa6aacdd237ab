# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the section for PostgreSQL says, what is refused in it, and what a person may see of one."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import database_section

POOL = database_section.Pool(5, 10)
KEEPALIVES = database_section.Keepalives(10, 10, 3)


def section_for(password, **args):
    return database_section.desired(
        None, {"user": "synapse", "password": password, "dbname": "synapse", **args}, POOL, KEEPALIVES
    )


def test_wished_section_says_what_was_given_and_the_defaults():
    assert database_section.desired(None, {"dbname": "d", "user": "u", "port": "5433", "host": ""}, POOL, KEEPALIVES) == {
        "name": "psycopg2",
        "args": {
            "user": "u",
            "dbname": "d",
            "port": 5433,
            "keepalives_idle": 10,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "cp_min": 5,
            "cp_max": 10,
        },
    }


def test_args_go_before_pool_and_keepalives():
    section = database_section.desired(
        None, {"dbname": "d", "cp_max": 40, "keepalives_idle": 99}, database_section.Pool(20, 3), KEEPALIVES
    )
    args = section["args"]
    assert (args["cp_min"], args["cp_max"], args["keepalives_idle"], args["keepalives_count"]) == (20, 40, 99, 3)


def test_what_synapse_reads_beside_args_is_kept_and_all_else_is_not():
    present = {
        "name": "sqlite3",
        "txn_limit": 10000,
        "statement_timeout": 0,
        "allow_unsafe_locale": True,
        "nonsense": 1,
        "args": {"x": 1},
    }
    section = database_section.desired(present, {"service": "synapse"}, POOL, KEEPALIVES)
    assert list(section) == ["name", "txn_limit", "statement_timeout", "args"]
    assert "x" not in section["args"]
    unsafe = database_section.desired(present, {"service": "synapse"}, POOL, KEEPALIVES, True)
    assert unsafe == {**section, "allow_unsafe_locale": True}


@pytest.mark.parametrize(
    ("args", "pool", "words"),
    [
        ({"user": "u"}, POOL, "names no database"),
        ({"dbname": "", "user": "u"}, POOL, "names no database"),
        ({"dbname": "d", "password": ""}, POOL, "args.password is empty"),
        ({"dbname": "d", "sslpassword": ""}, POOL, "args.sslpassword is empty"),
        ({"dbname": "d"}, database_section.Pool(11, 10), "at least 11 and at most 10"),
        ({"dbname": "d"}, database_section.Pool(0, 10), "at least 0"),
        ({"dbname": "d", "cp_min": 11}, POOL, "at least 11"),
        ({"dbname": "d", "connect_timeout": -1}, POOL, "args.connect_timeout is -1"),
        ({"dbname": "d\0"}, POOL, "args.dbname holds a NUL"),
        ({"dbname": "d", "password": "p\udcff"}, POOL, "args.password holds"),
        ({"dbname": "d", "port": "0"}, POOL, "args.port is '0'"),
        ({"dbname": "d", "port": "65536"}, POOL, "no TCP port"),
        ({"dbname": "d", "port": "5432,x"}, POOL, "no TCP port"),
        ({"dbname": "d", "port": "٣"}, POOL, "no TCP port"),
    ],
)
def test_what_cannot_work_is_refused_without_a_secret(args, pool, words):
    with pytest.raises(Refusal) as refusal:
        database_section.desired(None, args, pool, KEEPALIVES)
    assert words in str(refusal.value) and "\udcff" not in str(refusal.value)


def test_several_ports_stay_text():
    assert section_for("secret", host="a,b", port="5432,5433")["args"]["port"] == "5432,5433"


def test_a_mask_covers_secrets_and_what_might_be_one():
    present = {
        "name": "psycopg2",
        "txn_limit": 5,
        "password": "misplaced",
        "args": {
            "user": "u",
            "password": "old",
            "pasword": "misspelt",
            "dsn": "password=x",
            "sslpassword": "k",
            "host": ["nested"],
        },
    }
    shown = database_section.masked(present)
    assert shown["args"] == {
        "user": "u",
        **dict.fromkeys(["password", "pasword", "dsn", "sslpassword", "host"], database_section.MASK),
    }
    assert (shown["name"], shown["txn_limit"], shown["password"]) == ("psycopg2", 5, database_section.MASK)
    assert database_section.masked(None) is None
    assert database_section.masked({"name": "x", "args": "password=y"})["args"] == database_section.MASK


def test_a_change_of_nothing_but_the_password_shows():
    old, new = section_for("old"), section_for("new")
    assert database_section.masked(new, old)["args"]["password"] == database_section.MASK + " (changed)"
    assert database_section.masked(new, new) == database_section.masked(new, None) == database_section.masked(new)
