# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who but its owner may use Synapse's database.

A new database lets every role of the server in (CONNECT, TEMPORARY), and before PostgreSQL 15 its schema public lets every
role make tables (manual, section 5.8, Privileges). Here both become the owner's alone; what a role was granted by name stays.
"""

from __future__ import annotations

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

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


def present(cursor, params: dict, check_mode: bool) -> dict:
    """Leave the database ``params["name"]`` and its schema public to their owner; return ``{changed, rights, diff, warnings}``.

    ``params`` are the module synapse_database's, the connection autocommits, and the database may be one that is still to be
    made. What the connected role may not take away, as on a server of a provider's, is left, with a warning: Synapse works
    all the same.
    """
    name = params["name"]
    everybody, ours = _of_database(cursor, name)
    database = f"REVOKE ALL ON DATABASE {_words.identifier(name)} FROM PUBLIC"
    warnings = [] if ours or not everybody else [_left(name, everybody, f"`{database}`")]
    creators, schema_ours, unseen = _of_schema(cursor, params)
    in_schema = creators is not None and creators != {"owner"}
    schema = (
        f"GRANT USAGE, CREATE ON SCHEMA public TO {_words.identifier(params['user'])}; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    warnings += unseen + ([] if schema_ours or not in_schema else [_left(name, [CREATE], f"`{schema}`, in that database")])
    narrowed, schema_narrowed = bool(everybody and ours), in_schema and schema_ours
    if not check_mode:
        if narrowed:
            cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        if schema_narrowed:
            _narrow_schema(params, creators)
    before = _shown(everybody, creators)
    after = _shown([] if narrowed else everybody, {"owner"} if schema_narrowed else creators)
    diff = {side: {"database": name, **rights} for side, rights in (("before", before), ("after", after))}
    return {"changed": narrowed or schema_narrowed, "rights": after, "diff": diff, "warnings": warnings}


def _of_database(cursor, name: str) -> tuple[list[str], bool]:
    """Return what every role may do with the database, and whether we may take it away; of a new one, where there is none."""
    cursor.execute(_OF_DATABASE, (name,))
    return cursor.fetchone() or (["CONNECT", "TEMPORARY"], True)


def _of_schema(cursor, params: dict) -> tuple[set[str] | None, bool, list[str]]:
    """Return who may make tables in the schema public, whether we may change that, and a warning where we may not look.

    Who is a set of ``everybody`` and ``owner``; the latter by another right than everybody's. It is None without such a
    schema, or where it cannot be seen.
    """
    cursor.execute("SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (params["name"],))
    if cursor.fetchone() is None:
        return {"owner" if cursor.connection.server_version >= _OWNERS_SCHEMA else "everybody"}, True, []
    try:
        with _within(params) as inside, inside.cursor() as look:
            look.execute(_OF_SCHEMA, (params["user"],))
            found = look.fetchone()
    except Refusal as refusal:
        return None, False, [f"Who may make tables in the database {params['name']!r} could not be seen: {refusal.found}"]
    if found is None:
        return None, False, []
    everybody, owner, ours = found
    return {who for who, may in (("everybody", everybody), ("owner", owner)) if may}, ours, []


def _narrow_schema(params: dict, creators: set[str]) -> None:
    """Let the owner make tables in the schema public, and then nobody else: a running Synapse is never without the right."""
    with _within(params) as inside, inside.cursor() as cursor:
        if "owner" not in creators:
            cursor.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA public TO {}").format(sql.Identifier(params["user"])))
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def _within(params: dict):
    """Return a session in Synapse's database, for what its own catalog alone tells."""
    return _connection.session({**params, "login_db": params["name"]}, what="synapse_database")


def _shown(everybody: list[str], creators: set[str] | None) -> dict:
    found = {"everybody": list(everybody), "owner": []}
    for who in creators or ():
        found[who].append(CREATE)
    return found


def _left(name: str, rights: list[str], remedy: str) -> str:
    return (
        f"Every role of the server has {', '.join(rights)} in the database {name!r}, and it is not for the role of this task to "
        f"change that. Have the owner or a superuser revoke it from PUBLIC by {remedy}."
    )
