# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A homeserver's way to PostgreSQL: a copy of its SQLite database, an empty database, and the configuration that joins them."""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import time
import uuid

import yaml

from support import clusters, conversation, synapse

USER = "synapse"
PASSWORD = "synapse's %{ }'\" word: #1"

# The engine of the ports; the environment's ENGINE chooses another one for all tests.
ENGINE = os.environ.get("ENGINE", "copy")


class Move:
    """The copied files of ``server`` in ``folder``, and an empty database of ``cluster``; ``template`` for one that is filled."""

    def __init__(
        self, folder: pathlib.Path, server: synapse.Homeserver, cluster: clusters.Cluster, template: str = "template0"
    ) -> None:
        self.folder, self.server, self.cluster, self.name = folder, server, cluster, f"synapse_{uuid.uuid4().hex[:8]}"
        self.source = folder / "homeserver.db"
        shutil.copy(server.database, self.source)
        cluster.rows(f"CREATE DATABASE {self.name} OWNER {USER} ENCODING UTF8 LOCALE 'C' TEMPLATE {template}")
        args = {"user": USER, "password": PASSWORD, "dbname": self.name, "host": "127.0.0.1", "port": cluster.port}
        self.config = self._configured("homeserver-postgres.yaml", "psycopg2", {**args, "cp_min": 1, "cp_max": 5})
        self.old_config = self._configured("homeserver-sqlite.yaml", "sqlite3", {"database": str(self.source)})

    @property
    def called(self) -> dict:
        """The options of our modules that name both databases and Synapse's interpreter."""
        return {
            "sqlite_database": str(self.source),
            "config": [str(self.config)],
            "synapse_python": str(self.server.python),
        }

    @property
    def options(self) -> dict:
        """The options of synapse_port."""
        return {**self.called, "engine": ENGINE}

    @property
    def login(self) -> dict:
        """The connection options of our modules, for Synapse's role in its database."""
        return {**self.cluster.login, "login_user": USER, "login_password": PASSWORD, "login_db": self.name}

    def connect(self):
        """Return an autocommitting connection of Synapse's role to its database."""
        return self.cluster.connect(user=USER, password=PASSWORD, dbname=self.name)

    def rows(self, query: str, *values) -> list[tuple]:
        """Return the rows of ``query`` on PostgreSQL, asked as the superuser."""
        return self.cluster.rows(query, *values, dbname=self.name)

    def lite(self, query: str, *values) -> list[tuple]:
        """Return the rows of ``query`` on the copied SQLite database."""
        with contextlib.closing(sqlite3.connect(self.source)) as connection:
            found = connection.execute(query, values).fetchall()
            connection.commit()
            return found

    def routine(self) -> None:
        """Run Synapse's own routine, without us; RuntimeError with its words when it fails."""
        words = ["--sqlite-database", self.source, "--postgres-config", self.config]
        self._run(self.server.python, "-m", "synapse._scripts.synapse_port_db", *words)

    @contextlib.contextmanager
    def synapse(self, on_sqlite: bool = False):
        """Run Synapse within the block, on PostgreSQL or the copy; RuntimeError with its words when it does not start."""
        config = self.old_config if on_sqlite else self.config
        self._run(self.server.python, "-m", "synapse._scripts.synctl", "start", config)
        try:
            conversation.wait_for(self.server.url)
            yield self.server.url
        finally:
            self._run(self.server.python, "-m", "synapse._scripts.synctl", "stop", config)

    def settle(self, seconds: float = 120) -> None:
        """Wait until the Synapse that runs on PostgreSQL has done its background updates."""
        deadline = time.monotonic() + seconds
        while self.rows("SELECT 1 FROM background_updates"):
            assert time.monotonic() < deadline, self.rows("SELECT update_name FROM background_updates")
            time.sleep(0.1)

    def _configured(self, name: str, engine: str, args: dict) -> pathlib.Path:
        """Write the server's configuration with another database to the file ``name``; return its path."""
        text = yaml.safe_load(self.server.config.read_text())
        text.update(database={"name": engine, "args": args}, pid_file=str(self.folder / "homeserver.pid"))
        path = self.folder / name
        path.write_text(yaml.safe_dump(text))
        return path

    def _run(self, *words) -> None:
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{words[2]} ended with {done.returncode}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def prepared(folder: pathlib.Path, server: synapse.Homeserver, cluster: clusters.Cluster, template: str = "template0"):
    """Yield a Move into a new database, which is dropped afterwards, and so is the role where it was made for it."""
    ours = not cluster.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", USER)
    if ours:
        cluster.rows(f"CREATE ROLE {USER} LOGIN PASSWORD %s", PASSWORD)
    move = Move(folder, server, cluster, template)
    try:
        yield move
    finally:
        cluster.rows(f"DROP DATABASE {move.name} WITH (FORCE)")
        if ours:
            cluster.rows(f"DROP ROLE {USER}")
