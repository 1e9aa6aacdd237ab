# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_port with a real Synapse's database and routine: ported once, resumed, and never over live data."""

import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid

import pytest
import yaml

from support import clusters, conversation, sqlite, synapse

PASSWORD = "synapse's %{ }'\" word: #1"


class Move:
    """A homeserver's copied files, an empty database for it, and the options of the module that join them."""

    def __init__(self, folder: pathlib.Path, server: synapse.Homeserver, cluster: clusters.Cluster) -> None:
        self.cluster, self.folder, self.name = cluster, folder, f"synapse_{uuid.uuid4().hex[:8]}"
        self.source = folder / "homeserver.db"
        shutil.copy(server.database, self.source)
        cluster.rows(f"CREATE DATABASE {self.name} OWNER synapse ENCODING UTF8 LOCALE 'C' TEMPLATE template0")
        self.config = folder / "homeserver-postgres.yaml"
        text = yaml.safe_load(server.config.read_text())
        args = {"user": "synapse", "password": PASSWORD, "dbname": self.name, "host": "127.0.0.1", "port": cluster.port}
        text["database"] = {"name": "psycopg2", "args": {**args, "cp_min": 1, "cp_max": 5}}
        # What an administrator's configuration has and the routine must not trip over: it does not exist here.
        text.update(modules=[{"module": "not.installed.Here", "config": {}}], media_store_path="/nowhere/media")
        self.config.write_text(yaml.safe_dump(text))
        self.options = {
            "sqlite_database": str(self.source),
            "config": [str(self.config)],
            "synapse_python": str(server.python),
        }

    def rows(self, query: str) -> list:
        return self.cluster.rows(query, dbname=self.name)

    def tables(self) -> list:
        return self.rows("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'synapse_postgres')")

    def users(self) -> int:
        return self.rows("SELECT count(*) FROM users")[0][0]

    def lite(self, query: str) -> list:
        with contextlib.closing(sqlite3.connect(self.source)) as connection:
            found = connection.execute(query).fetchall()
            connection.commit()
            return found


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    """A Move whose database is dropped afterwards."""
    server = homeserver[0]
    if not any_cluster.rows("SELECT 1 FROM pg_roles WHERE rolname = 'synapse'"):
        any_cluster.rows("CREATE ROLE synapse LOGIN PASSWORD %s", PASSWORD)
    found = Move(tmp_path, server, any_cluster)
    yield found
    any_cluster.rows(f"DROP DATABASE {found.name} WITH (FORCE)")


def start_on_postgres(move, server, action="start"):
    """Run Synapse on the moved database with its real configuration, in the folder of the move."""
    text = yaml.safe_load(server.config.read_text())
    text["database"] = yaml.safe_load(move.config.read_text())["database"]
    text["pid_file"] = str(move.folder / "homeserver.pid")
    path = move.folder / "homeserver.yaml"
    path.write_text(yaml.safe_dump(text))
    subprocess.run([server.python, "-m", "synapse._scripts.synctl", action, path], cwd=move.folder, check=True, timeout=60)


def test_ported_once_then_recognised_then_extended_and_then_never_over_live_data(run, move, homeserver):
    server, said = homeserver
    assert run("synapse_port", move.options, check=True)["changed"] and not move.rows(
        "SELECT 1 FROM pg_tables WHERE schemaname='public'"
    )
    first = run("synapse_port", move.options)
    assert first["changed"] and first["finished"], first
    assert first["tables"]["users"]["rows"] == first["tables"]["users"]["total"] == len(said["users"])
    assert move.users() == len(said["users"])
    assert pathlib.Path(first["log"]).stat().st_mode & 0o077 == 0
    assert PASSWORD not in first["output"] + pathlib.Path(first["log"]).read_text()
    assert not [path for path in move.folder.iterdir() if path.name.startswith(".port-")]

    for check in (True, False):
        again = run("synapse_port", move.options, check=check)
        assert not again["changed"] and again["finished"]

    # Phase two: what was said since is carried over.
    move.lite("INSERT INTO users (name, creation_ts) VALUES ('@late:localhost', 1)")
    assert run("synapse_port", move.options, check=True)["changed"]
    second = run("synapse_port", move.options)
    assert second["changed"] and move.users() == len(said["users"]) + 1

    # Synapse lives on it.
    start_on_postgres(move, server)
    try:
        conversation.wait_for(server.url)
        conversation.check(server.url, said)
        refused = run("synapse_port", {**move.options, "sqlite_database": str(_other(move))})
        assert refused["failed"] and "Synapse has written" in refused["msg"], refused
        assert not run("synapse_port", move.options)["changed"]
    finally:
        start_on_postgres(move, server, "stop")
    before = move.rows("SELECT event_id FROM events ORDER BY 1")
    refused = run("synapse_port", {**move.options, "sqlite_database": str(_other(move))})
    assert refused["failed"] and "Synapse has written" in refused["msg"]
    # Whatever became of our record of it.
    move.rows("DROP SCHEMA synapse_postgres CASCADE")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "Synapse has written" in refused["msg"], refused
    move.rows("DROP TABLE port_from_sqlite3")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "Synapse has written" in refused["msg"]
    assert move.rows("SELECT event_id FROM events ORDER BY 1") == before


def _other(move):
    """Return a copy of the source that differs from it, as a newer snapshot would."""
    other = move.folder / "other.db"
    shutil.copy(move.source, other)
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("INSERT OR IGNORE INTO users (name, creation_ts) VALUES ('@other:localhost', 1)")
        connection.commit()
    return other


@pytest.mark.parametrize("after", [0.5, 2.5, 4.0])
def test_a_killed_port_goes_on(run, move, homeserver, after):
    said = homeserver[1]
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})\n" + _KILLED]
    victim = subprocess.Popen(
        [*words, str(move.source), str(move.config), move.options["synapse_python"]], start_new_session=True
    )
    time.sleep(after)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    done = run("synapse_port", {**move.options, "batch_size": 7})
    assert done["finished"], done
    assert move.users() == len(said["users"])
    assert not run("synapse_port", move.options)["changed"]


_KILLED = """
from support import modules
modules.run("synapse_port", {"sqlite_database": sys.argv[1], "config": [sys.argv[2]], "synapse_python": sys.argv[3]})
"""


def test_rows_that_postgresql_cannot_store_are_counted(run, move):
    move.lite("UPDATE users SET appservice_id = 'a' || char(0) || 'b' WHERE name = '@person0:localhost'")
    done = run("synapse_port", move.options)
    assert done["tables"]["users"]["dropped"] == 1


def test_a_folder_of_configuration_files_is_read_as_synapse_reads_it(run, move):
    whole = yaml.safe_load(move.config.read_text())
    folder = move.folder / "conf.d"
    folder.mkdir()
    (folder / "database.yaml").write_text(yaml.safe_dump({"database": whole.pop("database")}))
    (folder / "server_name.yaml").write_text(yaml.safe_dump({"server_name": whole.pop("server_name")}))
    (folder / "notes.txt").write_text("{")
    whole["database"] = {"name": "sqlite3", "args": {"database": "/nowhere.db"}}
    move.config.write_text(yaml.safe_dump(whole))
    assert run("synapse_port", {**move.options, "config": [str(move.config), str(folder)]})["finished"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE TABLE other_things (x int)", "are not Synapse's"),
        (
            "CREATE TABLE schema_version (v int); CREATE TABLE users (x int); INSERT INTO users VALUES (1);"
            "GRANT SELECT ON users TO synapse",
            "1 rows in users",
        ),
    ],
)
def test_a_target_that_is_not_ours_is_refused(run, move, statement, words):
    move.rows(statement)
    before = move.tables()
    for check in (True, False):
        refused = run("synapse_port", move.options, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert move.tables() == before


def test_a_target_that_was_emptied_is_ported_again(run, move, homeserver):
    assert run("synapse_port", move.options)["finished"]
    move.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION synapse")
    again = run("synapse_port", move.options)
    assert again["changed"] and again["finished"], again
    assert move.users() == len(homeserver[1]["users"])


def test_a_copy_that_was_restored_elsewhere_counts_as_live(run, move):
    assert run("synapse_port", move.options)["finished"]
    # A dump and a restore write every row in one new transaction, under other numbers.
    move.rows("UPDATE synapse_postgres.move SET source = source")
    refused = run("synapse_port", {**move.options, "sqlite_database": str(_other(move))})
    assert refused["failed"] and "restored after the move" in refused["msg"], refused


def test_another_homeserver_is_kept_out_even_after_half_a_move(run, move):
    options = {key: value for key, value in move.options.items() if key != "synapse_python"}
    assert run("synapse_port", {**options, "command": ["/bin/sh", "-c", "exit 5"]})["failed"]
    text = move.config.read_text()
    move.config.write_text(text.replace("server_name: localhost", "server_name: other.example.org"))
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "the homeserver localhost's, and this one is other.example.org" in refused["msg"], refused
    move.config.write_text(text)
    assert run("synapse_port", move.options)["finished"]


def test_a_vacuum_between_two_runs_is_noticed(run, move):
    assert run("synapse_port", move.options)["finished"]
    # Where the routine stopped stands another row now.
    move.lite("UPDATE events SET event_id = event_id || 'x' WHERE rowid = (SELECT max(rowid) FROM events)")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "numbered anew by a VACUUM" in refused["msg"], refused


def test_a_role_that_works_in_another_schema_is_refused(run, move):
    move.rows("CREATE SCHEMA synapse AUTHORIZATION synapse")
    for check in (True, False):
        refused = run("synapse_port", move.options, check=check)
        assert refused["failed"] and "works in the schema synapse" in refused["msg"], refused


def test_a_target_with_another_locale_is_refused(run, move):
    move.rows("SELECT 1")
    move.cluster.rows(f"DROP DATABASE {move.name}")
    move.cluster.rows(f"CREATE DATABASE {move.name} OWNER synapse LC_COLLATE 'C.UTF-8' LC_CTYPE 'C' TEMPLATE template0")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and "LC_COLLATE is C.UTF-8, not C" in refused["msg"]


def test_a_target_that_somebody_uses_and_two_moves_at_once_are_refused(run, move):
    session = move.cluster.connect(dbname=move.name, user="synapse", password=PASSWORD, application_name="synapse")
    with contextlib.closing(session):
        refused = run("synapse_port", move.options)
        assert refused["failed"] and "connected to the target database" in refused["msg"]
    with contextlib.closing(move.cluster.connect(dbname=move.name)) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (0x736E707370,))
        refused = run("synapse_port", move.options)
        assert refused["failed"] and "Another move" in refused["msg"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"users": 0}, "holds no users"),
        ({"auto_vacuum": True}, "auto_vacuum"),
        ({"pending": ("populate_stats",)}, "pending background updates (populate_stats)"),
    ],
)
def test_a_source_that_cannot_be_moved_is_refused(run, move, options, words):
    move.source.unlink()
    sqlite.homeserver(move.source, **options)
    for check in (True, False):
        refused = run("synapse_port", move.options, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert not move.tables()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sqlite_database": "/nowhere/homeserver.db"}, "cannot be read"),
        ({"sqlite_database": "homeserver.db"}, "not absolute"),
        ({"sqlite_database": __file__}, "not a SQLite database"),
        ({"config": ["/nowhere/homeserver.yaml"]}, "/nowhere/homeserver.yaml"),
        ({"synapse_python": "/nowhere/python"}, "does not run"),
        ({"synapse_python": sys.executable}, "has no Synapse"),
        ({"batch_size": 0}, "carries nothing"),
        ({"command": ["synapse_port_db"]}, "mutually exclusive"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(run, move, options, words):
    for check in (True, False):
        refused = run("synapse_port", {**move.options, **options}, check=check)
        assert refused["failed"] and words in refused["msg"], refused
    assert not move.tables()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("database: {name: psycopg2, args: {}}", "No server_name"),
        ("server_name: test", "No database section for psycopg2"),
        ("server_name: test\ndatabase: {name: sqlite3, args: {database: /x}}", "No database section for psycopg2"),
        ("server_name: [", "homeserver-postgres.yaml"),
        ("server_name: test\n# \udcff", "is not UTF-8: line 2"),
        ("server_name: test\ndatabase: {name: psycopg2, args: {1: x}}", "database.args.1 is neither text nor a number"),
    ],
)
def test_a_configuration_that_does_not_serve_is_refused(run, move, text, words):
    move.config.write_text(text, errors="surrogateescape")
    refused = run("synapse_port", move.options)
    assert refused["failed"] and words in refused["msg"], refused


def test_a_routine_that_fails_is_quoted_and_can_be_run_again(run, move):
    command = ["/bin/sh", "-c", "echo 'something broke'; exit 5"]
    options = {key: value for key, value in move.options.items() if key != "synapse_python"}
    refused = run("synapse_port", {**options, "command": command})
    assert refused["failed"] and "something broke" in refused["msg"] and ".port.log" in refused["msg"]
    assert run("synapse_port", move.options)["finished"]
