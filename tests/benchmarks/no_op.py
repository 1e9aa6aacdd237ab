# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The wall time of a play that finds nothing to do: site.yml against a playbook of community.postgresql's modules.

Both reach the same state on one private cluster and one homeserver.yaml, with the same ansible-core, the same connection and
the same settings: a role with its password, a database, three lines of pg_hba.conf, five settings, the database section.
"""

import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

from benchmarks import tools
from support.loopback import free_port

RUNS = 5
SETTINGS = {"work_mem": "8MB", "maintenance_work_mem": "96MB", "random_page_cost": "1.1", "log_checkpoints": "on", "jit": "off"}
CLIENTS = ["127.0.0.1/32", "::1/128", "127.0.0.2/32"]
HOMESERVER = "server_name: localhost\nreport_stats: false\n"


def measure(folder: pathlib.Path, programs: pathlib.Path) -> None:
    """Make both set-ups in ``folder``, run each to its end once, and print the times of RUNS further runs of each in turn.

    ``programs`` is where ansible-playbook is.
    """
    variables = _variables(folder)
    files = {"ours": _ours(folder, variables), "community.postgresql": _theirs(folder, variables)}
    for name, words in files.items():
        _play(folder, programs, words)  # the first one sets up
        changed = _play(folder, programs, words)[0]
        print(f"{name}: a second run changes {changed} tasks", flush=True)
    times: dict[str, list[float]] = {name: [] for name in files}
    for _again in range(RUNS):
        for name, words in files.items():
            times[name].append(_play(folder, programs, words)[1])
    print(f"\nA play with nothing to do, on localhost, {RUNS} runs each in turn (seconds):")
    print(f"{'':24}{'min':>8}{'median':>8}{'max':>8}")
    for name, found in times.items():
        print(f"{name:24}{min(found):8.2f}{statistics.median(found):8.2f}{max(found):8.2f}")
    ratio = statistics.median(times["ours"]) / statistics.median(times["community.postgresql"])
    print(f"ratio of the medians, ours to theirs: {ratio:.2f} (aim: at most 0.50)", flush=True)
    control = folder / "postgres" / "programs" / "pg_ctl"
    subprocess.run([control, "stop", "-D", folder / "postgres" / "data", "-m", "fast"], capture_output=True, check=False)


def _variables(folder: pathlib.Path) -> dict:
    old = folder / "postgres" / "programs" / "pg_ctl"
    if old.exists():
        subprocess.run([old, "stop", "-D", folder / "postgres" / "data", "-m", "fast"], capture_output=True, check=False)
    shutil.rmtree(folder / "postgres", ignore_errors=True)
    for name in ("ours.yaml", "theirs.yaml"):
        (folder / name).write_text(HOMESERVER)
        (folder / name).chmod(0o600)
    return {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "synapse_postgres_become": False,
        "synapse_postgres_password": "a password of the benchmark's",
        "synapse_postgres_port": free_port(),
        "synapse_postgres_config_path": str(folder / "ours.yaml"),
        "synapse_postgres_synapse_python": str(folder / "ansible" / "bin" / "python"),
        "synapse_postgres_service_manager": "none",
        "postgres_server_mode": "private",
        "postgres_server_folder": str(folder / "postgres"),
        "postgres_server_tune": False,
        "postgres_server_settings": SETTINGS,
        "synapse_database_clients": CLIENTS,
    }


def _ours(folder: pathlib.Path, variables: dict) -> list[str]:
    """Write our inventory; return the words of the play."""
    hosts = {"hosts": {"here": {}}}
    inventory = {"all": {"vars": variables, "children": {"postgres": hosts, "synapse": hosts}}}
    (folder / "ours.json").write_text(json.dumps(inventory))
    return ["-i", str(folder / "ours.json"), "matrixops.synapse_postgres.site"]


def _theirs(folder: pathlib.Path, variables: dict) -> list[str]:
    """Write the playbook of community.postgresql's modules for the same state; return the words of the play."""
    name, login = "synapse_theirs", {"login_unix_socket": str(folder / "postgres"), "login_user": "{{ ansible_user_id }}"}
    login |= {"port": variables["synapse_postgres_port"], "login_db": "postgres"}
    password = variables["synapse_postgres_password"]
    task = "community.postgresql.postgresql_"
    user = {**login, "name": name, "password": password, "role_attr_flags": "LOGIN,NOSUPERUSER,NOCREATEDB,NOCREATEROLE"}
    database = {key: value for key, value in login.items() if key != "login_db"}
    database |= {"name": name, "owner": name, "encoding": "UTF8", "lc_collate": "C", "lc_ctype": "C", "template": "template0"}
    args = {"user": name, "password": password, "dbname": name, "host": "localhost", "cp_min": 5, "cp_max": 10}
    template = folder / "theirs.yaml.j2"
    template.write_text(HOMESERVER + "database: {{ section | to_json }}\n")
    config = {"src": str(template), "dest": str(folder / "theirs.yaml"), "mode": "0600"}
    rule = {"dest": str(folder / "postgres" / "data" / "pg_hba.conf"), "contype": "host", "databases": name, "users": name}
    tasks = [{"name": "Role", task + "user": user}, {"name": "Database", task + "db": database}]
    tasks += [{"name": "Rule", task + "pg_hba": {**rule, "address": address, "method": "scram-sha-256"}} for address in CLIENTS]
    tasks += [{"name": "Setting", task + "set": {**login, "name": key, "value": value}} for key, value in SETTINGS.items()]
    tasks += [{"name": "Config", "ansible.builtin.template": config, "vars": {"section": {"name": "psycopg2", "args": args}}}]
    play = {"name": "Theirs", "hosts": "all", "tasks": tasks}
    (folder / "theirs.json").write_text(json.dumps({"all": {"hosts": {"here": {}}, "vars": variables}}))
    (folder / "theirs.yml").write_text(json.dumps([play]))
    return ["-i", str(folder / "theirs.json"), str(folder / "theirs.yml")]


def _play(folder: pathlib.Path, programs: pathlib.Path, words: list[str]) -> tuple[int, float]:
    """Run a play; return how many tasks it changed and the seconds it took. Its own words end the benchmark when it fails."""
    start = time.monotonic()
    command = [programs / "ansible-playbook", *words]
    done = subprocess.run(command, cwd=folder, env=tools.environment(folder), capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    changed = re.search(r"changed=(\d+)", done.stdout)
    if done.returncode or not changed:
        sys.exit(f"A play of the benchmark failed:\n{done.stdout}{done.stderr}")
    return int(changed[1]), seconds
