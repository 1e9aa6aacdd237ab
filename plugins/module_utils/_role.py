# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles as the catalog has them, and the statements that bring one to a wished state."""

from __future__ import annotations

import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _scram
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    import psycopg2
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

_BOOTSTRAP_SUPERUSER_OID = 10


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


def logs_in(params: dict, name: str, password: str) -> bool:
    """Tell whether the role ``name`` gets past the server's password check, tried where ``params`` connect to.

    For servers whose pg_authid may not be read. Only SQLSTATE class 28 (invalid authorization) means another password:
    a database that the role may not connect to, for one, is refused after the check.
    """
    try:
        psycopg2.connect(**dict(_connection.keywords(params), user=name, password=password), connect_timeout=10).close()
    except psycopg2.OperationalError as error:
        return "authentication failed" not in str(error)
    return True


def new_verifier(cursor, password: str) -> str:
    """Return a fresh verifier for ``password`` with the server's own iteration count (scram_iterations, 16 and later)."""
    cursor.execute("SELECT current_setting('scram_iterations', true)")
    iterations = cursor.fetchone()[0]
    return _scram.verifier(password, os.urandom(_scram.SALT_BYTES), int(iterations or _scram.ITERATIONS))


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
    hush(cursor)
    cursor.execute(sql.SQL("{} ROLE {} {}").format(sql.SQL(verb), sql.Identifier(name), sql.SQL(" ").join(parts)))


def drop(cursor, name: str) -> None:
    """Drop the role ``name``; the server's refusal names what it still owns."""
    cursor.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
