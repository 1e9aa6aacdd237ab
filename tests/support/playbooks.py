# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A homeserver and a database server as an inventory describes them, and ansible-playbook run on it as a user runs it."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import time

from support import clusters, loopback, synapse

_CACHE = pathlib.Path(__file__).parents[2] / ".cache"


@dataclasses.dataclass(frozen=True)
class Tools:
    """Where Ansible's ``programs`` and the ``collections`` are."""

    programs: pathlib.Path = _CACHE / "venv" / "bin"
    collections: pathlib.Path = _CACHE / "collections"


# The longest that any play of the tests may take, in seconds.
_PATIENCE = 300


@dataclasses.dataclass(frozen=True)
class Played:
    """What came of a play: all it said, and how many tasks changed something."""

    output: str = dataclasses.field(repr=False)
    changed: int

    def missing(self, *words: str) -> list[str]:
        """Return those of ``words`` that do not stand in the output, however its lines are broken."""
        flat = " ".join(self.output.split())
        return [word for word in words if word not in flat]


class Site:
    """One host, ``here``, that is database host and homeserver at once: an inventory, and the playbooks run on it.

    The server is one that others run (mode external); the role and the database have names of their own on it.
    """

    def __init__(
        self, folder: pathlib.Path, cluster: clusters.Cluster, server: synapse.Homeserver, tools: Tools = Tools()
    ) -> None:
        self.folder, self.cluster, self.server, self.tools = folder, cluster, server, tools
        self.name = f"site_{secrets.token_hex(4)}"
        self.output = folder / "play.log"
        self.old = server.config.with_name("homeserver-old-sqlite.yaml")
        self._marks: list[str] = []
        self.variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "synapse_postgres_become": False,
            "synapse_postgres_user": self.name,
            "synapse_postgres_database": self.name,
            "synapse_postgres_host": "127.0.0.1",
            "synapse_postgres_port": cluster.port,
            "synapse_postgres_password": self.password(),
            "synapse_postgres_config_path": str(server.config),
            "synapse_postgres_synapse_python": str(server.python),
            "synapse_postgres_service_manager": "synctl",
            "synapse_postgres_client_url": server.url,
            "synapse_postgres_start_timeout": 60,
            "synapse_port_background_updates_timeout": 60,
            "postgres_server_mode": "external",
            "postgres_server_external_login": cluster.login,
        }

    def password(self) -> str:
        """Return a new password of 200 characters, with all that breaks YAML, SQL and templates; no play may ever print it."""
        self._marks.append(f"Word{secrets.token_hex(8)}")
        return f"{self._marks[-1]} 'it' \"is\" {{{{ x }}}} {{% y %}} %s \\ # : @ ü 🐘 ".ljust(200, "-")

    def play(self, playbook: str, *words: str, fails: bool = False, **variables) -> Played:
        """Run a playbook of the collection, or the file ``playbook``, to its end, with further ``variables``.

        It is an AssertionError when it fails, or unless it ``fails``, and when it says a traceback or a password.
        """
        with self.playing(playbook, *words, **variables) as process:
            process.wait(_PATIENCE)
        output = self.output.read_text()
        recap = re.search(r"changed=(\d+)", output)
        for forbidden in ("Traceback (most recent call last)", *self._marks):
            assert forbidden not in output, _told(output)
        assert (process.returncode != 0) == fails, _told(output)
        return Played(output, int(recap[1]) if recap else -1)

    @contextlib.contextmanager
    def playing(self, playbook: str, *words: str, **variables):
        """Yield the process of a play that is under way, and end it with all it started if the block leaves it running."""
        inventory = self._inventory({**self.variables, **variables})
        name = playbook if "/" in playbook else f"matrixops.synapse_postgres.{playbook}"
        with self.output.open("w") as stream:
            process = subprocess.Popen(
                [self.tools.programs / "ansible-playbook", "-vvv", "-i", inventory, name, *words],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                kill(process)

    def prepare(self) -> None:
        """Make the role and the database, as the playbook ``site`` does."""
        self.cluster.rows(f"CREATE ROLE {self.name} LOGIN PASSWORD %s", self.variables["synapse_postgres_password"])
        self.cluster.rows(f"CREATE DATABASE {self.name} OWNER {self.name} ENCODING UTF8 LOCALE 'C' TEMPLATE template0")

    def rows(self, query: str) -> list:
        """Return the rows of ``query`` in Synapse's database, asked as the superuser."""
        return self.cluster.rows(query, dbname=self.name)

    def close(self) -> None:
        """Stop Synapse, and remove what the plays made on the database server."""
        if self.server.config.exists():
            with contextlib.suppress(RuntimeError):
                self.server.stop()
        self.cluster.rows(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        self.cluster.rows(f"DROP ROLE IF EXISTS {self.name}")

    def _inventory(self, variables: dict) -> pathlib.Path:
        """Write the inventory. JSON is YAML; !unsafe: Ansible takes no brace in a password for a template."""
        lines = ["all:", "  vars:"]
        for key, value in variables.items():
            lines.append(f"    {key}: {'!unsafe ' * ('password' in key)}{json.dumps(value, ensure_ascii=False)}")
        lines += ["  children:", "    postgres: {hosts: {here: }}", "    synapse: {hosts: {here: }}", ""]
        path = self.folder / "inventory.yml"
        path.write_text("\n".join(lines))
        path.chmod(0o600)
        return path

    def _environment(self) -> dict:
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(self.tools.programs), os.environ.get("PATH", os.defpath)]),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_REMOTE_TMP": str(self.folder / "ansible" / "tmp"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.tools.collections),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
        }


def _told(output: str) -> str:
    """Return the part of a play's output that says why it failed."""
    found = output.find("[ERROR]")
    return output[found if found >= 0 else -3000 :][:6000]


def copied(server: synapse.Homeserver, folder: pathlib.Path) -> synapse.Homeserver:
    """Return a homeserver on a copy of the stopped ``server``'s files in ``folder``, on a port of its own."""
    shutil.copytree(server.folder, folder)
    copy = synapse.Homeserver(folder, loopback.free_port(), server.python)
    for path in folder.iterdir():
        if path.suffix in (".yaml", ".config"):
            text = path.read_text().replace(str(server.folder), str(folder))
            path.write_text(text.replace(f"port: {server.port}", f"port: {copy.port}"))
    return copy


def kill(process: subprocess.Popen) -> None:
    """End a process and all that it started at once, as a power cut would; Synapse alone, which a play may start, lives.

    A module in the background has no parent left, but the same home.
    """
    home = _home(process.pid)
    kill_controller(process)
    for pid in (int(path.name) for path in pathlib.Path("/proc").glob("[0-9]*")):
        if home and _home(pid) == home and b"synapse.app" not in _words(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_controller(process: subprocess.Popen) -> None:
    """End Ansible and its workers, which lead sessions of their own, at once; a module in the background goes on."""
    family = [process.pid]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
        family += _children(pid)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _home(pid: int) -> bytes:
    """Return the ANSIBLE_HOME of a process, empty where it has none."""
    with contextlib.suppress(OSError):
        variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next((variable for variable in variables if variable.startswith(b"ANSIBLE_HOME=")), b"")
    return b""


def _words(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _children(pid: int) -> list[int]:
    """Return the children of a process, by all of its threads."""
    with contextlib.suppress(FileNotFoundError):
        found = [path.read_text() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(child) for text in found for child in text.split()]
    return []


def wait_until(condition, process: subprocess.Popen, seconds: float = 90) -> None:
    """Return when ``condition()`` is true; AssertionError when ``process`` ends before, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"It ended with {process.returncode} before what was waited for had come."
        assert time.monotonic() < deadline, f"What was waited for has not come within {seconds} s."
        time.sleep(0.05)
