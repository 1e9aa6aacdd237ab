# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles as the catalog has them, and the statements that bring one to a wished state."""

from __future__ import annotations

import contextlib
import os
import secrets

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _connection, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import scram
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    from psycopg2 import sql
except ImportError:
    pass

# Keyword of CREATE ROLE -> column of pg_roles; "NO" before the keyword takes the attribute away.
ATTRIBUTES = {
    "LOGIN": "rolcanlogin",
    "SUPERUSER": "rolsuper",
    "CREATEDB": "rolcreatedb",
    "CREATEROLE": "rolcreaterole",
    "INHERIT": "rolinherit",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
}
KEYWORDS = [prefix + keyword for keyword in ATTRIBUTES for prefix in ("", "NO")]

# What Synapse's role needs: to log in, and nothing else.
LEAST = ["LOGIN", "NOSUPERUSER", "NOCREATEDB", "NOCREATEROLE"]

_BOOTSTRAP_SUPERUSER_OID = 10

# Said where a password is set without need, perhaps.
_UNKNOWN = (
    "The role of this task may not read pg_authid, and a log-in as {!r} does not tell whether it has this password already: the "
    "server asks for none there, or refuses whatever is given. So the password is set every time."
)

# SQLSTATE of a password that is not the role's: invalid_password.
_WRONG = "28P01"


def find(cursor, name: str) -> dict | None:
    """Return ``{oid, attributes: {keyword: bool}, connection_limit}`` of the role ``name``, or None."""
    columns = list(ATTRIBUTES.values())
    cursor.execute(
        sql.SQL("SELECT oid, rolconnlimit, {} FROM pg_catalog.pg_roles WHERE rolname = %s").format(
            sql.SQL(", ").join(map(sql.Identifier, columns))
        ),
        (name,),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    return {"oid": row[0], "connection_limit": row[1], "attributes": dict(zip(ATTRIBUTES, row[2:]))}


def wished_attributes(keywords: list[str]) -> dict[str, bool]:
    """Return ``{keyword: wished}`` for CREATE ROLE's ``keywords`` such as LOGIN and NOSUPERUSER; Refusal on a contradiction."""
    wished: dict[str, bool] = {}
    for keyword in keywords:
        base = keyword if keyword in ATTRIBUTES else keyword[2:]
        if wished.setdefault(base, keyword == base) != (keyword == base):
            raise Refusal(f"The attributes ask for both {base} and NO{base}.", "Keep one of them.")
    return wished


def require_not_own(cursor, name: str, role: dict) -> None:
    """Raise Refusal when ``role`` is the one we are connected as or the cluster's first superuser: not ours to change."""
    cursor.execute("SELECT session_user")
    if role["oid"] == _BOOTSTRAP_SUPERUSER_OID or cursor.fetchone()[0] == name:
        raise Refusal(
            f"The role {name!r} administers the server (it is the cluster's first superuser, or the one this task connects as).",
            "Give Synapse a role of its own.",
        )


def stored_password(cursor, name: str) -> str | None:
    """Return what pg_authid keeps for the role's password, None for no password; Refusal-free: see readable()."""
    cursor.execute("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = %s", (name,))
    row = cursor.fetchone()
    return row[0] if row else None


def may_read_passwords(cursor) -> bool:
    """Tell whether the connected role may read pg_authid; providers of managed servers do not allow it."""
    cursor.execute("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
    return cursor.fetchone()[0]


def logs_in(params: dict, name: str, password: str) -> bool | None:
    """Tell whether ``password`` is the role ``name``'s, by a log-in where ``params`` connect to; None where that does not tell.

    For servers whose pg_authid may not be read. A server that asks for a password looks at it before all else that it may
    refuse a role for, such as a limit of connections (auth.c, ClientAuthentication; postinit.c, InitPostgres). So what is
    refused in another way than a password that nobody has is right.
    """
    login = {"connect_timeout": _attempt.SECONDS, **_connection.keywords(params), "user": name}
    tried = _attempt.attempt({**login, "password": password})
    if tried.let_in:
        return True if tried.password == "used" else None
    if tried.sqlstate in (None, _WRONG):
        return None if tried.sqlstate is None else False
    other = _attempt.attempt({**login, "password": secrets.token_hex()})
    return True if other.sqlstate == _WRONG else None


def new_verifier(cursor, password: str) -> str:
    """Return a fresh verifier for ``password`` with the server's own iteration count (scram_iterations, 16 and later)."""
    cursor.execute("SELECT current_setting('scram_iterations', true)")
    iterations = cursor.fetchone()[0]
    return scram.verifier(password, os.urandom(scram.SALT_BYTES), int(iterations or scram.ITERATIONS))


def hush(cursor) -> None:
    """Keep this transaction's statements, verifier and all, out of the server's log, where we may (superusers)."""
    cursor.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
    if cursor.fetchone()[0]:
        cursor.execute(
            "SET LOCAL log_statement = 'none'; SET LOCAL log_min_duration_statement = -1;"
            "SET LOCAL log_min_error_statement = 'panic'; SET LOCAL log_duration = off"
        )


def write(cursor, verb: str, name: str, attributes: dict, connection_limit: int | None, verifier: str | None) -> None:
    """Run CREATE ROLE or ALTER ROLE (``verb``) for ``name`` with what is given; None and absent keys are left alone."""
    parts = [sql.SQL(keyword if wished else "NO" + keyword) for keyword, wished in attributes.items()]
    if connection_limit is not None:
        parts.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(connection_limit)))
    if verifier is not None:
        parts.append(sql.SQL("PASSWORD {}").format(sql.Literal(verifier)))
    with _transaction(cursor):
        hush(cursor)
        cursor.execute(sql.SQL("{} ROLE {} {}").format(sql.SQL(verb), sql.Identifier(name), sql.SQL(" ").join(parts)))


@contextlib.contextmanager
def _transaction(cursor):
    """Have one transaction within the block, on a connection that otherwise commits every statement too."""
    if not cursor.connection.autocommit:
        yield
        return
    cursor.execute("BEGIN")
    try:
        yield
    except BaseException:
        cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")


def drop(cursor, name: str) -> None:
    """Drop the role ``name``; the server's refusal names what it still owns."""
    cursor.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def expired(cursor, name: str) -> list[str]:
    """Return a warning where the password of the role ``name`` is valid no more, which the server refuses like a wrong one."""
    cursor.execute("SELECT rolvaliduntil FROM pg_catalog.pg_roles WHERE rolname = %s AND rolvaliduntil < now()", (name,))
    found = cursor.fetchone()
    if found is None:
        return []
    return [
        f"The password of the role {name!r} was valid until {found[0]}, and nobody can log in with it. Let it be valid again by "
        f"`ALTER ROLE {_words.identifier(name)} VALID UNTIL 'infinity'`."
    ]


def short_of_connections(cursor, wanted: int, limit: int) -> list[str]:
    """Return warnings where ``wanted`` connections of a role's do not fit under its own ``limit`` (-1: none) or the server's.

    A warning and no refusal: Synapse opens that many only when all of its processes are busy at once (manual, section 20.3.1).
    """
    # The last of these is there since PostgreSQL 16.
    cursor.execute(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0)"
    )
    most, reserved = cursor.fetchone()
    found = []
    if wanted > most - reserved:
        found.append(
            f"Synapse's processes open up to {wanted} connections, and the server has {most - reserved}: max_connections is "
            f"{most}, of which {reserved} are reserved. Raise max_connections to {wanted + reserved} or more, or lower the "
            "pools of Synapse's processes (cp_max)."
        )
    if 0 <= limit < wanted:
        found.append(
            f"Synapse's processes open up to {wanted} connections, and their role may have {limit}. Raise its connection "
            "limit, or lower the pools of Synapse's processes (cp_max)."
        )
    return found


def require_possible(params: dict) -> None:
    """Raise Refusal for a name or a password in ``params`` that no role can have."""
    _connection.require_name("role", params["name"])
    if params["password"] == "":
        raise Refusal(
            f"The password for the role {params['name']!r} is empty; PostgreSQL would let nobody log in with it.",
            "Give a password, or leave the option away for a role without one.",
        )


def _described(name: str, role: dict | None, password: str) -> dict:
    """Return the role as it is shown to a person: ``password`` is how it is stored, never what it is."""
    if role is None:
        return {"name": name, "state": "absent"}
    return {
        "name": name,
        "state": "present",
        "attributes": [key if on else "NO" + key for key, on in role["attributes"].items()],
        "connection_limit": role["connection_limit"],
        "password": password,
    }


def _password_state(cursor, params: dict, role: dict | None) -> tuple[str, bool, list[str]]:
    """Return how the password is stored, whether it has to be set, and warnings about that."""
    wished = params["password"]
    if role is None:
        return "none", wished is not None, []
    if may_read_passwords(cursor):
        stored = stored_password(cursor, params["name"])
        return scram.kind(stored), wished is not None and not scram.matches(stored or "", wished), []
    if wished is None:
        return "unreadable", False, []
    known = logs_in(params, params["name"], wished)
    return "unreadable", not known, [_UNKNOWN.format(params["name"])] if known is None else []


def present(cursor, params: dict, check_mode: bool) -> dict:
    """Bring the role to its wished state; return the result of the module postgres_role, whose ``params`` these are."""
    role = find(cursor, params["name"])
    stored, set_password, warnings = _password_state(cursor, params, role)
    before = role or {"attributes": {}, "connection_limit": -1}
    wished = wished_attributes(params["attributes"])
    if role is None:
        wished = {**dict.fromkeys(ATTRIBUTES, False), "INHERIT": True, **wished}
    attributes = {key: on for key, on in wished.items() if before["attributes"].get(key) != on}
    limit = params["connection_limit"]
    limit = None if limit == before["connection_limit"] else limit
    changes = (["role"] if role is None else []) + sorted(attributes) * bool(role)
    changes += ["connection_limit"] * (limit is not None) + ["password"] * set_password
    if changes and role:
        require_not_own(cursor, params["name"], role)
    if changes and not check_mode:
        fresh = new_verifier(cursor, params["password"]) if set_password else None
        write(cursor, "ALTER" if role else "CREATE", params["name"], attributes, limit, fresh)
    after = {
        "attributes": {**before["attributes"], **wished},
        "connection_limit": before["connection_limit"] if limit is None else limit,
    }
    shown = _described(params["name"], after, "scram-sha-256" if set_password else stored)
    return {**_result(changes, _described(params["name"], role, stored), shown), "warnings": warnings}


def absent(cursor, params: dict, check_mode: bool) -> dict:
    """Make the role not exist; return the result of the module postgres_role, whose ``params`` these are."""
    role = find(cursor, params["name"])
    if role:
        require_not_own(cursor, params["name"], role)
        if not check_mode:
            drop(cursor, params["name"])
    before = _described(params["name"], role, "as it was")
    return _result(["role"] if role else [], before, _described(params["name"], None, ""))


def _result(changes: list[str], before: dict, after: dict) -> dict:
    return {"changed": bool(changes), "changes": changes, "role": after, "diff": {"before": before, "after": after}}
