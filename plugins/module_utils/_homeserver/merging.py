# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's configuration as Synapse reads it: its files in their order, merged, and what that says of database and listeners.

The rules are those of synapse/config/_base.py (find_config_files, read_config_files), database.py and server.py.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml

# What Synapse has drivers for: synapse/config/database.py.
ENGINES = ("sqlite3", "psycopg2")

# Names of SQLite's for a database that no file keeps: https://www.sqlite.org/inmemorydb.html
_NO_FILE = ("", ":memory:")

# Addresses that stand for every address of the host, and what reaches them from there.
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def files(paths: list[str]) -> list[str]:
    """Return the files that the ``paths`` of Synapse's ``--config-path`` stand for, in the order in which they are merged.

    Of a folder these are its ``*.yaml``, hidden ones too, sorted by name; not those of folders within.
    """
    found = []
    for path in paths:
        if os.path.isdir(path):
            inside = [os.path.join(path, name) for name in os.listdir(path) if name.endswith(".yaml")]
            found += sorted(name for name in inside if os.path.isfile(name))
        else:
            found.append(path)
    return found


@dataclasses.dataclass(frozen=True)
class Merged:
    """The one configuration that ``files`` come to, and which of them hold each top-level key; of those the last one counts."""

    files: list
    config: dict
    holders: dict

    def decides(self, key: str) -> str | None:
        """Return the file whose ``key`` counts, None where no file has it."""
        return self.holders[key][-1] if key in self.holders else None


def read(paths: list[str]) -> Merged:
    """Return what the files and folders ``paths`` come to: the keys of a later file replace those of an earlier one, whole.

    Raises Refusal for a file that Synapse could not read, and for one that is a text or a list, which Synapse ignores: whoever
    wrote it meant it to count.
    """
    merged, holders, found = {}, {}, files(paths)
    for path in found:
        try:
            document = homeserver_yaml.read(path).options
        except FileNotFoundError as error:
            raise Refusal(
                f"Synapse is to read {path}, which is not there.",
                "Make the file, or take it out of what Synapse is started with (in the roles: synapse_postgres_config_files).",
            ) from error
        merged.update(document)
        for key in document:
            holders.setdefault(key, []).append(path)
    return Merged(found, merged, holders)


def database(merged: Merged, path_option: str | None = None) -> dict | None:
    """Return the ``database:`` section as Synapse takes it, with ``name`` and ``args``; None where there is none.

    Without a section ``database_path`` is a SQLite database, or else ``path_option``, Synapse's ``--database-path``. Raises
    Refusal for a section with which Synapse does not start.
    """
    found, where = merged.config.get(homeserver_yaml.SECTION_KEY), merged.decides(homeserver_yaml.SECTION_KEY)
    if not found and not isinstance(found, (str, list)):
        path = merged.config.get("database_path") or path_option
        return {"name": "sqlite3", "args": {"database": path}} if path else None
    if not isinstance(found, dict):
        raise homeserver_yaml.not_a_mapping(where, found)
    name, args = found.get("name"), found.get("args", {})
    if name not in ENGINES:
        raise Refusal(
            f"The database section of {where} names {'no engine' if name is None else f'the engine {name!r}'}, and Synapse knows "
            f"{' and '.join(ENGINES)}.",
            "Correct name in the section.",
        )
    if not isinstance(args, dict):
        raise Refusal(
            f"In the database section of {where}, args holds {'nothing' if args is None else f'a {type(args).__name__}'}, where "
            "Synapse expects a mapping.",
            "Write the keywords under args, or remove the section.",
        )
    return {**found, "name": name, "args": args}


def sqlite_path(section: dict, where: str) -> str:
    """Return the path of the file that the ``section`` for sqlite3, of the file ``where``, names: as Synapse sees it.

    It may be relative to the folder that Synapse is started in. Raises Refusal where it names no file.
    """
    path = section["args"].get("database")
    if not isinstance(path, str):
        raise Refusal(
            f"The database section of {where} is for sqlite3 and names no file: args.database is "
            f"{'missing' if path is None else f'a {type(path).__name__}'}. Synapse does not start on it.",
            "Write the path of the SQLite database there; if the homeserver is new, take the section database out of the file.",
        )
    if section["args"].get("uri") and path.startswith("file:"):
        path = _uri_path(path)
    if path in _NO_FILE:
        raise Refusal(
            f"The database section of {where} has Synapse keep everything in memory ({section['args']['database']!r}): it is "
            "gone when Synapse stops, and cannot be moved.",
            "To begin anew on PostgreSQL, take the section database out of the file.",
        )
    return path


def _uri_path(uri: str) -> str:
    """Return the path in SQLite's ``uri``, the name of a database in memory for one of those: https://www.sqlite.org/uri.html."""
    parts = urllib.parse.urlsplit(uri)
    memory = urllib.parse.parse_qs(parts.query).get("mode") == ["memory"]
    return ":memory:" if memory else urllib.parse.unquote(parts.path)


@dataclasses.dataclass(frozen=True)
class Address:
    """Where Synapse answers: the ``url`` before the page to ``ask`` for, and the path of the Unix ``socket``, None for TCP.

    At a socket the host in the URL is no more than a word.
    """

    url: str
    ask: str
    socket: str | None = None


def addresses(config: dict) -> list[Address]:
    """Return where a process with this ``config`` answers HTTP, the best one first.

    Best is the client API, without TLS, on the loopback interface. Where only other resources are served, the page that each
    listener has, ``/health``, is to ask for.
    """
    found = []
    for listener in _listeners(config):
        resources = [each for each in listener.get("resources") or [] if isinstance(each, dict)]
        client = any("client" in (each.get("names") or []) for each in resources)
        ask = "/_matrix/client/versions" if client else "/health"
        if isinstance(listener.get("path"), str):
            found.append((not client, False, 1, Address("http://unix", ask, listener["path"])))
        elif isinstance(listener.get("port"), int):
            bound, tls = _bound(listener), bool(listener.get("tls"))
            host = f"[{bound}]" if ":" in bound else bound
            url = f"{'https' if tls else 'http'}://{host}:{listener['port']}"
            found.append((not client, tls, 0 if bound in ("127.0.0.1", "localhost", "::1") else 2, Address(url, ask)))
    return [address for *_order, address in sorted(found, key=lambda each: each[:-1])]


def _listeners(config: dict) -> list[dict]:
    """Return the HTTP listeners: the main process's, by its older keys where those are used, or a worker's."""
    if config.get("worker_app", "synapse.app.homeserver") != "synapse.app.homeserver":
        listed = config.get("worker_listeners")
    elif config.get("bind_port"):
        shared = {"type": "http", "bind_address": config.get("bind_host", ""), "resources": [{"names": ["client", "federation"]}]}
        plain = config.get("unsecure_port", config["bind_port"] - 400)
        listed = [{**shared, "port": config["bind_port"], "tls": True}]
        listed += [{**shared, "port": plain}] if plain else []
    else:
        listed = config.get("listeners")
    found = [each for each in listed or [] if isinstance(each, dict) and each.get("type") == "http"]
    return [each for each in found if not (config.get("no_tls") and each.get("tls"))]


def _bound(listener: dict) -> str:
    """Return an address that the ``listener`` is reached at from its own host."""
    listed = [*(listener.get("bind_addresses") or []), *filter(None, [listener.get("bind_address")])]
    reached = [_ANY.get(str(each), str(each)) for each in listed] or ["127.0.0.1"]
    return next((each for each in ("127.0.0.1", "localhost", "::1") if each in reached), reached[0])
