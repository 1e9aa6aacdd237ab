# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tables in Synapse's database that belong to another role: told by all that look, with a command that helps, and adopted."""

import os
import subprocess
import uuid

import pytest

from support import clusters, commands, sqlite

SYNAPSE, OLD, OLDER = "synapse's own", 'matrix "old"', "older-one"
PASSWORD = "a pass of its kind"

# As after a dump that another role restored: tables, a serial's sequence and one by itself, a function, a type, a schema.
RESTORED = """
CREATE TABLE schema_version (version int); INSERT INTO schema_version VALUES (93);
CREATE TABLE applied_schema_deltas (version int, file text);
CREATE TABLE "users %s" (id bigserial, name text);
CREATE TABLE users (name text);
CREATE SEQUENCE user_id_seq;
CREATE FUNCTION seen(a int, OUT b int) RETURNS int LANGUAGE sql AS 'SELECT a';
CREATE TYPE mood AS ENUM ('glad');
CREATE SCHEMA synapse_postgres; CREATE TABLE synapse_postgres.state (x int)
"""


def quoted(name):
    return '"{}"'.format(name.replace('"', '""'))


def ready(server, name):
    for role in (SYNAPSE, OLD, OLDER):
        server.rows(f"CREATE ROLE {quoted(role)} LOGIN PASSWORD %s", PASSWORD)
    server.rows(f"CREATE DATABASE {quoted(name)} OWNER {quoted(SYNAPSE)} LOCALE 'C' TEMPLATE template0")
    server.rows(f"GRANT CREATE ON DATABASE {quoted(name)} TO {quoted(OLD)}")
    server.rows(f"GRANT USAGE, CREATE ON SCHEMA public TO {quoted(OLD)}", dbname=name)


def gone(server, name):
    for database in (name, f"{name} too"):
        server.rows(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")
    for role in (SYNAPSE, OLD, OLDER):
        server.rows(f"DROP ROLE IF EXISTS {quoted(role)}")


@pytest.fixture
def restored(any_cluster):
    """``restored(owner)`` -> the name of a database of Synapse's role whose content belongs to ``owner``."""
    name = f"synapse {uuid.uuid4().hex[:6]} 'x' a=b"

    def restore(owner, server=any_cluster):
        ready(server, name)
        server.rows(f"SET ROLE {quoted(owner)}; {RESTORED}", dbname=name)
        return name

    yield restore
    gone(any_cluster, name)


def owners(server, name):
    """Who owns a relation, a function, a type or a schema of Synapse's in the database."""
    return {
        owner
        for (owner,) in server.rows(
            "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace IN ('public'::regnamespace,"
            " 'synapse_postgres'::regnamespace) UNION ALL SELECT pg_get_userbyid(proowner) FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace UNION ALL SELECT pg_get_userbyid(typowner) FROM pg_type"
            " WHERE typnamespace = 'public'::regnamespace UNION ALL SELECT pg_get_userbyid(nspowner) FROM pg_namespace"
            " WHERE nspname = 'synapse_postgres'",
            dbname=name,
        )
    }


def as_synapse(server, name):
    return {**server.login, "login_user": SYNAPSE, "login_password": PASSWORD, "login_db": name}


def options(server, name, **others):
    return {**server.login, "name": name, "user": SYNAPSE, "password": PASSWORD, **others}


def run_printed(server, text):
    """Run the commands that a message tells, as the server's administrator."""
    place = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": clusters.ADMIN, "PGPASSWORD": clusters.ADMIN_PASSWORD}
    programs = f"{server.installation.programs}:{os.environ['PATH']}"
    for command in commands.commands(text):
        subprocess.run(command, shell=True, check=True, env={**os.environ, **place, "PATH": programs}, timeout=60)


def test_all_that_look_say_whose_the_tables_are_and_what_they_print_helps(run, any_cluster, restored, tmp_path):
    name = restored(OLD)
    source = tmp_path / "homeserver.db"
    sqlite.homeserver(source, wal=False)
    looked = run("synapse_database_info", as_synapse(any_cluster, name))
    told = [
        run("synapse_sequences", as_synapse(any_cluster, name))["msg"],
        run("synapse_port_verify", {**as_synapse(any_cluster, name), "sqlite_database": str(source)})["msg"],
        " ".join(looked["problems"] + looked["remedies"]),
        str(run("synapse_database", options(any_cluster, name))["warnings"]),
    ]
    for text in told:
        assert "applied_schema_deltas" in text and "REASSIGN OWNED BY" in text and "matrix " in text, told
    run_printed(any_cluster, told[2])
    assert owners(any_cluster, name) == {SYNAPSE}
    assert run("synapse_database_info", as_synapse(any_cluster, name))["problems"] == []
    assert not run("synapse_database", options(any_cluster, name)).get("warnings")
    assert "failed" not in run("synapse_sequences", as_synapse(any_cluster, name))


@pytest.mark.parametrize("owner", [clusters.ADMIN, OLD])
def test_the_command_takes_nothing_that_is_not_synapses(run, any_cluster, restored, owner):
    name = restored(owner)
    any_cluster.rows(f"CREATE DATABASE {quoted(name + ' too')} OWNER {quoted(owner)}")
    any_cluster.rows("CREATE EXTENSION amcheck; CREATE SCHEMA others; CREATE TABLE others.own (x int)", dbname=name)
    looked = run("synapse_database_info", as_synapse(any_cluster, name))
    assert "REASSIGN" not in str(looked["remedies"])
    run_printed(any_cluster, " ".join(looked["remedies"]))
    assert run("synapse_database_info", as_synapse(any_cluster, name))["problems"] == []
    kept = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
    assert any_cluster.rows(kept, f"{name} too") == [(owner,)]
    assert any_cluster.rows("SELECT tableowner FROM pg_tables WHERE tablename = 'own'", dbname=name) == [(clusters.ADMIN,)]
    assert any_cluster.rows("SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'bt_index_check'", dbname=name)[0] == (
        clusters.ADMIN,
    )


def test_adopted_when_asked_all_at_once_and_only_from_the_one(run, cluster):
    name = "adopted"
    try:
        ready(cluster, name)
        cluster.rows(f"SET ROLE {quoted(OLD)}; {RESTORED}", dbname=name)
        cluster.rows(f"CREATE TABLE extra (x int); ALTER TABLE extra OWNER TO {quoted(OLDER)}", dbname=name)
        cluster.rows("CREATE VIEW monitored AS SELECT 1 AS x", dbname=name)
        asked = options(cluster, name, adopt_from=OLD)
        foretold = run("synapse_database", asked, check=True)
        assert foretold["changed"] and OLD in owners(cluster, name)
        done = run("synapse_database", asked)
        assert done["adopted"] == foretold["adopted"] and done["diff"] == foretold["diff"], done
        assert (
            'TABLE public."users %s"' in done["adopted"] and "FUNCTION public.seen(a integer, OUT b integer)" in done["adopted"]
        )
        assert owners(cluster, name) == {SYNAPSE, OLDER, clusters.ADMIN}
        assert OLDER in str(done["warnings"]) and "monitored" not in str(done["warnings"])
        again = run("synapse_database", asked)
        assert not again["changed"] and again["adopted"] == []
    finally:
        gone(cluster, name)


def test_adopted_by_a_role_that_is_made_in_the_same_step(run, any_cluster, restored):
    name = restored(OLD)
    any_cluster.rows(f"ALTER DATABASE {quoted(name)} OWNER TO {quoted(OLD)}")
    any_cluster.rows(f"DROP ROLE {quoted(SYNAPSE)}")
    assert run("synapse_database", options(any_cluster, name, adopt_from=OLD))["adopted"]
    assert owners(any_cluster, name) == {SYNAPSE}


def test_grants_are_not_enough_and_a_member_of_the_owner_is(run, any_cluster, restored):
    name = restored(OLD)
    any_cluster.rows(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public, synapse_postgres TO {quoted(SYNAPSE)};"
        f"GRANT USAGE ON SCHEMA synapse_postgres TO {quoted(SYNAPSE)}",
        dbname=name,
    )
    assert "has to own" in str(run("synapse_database_info", as_synapse(any_cluster, name))["problems"])
    any_cluster.rows(f"GRANT {quoted(OLD)} TO {quoted(SYNAPSE)}")
    assert run("synapse_database_info", as_synapse(any_cluster, name))["problems"] == []


def test_one_who_may_not_give_away_is_refused_with_nothing_changed(run, any_cluster, restored):
    name = restored(OLD)
    any_cluster.rows(f"ALTER ROLE {quoted(OLDER)} CREATEROLE CREATEDB")
    options_of_older = {
        **options(any_cluster, name, adopt_from=OLD, method="trust"),
        "login_user": OLDER,
        "login_password": PASSWORD,
    }
    refused = run("synapse_database", {**options_of_older, "password": None})
    assert "may not give away" in refused["msg"] and "GRANT" in refused["msg"], refused
    assert owners(any_cluster, name) == {OLD}


def test_a_schema_that_may_not_be_looked_into_is_told(run, any_cluster, restored):
    name = restored(OLD)
    any_cluster.rows(f"REVOKE ALL ON SCHEMA public FROM PUBLIC, {quoted(SYNAPSE)}, pg_database_owner", dbname=name)
    for module in ("synapse_database_info", "synapse_sequences"):
        told = run(module, as_synapse(any_cluster, name))
        assert "may not look into the schema" in str(told), told


def test_a_table_of_another_programs_beside_synapses_was_taken_for_one_of_synapses(run, restored, any_cluster):
    name = restored(SYNAPSE)
    any_cluster.rows(f"SET ROLE {quoted(OLD)}; CREATE TABLE public.samples (at timestamptz)", dbname=name)
    looked = run("synapse_database_info", as_synapse(any_cluster, name))
    assert looked["problems"] == [] and looked["schema_version"] == 93, looked
    assert "public.samples in " in str(looked["warnings"]), looked
    assert "failed" not in run("synapse_sequences", as_synapse(any_cluster, name))


def test_repaired_whoever_owns_what_is_synapses_and_nothing_else(run, any_cluster, restored):
    name = restored(OLD)
    any_cluster.rows(f"ALTER TABLE users OWNER TO {quoted(OLDER)}", dbname=name)
    any_cluster.rows("CREATE TABLE samples (x int)", dbname=name)
    any_cluster.rows(f"ALTER DATABASE {quoted(name)} OWNER TO {clusters.ADMIN}")
    asked = {**any_cluster.login, "name": name, "user": SYNAPSE}
    foretold = run("synapse_ownership", asked, check=True)
    assert foretold["changed"] and {OLD, OLDER} <= owners(any_cluster, name)
    done = run("synapse_ownership", asked)
    assert done["adopted"] == foretold["adopted"] and done["diff"] == foretold["diff"], done
    assert {"TABLE public.users", f"DATABASE {quoted(name)}", "TABLE public.schema_version"} <= set(done["adopted"])
    assert owners(any_cluster, name) == {SYNAPSE, clusters.ADMIN} and "public.samples" in str(done["warnings"])
    assert any_cluster.rows("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", name) == [(SYNAPSE,)]
    again = run("synapse_ownership", asked)
    assert not again["changed"] and again["adopted"] == []


def test_one_who_may_not_repair_all_of_it_repairs_nothing(run, any_cluster, restored):
    name = restored(OLD)
    any_cluster.rows(f"ALTER TABLE users OWNER TO {quoted(OLDER)}", dbname=name)
    any_cluster.rows(f"GRANT {quoted(OLD)} TO {quoted(SYNAPSE)}")
    any_cluster.rows(f"REVOKE {quoted(OLD)} FROM {quoted(SYNAPSE)}; GRANT {quoted(SYNAPSE)} TO {quoted(OLD)}")
    asked = {**as_synapse(any_cluster, name), "login_user": OLD, "name": name, "user": SYNAPSE}
    refused = run("synapse_ownership", asked)
    assert "may not give away what belongs to 'older-one'" in refused["msg"] and owners(any_cluster, name) == {OLD, OLDER}
    assert "has no role 'nobody'" in run("synapse_ownership", {**asked, "user": "nobody"})["msg"]
