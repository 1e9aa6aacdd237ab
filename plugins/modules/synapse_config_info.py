#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_config_info
short_description: What Synapse reads as its configuration, and what that says of its database
description:
  - Finds out which files Synapse reads, in which order, and merges them as Synapse does; the keys of a later file replace
    those of an earlier one. Tells which file's C(database) section counts, where the SQLite database is on this host, and
    where Synapse answers.
  - The files are those that the running Synapse was started with, in a container or not, which O(path) is one of. A process
    is believed if it is root's, the task's own user's, or that of the owner or the group of O(path). Where none
    runs, they are those of the systemd units, or the one that synctl is given, or O(path) with the folder C(conf.d) beside
    it where there is one.
  - It changes nothing.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.info
requirements:
  - PyYAML on the managed host, for the Python that Ansible uses there, or for C(/usr/bin/python3) or the Python of the
    matrix.org packages, under which the module then runs itself again
options:
  path:
    description:
      - A file of Synapse's configuration, as this host knows it.
    type: path
    required: true
  files:
    description:
      - All files and folders of Synapse's configuration, as this host knows them, in Synapse's order; empty to find them out.
    type: list
    elements: path
    default: []
  manager:
    description:
      - Who starts Synapse, as in the role synapse_config.
    type: str
    choices: [systemd, synctl, command, none]
    default: none
  units:
    description:
      - Synapse's systemd units.
    type: list
    elements: str
    default: []
  sqlite_path:
    description:
      - Where the SQLite database is on this host, where Synapse knows it by another path; empty to find it out.
    type: path
    default: ""
"""

EXAMPLES = r"""
- name: Find out what Synapse reads
  matrixops.synapse_postgres.synapse_config_info:
    path: /etc/matrix-synapse/homeserver.yaml
    manager: systemd
    units: [matrix-synapse.service]
  register: synapse_reads

- name: Tell which file names its database
  ansible.builtin.debug:
    msg: "{{ synapse_reads.section_path }} names {{ synapse_reads.engine }}"
"""

RETURN = r"""
exists:
  description: Whether there is a file at O(path). Without one nothing else is told.
  returned: always
  type: bool
files:
  description: The files that Synapse reads, in its order.
  returned: when it exists
  type: list
  elements: str
folders:
  description: Folders that it reads all files of.
  returned: when it exists
  type: list
  elements: str
found_by:
  description: What named them.
  returned: when it exists
  type: str
  sample: process 4242
section_path:
  description: The file whose C(database) section counts; O(path) where no file has one.
  returned: when it exists
  type: str
  sample: /etc/matrix-synapse/conf.d/database.yaml
overridden:
  description: Files whose C(database) section does not count, since a later file has one.
  returned: when it exists
  type: list
  elements: str
engine:
  description: The engine that Synapse uses, null where nothing names a database.
  returned: when it exists
  type: str
  sample: sqlite3
sqlite_named:
  description: The SQLite database as Synapse's configuration names it; null for another engine.
  returned: when it exists
  type: str
  sample: /data/homeserver.db
sqlite_path:
  description: The same file on this host; null for another engine.
  returned: when it exists
  type: str
  sample: /srv/synapse/homeserver.db
address:
  description: Where Synapse answers, seen from this host; null where no listener says so.
  returned: when it exists
  type: dict
  contains:
    url:
      description: The address without the page.
      type: str
    ask:
      description: A page that Synapse answers.
      type: str
    socket:
      description: The Unix socket that it answers at, on this host; null for TCP.
      type: str
"""

import dataclasses
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml, merging, startup

GIVE_FILES = "say in synapse_postgres_config_files which files and folders Synapse reads, in its order"


def same(one: str, other: str) -> bool:
    """Tell whether both paths lead to one file; also where there is none yet."""
    return os.path.realpath(one) == os.path.realpath(other) or (
        os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
    )


def reads(one: startup.Started, path: str) -> bool:
    return any(same(path, name) for name in one.files())


def main_of(several: list, path: str) -> startup.Started | None:
    """Return the one of ``several`` that runs Synapse's main process with the file ``path``."""
    return next((one for one in several if one.app == startup.MAIN and one.config and reads(one, path)), None)


def to_be_started(params: dict) -> list:
    """Return how Synapse will be started the next time, its workers too; nothing where that is not known."""
    path = params["path"]
    if params["manager"] == "synctl":
        return [startup.Started(startup.MAIN, [path], [os.path.dirname(path)], unit="synctl")]
    return startup.units(params["units"]) if params["manager"] == "systemd" else []


def require_one_way(params: dict, running: startup.Started | None, later: list) -> None:
    """Raise Refusal where the next start of Synapse would read other files than ``path``, or than what runs now."""
    path, mains = params["path"], [one for one in later if one.app == startup.MAIN and one.config]
    if mains and not main_of(mains, path):
        raise Refusal(
            f"As {mains[0].name} starts it, Synapse reads {', '.join(mains[0].files())}, and {path} is none of them.",
            "Set synapse_postgres_config_path to one of these files; the one whose section counts is found out.",
        )
    main = main_of(mains, path)
    if running and main:
        now, then = running.files(), main.files()
        if len(now) != len(then) or not all(map(same, now, then)):
            raise Refusal(
                f"Synapse runs with {', '.join(now)} ({running.name}), and {main.unit} would start it with {', '.join(then)}: it "
                "might find another database.",
                f"Start it once as it is to be started from now on, or {GIVE_FILES}.",
            )


def require_same_database(main: merging.Merged, workers: list) -> None:
    """Raise Refusal where a worker's configuration names another database than the main process's."""
    for worker in workers:
        merged = merging.read(worker.files())
        told, mains = merged.decides(homeserver_yaml.SECTION_KEY), main.decides(homeserver_yaml.SECTION_KEY)
        if merged.config.get(homeserver_yaml.SECTION_KEY) == main.config.get(homeserver_yaml.SECTION_KEY):
            continue
        if told is None or any(same(told, name) for name in main.files):
            raise Refusal(
                f"A worker ({worker.name}, {worker.app}) does not read {mains}, by which the main process has its database.",
                f"Start the worker with all files of the main process's, and its own after them ({', '.join(main.files)}).",
            )
        raise Refusal(
            f"A worker ({worker.name}, {worker.app}) is told another database than the main process, by {told}.",
            "Take the section database out of the workers' files: they read the main process's.",
        )


def sqlite_here(params: dict, section: dict, where: str, main: startup.Started) -> str:
    """Return the path on this host of the SQLite database that the ``section`` of the file ``where`` names; Refusal without."""
    named, given = merging.sqlite_path(section, where), params["sqlite_path"]
    found = given or main.on_host(named)
    if given and not os.path.exists(given):
        raise Refusal(f"synapse_postgres_sqlite_path is {given}, which is not on this host.", "Correct it.")
    if given and main.has_another(named, given):
        raise Refusal(
            f"synapse_postgres_sqlite_path is {given}, and {main.name} has another file as {named}, which {where} names.",
            f"Give the path of that one on this host ({main.on_host(named) or 'it is in no folder of the host'}).",
        )
    if found:
        return found
    if not os.path.isabs(named) and not main.folders:
        raise Refusal(
            f"{where} names the SQLite database {named}, relative to the folder that Synapse is started in, which is not known.",
            "Give the path in synapse_postgres_sqlite_path, or start Synapse and run this again.",
        )
    place = f" (process {main.pid} sees it in no folder of this host's)" if main.apart else ""
    raise Refusal(
        f"{where} names the SQLite database {named}, which is not on this host{place}.",
        "If Synapse knows it by another path, in a container, leave the file as it is, and give the path on this host in "
        "synapse_postgres_sqlite_path; if the homeserver is new, take the section database out of the file. Then run this again.",
    )


def address(main: startup.Started, merged: merging.Merged, workers: list) -> dict | None:
    """Return where Synapse answers: its main process, or where that has no HTTP, one of its workers."""
    found = merging.addresses(merged.config)
    for worker in workers:
        found = found or merging.addresses(merging.read(worker.files()).config)
    if not found:
        return None
    best = found[0]
    if best.socket:
        best = dataclasses.replace(best, socket=main.on_host(best.socket) or best.socket)
    return dataclasses.asdict(best)


def named(params: dict, main: startup.Started | None) -> tuple[list, str]:
    """Return the files and folders that Synapse reads, by this host's paths, and what named them."""
    path = params["path"]
    if params["files"]:
        return params["files"], "the play"
    if main:
        return [main.on_host(name) or name for name in main.config], main.name
    beside = os.path.join(os.path.dirname(path), "conf.d")
    return [path, *([beside] if os.path.isdir(beside) else [])], "custom"


def look(params: dict) -> dict:
    """Return the module's result. Raises Refusal for a configuration that is not found, or that Synapse cannot start with."""
    path = params["path"]
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"exists": False}
    running, later = startup.processes(path), to_be_started(params)
    main = main_of(running, path)
    workers = [one for one in (running if main else later) if one.app != startup.MAIN and one.config and reads(one, path)]
    if not params["files"]:
        require_one_way(params, main, later)
    main = main or main_of(later, path)
    paths, by = named(params, main)
    main = main or startup.Started(startup.MAIN, paths, [])
    files = [path if same(path, name) else name for name in (merging.files(paths) if params["files"] else main.files())]
    if path not in files:
        raise Refusal(f"Synapse reads {', '.join(files)}, and {path} is none of them.", "Correct synapse_postgres_config_path.")
    merged = merging.read(files)
    if not params["files"]:
        require_same_database(merged, workers)
    section = merging.database(merged, main.database_path)
    where = merged.decides(homeserver_yaml.SECTION_KEY) or path
    if where.startswith("/proc/"):
        raise Refusal(
            f"The file that names Synapse's database is none of this host's: {where}.",
            "Keep it in a folder of the host's that the container has mounted.",
        )
    on_sqlite = bool(section) and section["name"] == "sqlite3"
    return {
        "exists": True,
        "files": files,
        "folders": [name for name in paths if os.path.isdir(name)],
        "found_by": by,
        "section_path": where,
        "overridden": merged.holders.get(homeserver_yaml.SECTION_KEY, [])[:-1],
        "engine": section["name"] if section else None,
        "sqlite_named": section["args"].get("database") if on_sqlite else None,
        "sqlite_path": sqlite_here(params, section, where, main) if on_sqlite else None,
        "address": address(main, merged, workers),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            path=dict(type="path", required=True),
            files=dict(type="list", elements="path", default=[]),
            manager=dict(type="str", choices=["systemd", "synctl", "command", "none"], default="none"),
            units=dict(type="list", elements="str", default=[]),
            sqlite_path=dict(type="path", default=""),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        _interpreter.need({"yaml": "PyYAML"}, None)
        result = look(module.params)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
