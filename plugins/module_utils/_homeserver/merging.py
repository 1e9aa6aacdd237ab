# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's configuration as Synapse reads it: its files in their order, merged, and the database that they name.

The rules are those of synapse/config/_base.py (find_config_files, read_config_files) and database.py.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import homeserver_yaml

# What Synapse has drivers for: synapse/config/database.py.
ENGINES = ("sqlite3", "psycopg2")

# Names of SQLite's for a database that no file keeps: https://www.sqlite.org/inmemorydb.html
_NO_FILE = ("", ":memory:")


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
class Database:
    """The database that Synapse uses: the name of its ``engine``, and the keywords ``args`` that this is given."""

    engine: str
    args: dict[Any, Any] = dataclasses.field(repr=False)

    def sqlite_path(self, where: str) -> str:
        """Return the path of SQLite's file, as Synapse sees it; ``where`` is the configuration file that names it.

        It may be relative to the folder that Synapse is started in. Raises Refusal where it names no file.
        """
        path = self.args.get("database")
        if not isinstance(path, str):
            raise Refusal(
                f"The database section of {where} is for sqlite3 and names no file: args.database is "
                f"{'missing' if path is None else f'a {type(path).__name__}'}. Synapse does not start on it.",
                "Write the path of the SQLite database there; if the homeserver is new, take the section database out of the "
                "file.",
            )
        if self.args.get("uri") and path.startswith("file:"):
            path = _uri_path(path)
        if path in _NO_FILE:
            raise Refusal(
                f"The database section of {where} has Synapse keep everything in memory ({self.args['database']!r}): it is "
                "gone when Synapse stops, and cannot be moved.",
                "To begin anew on PostgreSQL, take the section database out of the file.",
            )
        return path


@dataclasses.dataclass(frozen=True)
class Merged:
    """The one configuration that ``files`` come to, and which of them hold each top-level key; of those the last one counts."""

    files: list[str]
    config: dict[Any, Any] = dataclasses.field(repr=False)
    holders: dict[Any, list[str]]

    def effective_file(self, key: str) -> str | None:
        """Return the file whose ``key`` counts, None where no file has it."""
        return self.holders[key][-1] if key in self.holders else None


def read(paths: list[str]) -> Merged:
    """Return what the files and folders ``paths`` come to: the keys of a later file replace those of an earlier one, whole.

    Raises Refusal for a file that Synapse could not read, and for one that is a text or a list, which Synapse ignores: whoever
    wrote it meant it to count.
    """
    found = files(paths)
    merged: dict[Any, Any] = {}
    holders: dict[Any, list[str]] = {}
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


def database(merged: Merged, path_option: str | None = None) -> Database | None:
    """Return the database that Synapse uses by the section ``database:``; None where nothing names one.

    Without a section ``database_path`` is a SQLite database, or else ``path_option``, Synapse's ``--database-path``. Raises
    Refusal for a section with which Synapse does not start.
    """
    section, where = merged.config.get(homeserver_yaml.SECTION_KEY), merged.effective_file(homeserver_yaml.SECTION_KEY)
    if where is None or (not section and not isinstance(section, (str, list))):
        path = merged.config.get("database_path") or path_option
        return Database("sqlite3", {"database": path}) if path else None
    if not isinstance(section, dict):
        raise homeserver_yaml.not_a_mapping(where, section)
    name, args = section.get("name"), section.get("args", {})
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
    return Database(name, args)


def _uri_path(uri: str) -> str:
    """Return the path in SQLite's ``uri``, the name of a database in memory for one of those: https://www.sqlite.org/uri.html."""
    parts = urllib.parse.urlsplit(uri)
    memory = urllib.parse.parse_qs(parts.query).get("mode") == ["memory"]
    return ":memory:" if memory else urllib.parse.unquote(parts.path)
