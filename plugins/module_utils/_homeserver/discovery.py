# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files Synapse reads on this host, and what they say: its database, and where it answers.

The files are those that the running Synapse was started with; where none runs, those that its next start will have, by the
systemd units or by synctl; or those that the play names.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import listeners, merging, startup
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver.homeserver_yaml import SECTION_KEY

_GIVE_FILES = "say in synapse_postgres_config_files which files and folders Synapse reads, in its order"


@dataclasses.dataclass(frozen=True)
class Readers:
    """Synapse's processes, or units, that read the configuration: the ``main`` one, and the ``workers``.

    ``paths`` are the files and folders that it reads, by this host's paths, and ``found_by`` what named them; ``files`` are the
    files that they stand for.
    """

    main: startup.Invocation
    workers: list[startup.Invocation]
    paths: list[str]
    found_by: str
    files: list[str]


def inspect(params: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the module synapse_config_info for its ``params``.

    Raises Refusal for a configuration that is not found, or that Synapse cannot start with.
    """
    path = params["path"]
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"exists": False}
    readers = _readers(params)
    merged = merging.read(readers.files)
    if not params["files"]:
        _require_same_database(merged, readers.workers)
    database = merging.database(merged, readers.main.database_path)
    section_path = merged.effective_file(SECTION_KEY) or path
    if section_path.startswith("/proc/"):
        raise Refusal(
            f"The file that names Synapse's database is none of this host's: {section_path}.",
            "Keep it in a folder of the host's that the container has mounted.",
        )
    sqlite = database if database and database.engine == "sqlite3" else None
    return {
        "exists": True,
        "files": readers.files,
        "folders": [name for name in readers.paths if os.path.isdir(name)],
        "found_by": readers.found_by,
        "section_path": section_path,
        "overridden": merged.holders.get(SECTION_KEY, [])[:-1],
        "engine": database.engine if database else None,
        "sqlite_named": sqlite.args.get("database") if sqlite else None,
        "sqlite_path": _sqlite_path(sqlite, section_path, params["sqlite_path"], readers.main) if sqlite else None,
        "address": _address(readers, merged),
    }


def _readers(params: dict[str, Any]) -> Readers:
    """Return who reads the configuration that the file ``path`` of ``params`` is one of, and which files that are."""
    path, given = params["path"], params["files"]
    running, next_start = startup.processes(path), _next_start(params)
    main = _main_process(running, path)
    workers = [
        each
        for each in (running if main else next_start)
        if each.app != startup.MAIN and each.config_paths and _reads(each, path)
    ]
    if not given:
        _require_same_files(path, main, next_start)
    main = main or _main_process(next_start, path)
    paths, found_by = _named_paths(path, given, main)
    main = main or startup.Invocation(startup.MAIN, paths, [])
    files = [path if _is_same_file(path, name) else name for name in (merging.files(paths) if given else main.config_files())]
    if path not in files:
        raise Refusal(f"Synapse reads {', '.join(files)}, and {path} is none of them.", "Correct synapse_postgres_config_path.")
    return Readers(main, workers, paths, found_by, files)


def _is_same_file(one: str, other: str) -> bool:
    """Tell whether both paths lead to one file; also where there is none yet."""
    return os.path.realpath(one) == os.path.realpath(other) or (
        os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
    )


def _reads(invocation: startup.Invocation, path: str) -> bool:
    return any(_is_same_file(path, name) for name in invocation.config_files())


def _main_process(invocations: list[startup.Invocation], path: str) -> startup.Invocation | None:
    """Return the one of ``invocations`` that runs Synapse's main process with the file ``path``."""
    return next((each for each in _main_processes(invocations) if _reads(each, path)), None)


def _main_processes(invocations: list[startup.Invocation]) -> list[startup.Invocation]:
    return [each for each in invocations if each.app == startup.MAIN and each.config_paths]


def _next_start(params: dict[str, Any]) -> list[startup.Invocation]:
    """Return how Synapse will be started the next time, its workers too; nothing where that is not known."""
    path = params["path"]
    if params["manager"] == "synctl":
        return [startup.Invocation(startup.MAIN, [path], [os.path.dirname(path)], unit="synctl")]
    return startup.units(params["units"]) if params["manager"] == "systemd" else []


def _named_paths(path: str, given: list[str], main: startup.Invocation | None) -> tuple[list[str], str]:
    """Return the files and folders that Synapse reads, by this host's paths, and what named them."""
    if given:
        return given, "the play"
    if main:
        return [main.host_path(name) or name for name in main.config_paths], main.name
    beside = os.path.join(os.path.dirname(path), "conf.d")
    return [path, *([beside] if os.path.isdir(beside) else [])], "custom"


def _require_same_files(path: str, running: startup.Invocation | None, next_start: list[startup.Invocation]) -> None:
    """Raise Refusal where the next start of Synapse would read other files than ``path``, or than what runs now."""
    mains, main = _main_processes(next_start), _main_process(next_start, path)
    if mains and not main:
        raise Refusal(
            f"As {mains[0].name} starts it, Synapse reads {', '.join(mains[0].config_files())}, and {path} is none of them.",
            "Set synapse_postgres_config_path to one of these files; the one whose section counts is found out.",
        )
    if running and main:
        now, then = running.config_files(), main.config_files()
        if len(now) != len(then) or not all(map(_is_same_file, now, then)):
            raise Refusal(
                f"Synapse runs with {', '.join(now)} ({running.name}), and {main.unit} would start it with {', '.join(then)}: it "
                "might find another database.",
                f"Start it once as it is to be started from now on, or {_GIVE_FILES}.",
            )


def _require_same_database(main: merging.Merged, workers: list[startup.Invocation]) -> None:
    """Raise Refusal where a worker's configuration names another database than the main process's."""
    for worker in workers:
        merged = merging.read(worker.config_files())
        if merged.config.get(SECTION_KEY) == main.config.get(SECTION_KEY):
            continue
        file = merged.effective_file(SECTION_KEY)
        if file is None or any(_is_same_file(file, name) for name in main.files):
            raise Refusal(
                f"A worker ({worker.name}, {worker.app}) does not read {main.effective_file(SECTION_KEY)}, by which the main "
                "process has its database.",
                f"Start the worker with all files of the main process's, and its own after them ({', '.join(main.files)}).",
            )
        raise Refusal(
            f"A worker ({worker.name}, {worker.app}) is told another database than the main process, by {file}.",
            "Take the section database out of the workers' files: they read the main process's.",
        )


def _sqlite_path(database: merging.Database, section_path: str, given: str, main: startup.Invocation) -> str:
    """Return the path on this host of the SQLite ``database`` that the file ``section_path`` names; Refusal where there is none.

    ``given`` is where the play has it, "" where it is to be found out.
    """
    named = database.sqlite_path(section_path)
    if given and not os.path.exists(given):
        raise Refusal(f"synapse_postgres_sqlite_path is {given}, which is not on this host.", "Correct it.")
    found = main.host_path(named)
    if given and main.has_another_file(named, given):
        raise Refusal(
            f"synapse_postgres_sqlite_path is {given}, and {main.name} has another file as {named}, which {section_path} names.",
            f"Give the path of that one on this host ({found or 'it is in no folder of the host'}).",
        )
    if given or found:
        return given or str(found)
    if not os.path.isabs(named) and not main.working_folders:
        raise Refusal(
            f"{section_path} names the SQLite database {named}, relative to the folder that Synapse is started in, which is not "
            "known.",
            "Give the path in synapse_postgres_sqlite_path, or start Synapse and run this again.",
        )
    place = f" (process {main.pid} sees it in no folder of this host's)" if main.is_isolated else ""
    raise Refusal(
        f"{section_path} names the SQLite database {named}, which is not on this host{place}.",
        "If Synapse knows it by another path, in a container, leave the file as it is, and give the path on this host in "
        "synapse_postgres_sqlite_path; if the homeserver is new, take the section database out of the file. Then run this again.",
    )


def _address(readers: Readers, merged: merging.Merged) -> dict[str, Any] | None:
    """Return where Synapse answers: its main process, or where that has no HTTP, one of its workers."""
    found = listeners.addresses(merged.config)
    for worker in readers.workers:
        found = found or listeners.addresses(merging.read(worker.config_files()).config)
    if not found:
        return None
    best = found[0]
    socket = best.socket and (readers.main.host_path(best.socket) or best.socket)
    return {"url": best.url, "ask": best.page, "socket": socket}
