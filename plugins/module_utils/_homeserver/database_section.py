# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Synapse's ``database:`` section says: the one to be had, which of its values a person may see, and whether it is whole."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import libpq

MASK = "********"

# Siblings of ``args`` that Synapse reads and the module has no option for: synapse/storage/database.py (txn_limit) and
# synapse/storage/engines/postgres.py, PostgresEngine. An administrator who set one keeps it.
SIBLINGS = ("txn_limit", "synchronous_commit", "statement_timeout", "idle_in_transaction_session_timeout")

# The spelling of ``dbname`` that psycopg2 knows besides, and other programs that read the section know alone. SQLite's file.
ALIAS = "database"

# What a diff may show of a section; all else might be a misplaced or misspelt secret.
_SHOWN = {"name", "allow_unsafe_locale", ALIAS, "check_same_thread", *SIBLINGS, *libpq.KEYWORDS} - libpq.SECRETS


@dataclasses.dataclass(frozen=True)
class Pool:
    """How many connections each process of Synapse holds (``min``), and opens at most (``max``)."""

    min: int = 5
    max: int = 10


@dataclasses.dataclass(frozen=True)
class Keepalives:
    """When a silent TCP connection is given up: after ``idle`` seconds by ``count`` probes, one every ``interval`` seconds."""

    idle: int = 10
    interval: int = 10
    count: int = 3


def desired(
    present: dict[Any, Any] | None, args: dict[str, Any], pool: Pool, keepalives: Keepalives, allow_unsafe_locale: bool = False
) -> dict[str, Any]:
    """Return the section for Synapse to use PostgreSQL with ``args``, the keywords of libpq.KEYWORDS.

    What ``args`` says itself goes before ``pool`` and ``keepalives``. Keywords that are None or empty are left out. Of the
    ``present`` section those siblings of ``args`` stay that Synapse reads and no option sets, and the name of the database is
    called as it is there, dbname or database. Raises Refusal for values that cannot work.
    """
    for keyword in sorted(libpq.SECRETS):
        if args.get(keyword) == "":
            raise Refusal(
                f"args.{keyword} is empty; Synapse could not log in with it.",
                f"Give {keyword}, or leave it out for a login without one.",
            )
    given = {keyword: args[keyword] for keyword in libpq.KEYWORDS if args.get(keyword) not in (None, "")}
    if "port" in given:
        given["port"] = _port(given["port"])
    for name, seconds in dataclasses.asdict(keepalives).items():
        given.setdefault(f"keepalives_{name}", seconds)
    for name, connections in dataclasses.asdict(pool).items():
        given.setdefault(f"cp_{name}", connections)
    _require_possible(given)
    kept = {name: present[name] for name in SIBLINGS if present and present.get(name) is not None}
    unsafe = {"allow_unsafe_locale": True} if allow_unsafe_locale else {}
    if _has_alias(present):
        given = {ALIAS if keyword == "dbname" else keyword: value for keyword, value in given.items()}
    return {"name": "psycopg2", **kept, "args": given, **unsafe}


def masked(section: dict[Any, Any] | None, replaced: dict[Any, Any] | None = None) -> dict[Any, Any] | None:
    """Return the ``section`` as a person may see it: MASK for secrets and for what is not known to be none.

    With the section that it has ``replaced``, a value under MASK that is not the same there is marked as changed.
    """
    if section is None:
        return None
    shown: dict[Any, Any] = {}
    for key, value in section.items():
        before = (replaced or {}).get(key)
        if key == "args" and isinstance(value, dict):
            shown[key] = masked(value, before if isinstance(before, dict) else None)
        elif key in _SHOWN and not isinstance(value, (dict, list)):
            shown[key] = value
        else:
            shown[key] = MASK if before is None or before == value else f"{MASK} (changed)"
    return shown


def is_whole(section: dict[Any, Any] | None) -> bool:
    """Tell whether the ``section`` has a name and args."""
    return bool(section and section.get("name") and isinstance(section.get("args"), dict))


def _has_alias(present: dict[Any, Any] | None) -> bool:
    """Tell whether the ``present`` section, of PostgreSQL's, names its database by the keyword database."""
    args = present.get("args") if present and present.get("name") == "psycopg2" else None
    return isinstance(args, dict) and ALIAS in args and "dbname" not in args


def _port(port: str) -> int | str:
    """Return the ``port`` as a number, or as it is when there is one for each of several hosts; Refusal when it is none."""
    text = str(port)
    for part in text.split(","):
        if part and not (re.fullmatch("[0-9]{1,5}", part) and 1 <= int(part) <= 65535):
            raise Refusal(f"args.port is {text!r}, which is no TCP port.", "Give a number between 1 and 65535.")
    return int(text) if text.isdigit() else text


def _require_possible(args: dict[str, Any]) -> None:
    """Raise Refusal for keywords that Synapse could not connect with."""
    if "dbname" not in args and "service" not in args:
        raise Refusal("args names no database.", "Give args.dbname, or args.service for one that pg_service.conf describes.")
    if args["cp_min"] < 1 or args["cp_min"] > args["cp_max"]:
        raise Refusal(
            f"A pool of at least {args['cp_min']} and at most {args['cp_max']} connections is impossible.",
            "Give pool.min and pool.max (or args.cp_min and args.cp_max) with 1 <= min <= max.",
        )
    for keyword, value in args.items():
        if isinstance(value, int) and value < 0:
            raise Refusal(
                f"args.{keyword} is {value}.", "Give a number that is not negative; 0 is the operating system's default."
            )
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise Refusal(
                f"args.{keyword} holds a NUL or a character that UTF-8 does not have; libpq cannot take it.",
                f"Give {keyword} without it.",
            )
