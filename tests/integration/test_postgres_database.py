# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_database against real servers: the locale Synapse needs, refusals of any other, and nothing dropped."""

import uuid

import pytest

from support import clusters


@pytest.fixture
def name(cluster):
    """A database name nobody has, dropped afterwards."""
    fresh = f"database {uuid.uuid4().hex[:8]} 'x' \"y\""
    yield fresh
    quoted = fresh.replace('"', '""')
    cluster.rows(f'DROP DATABASE IF EXISTS "{quoted}"')


def catalog(cluster, name):
    return cluster.rows(
        "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = %s",
        name,
    )


def test_made_as_synapse_needs_it_and_not_again(cluster, run, name):
    cluster.rows("CREATE ROLE holder")
    options = {**cluster.login, "name": name, "owner": "holder"}
    try:
        foretold = run("postgres_database", options, check=True)
        assert foretold["changed"] and not catalog(cluster, name)
        done = run("postgres_database", options)
        assert done["changed"] and catalog(cluster, name) == [("holder", "UTF8", "C", "C")]
        assert (foretold["database"], foretold["diff"]) == (done["database"], done["diff"])
        assert not run("postgres_database", options)["changed"]
        assert not run("postgres_database", {**options, "encoding": "utf-8"}, check=True)["changed"]
    finally:
        run("postgres_database", {**cluster.login, "name": name, "state": "absent"})
        cluster.rows("DROP ROLE holder")


def test_another_owner_is_handed_the_database(cluster, run, name):
    cluster.rows("CREATE ROLE heir")
    run("postgres_database", {**cluster.login, "name": name})
    options = {**cluster.login, "name": name, "owner": "heir"}
    try:
        assert run("postgres_database", options)["diff"]["before"]["owner"] == clusters.ADMIN
        assert catalog(cluster, name)[0][0] == "heir"
        assert not run("postgres_database", options)["changed"]
    finally:
        run("postgres_database", {**cluster.login, "name": name, "state": "absent"})
        cluster.rows("DROP ROLE heir")


@pytest.mark.parametrize(
    ("made_with", "words"),
    [
        ("LC_COLLATE 'C.UTF-8' LC_CTYPE 'C'", "LC_COLLATE is C.UTF-8, not C"),
        ("LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'", "LC_CTYPE is C.UTF-8, not C"),
        ("LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'LATIN1'", "encoding is LATIN1, not UTF8"),
    ],
)
def test_a_wrong_locale_is_refused_and_left_alone(cluster, run, name, made_with, words):
    quoted = name.replace('"', '""')
    cluster.rows(f'CREATE DATABASE "{quoted}" TEMPLATE template0 {made_with}')
    before = catalog(cluster, name)
    for check in (True, False):
        refused = run("postgres_database", {**cluster.login, "name": name}, check=check)
        assert refused["failed"] and words in refused["msg"] and "pg_dump" in refused["msg"]
    assert catalog(cluster, name) == before


def test_an_icu_cluster_still_gives_a_libc_database(run):
    icu = [found for found in clusters.installations() if found.major >= 15 and found.origin == "system"]
    assert icu, "Debian's PostgreSQL, built with ICU, is not installed"
    with clusters.running(icu[0], "--locale-provider", "icu", "--icu-locale", "de") as cluster:
        cluster.rows("CREATE DATABASE sorts_by_icu TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        refused = run("postgres_database", {**cluster.login, "name": "sorts_by_icu"})
        assert "locale provider is icu, not libc" in refused["msg"]
        assert run("postgres_database", {**cluster.login, "name": "sorts_by_bytes"})["changed"]
        assert cluster.rows("SELECT 'B' < 'a'", dbname="sorts_by_bytes") == [(True,)]


def test_a_database_with_tables_is_never_dropped(cluster, run, name):
    run("postgres_database", {**cluster.login, "name": name})
    options = {**cluster.login, "name": name, "state": "absent"}
    cluster.rows("CREATE TABLE events (x int)", dbname=name)
    for check in (True, False):
        refused = run("postgres_database", options, check=check)
        assert refused["failed"] and "public.events" in refused["msg"]
    cluster.rows("DROP TABLE events", dbname=name)
    assert run("postgres_database", options, check=True)["changed"] and catalog(cluster, name)
    assert run("postgres_database", options)["changed"] and not catalog(cluster, name)
    assert not run("postgres_database", options)["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "x" * 64}, "64 bytes"),
        ({"name": ""}, "empty"),
        ({"name": "some", "encoding": "EBCDIC"}, "does not know the encoding"),
        ({"name": "some", "lc_collate": "xx_XX"}, "xx_XX"),
        ({"name": "some", "owner": "nobody here"}, "nobody here"),
        ({"name": "some", "template": "template9"}, "template9"),
        ({"name": "some", "login_password": "wrong"}, "Check login_user and login_password"),
        ({"name": "some", "login_port": 1}, "Start the server"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(cluster, run, options, words):
    before = cluster.rows("SELECT datname FROM pg_database ORDER BY 1")
    refused = run("postgres_database", {**cluster.login, **options})
    assert refused["failed"] and words in refused["msg"], refused
    assert cluster.rows("SELECT datname FROM pg_database ORDER BY 1") == before
