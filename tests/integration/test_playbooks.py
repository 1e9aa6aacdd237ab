# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The playbooks and roles run by ansible-playbook, with a real Synapse and a real server that others run.

Mode private, which needs an ordinary user, is walked by `make demo`; mode system by molecule. Every play of these tests is
run at -vvv, and none of them may print a traceback or a password; see support/playbooks.py.
"""

import contextlib
import getpass
import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import pytest
import yaml

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from support import conversation, modules, needs, playbooks, sqlite, synapse
from support.talk import Talk, lives_on, require_all_there


@pytest.fixture
def site(tmp_path, homeserver, any_cluster):
    """A Site whose homeserver is a stopped copy of the shared one, on SQLite; all of it is removed afterwards."""
    made = playbooks.Site(tmp_path, any_cluster, playbooks.copied(homeserver[0], tmp_path / "synapse"))
    yield made
    made.close()


@pytest.fixture
def said(homeserver):
    """The record of what was said on the homeserver."""
    return homeserver[1]


@pytest.fixture
def talk(site, said):
    """Events that Synapse acknowledged while the plays ran: a user talks on the started homeserver all the time."""
    site.server.start()
    site.prepare()
    with Talk(site.server.url, said) as begun:
        yield begun.acknowledged


def process(site) -> str:
    """Return the id of Synapse's process, another one after every start."""
    return (site.server.folder / "homeserver.pid").read_text()


def commands(site, start: str) -> dict:
    """Return the variables of a service manager whose start command is the shell script ``start``; $synctl is Synapse's."""
    synctl = f"{site.server.python} -m synapse._scripts.synctl"
    config = site.server.config
    for name, script in {
        "start": start,
        "stop": f"$synctl stop {config}",
        "status": f'kill -0 "$(cat {site.server.folder}/homeserver.pid)"',
    }.items():
        path = site.folder / name
        path.write_text(f'#!/bin/sh\nsynctl="{synctl}"\ncd {site.server.folder}\n{script}\n')
        path.chmod(0o755)
    found = {name: str(site.folder / name) for name in ("start", "stop", "status")}
    return {"synapse_postgres_service_manager": "command", "synapse_postgres_service_commands": found}


def routine(site, script: str) -> dict:
    """Return the variables of a port routine that is the shell script ``script``; $routine is Synapse's own."""
    path = site.folder / "routine"
    path.write_text(
        f'#!/bin/sh\nroutine="{site.server.python} -m synapse._scripts.synapse_port_db"\nn={site.folder}/calls\n{script}\n'
    )
    path.chmod(0o755)
    return {
        "synapse_port_engine": "synapse",
        "synapse_port_command": [str(path)],
        "synapse_port_python_command": [str(site.server.python)],
    }


def test_a_homeserver_on_sqlite_is_prepared_then_moved_and_then_left_alone(site, said):
    site.server.start()
    before = site.server.config.read_bytes()
    foretold = site.play("site", "--check", "--diff")
    assert foretold.changed > 0
    assert not site.cluster.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", site.name)

    prepared = site.play("site")
    assert prepared.changed == foretold.changed
    assert not prepared.missing(
        "This homeserver lives on SQLite, with 3 users", "run the playbook matrixops.synapse_postgres.port"
    )
    assert site.play("site").changed == 0
    assert site.server.config.read_bytes() == before

    foretold = site.play("port", "--check", "--diff")
    assert foretold.changed > 0 and not foretold.missing("3 users and")
    assert site.server.config.read_bytes() == before and not (site.server.folder / "port-to-postgres").exists()

    assert not site.play("port").missing("This homeserver lives on PostgreSQL now", "rows were compared, and are equal")
    assert site.old.read_bytes() == before
    require_all_there(site, said, [])
    conversation.require_found(site.server.url, said)
    assert site.play("site").changed == site.play("port").changed == 0

    report = reported(site)
    assert report["outcome"] == "moved" and report["rows_compared"] > 500 and 0 < report["downtime"] < 120
    assert report["tables"]["users"]["rows"] == 3 and not report["unexpected_differences"]
    assert [step["at"] for step in report["timeline"]] == sorted(step["at"] for step in report["timeline"])
    page = (site.server.folder / "port-to-postgres" / "port-report.html").read_text()
    assert "The homeserver lives on PostgreSQL." in page and "http" not in page

    # And back again, which gives up what is said from here on.
    room, person = next(iter(said["rooms"])), conversation.Homeserver(site.server.url)
    user, noted = next(iter(said["users"].items()))
    conversation.say(person.logged_in(user, noted["password"]), room, "late", "only on PostgreSQL")
    asked = site.play("rollback", fails=True)
    assert not asked.missing("rows of events", "Nothing was changed: Synapse lives on PostgreSQL")
    assert lives_on(site) == "psycopg2"
    stuck = site.play("rollback", fails=True, synapse_port_give_up=True, **commands(site, "echo 'no luck' >&2; exit 3"))
    assert not stuck.missing("SYNAPSE IS DOWN", "no luck", "to stay on PostgreSQL, copy", "and start it")
    shutil.copy(site.server.config.with_name("homeserver-given-up-postgres.yaml"), site.server.config)
    site.server.start()
    back = site.play("rollback", synapse_port_give_up=True)
    assert not back.missing("This homeserver lives on SQLite again", f"is still in the database {site.name}")
    assert site.server.config.read_bytes() == before
    conversation.check(site.server.url, said)
    refused = site.play("port", fails=True)
    assert not refused.missing("Synapse has written to the target database", "nothing was touched")
    assert not site.play("rollback", fails=True).missing("There is no way back to SQLite from here")


def reported(site) -> dict:
    """Return the report of the last move."""
    return json.loads((site.server.folder / "port-to-postgres" / "port-report.json").read_text())


def test_what_synapse_changes_in_a_row_that_is_ported_already_is_carried_over(site, said, talk):
    user = list(said["users"])[-1]
    now = {**said, "users": {**said["users"], user: {**said["users"][user], "password": "another word"}}}
    change = site.folder / "change.py"
    change.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})\n"
        "from support import conversation\n"
        f"old = {said['users'][user]['password']!r}\n"
        f"person = conversation.Homeserver({site.server.url!r}).logged_in({user!r}, old)\n"
        f"identifier = {{'type': 'm.id.user', 'user': {user!r}}}\n"
        "auth = {'type': 'm.login.password', 'identifier': identifier, 'password': old}\n"
        "body = {'auth': auth, 'new_password': 'another word', 'logout_devices': False}\n"
        "person.ask('POST', f'{conversation.CLIENT}/account/password', body)\n"
    )
    # The routine has ported the table users when a password is changed, and does not come back to its row.
    meanwhile = f'$routine "$@" || exit $?\ntest -e $n || {sys.executable} {change} && touch $n'
    # Whatever a run takes counts as long here, so that the bulk phase is repeated.
    site.play("port", "--extra-vars", '{"_synapse_port_short_enough": 0}', **routine(site, meanwhile))
    require_all_there(site, now, talk)
    assert 2 <= len(reported(site)["bulk_runs"]) <= 3
    assert reported(site)["carried_over"]["users"] == {"written": 1, "deleted": 0}


def test_all_that_stands_in_the_way_is_told_at_once(site):
    site.prepare()
    with contextlib.closing(sqlite3.connect(site.server.database)) as connection:
        connection.execute("INSERT INTO background_updates (update_name, progress_json) VALUES ('made_up', '{}')")
        connection.execute("UPDATE events SET depth = 1e300 WHERE rowid = 3")
        connection.commit()
    site.cluster.rows(f"ALTER ROLE {site.name} NOLOGIN")
    # Which the play asks the database's host for.
    site.cluster.set("max_wal_size", "1000TB")
    before = state(site)
    try:
        told = [
            site.play(
                "port", *words, fails=True, synapse_port_background_updates_timeout=1, synapse_postgres_service_manager="none"
            )
            for words in ((), ("--check",))
        ]
    finally:
        site.cluster.set("max_wal_size", "")
    for refused in told:
        assert not refused.missing(
            "PostgreSQL's write-ahead log may need up to",
            "things stand in the way of the move, and nothing was touched",
            "pending background updates (made_up)",
            "is not permitted to log in",
            "synapse_postgres_service_manager is none",
        )
    assert state(site) == before


def test_a_synapse_that_does_not_start_on_postgresql_is_taken_back_to_sqlite(site, said, talk):
    before = site.server.config.read_bytes()
    broken = f"if grep -q psycopg2 {site.server.config}; then echo 'no luck today' >&2; exit 3; fi\n$synctl start"
    failed = site.play("port", fails=True, **commands(site, f"{broken} {site.server.config}"))
    assert not failed.missing(
        "no luck today", "Synapse runs on SQLite again, with everything it had", "what is ported stays ported"
    )
    assert site.server.config.read_bytes() == before
    conversation.check(site.server.url, said)
    assert site.rows("SELECT count(*) FROM users") == [(len(said["users"]),)]

    # Synapse never wrote to the target, so the next run goes on there.
    site.play("port", **commands(site, f"$synctl start {site.server.config}"))
    require_all_there(site, said, talk)


def test_what_synapse_wrote_to_postgresql_before_it_failed_is_never_ported_over(site, said, talk):
    config = site.server.config
    breaks = f"$synctl start {config}\nif grep -q psycopg2 {config}; then sleep 4; $synctl stop {config}; exit 3; fi"
    failed = site.play("port", fails=True, **commands(site, breaks))
    assert not failed.missing("Synapse runs on SQLite again")
    pid = process(site)
    refused = site.play("port", fails=True)
    assert not refused.missing("Synapse has written to the target database", "give it a new database")
    assert lives_on(site) == "sqlite3" and process(site) == pid
    conversation.check(site.server.url, said)


def test_a_synapse_that_starts_nowhere_is_said_to_be_down(site, said, talk):
    before = site.server.config.read_bytes()
    failed = site.play("port", fails=True, **commands(site, "echo 'no luck at all' >&2; exit 3"))
    assert not failed.missing("SYNAPSE IS DOWN", "its SQLite configuration is back", "no luck at all")
    assert site.server.config.read_bytes() == before

    # Started by hand, it has all it had.
    site.server.start()
    conversation.check(site.server.url, said)


def test_a_routine_that_fails_while_synapse_serves_stops_nothing(site, said, talk):
    before, pid = site.server.config.read_bytes(), process(site)
    failed = site.play("port", fails=True, **routine(site, "echo 'the disk is on fire'; exit 5"))
    assert not failed.missing("the port failed", "the disk is on fire", ".port.log")
    assert site.server.config.read_bytes() == before and not site.old.exists() and process(site) == pid
    conversation.check(site.server.url, said)


def test_a_routine_that_fails_with_synapse_stopped_is_followed_by_its_start_on_sqlite(site, said, talk):
    before, pid = site.server.config.read_bytes(), process(site)
    failed = site.play("port", fails=True, **routine(site, 'echo >>$n; test $(wc -l <$n) -ge 2 && exit 5; exec $routine "$@"'))
    assert not failed.missing("Port the snapshot to PostgreSQL", "the port failed", "Synapse runs on SQLite again")
    assert site.server.config.read_bytes() == before and not site.old.exists() and process(site) != pid
    conversation.check(site.server.url, said)


def test_a_move_that_is_killed_again_and_again_is_ended_by_the_last_run(site, said, talk):
    halted = site.folder / "halted"
    second = f'echo >>$n; test $(wc -l <$n) -ge 2 && touch {halted} && sleep 60; exec $routine "$@"'
    for reached, variables in (
        # While the copy is ported, after Synapse's stop, and after the switch of its configuration.
        (lambda: site.rows("SELECT to_regclass('port_from_sqlite3')::text")[0][0], {}),
        (halted.exists, routine(site, second)),
        (lambda: lives_on(site) == "psycopg2", {}),
    ):
        with site.playing("port", **variables) as play:
            playbooks.wait_until(reached, play)
            playbooks.kill(play)
        assert "PLAY RECAP" not in site.output.read_text()
    site.play("port")
    require_all_there(site, said, talk)


def new_homeserver(site):
    """Give the site a homeserver that is not there yet, in the place of the copied one; return it."""
    server = synapse.Homeserver(site.folder / "new", site.server.port, site.server.python)
    site.server = server
    site.variables |= {
        "synapse_postgres_config_path": str(server.config),
        "synapse_config_server_name": "localhost",
        "synapse_config_data_folder": str(server.folder / "data"),
        "synapse_config_listener_port": server.port,
    }
    return server


def test_a_new_homeserver_starts_on_postgresql_and_follows_a_change_of_the_password(site):
    server = new_homeserver(site)
    assert site.play("site", "--check", "--diff").changed > 0 and not server.folder.exists()
    assert site.play("site").changed > 0
    record = conversation.hold(server.url, conversation.secret_of(server.config), users=1, rooms=1, messages=3)
    conversation.check(server.url, record)
    assert lives_on(site) == "psycopg2" and server.config.stat().st_mode & 0o007 == 0
    assert site.rows("SELECT count(*) FROM users") == [(1,)]
    assert site.play("site").changed == 0

    log, before = server.folder / "data" / "homeserver.log", server.config.read_text()
    starts = log.read_text().count("Server hostname:")
    site.variables["synapse_postgres_password"] = site.password()
    foretold = site.play("site", "--check", "--diff")
    assert foretold.changed > 0 and server.config.read_text() == before
    assert site.play("site").changed > 0
    found = yaml.safe_load(server.config.read_text())["database"]["args"]
    assert found == {**yaml.safe_load(before)["database"]["args"], "password": site.variables["synapse_postgres_password"]}
    assert log.read_text().count("Server hostname:") == starts + 1
    conversation.check(server.url, record)
    assert site.play("site").changed == 0


def test_a_certificate_without_synapses_name_for_the_server_is_refused(site):
    made = modules.run("postgres_certificate", {"folder": str(site.folder / "tls"), "names": ["db.example.org"]})
    task = {
        "name": "TLS alone",
        "ansible.builtin.include_role": {"name": "matrixops.synapse_postgres.postgres_server", "tasks_from": "tls"},
        "vars": {"postgres_server_become_user": ""},
    }
    path = site.folder / "theirs.yml"
    path.write_text(yaml.safe_dump([{"name": "Theirs", "hosts": "postgres", "gather_facts": False, "tasks": [task]}]))
    given = {"postgres_server_certificate": made["certificate"], "postgres_server_certificate_key": made["key"]}
    site.variables |= {**given, "synapse_postgres_sslmode": "verify-full", "synapse_postgres_host": "db.example.org"}
    assert site.play(str(path)).changed == 0
    refused = site.play(str(path), fails=True, synapse_postgres_host="127.0.0.1")
    assert not refused.missing("does not carry the name 127.0.0.1; it carries db.example.org")
    assert site.play(str(path), synapse_postgres_host="127.0.0.1", synapse_postgres_sslmode="verify-ca").changed == 0


@pytest.fixture
def authority(any_cluster):
    """The text of the authority that issued the server's certificate, for db.example.org; it speaks TLS meanwhile."""
    needs.need(any_cluster.installation.origin == "system", "PyPI's PostgreSQL is built without TLS, and there is no other one")
    made = modules.run("postgres_certificate", {"folder": str(any_cluster.folder / "tls"), "names": ["db.example.org"]})
    if any_cluster.account:
        shutil.chown(made["key"], any_cluster.account)
    settings = {"ssl_cert_file": made["certificate"], "ssl_key_file": made["key"], "ssl": "on"}
    for name, value in settings.items():
        any_cluster.set(name, value)
    yield made["authority_text"]
    for name in reversed(settings):
        any_cluster.set(name, "")


def test_a_server_whose_certificate_lacks_the_name_is_refused_before_synapse_is_touched(site, authority):
    site.server.start()
    before, pid = site.server.config.read_bytes(), process(site)
    site.variables |= {"synapse_postgres_authority": authority, "synapse_postgres_sslmode": "verify-full"}
    refused = site.play("site", fails=True)
    assert not refused.missing("does not carry the name 127.0.0.1; it carries db.example.org", "or be content with verify-ca")
    assert site.server.config.read_bytes() == before and process(site) == pid
    site.variables["synapse_postgres_sslmode"] = "verify-ca"
    site.play("site")
    assert site.server.config.with_name("postgres-authority.crt").read_text() == authority
    assert site.play("site").changed == 0


def test_the_method_peer_is_refused_across_the_network(site):
    task = {"name": "Theirs", "ansible.builtin.include_role": {"name": "matrixops.synapse_postgres.synapse_database"}}
    path = site.folder / "theirs.yml"
    path.write_text(yaml.safe_dump([{"name": "Theirs", "hosts": "postgres", "gather_facts": False, "tasks": [task]}]))
    alone = {"synapse_database_login": site.cluster.login, "synapse_database_become_user": ""}
    before = state(site)
    refused = site.play(str(path), fails=True, synapse_postgres_auth="peer", synapse_postgres_remote=["elsewhere"], **alone)
    assert not refused.missing("elsewhere would come across the network", "Set it to password or cert") and state(site) == before


def test_a_homeserver_without_a_password_follows_a_change_of_the_method(site):
    server, socket = new_homeserver(site), str(site.cluster.folder)
    account = {"synapse_postgres_system_user": getpass.getuser(), "synapse_postgres_password": ""}
    account["synapse_postgres_service_units"] = [f"synapse-{number}.service" for number in range(10)]
    ways = [
        {"synapse_postgres_auth": "peer", "synapse_postgres_host": socket, "synapse_database_clients": ["local"]},
        {"synapse_postgres_auth": "trust", "synapse_database_clients": ["127.0.0.1/32"]},
    ]
    record = None
    for way in ways:
        site.variables |= {"synapse_postgres_host": "127.0.0.1", **account, **way}
        told = site.play("site")
        assert told.changed > 0 and not told.missing("processes open up to 100 connections, and the server has 97")
        assert ("Whoever can connect from 127.0.0.1/32" in told.output) == (way is ways[1])
        found = yaml.safe_load(server.config.read_text())["database"]["args"]
        assert "password" not in found and found["host"] == site.variables["synapse_postgres_host"]
        record = record or conversation.hold(server.url, conversation.secret_of(server.config), users=1, rooms=1, messages=3)
        conversation.check(server.url, record)
        assert site.play("site").changed == 0
    assert site.cluster.rows("SELECT rolpassword FROM pg_authid WHERE rolname = %s", site.name) == [(None,)]


def state(site) -> tuple:
    """Return all that a refused play must leave as it is."""
    return (
        site.cluster.rows("SELECT rolname, rolpassword FROM pg_authid ORDER BY 1"),
        site.cluster.rows("SELECT datname, datdba, datcollate FROM pg_database ORDER BY 1"),
        # Who only reads a SQLite database in WAL mode leaves an empty log beside it.
        {
            path: path.read_bytes()
            for path in site.server.folder.rglob("*")
            if path.is_file() and path.suffix != ".db-shm" and path.read_bytes()
        },
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"synapse_postgres_password": ""}, ["synapse_postgres_password is missing or empty"]),
        ({"synapse_postgres_password": None}, ["synapse_postgres_password is missing or empty"]),
        ({"synapse_postgres_port": 1}, ["No connection to PostgreSQL at 127.0.0.1", "Connection refused", "correct login_host"]),
    ],
    ids=["empty password", "no password", "wrong port"],
)
def test_an_inventory_that_cannot_be_meant_is_refused(site, variables, words):
    before = state(site)
    if "synapse_postgres_port" in variables:
        variables = {**variables, "postgres_server_external_login": {**site.cluster.login, "login_port": 1}}
    refused = site.play("site", fails=True, **variables)
    assert not refused.missing(*words) and state(site) == before


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"synapse_postgres_config_path": "/nowhere/homeserver.yaml"}, ["/nowhere", "does not exist"]),
        ({"synapse_postgres_synapse_python": "/nowhere/python"}, ["/nowhere/python"]),
    ],
    ids=["no configuration", "no interpreter"],
)
def test_a_homeserver_that_is_not_there_is_refused(site, variables, words):
    site.prepare()
    before = state(site)
    refused = site.play("site", fails=True, **variables)
    assert not refused.missing(*words) and state(site) == before


def test_a_configuration_that_does_not_parse_is_refused(site):
    site.prepare()
    with site.server.config.open("a") as stream:
        stream.write("\ndatabase: [\n")
    before = state(site)
    for playbook in ("site", "port"):
        refused = site.play(playbook, fails=True)
        assert not refused.missing(str(site.server.config), "line") and state(site) == before


def test_an_interpreter_without_synapse_is_given_no_client_library(site):
    site.prepare()
    python = site.folder / "other" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    library = next(python.parents[1].glob("lib/python*/site-packages"))
    (library / "yaml").symlink_to(pathlib.Path(yaml.__file__).parent)
    before = state(site)
    refused = site.play("site", fails=True, synapse_postgres_synapse_python=str(python))
    assert not refused.missing(f"{python} has no Synapse", "synapse_postgres_synapse_python") and state(site) == before


@pytest.fixture
def hba(site):
    """``hba(lines)`` puts lines behind the administrator's in the server's pg_hba.conf, and nothing else."""
    path = site.cluster.data / "pg_hba.conf"
    before = path.read_text()

    def write(text):
        path.write_text(text)
        with contextlib.closing(site.cluster.connect()) as connection, connection.cursor() as cursor:
            assert _connection.reload(cursor)
        return path

    # The file is not touched again after a reload, which the postmaster may only be about to do.
    yield lambda lines: write(f"host all {site.cluster.login['login_user']} 127.0.0.1/32 scram-sha-256\n{lines}")
    write(before)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["no pg_hba.conf entry for host", "No line of {path} matches the role", "scram-sha-256' in (module postgres_hba"]),
        ("host all all 127.0.0.0/8 ident", ["Ident authentication failed", "Line 2 of {path} ({line}) decides", "in front of"]),
        ("host all all samehost reject", ["pg_hba.conf rejects connection", "Line 2 of {path} ({line}) decides"]),
    ],
    ids=["no line", "another method", "reject"],
)
def test_a_denied_log_in_is_explained_before_the_configuration_is_touched(site, hba, line, words):
    site.prepare()
    path = hba(line + "\n")
    before = state(site)
    denied = site.play("site", fails=True)
    words = [word.format(path=path, line=line) for word in words]
    assert not denied.missing(*words, "The role's password is stored for scram-sha-256.") and state(site) == before


def test_the_whole_pg_hba_conf_is_written_only_on_a_server_of_ours(site, hba):
    path = hba("host all all all md5\n")
    before, theirs = state(site), path.read_text()
    refused = site.play("site", fails=True, synapse_database_hba_mode="template")
    assert not refused.missing("did not make this server", "Set synapse_database_hba_mode to merge") and state(site) == before

    play = site.folder / "database.yml"
    tasks = [{"name": "Database", "ansible.builtin.include_role": {"name": "matrixops.synapse_postgres.synapse_database"}}]
    play.write_text(yaml.safe_dump([{"name": "Ours", "hosts": "postgres", "gather_facts": False, "tasks": tasks}]))
    ours = {
        "postgres_server_mode": "private",
        "synapse_database_login": site.cluster.login,
        "synapse_database_hba_mode": "template",
        "synapse_database_hba_rules": [{"type": "host", "user": site.cluster.login["login_user"], "address": "127.0.0.1/32"}],
    }
    foretold = site.play(str(play), "--check", "--diff", **ours)
    assert (
        foretold.changed == 1
        and path.read_text() == theirs
        and not foretold.missing("-host all all all md5", f"+host {site.name}")
    )
    assert site.play(str(play), **ours).changed == 1
    text = path.read_text()
    assert text.startswith("# Ansible managed") and "md5" not in text and text.count(f" {site.name} ") == 4
    site.cluster.connect(user=site.name, password=site.variables["synapse_postgres_password"], dbname=site.name).close()
    assert site.play(str(play), **ours).changed == 0 and path.read_text() == text


def test_a_database_of_another_locale_is_refused(site):
    site.cluster.rows(f"CREATE DATABASE {site.name} LC_COLLATE 'C.UTF-8' LC_CTYPE 'C' TEMPLATE template0")
    before = state(site)
    refused = site.play("site", fails=True)
    assert not refused.missing("LC_COLLATE is C.UTF-8, not C") and state(site) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"users": 0}, "holds no users"),
        ({"auto_vacuum": True}, "auto_vacuum"),
        ({"pending": ("populate_stats",)}, "pending background updates (populate_stats)"),
    ],
    ids=["empty", "auto_vacuum", "background updates"],
)
def test_a_database_that_cannot_be_moved_is_refused(site, options, words):
    site.server.database.unlink()
    sqlite.homeserver(site.server.database, wal=False, **options)
    before = state(site)
    refused = site.play("port", fails=True, synapse_port_background_updates_timeout=5)
    assert not refused.missing(words) and state(site) == before


def test_each_role_serves_a_play_of_the_users(site, said):
    site.server.start()
    tasks = [
        {"name": f"The role {role}", "ansible.builtin.include_role": {"name": f"matrixops.synapse_postgres.{role}"}}
        for role in ("postgres_server", "synapse_database", "synapse_config", "synapse_port")
    ]
    # Each in a run of its own, so that none lives on what another has left in the play.
    alone = {"synapse_database_login": site.cluster.login, "synapse_database_become_user": ""}
    for task in tasks:
        path = site.folder / "theirs.yml"
        path.write_text(yaml.safe_dump([{"name": "Theirs", "hosts": "synapse", "gather_facts": False, "tasks": [task]}]))
        site.play(str(path), **alone)
    require_all_there(site, said, [])


def test_a_server_that_others_run_is_tuned_as_far_as_they_let_us(site):
    play = site.folder / "server.yml"
    tasks = [{"name": "Server", "ansible.builtin.include_role": {"name": "matrixops.synapse_postgres.postgres_server"}}]
    play.write_text(yaml.safe_dump([{"name": "Theirs", "hosts": "postgres", "gather_facts": False, "tasks": tasks}]))
    told = {"postgres_server_memory": "2GB", "postgres_server_cpus": 2, "postgres_server_settings": {"max_wal_size": "3GB"}}
    shown = ("25 % of the budget", "max_wal_size", "PostgreSQL's budget 1843 MB", "shared_buffers, wal_buffers")
    values = "SELECT name, setting FROM pg_settings WHERE name IN ('work_mem', 'max_wal_size', 'shared_buffers') ORDER BY name"
    before = site.cluster.rows(values)

    # Without a word about its host, and without settings of the play's, nothing is set.
    assert site.play(str(play)).changed == 0 and site.cluster.rows(values) == before
    refused = site.play(str(play), fails=True, postgres_server_settings={"work_mem": "8MiB"})
    assert not refused.missing("'MiB' is not a unit") and site.cluster.rows(values) == before
    try:
        foretold = site.play(str(play), "--check", **told)
        assert foretold.changed == 1 and not foretold.missing(*shown) and site.cluster.rows(values) == before
        done = site.play(str(play), **told)
        assert done.changed == 1 and not done.missing(*shown, "Those who run it have to restart it")
        # 2048 - 204.8 = 1843.2; 1658.9 - 460.8 - 14.4 - 115.2 - 172.8 - 75 = 820.7, by 66
        assert site.cluster.rows(values) == [("max_wal_size", "3072"), ("shared_buffers", before[1][1]), ("work_mem", "12672")]
        again = site.play(str(play), **told)
        assert again.changed == 0 and not again.missing("These settings wait for a restart", "shared_buffers")

        site.cluster.rows("CREATE ROLE provided LOGIN PASSWORD 'provided'")
        site.cluster.rows("ALTER SYSTEM RESET ALL")
        site.cluster.set("work_mem", "")
        login = {**site.cluster.login, "login_user": "provided", "login_password": "provided"}
        listed = site.play(str(play), postgres_server_external_login=login, **told)
        assert listed.changed == 0 and not listed.missing("25 % of the budget", "console", "work_mem = '12672kB'")
        assert site.cluster.rows("SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE '%%auto.conf'") == [(0,)]
    finally:
        site.cluster.rows("ALTER SYSTEM RESET ALL")
        site.cluster.rows("SELECT pg_reload_conf()")
        site.cluster.rows("DROP ROLE IF EXISTS provided")
