# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the module synapse_config_info finds out, of a real Synapse in its several ways of being started, and of none."""

import contextlib
import os
import pathlib
import pwd
import shutil
import sqlite3
import subprocess
import tempfile

import pytest
import yaml

from support import clusters, loopback, needs, synapse

SQLITE = "database:\n  name: sqlite3\n  args:\n    database: {}\n"


def made(folder, texts):
    """Write ``texts`` (path: content) below ``folder``; return the path of homeserver.yaml there."""
    for name, text in {"homeserver.yaml": "server_name: localhost\n", **texts}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder / "homeserver.yaml")


@pytest.fixture
def look(run):
    """``look(path, **options)`` -> the module's result."""
    return lambda path, **options: run("synapse_config_info", {"path": str(path), **options})


def test_a_later_file_decides_and_is_named(look, tmp_path):
    path = made(
        tmp_path,
        {
            "homeserver.yaml": SQLITE.format("/nowhere/old.db"),
            "conf.d/database.yaml": "database: {name: psycopg2, args: {user: synapse}}",
            "conf.d/other.yaml": "listeners: [{type: http, port: 8009, resources: [{names: [client]}]}]",
        },
    )
    found = look(path)
    assert found["engine"] == "psycopg2" and found["section_path"] == str(tmp_path / "conf.d" / "database.yaml")
    assert found["overridden"] == [path] and found["sqlite_path"] is None and found["folders"] == [str(tmp_path / "conf.d")]
    assert found["address"] == {"url": "http://127.0.0.1:8009", "ask": "/_matrix/client/versions", "socket": None}
    # What synctl is given is all that a Synapse reads that it starts.
    assert "/nowhere/old.db, which is not on this host" in look(path, manager="synctl")["msg"]
    (tmp_path / "old.db").touch()
    given = look(path, files=[str(tmp_path / "conf.d"), path], sqlite_path=str(tmp_path / "old.db"))
    assert (given["engine"], given["section_path"], given["sqlite_named"]) == ("sqlite3", path, "/nowhere/old.db")
    assert given["sqlite_path"] == str(tmp_path / "old.db") and given["found_by"] == "the play"
    assert "homeserver.yaml is none of them" in look(path, files=[str(tmp_path / "conf.d")])["msg"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("database: {name: sqlite3}", "names no file: args.database is missing"),
        ("database: {name: sqlite3, args: {}}", "names no file: args.database is missing"),
        ("database: {args: {database: /a}}", "names no engine"),
        ("database: {name: sqlite3, args: {database: }}", "names no file: args.database is missing"),
        ("database: {name: sqlite3, args: null}", "args holds nothing"),
        ("database: {name: sqlite3, args: {database: ':memory:'}}", "everything in memory"),
        ("database: {name: SQLite3, args: {database: /a}}", "'SQLite3', and Synapse knows sqlite3 and psycopg2"),
        ("database: {name: sqlite3, args: {database: homeserver.db}}", "relative to the folder that Synapse is started in"),
        ("database: {name: sqlite3, args: {database: /data/homeserver.db}}", "synapse_postgres_sqlite_path"),
        ("database: words", "holds a str"),
        ("database: [1]", "holds a list"),
        ("databases: {main: {name: sqlite3}}", "divided among several databases"),
        ("database_path: /none.db", "/none.db, which is not on this host"),
        ("--- words", "is not a mapping"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_told_in_a_sentence(look, tmp_path, section, words):
    path = made(tmp_path, {"conf.d/database.yaml": section})
    found = look(path)
    assert found["failed"] and words in found["msg"] and str(tmp_path) in found["msg"]


def test_what_is_not_there_is_no_failure(look, tmp_path):
    found = look(tmp_path / "none.yaml")
    assert found["exists"] is False and "failed" not in found and "files" not in found


@pytest.fixture
def server(homeserver, tmp_path):
    """The files of a homeserver, not started, in a folder of its own: its database named relatively, in a file of conf.d."""
    port, folder = loopback.free_port(), tmp_path / "synapse"
    shutil.copytree(homeserver[0].folder, folder, ignore=shutil.ignore_patterns("*.pid", "*.log*"))
    text = homeserver[0].config.read_text().replace(str(homeserver[0].folder), str(folder))
    config = yaml.safe_load(text.replace(str(homeserver[0].port), str(port)))
    config.update(listeners=[{**config["listeners"][0], "path": "main.sock"}], database_path="/nowhere/old.db")
    del config["listeners"][0]["port"], config["listeners"][0]["bind_addresses"], config["database"]
    config.pop("log_config")
    made(folder, {"homeserver.yaml": yaml.safe_dump(config), "conf.d/database.yaml": SQLITE.format("homeserver.db")})
    return folder


@contextlib.contextmanager
def started(words, folder, socket):
    """Run Synapse by ``words`` in ``folder`` within the block, until it answers at ``socket``."""
    with (folder / "output").open("w") as stream, subprocess.Popen(words, cwd=folder, stdout=stream, stderr=stream) as process:
        try:
            for _second in range(600):
                if socket.exists():
                    break
                assert process.poll() is None, (folder / "output").read_text()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            yield
        finally:
            process.terminate()


def test_a_running_synapse_says_which_files_it_reads_and_where_it_answers(look, server):
    words = [synapse.PYTHON, "-m", "synapse.app.homeserver", "-c", "homeserver.yaml", "--config-path=conf.d"]
    with started(words, server, server / "main.sock"):
        found = look(server / "homeserver.yaml", manager="command")
        assert found["files"] == [str(server / "homeserver.yaml"), str(server / "conf.d" / "database.yaml")]
        assert found["section_path"] == found["files"][1] and found["found_by"].startswith("process ")
        assert (found["sqlite_named"], found["sqlite_path"]) == ("homeserver.db", str(server / "homeserver.db"))
        assert found["address"] == {
            "url": "http://unix",
            "ask": "/_matrix/client/versions",
            "socket": str(server / "main.sock"),
        }
        # A part of it by another name is as good; a file that it does not read is none of its own.
        (server / "link.yaml").symlink_to("conf.d/database.yaml")
        assert look(server / "link.yaml")["files"][1] == str(server / "link.yaml")
        # The next start would be on another database.
        assert "synctl would start it with" in look(server / "homeserver.yaml", manager="synctl")["msg"]


def test_a_synapse_in_a_container_is_found_by_its_mounts(look, server):
    needs.mounts()
    data = pathlib.Path("/mnt/data") if pathlib.Path("/mnt").is_dir() else pathlib.Path("/media/data")
    config = (server / "homeserver.yaml").read_text().replace(str(server), str(data)).replace("main.sock", f"{data}/main.sock")
    made(server, {"homeserver.yaml": config, "conf.d/database.yaml": SQLITE.format(f"{data}/homeserver.db")})
    script = 'mount -t tmpfs none "$(dirname $1)" && mkdir $1 && mount --bind . $1 && cd $1 && shift && exec "$@"'
    inside = [synapse.PYTHON, "-m", "synapse.app.homeserver", "-c", data / "homeserver.yaml", "-c", data / "conf.d"]
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", data, *inside]
    with started(words, server, server / "main.sock"):
        found = look(server / "homeserver.yaml", manager="command")
        assert found["section_path"] == str(server / "conf.d" / "database.yaml") and found["folders"] == [str(server / "conf.d")]
        assert (found["sqlite_named"], found["sqlite_path"]) == (f"{data}/homeserver.db", str(server / "homeserver.db"))
        assert found["address"]["socket"] == str(server / "main.sock")
    # Once it has stopped nobody tells, and the remedy breaks nothing.
    told = look(server / "homeserver.yaml", manager="command")["msg"]
    assert f"{data}/homeserver.db, which is not on this host" in told and "leave the file as it is" in told
    given = look(server / "homeserver.yaml", sqlite_path=str(server / "homeserver.db"))
    assert given["sqlite_path"] == str(server / "homeserver.db")


@pytest.fixture
def processes(tmp_path):
    """``processes({application: words})`` starts programs of these names and options, that only wait, for the test."""
    (tmp_path / "synapse" / "app").mkdir(parents=True)
    for name in ("__init__.py", "app/__init__.py"):
        (tmp_path / "synapse" / name).touch()
    options = {"env": {**os.environ, "PYTHONPATH": str(tmp_path)}, "cwd": tmp_path}
    with contextlib.ExitStack() as stack:

        def start(applications):
            for name, words in applications.items():
                (tmp_path / "synapse" / "app" / f"{name}.py").write_text("import time; time.sleep(60)")
                command = [synapse.PYTHON, "-m", f"synapse.app.{name}", *words]
                stack.callback(stack.enter_context(subprocess.Popen(command, **options)).kill)

        yield start


def test_a_program_of_anybodys_by_synapses_name_had_the_password_written_into_a_file_of_theirs(look):
    needs.need(os.geteuid() == 0 and os.path.exists("/usr/bin/python3"), "another user's program takes root and a Python for all")
    account = pwd.getpwnam(clusters.unprivileged_account())
    with tempfile.TemporaryDirectory() as made_for_all:
        folder = pathlib.Path(made_for_all)
        folder.chmod(0o755)
        path = made(folder, {"synapse/__init__.py": "", "synapse/app/__init__.py": "", "theirs.yaml": SQLITE.format("/dev/null")})
        (folder / "synapse" / "app" / "homeserver.py").write_text("print(flush=True); import time; time.sleep(60)")
        words = ["/usr/bin/python3", "-m", "synapse.app.homeserver", "-c", path, "-c", folder / "theirs.yaml"]
        how = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "env": {"PYTHONPATH": made_for_all}}
        with subprocess.Popen(words, stdout=subprocess.PIPE, **how) as process:
            process.stdout.readline()
            told = look(path)
            # Where the file is that user's own, it is Synapse's.
            os.chown(path, account.pw_uid, account.pw_gid)
            its = look(path)
            process.kill()
    assert told["files"] == [path] and told["section_path"] == path, told
    assert its["found_by"] == f"process {process.pid}" and len(its["files"]) == 2, its


def test_a_worker_that_is_told_another_database_is_refused(look, tmp_path, processes):
    path = made(tmp_path, {"homeserver.yaml": SQLITE.format(tmp_path / "a.db"), "w.yaml": "database: {name: psycopg2}\n"})
    sqlite3.connect(tmp_path / "a.db").close()
    processes({"homeserver": ["-c", path], "generic_worker": ["-c", path, "-c", "w.yaml"]})
    found = look(path)
    assert "synapse.app.generic_worker) is told another database" in found["msg"] and str(tmp_path / "w.yaml") in found["msg"]


def test_a_worker_that_does_not_read_the_file_that_counts_was_told_of_by_none(look, tmp_path, processes):
    path = made(tmp_path, {"w.yaml": "", "conf.d/database.yaml": "database: {name: psycopg2, args: {user: synapse}}\n"})
    processes({"homeserver": ["-c", path, "-c", "conf.d"], "generic_worker": ["-c", path, "-c", "w.yaml"]})
    found = look(path)
    assert f"does not read {tmp_path / 'conf.d' / 'database.yaml'}, by which" in found["msg"] and "None" not in found["msg"]


def test_a_configuration_in_a_folder_that_may_not_be_entered_was_said_not_to_be_there(run):
    needs.need(os.geteuid() == 0, "only root may run a module as another user")
    with tempfile.TemporaryDirectory() as folder:  # which is ours alone
        path = made(pathlib.Path(folder), {})
        found = run("synapse_config_info", {"path": path}, account=clusters.unprivileged_account())
    assert found.get("failed") and path in found["msg"] and "exists" not in found
