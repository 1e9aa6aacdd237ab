# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who but its owner may use Synapse's database.

A new database lets every role of the server in (CONNECT, TEMPORARY), and before PostgreSQL 15 its schema public lets every
role make tables (manual, section 5.8, Privileges). Here both become the owner's alone; what a role was granted by name stays.
"""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

try:
    from psycopg2 import sql
except ImportError:
    pass

CREATE = "CREATE ON SCHEMA public"

# Since this server the schema public belongs to pg_database_owner, whose only member is the database's owner.
_OWNERS_SCHEMA = 150000

# The last column tells whether the connected role may take such a right away.
_OF_DATABASE = """
SELECT ARRAY(SELECT privilege_type FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0 ORDER BY 1),
    pg_has_role(datdba, 'USAGE')
FROM pg_catalog.pg_database WHERE datname = %s
"""

# Who is to own the database will be a member of pg_database_owner, whoever owns it now.
_OF_SCHEMA = """
SELECT coalesce(bool_or(grantee = 0), false),
    coalesce(bool_or(grantee = 'pg_database_owner'::regrole OR grantee <> 0 AND pg_has_role(r.oid, grantee, 'USAGE')), false),
    pg_has_role(nspowner, 'USAGE')
FROM pg_catalog.pg_namespace
    LEFT JOIN pg_catalog.pg_roles r ON rolname = %s
    LEFT JOIN aclexplode(coalesce(nspacl, acldefault('n', nspowner))) ON privilege_type = 'CREATE'
WHERE nspname = 'public' GROUP BY nspowner
"""


@dataclasses.dataclass(frozen=True)
class _Creators:
    """Who may make tables in the schema public: ``everybody``, the ``owner`` by another right than everybody's.

    ``is_changeable`` tells whether the connected role may change that.
    """

    everybody: bool
    owner: bool
    is_changeable: bool

    @property
    def is_owner_alone(self) -> bool:
        return self.owner and not self.everybody


def restrict(server: Server, name: str, owner: str, check_mode: bool) -> dict:
    """Leave the database ``name`` and its schema public to their ``owner``; return ``{changed, rights, diff, warnings}``.

    The connection autocommits, and the database may be one that is still to be made. What the connected role may not take away,
    as on a server of a provider's, is left, with a warning: Synapse works all the same.
    """
    everybody, is_changeable = _of_database(server.cursor, name)
    creators, warnings = _of_schema(server, name, owner)
    open_schema = creators if creators and not creators.is_owner_alone else None
    if everybody and not is_changeable:
        remedy = f"`REVOKE ALL ON DATABASE {_words.identifier(name)} FROM PUBLIC`"
        warnings = [_unchangeable(name, everybody, remedy), *warnings]
    if open_schema and not open_schema.is_changeable:
        grant = f"GRANT USAGE, CREATE ON SCHEMA public TO {_words.identifier(owner)}"
        remedy = f"`{grant}; REVOKE CREATE ON SCHEMA public FROM PUBLIC`, in that database"
        warnings = [*warnings, _unchangeable(name, [CREATE], remedy)]
    restricts, restricts_schema = bool(everybody and is_changeable), bool(open_schema and open_schema.is_changeable)
    if restricts and not check_mode:
        server.cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    if open_schema and restricts_schema and not check_mode:
        _restrict_schema(server, name, owner, open_schema)
    before = _rights(everybody, creators)
    owner_alone = _Creators(everybody=False, owner=True, is_changeable=True)
    after = _rights([] if restricts else everybody, owner_alone if restricts_schema else creators)
    diff = {side: {"database": name, **rights} for side, rights in (("before", before), ("after", after))}
    return {"changed": restricts or restricts_schema, "rights": after, "diff": diff, "warnings": warnings}


def _of_database(cursor: Cursor, name: str) -> tuple[list[str], bool]:
    """Return what every role may do with the database, and whether we may take it away; of a new one, where there is none."""
    cursor.execute(_OF_DATABASE, (name,))
    return cursor.fetchone() or (["CONNECT", "TEMPORARY"], True)


def _of_schema(server: Server, name: str, owner: str) -> tuple[_Creators | None, list[str]]:
    """Return who may make tables in the schema public, None without one; and a warning where that cannot be seen."""
    server.cursor.execute("SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (name,))
    if server.cursor.fetchone() is None:
        is_owners = server.cursor.connection.server_version >= _OWNERS_SCHEMA
        return _Creators(everybody=not is_owners, owner=is_owners, is_changeable=True), []
    try:
        with server.within(name) as cursor:
            cursor.execute(_OF_SCHEMA, (owner,))
            found = cursor.fetchone()
    except Refusal as refusal:
        return None, [f"Who may make tables in the database {name!r} could not be seen: {refusal.found}"]
    return (_Creators(*found) if found else None), []


def _restrict_schema(server: Server, name: str, owner: str, creators: _Creators) -> None:
    """Let the owner make tables in the schema public, and then nobody else: a running Synapse is never without the right."""
    with server.within(name) as cursor:
        if not creators.owner:
            cursor.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA public TO {}").format(sql.Identifier(owner)))
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def _rights(everybody: list[str], creators: _Creators | None) -> dict[str, list[str]]:
    return {
        "everybody": [*everybody, *[CREATE] * bool(creators and creators.everybody)],
        "owner": [CREATE] * bool(creators and creators.owner),
    }


def _unchangeable(name: str, rights: list[str], remedy: str) -> str:
    return (
        f"Every role of the server has {', '.join(rights)} in the database {name!r}, and it is not for the role of this task to "
        f"change that. Have the owner or a superuser revoke it from PUBLIC by {remedy}."
    )
