# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Databases whose catalog was edited to say C, and the switch that waives a locale: what each module makes of them."""

import contextlib
import os
import subprocess
import uuid

import pytest

from support import clusters, commands, move

# Text of which no two collations agree on the order.
WORDS = ("a", "B", "b", "C", "c", "_d", "-e", "@f", "z")


@pytest.fixture
def patched(request):
    """``patched(cluster, made_with, said)``: a database with text in an index, and its row of pg_database edited; its name."""
    with contextlib.ExitStack() as stack:

        def make(cluster, made_with, edited="", encoding="UTF8"):
            name = f"patched {uuid.uuid4().hex[:8]} 'x' \"y\""
            quoted = name.replace('"', '""')
            cluster.rows(f"CREATE DATABASE \"{quoted}\" TEMPLATE template0 ENCODING '{encoding}' {made_with}")
            stack.callback(cluster.rows, f'DROP DATABASE IF EXISTS "{quoted}"')
            cluster.rows("CREATE TABLE words (word text, n int, PRIMARY KEY (word, n))", dbname=name)
            cluster.rows("CREATE INDEX ON words (n, word DESC NULLS LAST) WHERE n > 2", dbname=name)
            cluster.rows(
                "INSERT INTO words SELECT word, n FROM unnest(%s) WITH ORDINALITY AS w(word, n)", list(WORDS), dbname=name
            )
            if edited:
                cluster.rows(f"UPDATE pg_database SET {edited} WHERE datname = %s", name)
            return name

        yield make


def info(run, cluster, name, **others):
    return run("synapse_database_info", {**cluster.login, "login_db": name, **others})


def refused(run, cluster, name, *words):
    """Whether every module that looks at a database that exists refuses it with ``words``."""
    told = [run("postgres_database", {**cluster.login, "name": name}, check=check)["msg"] for check in (True, False)]
    options = {**cluster.login, "name": name, "user": "patcher", "method": "trust"}
    told.append(run("synapse_database", options)["msg"])
    looked = info(run, cluster, name)
    told.append(" ".join(looked["problems"] + looked["remedies"]))
    return all(word in text for text in told for word in words) or told


def icu():
    return next(found for found in clusters.installations() if found.major >= 15 and found.origin == "system")


TO_C = "datcollate = 'C', datctype = 'C', datlocprovider = 'c', daticulocale = NULL"


@pytest.fixture(scope="module")
def with_icu():
    """A cluster of a PostgreSQL that has ICU, whose order is another one whatever locales the host has."""
    with clusters.running(icu()) as cluster:
        yield cluster


def test_a_database_of_another_order_that_was_patched_to_say_c_is_refused_and_made_anew(run, with_icu, patched, tmp_path):
    made_with = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
    name = patched(with_icu, made_with, TO_C)
    assert refused(run, with_icu, name, "words_pkey", "datcollversion is", "pg_dump") is True
    # What is printed runs as it is.
    command = commands.commands(info(run, with_icu, name)["remedies"][0])[0]
    place = {"PGHOST": "127.0.0.1", "PGPORT": str(with_icu.port), "PGUSER": clusters.ADMIN, "PGPASSWORD": clusters.ADMIN_PASSWORD}
    programs = f"{with_icu.installation.programs}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env={**os.environ, **place, "PATH": programs}, timeout=60)
    assert info(run, with_icu, name)["problems"] == []
    assert "failed" not in run("postgres_database", {**with_icu.login, "name": name})
    assert with_icu.rows("SELECT array_agg(word ORDER BY word) FROM words", dbname=name) == [(sorted(WORDS),)]
    quoted = name.replace('"', '""')
    with_icu.rows(f'DROP DATABASE "{quoted}_before"')


def test_one_whose_indexes_were_made_again_since_is_let_pass_with_a_warning(run, with_icu, patched):
    name = patched(with_icu, "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'", TO_C)
    quoted = name.replace('"', '""')
    with_icu.rows(f'REINDEX DATABASE "{quoted}"', dbname=name)
    for told in (info(run, with_icu, name), run("postgres_database", {**with_icu.login, "name": name})):
        assert not told.get("problems") and "failed" not in told
        assert "2 indexes of text were read" in str(told["warnings"]), told
    # One that may not be read proves nothing.
    with_icu.rows("CREATE ROLE looker LOGIN PASSWORD 'looker'")
    try:
        blind = info(run, with_icu, name, login_user="looker", login_password="looker")
        assert "could not be read to its end" in " ".join(blind["problems"])
    finally:
        with_icu.rows("DROP ROLE looker")


def test_a_label_without_a_trace_in_the_catalog_is_betrayed_by_the_indexes(run, with_icu, patched):
    # As after pg_upgrade, which makes the database anew by what the old catalog said.
    name = patched(with_icu, "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'", f"{TO_C}, datcollversion = NULL")
    (problem,) = info(run, with_icu, name)["problems"]
    assert "words_pkey" in problem and "another order" in problem
    assert info(run, with_icu, name, allow_unsafe_locale=True)["problems"] == []


def test_a_provider_that_was_patched_away_leaves_its_version(run, cluster, patched):
    if cluster.major < 17:
        # Before there was the provider builtin; its order is C's, and so is that of the relabelled C.UTF-8.
        name = patched(cluster, "LOCALE 'C.UTF-8'", "datcollate = 'C', datctype = 'C'")
        assert info(run, cluster, name)["problems"] == []
        return
    made_with = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
    name = patched(cluster, made_with, "datlocprovider = 'c', datlocale = NULL")
    told = info(run, cluster, name)
    assert told["problems"] == [] and "datcollversion is 1" in str(told["warnings"]), told
    plain = patched(cluster, "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C' LOCALE 'C'")
    assert "failed" not in run("postgres_database", {**cluster.login, "name": plain})
    assert refused(run, cluster, patched(cluster, made_with), "locale provider is builtin, not libc") is True


def test_a_collation_of_a_column_is_told(run, with_icu, patched):
    name = patched(with_icu, "LOCALE 'C'")
    with_icu.rows('ALTER TABLE words ADD COLUMN other text COLLATE "en-x-icu"', dbname=name)
    told = info(run, with_icu, name)
    assert told["problems"] == [] and 'words.other ("en-x-icu")' in str(told["warnings"])


@pytest.mark.parametrize("switched", [False, True])
def test_an_encoding_that_was_patched_is_betrayed_by_the_text(run, any_cluster, patched, switched):
    name = patched(any_cluster, "LOCALE 'C'", encoding="LATIN1")
    any_cluster.rows("ALTER TABLE words ADD COLUMN shown varchar; UPDATE words SET shown = chr(228) WHERE n = 3", dbname=name)
    any_cluster.rows("UPDATE pg_database SET encoding = pg_char_to_encoding('UTF8') WHERE datname = %s", name)
    (problem,) = info(run, any_cluster, name, allow_unsafe_locale=switched)["problems"]
    assert "words.shown" in problem and "encoding says UTF8" in problem
    any_cluster.rows("UPDATE pg_database SET encoding = pg_char_to_encoding('LATIN1') WHERE datname = %s", name)
    assert any_cluster.rows("SELECT shown FROM words WHERE n = 3", dbname=name) == [("ä",)]


@pytest.mark.parametrize(
    ("made_with", "encoding", "words"),
    [
        ("LOCALE 'C.UTF-8'", "UTF8", ""),
        ("LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'", "UTF8", ""),
        ("LOCALE 'C'", "SQL_ASCII", "encoding is SQL_ASCII, not UTF8"),
        ("LOCALE 'C'", "LATIN1", "encoding is LATIN1, not UTF8"),
    ],
)
def test_the_switch_waives_the_locale_and_never_the_encoding(run, any_cluster, patched, made_with, encoding, words):
    name = patched(any_cluster, made_with, encoding=encoding)
    options = {**any_cluster.login, "name": name, "user": "switched", "password": "switched", "allow_unsafe_locale": True}
    try:
        told = run("synapse_database", options)
        assert words in told.get("msg", "") and ("failed" in told) == bool(words), told
        found = info(run, any_cluster, name, allow_unsafe_locale=True)["problems"]
        assert "; ".join(found) == words
        before = info(run, any_cluster, name)["database"]["lc_ctype"]
        assert words or told["database"]["lc_ctype"] == before, "a locale is never faked"
    finally:
        any_cluster.rows(f'ALTER DATABASE "{name.replace(chr(34), chr(34) * 2)}" OWNER TO {clusters.ADMIN}')
        any_cluster.rows("DROP ROLE IF EXISTS switched")


def test_the_port_takes_no_other_encoding_for_the_switch(run, any_cluster, tmp_path, homeserver):
    with move.prepared(tmp_path, homeserver[0], any_cluster) as prepared:
        any_cluster.rows(f"DROP DATABASE {prepared.name}")
        any_cluster.rows(f"CREATE DATABASE {prepared.name} OWNER synapse ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
        text = prepared.config.read_text().replace("database:\n", "database:\n  allow_unsafe_locale: true\n")
        prepared.config.write_text(text)
        words = "encoding is SQL_ASCII, not UTF8"
        assert words in run("synapse_port", prepared.options)["msg"]
        looked = run("synapse_port_info", {**prepared.called, "folder": str(tmp_path)})
        assert words in str(looked["problems"]), looked


def test_a_new_database_is_made_with_c_whatever_the_switch_says(run, any_cluster):
    options = {**any_cluster.login, "name": "fresh one", "user": "fresh", "password": "fresh", "allow_unsafe_locale": True}
    try:
        assert run("synapse_database", options)["database"]["lc_collate"] == "C"
        assert any_cluster.rows("SELECT datcollate FROM pg_database WHERE datname = 'fresh one'") == [("C",)]
    finally:
        any_cluster.rows('DROP DATABASE IF EXISTS "fresh one"')
        any_cluster.rows("DROP ROLE IF EXISTS fresh")
