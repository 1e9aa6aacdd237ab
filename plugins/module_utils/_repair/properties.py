# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database is beside its contents: owner, grants, parameters, limit and comment, made the same for a new one."""

from __future__ import annotations

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

try:
    from psycopg2 import sql
except ImportError:
    pass

# Parameters whose value is a list that stands in the catalog as it is written in SQL: src/bin/pg_dump/dumputils.c,
# variable_is_guc_list_quote().
_LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)

_SETTINGS = """
SELECT rolname, split_part(item, '=', 1), substr(item, strpos(item, '=') + 1)
FROM (SELECT setdatabase, setrole, unnest(setconfig) AS item FROM pg_db_role_setting) s
    JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE datname = %s ORDER BY 1, 2
"""

_GRANTS = """
SELECT CASE WHEN grantee = 0 THEN NULL ELSE grantee::regrole::text END, privilege_type, is_grantable
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = %s ORDER BY 1, 2
"""


def creation(cursor: Cursor, like: str, name: str) -> sql.Composed:
    """Return the statement that makes the database ``name`` in UTF8 and C, with the owner, tablespace and limit of ``like``."""
    cursor.execute(
        "SELECT pg_get_userbyid(datdba), spcname, datconnlimit FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace"
        " WHERE datname = %s",
        (like,),
    )
    owner, tablespace, limit = only_row(cursor)
    # A cluster made with another provider would hand it on.
    provider = "LOCALE_PROVIDER libc " if cursor.connection.server_version >= 150000 else ""
    statement = (
        "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' " + provider + "TABLESPACE {}"
        " CONNECTION LIMIT {}"
    )
    return sql.SQL(statement).format(*map(sql.Identifier, (name, owner, tablespace)), sql.Literal(limit))


def statements(cursor: Cursor, like: str, name: str) -> list[str]:
    """Return the statements that give the new database ``name`` the grants and the parameters of ``like``."""
    new = identifier(name)
    found = [f"REVOKE ALL ON DATABASE {new} FROM PUBLIC"]
    cursor.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (like,))
    found.append(f"REVOKE ALL ON DATABASE {new} FROM {identifier(only_row(cursor)[0])}")
    cursor.execute(_GRANTS, (like,))
    for grantee, privilege, grantable in cursor.fetchall():
        grant = f"GRANT {privilege} ON DATABASE {new} TO {grantee or 'PUBLIC'}"
        found.append(grant + " WITH GRANT OPTION" * grantable)
    cursor.execute(_SETTINGS, (like,))
    for role, parameter, value in cursor.fetchall():
        whose = f"ALTER ROLE {identifier(role)} IN DATABASE {new}" if role else f"ALTER DATABASE {new}"
        shown = value if parameter in _LISTS and value else sql.Literal(value).as_string(cursor)
        found.append(f"{whose} SET {'.'.join(map(identifier, parameter.split('.')))} TO {shown}")
    return found


def comment(cursor: Cursor, name: str) -> str | None:
    """Return the comment of the database ``name``."""
    cursor.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (name,))
    row = cursor.fetchone()
    return row[0] if row else None


def comment_statement(cursor: Cursor, name: str, text: str | None) -> str:
    """Return the statement that gives the database ``name`` the comment ``text``, or none."""
    literal = sql.Literal(text).as_string(cursor)
    return f"COMMENT ON DATABASE {identifier(name)} IS {literal}"
