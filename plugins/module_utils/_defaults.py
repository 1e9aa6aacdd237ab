# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The defaults that role, database and server may carry for every session, and sessions that go by none of them.

ALTER ROLE, ALTER DATABASE and postgresql.conf can set any of them (manual, section 20.1.3). One that is meant for Synapse, or
for people, would cut a step off half-way, or have the server read or write a value in another way.
"""

from __future__ import annotations

from typing import Any, Iterable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Connection, Cursor

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

# What ends a statement, a transaction or a session after a while; the last one is there since PostgreSQL 17.
TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
)

# The server's own defaults of what would be felt, as pg_settings shows them (manual, chapter 20).
_NEUTRAL = {
    **dict.fromkeys(TIMEOUTS, "0"),
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "session_replication_role": "origin",
    "client_encoding": "UTF8",
    "bytea_output": "hex",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "exit_on_error": "off",
}

# And what sessions of this collection have besides: what they say is done is on the disk, and a row that a policy hides is an
# error, not left out.
_OF_OUR_SESSIONS = {**_NEUTRAL, "synchronous_commit": "on", "row_security": "off"}

# No name that another schema could have as well: this is asked before ours is set.
_SETTINGS = """
SELECT name, setting, reset_val FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[])
"""

# For the time until a session is left alone: where a default would end it sooner than the first statement comes.
AT_ONCE = "-c statement_timeout=0 -c idle_session_timeout=0"


def neutralize(connection: Connection, schema: str, for_transaction: bool = False) -> None:
    """Make ``connection`` go by no defaults, and look for names in ``schema`` alone.

    It autocommits, and does so as long as it is there; or, ``for_transaction``, it does not, and does so in the one transaction
    that begins here. Raises Refusal for a default that the connected role may not leave.
    """
    if for_transaction:
        connection.set_client_encoding(_OF_OUR_SESSIONS["client_encoding"])  # outside, since psycopg2 ends the transaction
    reach = sql.SQL("LOCAL" if for_transaction else "SESSION")
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SET {} statement_timeout = 0").format(reach))  # the others have to come through
        cursor.execute(sql.SQL("SET {} search_path = {}, pg_temp").format(reach, sql.Identifier(schema)))
        if not for_transaction:
            connection.set_client_encoding(_OF_OUR_SESSIONS["client_encoding"])  # psycopg2 goes by it as well
        for name, setting, _reset in _settings(cursor, _OF_OUR_SESSIONS):
            if setting == _OF_OUR_SESSIONS[name]:
                continue
            try:
                cursor.execute("SELECT pg_catalog.set_config(%s, %s, %s)", (name, _OF_OUR_SESSIONS[name], for_transaction))
            except psycopg2.errors.InsufficientPrivilege:
                connection.rollback()
                raise _refused_default(cursor, name, setting) from None


def neutral_options(cursor: Cursor) -> str:
    """Return libpq's ``options`` by which another program's sessions of the connected role leave these defaults.

    It is empty where there are none, as mostly: a pooler takes no such options.
    """
    left = [name for name, _setting, reset in _settings(cursor, _NEUTRAL) if reset != _NEUTRAL[name]]
    return " ".join(f"-c {name}={_NEUTRAL[name]}".replace("read committed", r"read\ committed") for name in left)


def session_timeouts(cursor: Cursor) -> dict[str, str]:
    """Return ``{name: value}`` of the timeouts with which every session of the connected role begins, values as SHOW has them."""
    names = [name for name, _setting, reset in _settings(cursor, TIMEOUTS) if reset != _NEUTRAL[name]]
    cursor.execute("SELECT name, reset_val || coalesce(unit, '') FROM pg_settings WHERE name = ANY (%s) ORDER BY 1", (names,))
    return dict(cursor.fetchall())


def begins_read_only(cursor: Cursor) -> bool:
    """Tell whether every transaction of the connected role begins as one that may not write."""
    return [reset for _name, _setting, reset in _settings(cursor, ["default_transaction_read_only"])] == ["on"]


def current_schema(cursor: Cursor) -> str | None:
    """Return the schema in which the connected role works by its own search_path, as Synapse does; None where it has none."""
    return by_own_path(cursor, "SELECT pg_catalog.current_schema()")


def by_own_path(cursor: Cursor, query: str) -> Any:
    """Return the one value of ``query``, asked with the search_path that sessions of the connected role begin with."""
    cursor.execute("SELECT pg_catalog.current_setting('search_path')")
    [own] = cursor.fetchall()
    # Several statements in one are a transaction of their own, where there is no other, so that nothing outlasts it.
    cursor.execute(f"SET LOCAL search_path TO DEFAULT; {query}")
    [(found,)] = cursor.fetchall()
    cursor.execute("SELECT pg_catalog.set_config('search_path', %s, true)", own)
    return found


def reset_command(cursor: Cursor, name: str) -> str:
    """Return the command that takes the parameter ``name`` from the connected role and database, wherever these carry it."""
    cursor.execute("SELECT session_user")
    [(user,)] = cursor.fetchall()
    role, database = (sql.Identifier(name).as_string(cursor) for name in (user, cursor.connection.info.dbname))
    return (
        f"`ALTER ROLE {role} RESET {name}; ALTER DATABASE {database} RESET {name}; "
        f"ALTER ROLE {role} IN DATABASE {database} RESET {name}`"
    )


def _settings(cursor: Cursor, names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (name, value, the value that a new session has) of those of ``names`` that this server has."""
    cursor.execute(_SETTINGS, (list(names),))
    return cursor.fetchall()


def _refused_default(cursor: Cursor, name: str, value: str) -> Refusal:
    """Return the Refusal for the default ``name`` that the connected role may not leave."""
    cursor.execute("SELECT session_user")
    [(role,)] = cursor.fetchall()
    return Refusal(
        f"Every session of the role {role!r} in the database {cursor.connection.info.dbname!r} begins with {name} = {value}, and "
        f"the role may not set it to {_OF_OUR_SESSIONS[name]}.",
        f"Have a superuser take it away where it is set (psql's \\drds tells), as by {reset_command(cursor, name)}.",
    )
