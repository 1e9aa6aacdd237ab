# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The paths that lead to a SQLite database whose last transaction is only in its log, as a Synapse that was killed leaves it."""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import paths, snapshot
from support import needs, sqlite

# Commits a user by the path that it is given, says so and waits to be killed.
_WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("INSERT INTO users VALUES ('@last:test')")
print("committed", flush=True)
time.sleep(600)
"""

# Mounts the file alone in a namespace of its own, and writes by the mount, as a container does.
_MOUNTED = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2"'


@contextlib.contextmanager
def writer(*words):
    """Run the writer until the end of the block; then it is killed, and what it has committed is in the log alone."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "committed\n"
            yield process
        finally:
            process.kill()


def commit(path) -> None:
    """Have a process commit a user by ``path`` and be killed."""
    with writer(sys.executable, "-c", _WRITER, str(path)):
        pass


def users(path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM users")]


@pytest.fixture
def real(tmp_path):
    """The database, in a folder that stands for another disk."""
    (tmp_path / "disk").mkdir()
    sqlite.homeserver(tmp_path / "disk" / "real.db")
    return tmp_path / "disk" / "real.db"


@pytest.fixture
def folder(tmp_path):
    """The folder that Synapse's configuration names."""
    (tmp_path / "synapse").mkdir()
    return tmp_path / "synapse"


def chain(folder, real):
    """Return the last of more links in a row than the kernel follows; SQLite follows them."""
    (folder / "0").symlink_to(os.path.relpath(real, folder))
    for number in range(1, 60):
        (folder / str(number)).symlink_to(str(number - 1))
    return folder / "59"


def linked_folder(folder, real):
    (folder / "data").symlink_to(real.parent)
    return folder / "data" / real.name


def linked(folder, target):
    (folder / "homeserver.db").symlink_to(target)
    return folder / "homeserver.db"


def above_a_linked_folder(folder, real):
    """Return a path with ``..`` behind a link: the folder above is that of where the link leads to."""
    (real.parent / "below").mkdir()
    (folder / "below").symlink_to(real.parent / "below")
    return f"{folder}/below/../{real.name}"


_WAYS = {
    "link": linked,
    "relative link": lambda folder, real: linked(folder, os.path.relpath(real, folder)),
    "more links than the kernel follows": chain,
    "link to the folder": linked_folder,
    "link behind a linked folder": lambda folder, real: linked(linked_folder(folder, real).parent, real.name),
    "above a linked folder": above_a_linked_folder,
    "two slashes": lambda folder, real: f"/{linked(folder, real)}",
    "trailing slash": lambda folder, real: f"{linked(folder, real)}/",
}


@pytest.mark.parametrize("way", _WAYS.values(), ids=_WAYS.keys())
def test_what_a_killed_writer_committed_is_in_the_copy_whatever_path_leads_to_the_database(run, real, folder, tmp_path, way):
    path = way(folder, real)
    commit(path)
    assert real.with_name("real.db-wal").stat().st_size, "the test is of what is in the log alone"
    options = {"src": str(path), "dest": str(tmp_path / "copy.db")}
    assert run("synapse_sqlite_snapshot", options, check=True)["changed"]
    copied = run("synapse_sqlite_snapshot", options)
    assert copied["changed"] and copied["source"]["users"] == 3
    assert "@last:test" in users(tmp_path / "copy.db")
    told = run("synapse_sqlite_info", {"path": str(path)})
    assert (told["users"], told["file"]) == (3, str(real))
    commit(path)
    assert run("synapse_sqlite_snapshot", options)["changed"]
    assert users(tmp_path / "copy.db") == users(real)


def test_a_path_that_is_no_utf_8_is_the_file_that_it_names(real, folder, tmp_path):
    # Ansible itself logs no such path, so no module is given one; a link may lead to it.
    path = linked(folder, real.rename(real.with_name(os.fsdecode(b"no \xff\xfe utf-8.db"))))
    commit(path)
    assert paths.resolve(str(path)) == str(path.resolve())
    snapshot.make(paths.resolve(str(path)), str(tmp_path / "copy.db"))
    assert "@last:test" in users(tmp_path / "copy.db")


@pytest.mark.parametrize("name", ["a b?mode=memory#c%41&d.db", "new\nline.db", "'quoted' \"twice\" ;.db"])
def test_a_path_with_odd_characters_is_the_file_that_it_names(run, real, folder, tmp_path, name):
    path = folder / name
    path.symlink_to(real.rename(real.with_name(name)))
    commit(path)
    copied = run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db")})
    assert copied["source"]["users"] == 3 and "@last:test" in users(tmp_path / "copy.db")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("nowhere.db"), "nowhere.db cannot be read: No such file"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to(path.parent), "is not a file"),
        (os.mkfifo, "is not a file"),
    ],
    ids=["dangling", "loop", "folder", "pipe"],
)
def test_a_link_that_leads_to_no_database_is_refused(run, folder, tmp_path, make, words):
    path = folder / "homeserver.db"
    make(path)
    refused = run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db")})
    assert refused["failed"] and words in refused["msg"] and str(path) in refused["msg"], refused


@pytest.mark.parametrize("path", ["file:/var/lib/homeserver.db", "homeserver.db", "/var/lib/home\0server.db"])
def test_what_is_no_absolute_path_is_refused(run, tmp_path, path):
    assert run("synapse_sqlite_info", {"path": path})["failed"]
    assert run("synapse_sqlite_snapshot", {"src": path, "dest": str(tmp_path / "copy.db")})["failed"]


def test_both_spellings_are_named_when_the_database_is_refused(run, real, folder, tmp_path):
    path = linked(folder, real)
    with writer(sys.executable, "-c", _WRITER, str(path)) as process:
        refused = run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db"), "alone": True})
    assert f"{real} is still open in process {process.pid}" in refused["msg"], refused
    assert f"({path} leads to {real}.)" in refused["msg"]


def test_a_link_that_is_replaced_while_the_copy_is_made_is_followed_once(real, folder, tmp_path):
    other, path = tmp_path / "other.db", linked(folder, real)
    sqlite.homeserver(other, users=9)
    commit(path)
    with paths.resolved_params({"src": str(path)}, "src") as params:
        path.unlink()
        path.symlink_to(other)
        snapshot.make(params["src"], str(tmp_path / "copy.db"))
    assert users(tmp_path / "copy.db") == users(real)


# The copy


def test_a_copy_is_made_where_its_link_leads_to_and_never_over_its_source(run, real, folder, tmp_path):
    def copy(dest) -> dict:
        return run("synapse_sqlite_snapshot", {"src": str(real), "dest": str(dest)})

    commit(real)
    assert "the same file" in copy(linked(folder, real))["msg"]
    assert "SQLite's own" in copy(f"{real}-wal")["msg"]
    elsewhere, precious = folder / "elsewhere.db", folder / "precious"
    elsewhere.symlink_to(tmp_path / "large.db")
    assert copy(elsewhere)["changed"] and elsewhere.is_symlink() and not copy(elsewhere)["changed"]
    assert users(tmp_path / "large.db")[-1] == "@last:test"
    # What somebody has written to the copy since is in the log beside where the link leads to.
    commit(elsewhere)
    assert copy(elsewhere)["changed"] and users(elsewhere) == users(real)
    assert copy(linked_folder(folder, real).with_name("copy.db"))["changed"] and (real.parent / "copy.db").exists()
    precious.write_text("somebody's")
    (folder / "precious.db").symlink_to(precious)
    assert "no copy of a SQLite database" in copy(folder / "precious.db")["msg"] and precious.read_text() == "somebody's"


# Second names


def modules_refuse(run, path, tmp_path) -> str:
    """Return why the database is refused, which all modules that read it must agree on."""
    refused = run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db")})
    assert refused["failed"] and not (tmp_path / "copy.db").exists(), refused
    told = run("synapse_sqlite_info", {"path": str(path)})
    assert any(problem in refused["msg"] for problem in told.get("problems", [told.get("msg")])), (told, refused)
    return refused["msg"]


@pytest.mark.parametrize("killed", [True, False])
def test_a_hard_link_by_which_somebody_wrote_is_refused_with_the_name_that_has_the_log(run, real, tmp_path, killed):
    other = real.with_name("it's another.db")
    other.hardlink_to(real)
    with writer(sys.executable, "-c", _WRITER, str(other)) as process:
        if killed:
            process.kill()
            process.wait()
        told = modules_refuse(run, real, tmp_path)
    assert f"{other}-wal" in told, told
    assert killed or f"process {process.pid}" in told
    # By the command that was told, the log is taken in.
    told = modules_refuse(run, real, tmp_path)
    assert f"{other} is another one, with the log {other}-wal" in told
    command = told[told.index("sqlite3 ") : told.index("), see which names")]
    done = subprocess.run(command.replace("sqlite3 ", f"{_shell()} ", 1), shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "@last:test" in users(real)
    search = told[told.index("find /") : told.index("), remove all")]
    names = subprocess.run(search, shell=True, capture_output=True, text=True, check=False).stdout.splitlines()
    assert {os.path.realpath(name) for name in names} == {str(real), str(other)}
    other.unlink()
    assert run("synapse_sqlite_snapshot", {"src": str(real), "dest": str(tmp_path / "copy.db")})["changed"]
    assert "@last:test" in users(tmp_path / "copy.db")


def _shell() -> str:
    """Return the command of SQLite's shell, or of one that does as much of it as the remedy needs."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); [c.execute(s).fetchall() for s in sys.argv[2].split(';')]"
    return "sqlite3" if shutil.which("sqlite3") else f'{sys.executable} -c "{script}"'


def test_a_hard_link_in_another_folder_is_refused_whether_it_has_a_log_or_not(run, real, folder, tmp_path):
    (folder / "homeserver.db").hardlink_to(real)
    commit(folder / "homeserver.db")
    told = modules_refuse(run, real, tmp_path)
    assert "2 names (hard links)" in told and f"{folder}/homeserver.db is another one, with the log" in told
    with contextlib.closing(sqlite3.connect(folder / "homeserver.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    # The journal of a crash may be beside any name as well.
    assert "2 names (hard links)" in modules_refuse(run, real, tmp_path)


def test_a_log_that_was_deleted_under_its_writer_is_refused(run, real, tmp_path):
    with writer(sys.executable, "-c", _WRITER, str(real)) as process:
        real.with_name("real.db-wal").unlink()
        assert f"process {process.pid}" in modules_refuse(run, real, tmp_path)


def test_a_database_that_was_moved_under_its_writer_is_refused(run, real, folder, tmp_path):
    with writer(sys.executable, "-c", _WRITER, str(real)):
        real.rename(folder / "homeserver.db")
        assert f"{real}-wal" in modules_refuse(run, folder / "homeserver.db", tmp_path)


@pytest.fixture
def container(real, tmp_path):
    """A process that sees the database by a mount of the file alone, and has committed; yields it and the path it uses."""
    needs.root()
    point = tmp_path / "container" / "homeserver.db"
    point.parent.mkdir()
    point.touch()
    words = ["unshare", "-m", "sh", "-c", _MOUNTED, "sh", str(real), str(point), sys.executable, _WRITER]
    needs.mounts()
    with writer(*words) as process:
        yield process, point


def test_a_file_that_is_mounted_alone_into_a_container_is_refused(run, real, container, tmp_path):
    process, point = container
    told = modules_refuse(run, real, tmp_path)
    assert f"process {process.pid}" in told and f"{point}-wal" in told, told


def test_a_container_in_which_nothing_has_the_mounted_file_open_is_found(run, real, tmp_path):
    needs.root()
    point = tmp_path / "homeserver.db"
    point.touch()
    script = 'mount --bind "$1" "$2" && echo committed && exec sleep 600'
    needs.mounts()
    with writer("unshare", "-m", "sh", "-c", script, "sh", str(real), str(point)) as process:
        told = modules_refuse(run, real, tmp_path)
    assert "is mounted alone" in told and f"{point}, as process {process.pid} sees it" in told


def test_a_container_that_mounts_the_folder_is_none_of_a_second_name(run, real, folder, tmp_path):
    needs.root()
    needs.mounts()
    script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2/real.db"'
    with writer("unshare", "-m", "sh", "-c", script, "sh", str(real.parent), str(folder), sys.executable, _WRITER):
        assert run("synapse_sqlite_snapshot", {"src": str(real), "dest": str(tmp_path / "copy.db")})["changed"]
    assert "@last:test" in users(tmp_path / "copy.db")


def test_a_path_that_is_itself_a_mount_of_the_file_alone_is_refused(real, tmp_path):
    needs.root()
    point = tmp_path / "homeserver.db"
    point.touch()
    script = (
        "import sys; sys.path[:0] = sys.argv[3:];"
        "from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import other_names;"
        "print(other_names.find(sys.argv[1]), other_names.find(sys.argv[2]))"
    )
    words = ["unshare", "-m", "sh", "-c", 'mount --bind "$1" "$2" && mount --bind "$5" "$5" && exec "$3" -c "$4" "$2" "$5" "$6"']
    alone = tmp_path / "on itself.db"
    sqlite.homeserver(alone)
    collections = pathlib.Path(__file__).parents[2] / ".cache" / "collections"
    told = subprocess.run(
        [*words, "sh", str(real), str(point), sys.executable, script, str(alone), str(collections)],
        capture_output=True,
        text=True,
        check=False,
    )
    needs.need("permi" not in told.stderr, "this container may not mount")
    assert f"at {point}; {real}" in told.stdout, told
    assert told.stdout.endswith(" None\n")


def test_a_journal_that_a_killed_writer_left_is_told_with_what_to_do(run, tmp_path):
    path = tmp_path / "homeserver.db"
    sqlite.homeserver(path, wal=False)
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA cache_size = 1');"
        "c.execute('BEGIN'); c.execute('UPDATE events SET body = randomblob(900)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    refused = run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db")})
    assert refused["failed"] and f"{path}-journal may be of a transaction that was cut off" in refused["msg"], refused
    users(path)  # as Synapse at its start, or the command that was told
    assert run("synapse_sqlite_snapshot", {"src": str(path), "dest": str(tmp_path / "copy.db")})["changed"]
