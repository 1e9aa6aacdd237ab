# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The path itself: make a homeserver on SQLite, move it, read everything back, run it all again."""

import contextlib
import json
import os
import pathlib
import platform
import re
import secrets
import shutil
import subprocess
import sys

from demo import show, theirs
from support import conversation
from support.loopback import free_port
from support.synapse import Homeserver

_PLAYBOOKS = ("matrixops.synapse_postgres.site", "matrixops.synapse_postgres.port")


def start(folder: pathlib.Path, source: pathlib.Path) -> int:
    """Run the demonstration in ``folder`` with the collection in ``source``; return 0 when all of it held."""
    if len(os.fsencode(folder / "postgres")) > 90:
        show.fail(f"The path {folder} is too long for PostgreSQL's Unix socket. Set DEMO_FOLDER to a shorter one.")
    stop(folder, keep_tools=True)
    show.step(f"Installing Ansible and Synapse into {folder} (nothing of the system's is changed)")
    tools = _install(folder, source)
    server = Homeserver(folder / "synapse", free_port(), folder / "tools-synapse" / "bin" / "python")
    own = folder / "theirs" / "homeserver.db"
    said = theirs.adopt(server, own.parent) if own.exists() else _make(server)
    port = free_port()
    _inventory(folder, server, port)
    for playbook in _PLAYBOOKS:
        show.step(f"ansible-playbook {playbook}")
        _play(tools, folder, playbook)
    show.step("Reading everything back from PostgreSQL, through the client API")
    show.tell(theirs.check(server.url, said) if own.exists() else conversation.check(server.url, said))
    show.step("Running both playbooks again: nothing may change")
    for playbook in _PLAYBOOKS:
        changed = _play(tools, folder, playbook, quiet=True)
        show.tell(f"{playbook}: changed={changed}")
        if changed:
            show.fail(f"A second run of {playbook} changed something. Its output is in {folder / 'last-play.log'}.")
    _farewell(folder, server, port)
    return 0


def stop(folder: pathlib.Path, keep_tools: bool = False) -> int:
    """Stop what an earlier demonstration left running in ``folder`` and remove it, with its tools unless ``keep_tools``."""
    config = folder / "synapse" / "homeserver.yaml"
    python = folder / "tools-synapse" / "bin" / "python"
    if config.exists() and python.exists():
        subprocess.run([python, "-m", "synapse._scripts.synctl", "stop", config], capture_output=True, timeout=120, check=False)
    control = folder / "postgres" / "programs" / "pg_ctl"
    if control.exists():
        words = [control, "stop", "-D", folder / "postgres" / "data", "-m", "fast", "-w"]
        subprocess.run(words, capture_output=True, timeout=120, check=False)
    for name in ("synapse", "postgres", "inventory.yml"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not keep_tools:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        with contextlib.suppress(OSError):  # in a folder where only others may remove it
            folder.rmdir()
        show.tell(f"Stopped, and removed from {folder}.")
    return 0


def _install(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    """Install Ansible with the collection, and Synapse, in virtualenvs of their own; return Ansible's folder of programs."""
    wanted = {
        "tools-ansible": ["ansible-core>=2.16", "psycopg2-binary"],
        "tools-synapse": ["matrix-synapse", "psycopg2-binary"],
    }
    working = []
    for name, packages in wanted.items():
        if not (folder / name / "complete").exists():
            shutil.rmtree(folder / name, ignore_errors=True)
            words = f"{_quote(sys.executable)} -m venv {name} && {name}/bin/pip install --quiet {' '.join(map(_quote, packages))}"
            working.append((name, subprocess.Popen(f"{words} && touch {name}/complete", shell=True, cwd=folder)))
    for name, process in working:
        if process.wait(900):
            show.fail(f"pip could not install {' and '.join(wanted[name])} from PyPI; what it said stands above.")
    programs = folder / "tools-ansible" / "bin"
    shutil.rmtree(folder / "build", ignore_errors=True)
    galaxy = [programs / "ansible-galaxy", "collection"]
    _run([*galaxy, "build", source, "--output-path", folder / "build"], folder)
    built = next((folder / "build").glob("*.tar.gz"))
    _run([*galaxy, "install", built, "--force", "--offline", "--collections-path", folder / "collections"], folder)
    show.tell(f"{built.name}, built from this tree, installed with ansible-galaxy.")
    return programs


def _make(server: Homeserver) -> dict:
    """Make a homeserver on SQLite with a conversation on it; return the record of what was said."""
    show.step("Starting a real Synapse on SQLite, and talking on it through its client API")
    server.generate()
    server.start()
    said = server.converse()
    for room in said["rooms"].values():
        show.tell(f"{len(room['members'])} users said {len(room['messages'])} things in the room {room['name']!r}.")
    show.tell(f"Synapse answers at {server.url}, and lives in {server.database}.")
    return said


def _inventory(folder: pathlib.Path, server: Homeserver, port: int) -> None:
    """Write the inventory: this machine is both the database host and the homeserver's."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "synapse_postgres_become": False,
        "synapse_postgres_password": secrets.token_urlsafe(16) + " 'quoted' % {# #}",
        "synapse_postgres_port": port,
        "synapse_postgres_config_path": str(server.config),
        "synapse_postgres_synapse_python": str(server.python),
        "synapse_postgres_service_manager": "synctl",
        "synapse_postgres_client_url": server.url,
        "postgres_server_mode": "private",
        "postgres_server_folder": str(folder / "postgres"),
        "postgres_server_memory": "1GB",
    }
    lines = ["all:", "  vars:"]
    for key, value in variables.items():
        # !unsafe: Ansible takes no brace in a password for a template. JSON is YAML, with every string quoted.
        lines.append(f"    {key}: {'!unsafe ' if 'password' in key else ''}{json.dumps(value)}")
    lines += ["  children:", "    postgres: {hosts: {homeserver: }}", "    synapse: {hosts: {homeserver: }}", ""]
    path = folder / "inventory.yml"
    path.touch(0o600)
    path.write_text("\n".join(lines))
    show.step(f"The inventory ({path})")
    for key, value in variables.items():
        show.tell(f"{key}: {'********' if 'password' in key else value}")


def _play(tools: pathlib.Path, folder: pathlib.Path, playbook: str, quiet: bool = False) -> int:
    """Run a playbook, on the screen unless ``quiet``, and return how many tasks it changed; end when it fails."""
    environment = {
        **os.environ,
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_REMOTE_TMP": str(folder / "ansible" / "tmp"),
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "PYTHONUNBUFFERED": "1",
    }
    log, heard = folder / "last-play.log", []
    words = [tools / "ansible-playbook", "-i", folder / "inventory.yml", playbook]
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as play:
        for line in play.stdout:
            heard.append(line)
            if not quiet:
                print(line, end="", flush=True)
    log.write_text("".join(heard))
    recap = re.search(r"changed=(\d+)", "".join(heard))
    if play.returncode or not recap:
        if quiet:
            print("".join(heard))
        show.fail(f"{playbook} failed. What it said is in {log}; make demo-stop stops and removes everything.")
    return int(recap[1])


def _farewell(folder: pathlib.Path, server: Homeserver, port: int) -> None:
    show.step("Done: the homeserver lives on PostgreSQL, and a second run changed nothing")
    for what, where in {
        "Synapse": f"{server.url}, configured by {server.config}",
        "its configuration for SQLite": server.config.with_name("homeserver-old-sqlite.yaml"),
        "its SQLite database": server.database,
        "PostgreSQL": f"{folder / 'postgres'} (settings: data/conf.d, log: server.log)",
        "look into it": f"{folder}/postgres/programs/psql -h {folder}/postgres -p {port} synapse",
        "stop and remove it all": "make demo-stop",
    }.items():
        show.tell(f"{what + ':':31}{where}")
    show.tell(f"It ran with {_versions(folder)}.")


def _versions(folder: pathlib.Path) -> str:
    """Return what the demonstration ran with, each program with its version."""
    told = _run([folder / "postgres" / "programs" / "postgres", "--version"], folder)
    found = [f"Python {platform.python_version()}", f"PostgreSQL {re.search(r'[0-9.]+', told)[0]}"]
    for name, tools, package in (
        ("ansible-core", "tools-ansible", "ansible-core"),
        ("Synapse", "tools-synapse", "matrix-synapse"),
    ):
        script = f"import importlib.metadata; print(importlib.metadata.version('{package}'))"
        found.append(f"{name} {_run([folder / tools / 'bin' / 'python', '-c', script], folder).strip()}")
    return ", ".join(found)


def _run(words: list, folder: pathlib.Path) -> str:
    """Run a program to its end and return what it printed; end when it fails."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        show.fail(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
