# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration that a move goes by: of Synapse's own, the server's name and the database that is its target."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _connection, _defaults
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import move_lock
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

# What Twisted's adbapi takes where the section does not say it.
_POOL_MIN, _POOL_MAX = 3, 5


@dataclasses.dataclass(frozen=True)
class PortConfig:
    """What a move needs of Synapse's configuration: ``server_name``, and its ``database:`` ``section`` for psycopg2."""

    server_name: str
    section: dict = dataclasses.field(repr=False)

    @property
    def keywords(self) -> dict:
        """libpq's keywords that lead to the target."""
        return connection_keywords(self.section)

    @property
    def pool_size(self) -> int:
        """How many sessions Synapse has at most, in each of its processes."""
        return int(self.section["args"].get("cp_max") or _POOL_MAX)

    @property
    def allows_unsafe_locale(self) -> bool:
        return bool(self.section.get("allow_unsafe_locale"))

    def limited_to(self, sessions: int) -> PortConfig:
        """Return the same with a pool of so many ``sessions`` at most, and of one at least."""
        args, most = self.section["args"], max(1, min(self.pool_size, sessions))
        return self._with_args(cp_min=min(int(args.get("cp_min") or _POOL_MIN), most), cp_max=most)

    def without_defaults(self, cursor: Cursor) -> PortConfig:
        """Return the same by which Synapse's own tools leave the defaults of the role of ``cursor``, where it carries any.

        They stay where no options are taken, by a pooler.
        """
        options = _defaults.neutral_options(cursor)
        if not options:
            return self
        # Options take the place of those of a service, which may hold the role's search_path.
        keywords = _connection.with_options(self.keywords, f"{options} -c search_path={_connection.MOVED}")
        return self._with_args(options=keywords["options"]) if _attempt.attempt(keywords).let_in else self

    def _with_args(self, **args: object) -> PortConfig:
        return dataclasses.replace(self, section={**self.section, "args": {**self.section["args"], **args}})


def read(paths: list[str], section: dict | None = None) -> PortConfig:
    """Return the configuration from ``paths``, files and folders of ``*.yaml``, later ones going before earlier ones.

    ``section`` is the ``database:`` section that it is to have in place of its own. Raises Refusal as merging.read() does, and
    where no file has a server_name or a psycopg2 ``database:`` section.
    """
    merged = merging.read(paths).config
    server_name, section = merged.get("server_name"), section or merged.get("database")
    where = ", ".join(paths)
    if not isinstance(server_name, str):
        raise Refusal(
            f"No server_name in {where}.",
            "Give every file and folder that Synapse reads, in its order (in the roles: synapse_postgres_config_files).",
        )
    if not isinstance(section, dict) or section.get("name") != "psycopg2" or not isinstance(section.get("args"), dict):
        raise Refusal(
            f"No database section for psycopg2 in {where}.",
            "Give the configuration that Synapse is to have on PostgreSQL; synapse_database_config writes its section.",
        )
    odd = [key for key, value in section["args"].items() if not isinstance(key, str) or not isinstance(value, (str, int, float))]
    if odd:
        raise Refusal(f"In {where}, database.args.{odd[0]} is neither text nor a number.", "Correct it, or take it out.")
    return PortConfig(server_name, section)


def connection_keywords(section: dict) -> dict:
    """Return libpq's keywords from a ``database:`` section: all of its ``args`` but the pool's ``cp_*``."""
    return {key: value for key, value in section["args"].items() if not key.startswith("cp_")}


def private(server_name: str, section: dict, folder: str) -> dict:
    """Return the least configuration with which Synapse's tools parse: the server's name and a ``database:`` section.

    Modules, media stores and key files are left out, since the tools load them where they may not exist; the signing key is one
    made for this run, the media store a path in ``folder``. Background updates need no pause between them, since nobody is
    served from the new database or the copy, and nothing ends what takes its time.
    """
    if section["name"] == "psycopg2":
        args = {**_connection.KEEPALIVES, **section["args"], "application_name": move_lock.ROUTINE}
        section = {**section, "args": args, "statement_timeout": 0, "idle_in_transaction_session_timeout": 0}
    return {
        "server_name": server_name,
        "database": section,
        "report_stats": False,
        "signing_key": "ed25519 port " + base64.b64encode(os.urandom(32)).decode("ascii").rstrip("="),
        "media_store_path": os.path.join(folder, "media"),
        "trusted_key_servers": [],
        "background_updates": {"sleep_duration_ms": 0},
    }


def as_yaml(config: dict) -> str:
    """Return ``config`` as JSON, which is YAML with every string quoted, but for characters that the two escape differently.

    JSON has surrogates for an emoji, and YAML breaks a line at characters such as U+2028 (YAML 1.1, sections 5.4 and 5.6).
    """
    return re.sub("[^ -~]", lambda char: f"\\U{ord(char[0]):08X}", json.dumps(config, default=str, ensure_ascii=False))
