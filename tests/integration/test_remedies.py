# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remedies: what a message says to do is run, as it stands there, against the state that it is about; then it goes on."""

import contextlib
import json
import os
import pathlib
import struct
import subprocess
import tempfile

import psycopg2
import pytest
import yaml

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import privileges
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import (
    preflight_file,
    preflight_report,
    preflight_target,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import contents
from support import clusters, commands, needs, sqlite

CONFIG = "synapse_database_config"
ARGS = {"user": "matrix-synapse", "password": "a-new-password", "dbname": "matrix-synapse", "host": "db.example.org"}
OLD = "old-secret"

UNINDENTED = f"""\
server_name: example.test
database:
name: psycopg2
args:
    user: matrix
    password: {OLD}
    database: matrix
    host: localhost
listeners: []
"""
WHOLE = f"database:\n  name: psycopg2\n  args:\n    user: matrix\n    password: {OLD}\n    dbname: matrix\n"


@pytest.fixture
def conf(tmp_path):
    """A homeserver.yaml in a folder whose name needs quotes in a shell."""
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    return folder / "homeserver.yaml"


def options(path, **further):
    return {"path": str(path), "args": ARGS, "backup": False, **further}


def refused(run, path, check=False, **further) -> str:
    """Return the message of a refusal to write the section, which leaves the file alone and tells no secret."""
    before = path.read_bytes()
    result = run(CONFIG, options(path, **further), check=check)
    assert result.get("failed"), result
    assert path.read_bytes() == before and OLD not in result["output"]
    return result["msg"]


def warnings(result) -> list[str]:
    """Return a result's warnings, which ansible-core hands over as text or, since 2.19, with more about each."""
    return [found if isinstance(found, str) else found["event"]["msg"] for found in result.get("warnings", [])]


def written(run, path, **further) -> dict:
    """Return the section after the module has written it."""
    result = run(CONFIG, options(path, **further))
    assert result["changed"] and "failed" not in result, result
    return yaml.safe_load(path.read_text())["database"]


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        (
            "server_name: x\ndatabase:\n  name: psycopg2\n  args:\n    database: /data/homeserver.db\n",
            "args names the file /data/homeserver.db",
            "  name: sqlite3",
        ),
        ("database: {name: psycopg2, args: {database: homeserver.db}}\n", "the file homeserver.db", "database: {name: sqlite3,"),
        ("database:\n  args: {database: ':memory:'}\n  name: 'psycopg2'\n", "the file :memory:", "  name: 'sqlite3'"),
        ("database:\n  name: sqlite3\n  args:\n    user: u\n    database: m\n", "args has PostgreSQL's user", "  name: psycopg2"),
    ],
)
def test_a_section_half_edited_by_hand_was_taken_for_another_postgresql_database(run, conf, text, words, line):
    conf.write_text(text)
    message = refused(run, conf)
    assert words in message and "half edited" in message and message == refused(run, conf, check=True)
    commands.run(message)
    assert line in conf.read_text()
    assert written(run, conf)["args"]["user"] == "matrix-synapse"


def test_a_section_that_has_something_of_both_is_not_given_a_command_that_does_not_help(run, conf):
    texts = [f"database: {{name: {name}, args: {{user: u, database: /h.db}}}}\n" for name in ("psycopg2", "sqlite3")]
    for text in [*texts, "engine: &e psycopg2\ndatabase: {name: *e, args: {database: /h.db}}\n"]:
        conf.write_text(text)
        assert not commands.commands(refused(run, conf))


def test_a_database_of_postgresqls_that_is_called_like_a_file_is_meant_when_it_is_given(run, conf):
    conf.write_text("database: {name: psycopg2, args: {dbname: synapse.db}}\n")
    assert written(run, conf, args={**ARGS, "dbname": "synapse.db"})["args"]["dbname"] == "synapse.db"


@pytest.mark.parametrize(
    "text",
    [
        UNINDENTED,
        UNINDENTED.replace("args:", "# of mine\nargs:"),
        f"database:\n  name: psycopg2\nargs:\n  user: matrix\n  password: {OLD}\n",
        f"database:\n  name: psycopg2\n  args:\nuser: matrix\npassword: {OLD}\n",
        f"database:\n    name: psycopg2\n# args\n\nargs: {{user: matrix, password: {OLD}}}\na: 1",
    ],
)
def test_the_keys_of_an_unindented_section_stayed_at_top_level_with_the_old_password(run, conf, text):
    conf.write_text(text)
    commands.run(refused(run, conf))
    assert yaml.safe_load(conf.read_text())["database"]["args"]["password"] == OLD
    written(run, conf)
    assert OLD not in conf.read_text()
    assert set(yaml.safe_load(conf.read_text())) <= {"server_name", "database", "listeners", "a"}


def test_keys_that_an_earlier_run_left_at_top_level_are_told_and_removed(run, conf):
    conf.write_text(WHOLE + UNINDENTED.replace("database:\n", "", 1).replace("args:", "args: # x"))
    result = run(CONFIG, options(conf))
    assert result["changed"] and OLD not in result["output"]
    (warning,) = [warning for warning in warnings(result) if "top level" in warning]
    commands.run(warning)
    assert OLD not in conf.read_text() and set(yaml.safe_load(conf.read_text())) == {"database", "server_name", "listeners"}
    assert not [warning for warning in warnings(run(CONFIG, options(conf))) if "top level" in warning]


def test_json_was_no_json_afterwards(run, conf):
    section = {"name": "psycopg2", "args": {"user": "matrix-synapse", "database": "matrix-synapse"}}
    conf.write_text(json.dumps({"server_name": "example.test", "database": section}, indent=2))
    assert written(run, conf)["args"]["database"] == "matrix-synapse"
    assert json.loads(conf.read_text()) == yaml.safe_load(conf.read_text())
    assert '\n  "database": {\n    "name": "psycopg2",\n' in conf.read_text()


def test_the_keyword_that_another_program_needs_was_lost(run, conf):
    conf.write_text("database:\n  name: psycopg2\n  args:\n    user: matrix\n    database: matrix\nmodules: []\n")
    args = written(run, conf)["args"]
    assert args["database"] == "matrix-synapse" and "dbname" not in args
    assert not run(CONFIG, options(conf))["changed"]
    conf.write_text("database:\n  name: psycopg2\n  args: {dbname: matrix}\n")
    assert "database" not in written(run, conf)["args"]
    conf.write_text("database:\n  name: sqlite3\n  args: {database: /data/homeserver.db}\n")
    assert "database" not in written(run, conf)["args"]


@pytest.mark.parametrize("unseen", ["\u200b", "\ufeff"])
def test_a_key_with_a_character_that_is_not_seen_is_found_and_mended(run, conf, unseen):
    conf.write_text(f"server_name: x\n{unseen}database:\n  name: sqlite3\n  args: {{database: /h.db}}\n")
    message = refused(run, conf)
    assert f"<U+{ord(unseen):04X}>database" in message and unseen not in message
    commands.run(message)
    assert written(run, conf)["name"] == "psycopg2"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_converted_by_the_command_that_is_told(run, conf, encoding):
    conf.write_bytes("server_name: x\nadmin_contact: Käthe\n".encode(encoding))
    conf.chmod(0o640)
    commands.run(refused(run, conf))
    written(run, conf)
    assert "Käthe" in conf.read_text() and conf.stat().st_mode & 0o777 == 0o640 and list(conf.parent.iterdir()) == [conf]


def test_a_file_that_another_manager_writes_is_refused_unless_told_to_go_on(run, conf):
    conf.write_text("# Ansible managed\nserver_name: x\ndatabase: {name: sqlite3, args: {database: /h.db}}\n")
    message = refused(run, conf)
    assert "Ansible" in message and "overwritten" in message and "synapse_postgres_allow_managed_files" in message
    result = run(CONFIG, options(conf, allow_managed_file=True))
    assert result["changed"] and "looked after by Ansible" in str(result["warnings"])
    assert not run(CONFIG, options(conf))["changed"]


def test_a_section_in_a_block_of_another_manager_is_refused_and_one_beside_it_is_not(run, conf):
    block = "# BEGIN ANSIBLE MANAGED BLOCK\n{}# END ANSIBLE MANAGED BLOCK\n"
    section = "database: {name: sqlite3, args: {database: /h.db}}\n"
    conf.write_text("a: 1\n" + block.format(section))
    assert "block that begins on line 2" in refused(run, conf)
    conf.write_text(block.format("a: 1\n") + section)
    written(run, conf)


def test_links_into_places_where_nothing_can_be_changed_are_refused_and_kept(run, tmp_path):
    volume = tmp_path / "..2026_11_25_16_52_26.1234567"
    volume.mkdir()
    (volume / "homeserver.yaml").write_text("server_name: x\n")
    (tmp_path / "..data").symlink_to(volume.name)
    link = tmp_path / "homeserver.yaml"
    link.symlink_to("..data/homeserver.yaml")
    message = refused(run, link, allow_managed_file=True)
    assert "Kubernetes" in message and "ConfigMap" in message and link.is_symlink()


def test_our_own_configuration_of_a_new_homeserver_is_not_anothers(run, conf):
    template = pathlib.Path(__file__).parents[2] / "roles/synapse_config/templates/homeserver.yaml.j2"
    head = "".join(line for line in template.read_text().splitlines(keepends=True) if line.startswith("#"))
    conf.write_text(head + "server_name: x\n")
    written(run, conf)


PATRONI = "# Do not edit this file manually!\n# It will be overwritten by Patroni!\n"
RULE = {"type": "host", "database": "postgres", "user": "matrix-synapse", "address": "127.0.0.1/32"}


@pytest.fixture
def hba(any_cluster):
    """The pg_hba.conf of a cluster with a role matrix-synapse; all is put back afterwards."""
    path = any_cluster.data / "pg_hba.conf"
    before = path.read_bytes()
    any_cluster.rows("CREATE ROLE \"matrix-synapse\" LOGIN PASSWORD 'secret'")
    try:
        yield path
    finally:
        path.write_bytes(before)
        any_cluster.reload()
        any_cluster.rows('DROP ROLE "matrix-synapse"')


def test_a_rule_in_patronis_file_was_lost_with_its_next_writing(any_cluster, run, hba):
    hba.write_text(PATRONI + "host all admin 127.0.0.1/32 scram-sha-256\nlocal all all trust\nhost all all all reject\n")
    any_cluster.reload()
    before = hba.read_bytes()
    for check in (True, False):
        result = run("postgres_hba", {**any_cluster.login, "rules": [RULE]}, check=check)
        assert result["failed"] and "Patroni" in result["msg"] and "patronictl edit-config" in result["msg"]
        assert hba.read_bytes() == before
    absent = run("postgres_hba", {**any_cluster.login, "rules": [RULE], "state": "absent"})
    assert not absent["changed"] and "failed" not in absent
    result = run("postgres_hba", {**any_cluster.login, "rules": [RULE], "allow_managed_file": True})
    assert result["changed"] and "looked after by Patroni" in str(result["warnings"])
    any_cluster.connect(user="matrix-synapse", password="secret").close()
    assert not run("postgres_hba", {**any_cluster.login, "rules": [RULE]})["changed"]


@pytest.mark.parametrize(
    ("dynamic", "outcome"),
    [
        ({"postgresql": {"pg_hba": ["host all all all md5"]}}, "has postgresql.pg_hba"),
        ({"ttl": 30}, "on each of its cluster's hosts"),
    ],
)
def test_patroni_is_told_by_what_it_keeps_beside_the_data(any_cluster, run, hba, dynamic, outcome):
    kept = any_cluster.data / "patroni.dynamic.json"
    kept.write_text(json.dumps(dynamic))
    try:
        result = run("postgres_hba", {**any_cluster.login, "rules": [RULE]}, check=True)
    finally:
        kept.unlink()
    assert outcome in (result["msg"] if "failed" in result else str(result["warnings"]))
    assert bool(result.get("failed")) is ("pg_hba" in str(dynamic))


def test_a_rule_in_a_block_of_another_manager_is_refused(any_cluster, run, hba):
    text = "# BEGIN ANSIBLE MANAGED BLOCK\nhost all all 127.0.0.1/32 md5\n# END ANSIBLE MANAGED BLOCK\n"
    hba.write_text("host all admin 127.0.0.1/32 scram-sha-256\n" + text)
    any_cluster.reload()
    result = run("postgres_hba", {**any_cluster.login, "rules": [RULE]})
    assert result["failed"] and "block that begins on line 2" in result["msg"]


@pytest.mark.parametrize(
    ("line", "number"),
    [("\ufefflocal all all trust", 1), ("local\u00a0all all trust", 2), ("lo\u200bcal all all trust", 2)],
)
def test_a_byte_order_mark_was_quoted_and_not_seen(any_cluster, run, hba, line, number):
    admin = "host all admin 127.0.0.1/32 scram-sha-256\n"
    hba.write_text(line + "\n" + admin if number == 1 else admin + line + "\n")
    result = run("postgres_hba", {**any_cluster.login, "rules": [RULE]})
    odd = next(char for char in line if ord(char) > 127)
    assert result["failed"] and odd not in result["msg"] and f"line {number} of" in result["msg"], result
    commands.run(result["msg"])
    result = run("postgres_hba", {**any_cluster.login, "rules": [RULE]})
    assert result["changed"] and "failed" not in result, result
    assert hba.read_text().replace("  ", " ").count("local all all") == 1


def test_a_password_that_has_expired_is_told_with_the_command_that_helps(any_cluster, run, hba):
    any_cluster.rows("ALTER ROLE \"matrix-synapse\" VALID UNTIL '2001-01-01'")
    asked = {"user": "matrix-synapse", "database": "postgres", "address": "127.0.0.1"}
    with pytest.raises(psycopg2.OperationalError):
        any_cluster.connect(user="matrix-synapse", password="secret")
    result = run("postgres_hba_info", {**any_cluster.login, **asked})
    assert result["password"] == "expired" and '"matrix-synapse"' in result["explanation"]
    commands.run(result["explanation"], any_cluster)
    any_cluster.connect(user="matrix-synapse", password="secret").close()


def acl(*entries) -> bytes:
    """Return an access control list as the kernel keeps it: entries of (tag, permissions, id), see linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# The owner, the user 12345, the group, the mask, all others.
READERS = acl((1, 6, 0xFFFFFFFF), (2, 4, 12345), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))


def test_the_access_control_list_by_which_synapse_reads_its_file_was_lost(run, conf):
    conf.write_text("server_name: x\n")
    os.setxattr(conf, "system.posix_acl_access", READERS)
    os.setxattr(conf, "user.note", b"mine")
    written(run, conf)
    assert os.getxattr(conf, "system.posix_acl_access") == READERS and os.getxattr(conf, "user.note") == b"mine"


def test_the_access_control_list_of_pg_hba_is_kept(any_cluster, run, hba):
    os.setxattr(hba, "system.posix_acl_access", READERS)
    try:
        assert run("postgres_hba", {**any_cluster.login, "rules": [RULE]})["changed"]
        assert os.getxattr(hba, "system.posix_acl_access") == READERS
    finally:
        os.removexattr(hba, "system.posix_acl_access")


@pytest.fixture
def locked():
    """``locked(path, letter)`` sets an attribute of chattr's, which is taken off again; a skip where this user may not."""
    done = []

    def lock(path, letter):
        found = subprocess.run(["chattr", f"+{letter}", path], capture_output=True, text=True, check=False)
        needs.need(not found.returncode, f"only root may set attributes of files, where the file system has them: {found.stderr}")
        done.append((path, letter))

    yield lock
    for path, letter in done:
        subprocess.run(["chattr", f"-{letter}", path], check=True)


@pytest.mark.parametrize(("of_folder", "letter"), [(False, "i"), (True, "i"), (False, "a")])
def test_a_file_that_is_protected_by_an_attribute_is_told_with_the_command_that_helps(run, conf, locked, of_folder, letter):
    conf.write_text("server_name: x\n")
    locked(conf.parent if of_folder else conf, letter)
    commands.run(refused(run, conf))
    written(run, conf)


def test_a_hard_link_keeps_the_old_content_and_is_told(run, conf):
    conf.write_text("server_name: x\n")
    os.link(conf, conf.with_name("other.yaml"))
    result = run(CONFIG, options(conf))
    assert result["changed"] and "had 2 names" in " ".join(warnings(result))
    assert conf.with_name("other.yaml").read_text() == "server_name: x\n"


@pytest.mark.parametrize("single", [False, True])
def test_a_mount_that_keeps_a_file_from_being_replaced_is_named(run, conf, single):
    conf.write_text("server_name: x\n")
    target = conf if single else conf.parent
    needs.mounts()
    subprocess.run(["mount", "--bind", target, target], check=True, capture_output=True)
    try:
        if not single:
            subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        message = refused(run, conf)
    finally:
        subprocess.run(["umount", target], check=True)
    assert ("single file" if single else "read-only") in message


def test_a_password_that_everybody_may_read_is_told_with_the_command_that_helps(run, conf):
    conf.write_text("server_name: x\n")
    conf.chmod(0o644)
    told = [warning for warning in warnings(run(CONFIG, options(conf))) if "Every user" in warning]
    commands.run(*told)
    assert not [warning for warning in warnings(run(CONFIG, options(conf))) if "Every user" in warning]


ODD_ROLE = 'the "odd" role-name'


@pytest.fixture
def administrator(any_cluster):
    """The login of a role that may set work_mem and shared_buffers and no more; what it sets is put back afterwards."""
    quoted = '"' + ODD_ROLE.replace('"', '""') + '"'
    any_cluster.rows(f"CREATE ROLE {quoted} LOGIN PASSWORD 'secret'")
    any_cluster.rows(f"GRANT ALTER SYSTEM ON PARAMETER work_mem, shared_buffers TO {quoted}")
    yield {**any_cluster.login, "login_user": ODD_ROLE, "login_password": "secret", "method": "alter_system"}
    any_cluster.rows("ALTER SYSTEM RESET ALL")
    any_cluster.reload()
    any_cluster.rows(f"DROP OWNED BY {quoted}")
    any_cluster.rows(f"DROP ROLE {quoted}")


def test_the_rights_that_settings_need_are_granted_by_what_is_told(any_cluster, run, administrator):
    def told(size, words):
        result = run("postgres_settings", {**administrator, "settings": {"work_mem": size, "shared_buffers": "64MB"}})
        assert "failed" not in result, result
        return [warning for warning in warnings(result) if words in warning]

    commands.run(*told("6MB", "make the server load"), any_cluster)
    assert not told("7MB", "make the server load")
    commands.run(*told("7MB", "cannot see"), any_cluster)
    assert not told("7MB", "cannot see")


def test_a_settings_file_that_another_manager_writes_is_refused(any_cluster, run):
    path = any_cluster.data / "conf.d" / "of-puppet.conf"
    path.write_text("# This file is managed by Puppet. DO NOT EDIT.\n")
    try:
        result = run("postgres_settings", {**any_cluster.login, "settings": {"work_mem": "6MB"}, "path": str(path)})
        assert result["failed"] and "Puppet" in result["msg"] and path.read_text().count("\n") == 1
    finally:
        path.unlink()


@pytest.fixture
def database(any_cluster):
    """The name of a database that Synapse's role, whose name needs quotes as the database's does, may log in to."""
    any_cluster.rows("CREATE ROLE \"matrix-synapse\" LOGIN PASSWORD 'secret'")
    any_cluster.rows("CREATE DATABASE \"matrix-synapse\" TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8'")
    yield "matrix-synapse"
    any_cluster.rows('DROP DATABASE "matrix-synapse"')
    any_cluster.rows('DROP ROLE "matrix-synapse"')


def test_a_role_whose_password_has_expired_is_told_where_it_is_made(any_cluster, run, database):
    any_cluster.rows("ALTER ROLE \"matrix-synapse\" VALID UNTIL '2001-01-01'")
    role = {**any_cluster.login, "name": "matrix-synapse", "password": "secret"}
    made = {**any_cluster.login, "name": database, "user": "matrix-synapse", "password": "secret"}
    results = [run("postgres_role", role), run("synapse_database", made, check=True)]
    told = [[warning for warning in warnings(result) if "valid until 2001" in warning] for result in results]
    assert len(told[0]) == 1 and told[0] == told[1], results
    commands.run(*told[0], any_cluster)
    any_cluster.connect(user="matrix-synapse", password="secret").close()
    assert not warnings(run("postgres_role", role))


def unfit(cluster, name) -> list[dict]:
    """Return the problems that a move would have with the database ``name``, as Synapse's role finds them."""
    report = preflight_report.Report()
    with contextlib.closing(cluster.connect(dbname=name, user="matrix-synapse", password="secret")) as connection:
        with connection.cursor() as cursor:
            preflight_target.report_database(report, cursor, name, False)
    return report.problems


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("SELECT 1", "in the database matrix-synapse, which belongs to admin"),
        ('ALTER DATABASE "matrix-synapse" OWNER TO "matrix-synapse"; DROP SCHEMA public', "has no schema public"),
        (
            'ALTER DATABASE "matrix-synapse" OWNER TO "matrix-synapse"; ALTER SCHEMA public OWNER TO admin',
            "in the schema public of the database",
        ),
    ],
    ids=["another's database", "no schema", "another's schema"],
)
def test_alter_database_was_the_remedy_for_a_dropped_schema(any_cluster, database, broken, words):
    for statement in broken.split(";"):
        any_cluster.rows(statement, dbname=database)
    (problem,) = unfit(any_cluster, database)
    assert words in problem["found"]
    commands.run(problem["remedy"], any_cluster, database)
    assert unfit(any_cluster, database) == []


def test_a_sqlite_database_is_made_fit_to_move_by_the_command_that_is_told(run, conf):
    path = conf.with_name("homeserver.db")
    sqlite.homeserver(path, auto_vacuum=True)
    ((found, remedy),) = contents.unfit_to_move(str(path), contents.inspect(str(path)))
    assert "auto_vacuum" in found
    commands.run(remedy)
    assert contents.unfit_to_move(str(path), contents.inspect(str(path))) == []


def test_a_journal_that_keeps_synapse_from_writing_is_changed(conf):
    path = conf.with_name("homeserver.db")
    sqlite.homeserver(path, wal=False)
    report = preflight_report.Report()
    preflight_file.report_file(report, str(path), contents.inspect(str(path)), False)
    commands.run(report.notes[0]["remedy"])
    assert contents.inspect(str(path)).journal_mode == "wal"


def test_rights_that_the_task_may_not_take_away_are_taken_by_the_commands_that_are_told(any_cluster, database):
    """The role of the task is Synapse's own here, which owns nothing yet; the schema is open as before PostgreSQL 15."""
    any_cluster.rows("GRANT CREATE ON SCHEMA public TO PUBLIC", dbname=database)
    any_cluster.rows("ALTER SCHEMA public OWNER TO admin", dbname=database)
    any_cluster.rows('GRANT CONNECT ON DATABASE "matrix-synapse" TO "matrix-synapse"')
    login = {**any_cluster.login, "login_user": "matrix-synapse", "login_password": "secret"}
    with contextlib.closing(any_cluster.connect(user="matrix-synapse", password="secret", dbname=database)) as connection:
        with connection.cursor() as cursor:
            server = Server(cursor, _connection.keywords(login), "synapse_database")
            before = privileges.restrict(server, database, "matrix-synapse", True)
            for warning in before["warnings"]:
                commands.run(warning, any_cluster, database)
            after = privileges.restrict(server, database, "matrix-synapse", True)
    assert len(before["warnings"]) == 2 and after["warnings"] == []
    assert after["rights"] == {"everybody": [], "owner": [privileges.CREATE]}


@pytest.fixture
def folder():
    """A folder of ours that every user may read, which pytest's are not."""
    with tempfile.TemporaryDirectory() as made:
        path = pathlib.Path(made)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def test_the_folder_of_a_database_in_wal_mode_may_be_read_and_has_to_be_written_to(run, folder):
    path, account = folder / "homeserver.db", clusters.unprivileged_account()
    sqlite.homeserver(path)
    path.chmod(0o644)
    folder.chmod(0o555)
    result = run("synapse_sqlite_info", {"path": str(path)}, account=account)
    assert result["failed"] and f"{folder} may not be written to" in result["msg"], result
    folder.chmod(0o777)
    assert run("synapse_sqlite_info", {"path": str(path)}, account=account)["users"] == 2
