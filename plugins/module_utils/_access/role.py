# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles as the catalog has them, and the statements that bring one to a desired state."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _connection, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import scram
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

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
_UNKNOWN_PASSWORD = (
    "The role of this task may not read pg_authid, and a log-in as {!r} does not tell whether it has this password already: the "
    "server asks for none there, or refuses whatever is given. So the password is set every time."
)

# SQLSTATE of a password that is not the role's: invalid_password.
_WRONG_PASSWORD = "28P01"


@dataclasses.dataclass(frozen=True)
class Role:
    """A role as the catalog has it: ``attributes`` by the keywords of ATTRIBUTES; ``connection_limit`` is -1 for none."""

    oid: int
    attributes: dict[str, bool]
    connection_limit: int


@dataclasses.dataclass(frozen=True)
class Desired:
    """A role as it is to be: ``attributes`` are keywords of KEYWORDS; what is None is left as it is."""

    name: str
    password: str | None = dataclasses.field(default=None, repr=False)
    attributes: list[str] = dataclasses.field(default_factory=lambda: list(LEAST))
    connection_limit: int | None = None

    def require_possible(self) -> None:
        """Raise Refusal for a name or a password that no role can have."""
        _connection.require_name("role", self.name)
        if self.password == "":
            raise Refusal(
                f"The password for the role {self.name!r} is empty; PostgreSQL would let nobody log in with it.",
                "Give a password, or leave the option away for a role without one.",
            )

    def attributes_by_keyword(self) -> dict[str, bool]:
        """Return ``{keyword: whether it is to be had}`` of ATTRIBUTES, of which LOGIN and NOLOGIN are one; Refusal for both."""
        found: dict[str, bool] = {}
        for keyword in self.attributes:
            base = keyword if keyword in ATTRIBUTES else keyword[2:]
            if found.setdefault(base, keyword == base) != (keyword == base):
                raise Refusal(f"The attributes ask for both {base} and NO{base}.", "Keep one of them.")
        return found


@dataclasses.dataclass(frozen=True)
class _PasswordState:
    """How a password is ``stored`` (as of scram.kind(), or unreadable), whether it ``is_to_be_set``, and a warning about that."""

    stored: str
    is_to_be_set: bool
    warnings: list[str] = dataclasses.field(default_factory=list)


def find(cursor: Cursor, name: str) -> Role | None:
    """Return the role ``name``, or None."""
    columns = list(ATTRIBUTES.values())
    cursor.execute(
        sql.SQL("SELECT oid, rolconnlimit, {} FROM pg_catalog.pg_roles WHERE rolname = %s").format(
            sql.SQL(", ").join(map(sql.Identifier, columns))
        ),
        (name,),
    )
    row = cursor.fetchone()
    return Role(row[0], dict(zip(ATTRIBUTES, row[2:])), row[1]) if row else None


def present(server: Server, desired: Desired, check_mode: bool) -> dict:
    """Bring the role to its desired state; return the result of the module postgres_role."""
    cursor = server.cursor
    role = find(cursor, desired.name)
    password = _password_state(server, desired, role)
    wanted = desired.attributes_by_keyword()
    if role is None:
        wanted = {**dict.fromkeys(ATTRIBUTES, False), "INHERIT": True, **wanted}
    before = role or Role(0, {}, -1)
    attributes = {key: on for key, on in wanted.items() if before.attributes.get(key) != on}
    limit = None if desired.connection_limit == before.connection_limit else desired.connection_limit
    changes = sorted(attributes) if role else ["role"]
    changes += ["connection_limit"] * (limit is not None) + ["password"] * password.is_to_be_set
    if changes and role:
        _require_not_administrator(cursor, desired.name, role)
    if changes and not check_mode:
        options = _options(attributes, limit, _new_verifier(cursor, desired.password or "") if password.is_to_be_set else None)
        _run(cursor, "ALTER" if role else "CREATE", desired.name, options)
    after = Role(before.oid, {**before.attributes, **wanted}, before.connection_limit if limit is None else limit)
    stored = "scram-sha-256" if password.is_to_be_set else password.stored
    result = _result(changes, _described(desired.name, role, password.stored), _described(desired.name, after, stored))
    return {**result, "warnings": password.warnings}


def absent(server: Server, desired: Desired, check_mode: bool) -> dict:
    """Make the role not exist; return the result of the module postgres_role. The server's refusal names what it still owns."""
    role = find(server.cursor, desired.name)
    if role:
        _require_not_administrator(server.cursor, desired.name, role)
        if not check_mode:
            server.cursor.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(desired.name)))
    before = _described(desired.name, role, "as it was")
    return {**_result(["role"] if role else [], before, _described(desired.name, None, "")), "warnings": []}


def password_kind(cursor: Cursor, name: str) -> str:
    """Return how the password of the role ``name`` is stored, as of scram.kind(), or ``unreadable``; never what it is."""
    return scram.kind(_stored_password(cursor, name)) if _may_read_passwords(cursor) else "unreadable"


def expiry_warnings(cursor: Cursor, name: str) -> list[str]:
    """Return a warning where the password of the role ``name`` is valid no more, which the server refuses like a wrong one."""
    cursor.execute("SELECT rolvaliduntil FROM pg_catalog.pg_roles WHERE rolname = %s AND rolvaliduntil < now()", (name,))
    found = cursor.fetchone()
    if found is None:
        return []
    return [
        f"The password of the role {name!r} was valid until {found[0]}, and nobody can log in with it. Let it be valid again by "
        f"`ALTER ROLE {_words.identifier(name)} VALID UNTIL 'infinity'`."
    ]


def connection_warnings(cursor: Cursor, wanted: int, limit: int) -> list[str]:
    """Return warnings where ``wanted`` connections of a role's do not fit under its own ``limit`` (-1: none) or the server's.

    A warning and no refusal: Synapse opens that many only when all of its processes are busy at once (manual, section 20.3.1).
    """
    # The last of these is there since PostgreSQL 16.
    cursor.execute(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0)"
    )
    most, reserved = only_row(cursor)
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


def _password_state(server: Server, desired: Desired, role: Role | None) -> _PasswordState:
    """Return how the password is stored, and whether it has to be set."""
    if role is None:
        return _PasswordState("none", desired.password is not None)
    if _may_read_passwords(server.cursor):
        stored = _stored_password(server.cursor, desired.name)
        to_be_set = desired.password is not None and not scram.matches(stored or "", desired.password)
        return _PasswordState(scram.kind(stored), to_be_set)
    if desired.password is None:
        return _PasswordState("unreadable", False)
    known = _logs_in(server, desired.name, desired.password)
    return _PasswordState("unreadable", not known, [_UNKNOWN_PASSWORD.format(desired.name)] if known is None else [])


def _stored_password(cursor: Cursor, name: str) -> str | None:
    """Return what pg_authid keeps for the role's password, None for no password."""
    cursor.execute("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = %s", (name,))
    row = cursor.fetchone()
    return row[0] if row else None


def _may_read_passwords(cursor: Cursor) -> bool:
    """Tell whether the connected role may read pg_authid; providers of managed servers do not allow it."""
    cursor.execute("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
    return only_row(cursor)[0]


def _logs_in(server: Server, name: str, password: str) -> bool | None:
    """Tell whether ``password`` is the role ``name``'s, by a log-in at ``server``; None where that does not tell.

    For servers whose pg_authid may not be read. A server that asks for a password looks at it before all else that it may
    refuse a role for, such as a limit of connections (auth.c, ClientAuthentication; postinit.c, InitPostgres). So what is
    refused in another way than a password that nobody has is right.
    """
    login = {"connect_timeout": _attempt.SECONDS, **server.libpq, "user": name}
    tried = _attempt.attempt({**login, "password": password})
    if tried.let_in:
        return True if tried.password == "used" else None
    if tried.sqlstate in (None, _WRONG_PASSWORD):
        return None if tried.sqlstate is None else False
    other = _attempt.attempt({**login, "password": secrets.token_hex()})
    return True if other.sqlstate == _WRONG_PASSWORD else None


def _new_verifier(cursor: Cursor, password: str) -> str:
    """Return a fresh verifier for ``password`` with the server's own iteration count (scram_iterations, 16 and later)."""
    cursor.execute("SELECT current_setting('scram_iterations', true)")
    iterations = only_row(cursor)[0]
    return scram.verifier(password, os.urandom(scram.SALT_BYTES), int(iterations or scram.ITERATIONS))


def _require_not_administrator(cursor: Cursor, name: str, role: Role) -> None:
    """Raise Refusal when ``role`` is the one we are connected as or the cluster's first superuser: not ours to change."""
    cursor.execute("SELECT session_user")
    if role.oid == _BOOTSTRAP_SUPERUSER_OID or only_row(cursor)[0] == name:
        raise Refusal(
            f"The role {name!r} administers the server (it is the cluster's first superuser, or the one this task connects as).",
            "Give Synapse a role of its own.",
        )


def _options(attributes: dict[str, bool], connection_limit: int | None, verifier: str | None) -> sql.Composed:
    """Return the options of CREATE ROLE and ALTER ROLE for what is given."""
    options: list[sql.Composable] = [sql.SQL(keyword if on else "NO" + keyword) for keyword, on in attributes.items()]
    if connection_limit is not None:
        options.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(connection_limit)))
    if verifier is not None:
        options.append(sql.SQL("PASSWORD {}").format(sql.Literal(verifier)))
    return sql.SQL(" ").join(options)


def _run(cursor: Cursor, verb: str, name: str, options: sql.Composed) -> None:
    """Run CREATE ROLE or ALTER ROLE (``verb``)."""
    with _transaction(cursor):
        _suppress_logging(cursor)
        cursor.execute(sql.SQL("{} ROLE {} {}").format(sql.SQL(verb), sql.Identifier(name), options))


def _suppress_logging(cursor: Cursor) -> None:
    """Keep this transaction's statements, verifier and all, out of the server's log, where we may (superusers)."""
    cursor.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
    if only_row(cursor)[0]:
        cursor.execute(
            "SET LOCAL log_statement = 'none'; SET LOCAL log_min_duration_statement = -1;"
            "SET LOCAL log_min_error_statement = 'panic'; SET LOCAL log_duration = off"
        )


@contextlib.contextmanager
def _transaction(cursor: Cursor) -> Iterator[None]:
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


def _described(name: str, role: Role | None, password: str) -> dict:
    """Return the role as it is shown to a person: ``password`` is how it is stored, never what it is."""
    if role is None:
        return {"name": name, "state": "absent"}
    return {
        "name": name,
        "state": "present",
        "attributes": [key if on else "NO" + key for key, on in role.attributes.items()],
        "connection_limit": role.connection_limit,
        "password": password,
    }


def _result(changes: list[str], before: dict, after: dict) -> dict:
    return {"changed": bool(changes), "changes": changes, "role": after, "diff": {"before": before, "after": after}}
