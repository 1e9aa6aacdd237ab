# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose the objects in Synapse's database are: to own the database gives no right to what is in it.

Synapse reads, writes and, when it is upgraded, alters its tables, and only an owner may alter one (manual, section 5.8,
Privileges): grants are not enough. A dump that another role restored leaves all of it to that one.
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import NamedTuple

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import listed

try:
    from psycopg2 import sql
except ImportError:
    pass

# Tables that every Synapse has: who owns one of them owns Synapse's tables, anybody else perhaps only some beside them.
_CORE = {"schema_version", "applied_schema_deltas", "events", "rooms", "users"}


# The schemas that are Synapse's: public, where its tables are made by default, the ones that hold its tables, and our own.
_SCHEMAS = """
SELECT oid, nspname, nspowner FROM pg_catalog.pg_namespace n WHERE nspname IN ('public', 'synapse_postgres')
    OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = n.oid AND relname = 'applied_schema_deltas')
"""

# All in them that has an owner of its own, as (the word of ALTER, its name in SQL, owner): what an extension brought is the
# extension's, a serial's sequence follows its table, and the types of tables, arrays and multiranges follow theirs.
_OBJECTS = f"""
WITH schemas AS ({_SCHEMAS}), parts AS (
    SELECT classid, objid FROM pg_catalog.pg_depend d WHERE deptype = 'e'
        OR deptype IN ('a', 'i') AND classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
            AND EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = d.objid AND relkind = 'S')
), objects AS (
    SELECT 'pg_class'::regclass AS catalog, c.oid, CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
            WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind,
        format('%%I.%%I', nspname, relname) AS name, relowner AS owner
    FROM pg_catalog.pg_class c JOIN schemas s ON s.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, CASE prokind WHEN 'a' THEN 'AGGREGATE' WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
        format('%%I.%%I(%%s)', nspname, proname,
            CASE WHEN prokind = 'a' AND pronargs = 0 THEN '*' ELSE pg_get_function_identity_arguments(p.oid) END), proowner
    FROM pg_catalog.pg_proc p JOIN schemas s ON s.oid = pronamespace
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 'TYPE', format('%%I.%%I', nspname, typname), typowner
    FROM pg_catalog.pg_type t JOIN schemas s ON s.oid = typnamespace LEFT JOIN pg_catalog.pg_class c ON c.oid = typrelid
    WHERE typtype IN ('e', 'd', 'r', 'b') AND typelem = 0 OR c.relkind = 'c'
    UNION ALL
    -- The schema public is the server's administrator's, or since PostgreSQL 15 the database's owner's, as it is made.
    SELECT 'pg_namespace'::regclass, oid, 'SCHEMA', quote_ident(nspname), nspowner FROM schemas WHERE nspname <> 'public'
        OR nspowner <> 10 AND nspowner <> coalesce(to_regrole('pg_database_owner'), 10)
)
SELECT kind, name, pg_get_userbyid(owner) FROM objects
WHERE NOT EXISTS (SELECT FROM parts WHERE classid = catalog AND objid = objects.oid)
    AND NOT coalesce((SELECT pg_has_role(r.oid, owner, 'USAGE') FROM pg_catalog.pg_roles r WHERE rolname = %(role)s), false)
    AND NOT (%(reading)s AND (kind NOT IN ('TABLE', 'SEQUENCE') OR has_table_privilege(objects.oid, 'SELECT')))
ORDER BY kind <> 'TABLE', kind, name
"""

# How many objects of an owner's a message lists.
_LISTED = 3

# Whether REASSIGN OWNED, which takes all that a role owns in the connected database, and of the server's the databases and
# tablespaces (manual, REASSIGN OWNED), would take more than is Synapse's. The bootstrap superuser, oid 10, it refuses.
_OWNS_MORE = f"""
SELECT r.oid = 10 OR EXISTS (SELECT FROM pg_catalog.pg_database WHERE datdba = r.oid AND datname <> current_database())
    OR EXISTS (SELECT FROM pg_catalog.pg_tablespace WHERE spcowner = r.oid)
    OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extowner = r.oid)
    OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relowner = r.oid AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND relnamespace NOT IN (SELECT oid FROM ({_SCHEMAS}) AS synapses))
    OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proowner = r.oid
        AND pronamespace NOT IN (SELECT oid FROM ({_SCHEMAS}) AS synapses))
FROM pg_catalog.pg_roles r WHERE rolname = %s
"""

# The relations of one owner in some schemas, as in _OBJECTS, handed over one by one: ALTER TABLE takes them all.
_LOOP = """
DO $$DECLARE it regclass; BEGIN FOR it IN SELECT oid FROM pg_class c
WHERE relowner = {owner}::regrole AND relnamespace::regnamespace::text IN ({schemas})
AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
AND (deptype = 'e' OR relkind = 'S' AND deptype IN ('a', 'i')))
LOOP EXECUTE format('ALTER TABLE %s OWNER TO %I', it, {role}); END LOOP; END$$
"""


class _Object(NamedTuple):
    """An object of the database: the word of ALTER for it, and its name in SQL."""

    kind: str
    name: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong, and the sentence that says what to do about it."""

    found: str
    remedy: str


def _foreign(cursor: Cursor, role: str, reading: bool = False) -> dict[str, list[_Object]]:
    """Return what in Synapse's schemas of the connected database ``role``, be it there or not, has no owner's rights to.

    By owner, tables first; with ``reading`` only the tables and sequences that the connected role may not even read. What an
    owner without a table or sequence there has, a view or function of an administrator's, is none of Synapse's.
    """
    cursor.execute(_OBJECTS, {"role": role, "reading": reading})
    found: dict[str, list[_Object]] = {}
    for kind, name, owner in cursor.fetchall():
        found.setdefault(owner, []).append(_Object(kind, name))
    return {owner: objects for owner, objects in found.items() if {"TABLE", "SEQUENCE"} & {each.kind for each in objects}}


def problems(cursor: Cursor, role: str, reading: bool = False, every: bool = True) -> list[Problem]:
    """Return what is wrong for Synapse's ``role`` with what is in the connected database.

    Unless ``every`` owner counts, those do whose tables are Synapse's for certain: what a program beside Synapse keeps in its
    schema is no fault, and is in beside().
    """
    found = []
    for owner, objects in _foreign(cursor, role, reading).items():
        if every or _are_synapses(objects):
            names = [each.name for each in objects]
            found.append(
                Problem(
                    f"{listed(names, _LISTED)} belong{'s' * (len(objects) == 1)} to the role {owner!r}, and {role!r} has to own "
                    "what Synapse alters",
                    f"Hand it over as the server's administrator: {_command(cursor, owner, role, objects)} "
                    f"(or set synapse_database_adopt_from: {owner}; module synapse_database, adopt_from).",
                )
            )
    return found + _closed_schemas(cursor, role)


def _closed_schemas(cursor: Cursor, role: str) -> list[Problem]:
    """Return which of Synapse's schemas ``role`` may not look into."""
    cursor.execute(
        "SELECT coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), true), n.nspname FROM pg_catalog.pg_roles r,"
        f" ({_SCHEMAS}) AS n WHERE r.rolname = %s",
        (role,),
    )
    found = []
    for schema in [schema for usable, schema in cursor.fetchall() if not usable]:
        grant = sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(sql.Identifier(schema), sql.Identifier(role))
        found.append(
            Problem(
                f"the role {role!r} may not look into the schema {schema!r}",
                f"Let it in as the server's administrator: {_psql(cursor, grant.as_string(cursor))}.",
            )
        )
    return found


def beside(cursor: Cursor, role: str) -> list[str]:
    """Return, as sentences, what in Synapse's schemas belongs to others than ``role`` and may be another program's."""
    foreign = {owner: objects for owner, objects in _foreign(cursor, role).items() if not _are_synapses(objects)}
    return [
        f"{', '.join(name for _kind, name in objects[:_LISTED])} in Synapse's schema belong{'s' * (len(objects) == 1)} to the "
        f"role {owner!r}: right for another program's, but Synapse has to own what it alters (module synapse_database, "
        "adopt_from)."
        for owner, objects in foreign.items()
    ]


def _are_synapses(objects: list[_Object]) -> bool:
    return any(kind == "TABLE" and name.rpartition(".")[2] in _CORE for kind, name in objects)


def require_own(cursor: Cursor, reading: bool = False, every: bool = True) -> None:
    """Raise Refusal unless the connected role has an owner's rights to all that is Synapse's in the connected database.

    For ``reading`` it is enough that the role may. Whether ``every`` owner counts: see problems().
    """
    cursor.execute("SELECT current_user")
    found = problems(cursor, only_row(cursor)[0], reading, every)
    if found:
        name, words = cursor.connection.info.dbname, "; ".join(problem.found for problem in found)
        raise Refusal(f"In the database {name!r}, {words}.", " ".join(problem.remedy for problem in found))


def present(server: Server, name: str, role: str, former: str | None, check_mode: bool) -> dict:
    """See whose the objects in the database ``name`` are, and give those of ``former``, if that is asked, to ``role``.

    Return ``{changed, adopted, diff, warnings}`` for the module synapse_database; the database may still have to be made.
    """
    result: dict = {"changed": False, "adopted": [], "diff": {}, "warnings": []}
    if database.find(server.cursor, name) is None:
        return result
    try:
        with server.within(name, autocommit=True) as cursor:
            adopted = _adopt(cursor, former, role, check_mode) if former else []
            found = problems(cursor, role) if not check_mode or not adopted else []
    except Refusal as refusal:
        if former:
            raise
        return {**result, "warnings": [f"Whose the tables in the database {name!r} are could not be seen: {refusal.found}"]}
    warnings = [f"In the database {name!r}, {problem.found}. {problem.remedy}" for problem in found]
    diff = {"before": {former: adopted, role: []}, "after": {former: [], role: adopted}}
    return {"changed": bool(adopted), "adopted": adopted, "diff": diff if adopted else {}, "warnings": warnings}


def repaired(server: Server, name: str, role: str, check_mode: bool) -> dict:
    """Give all that is Synapse's for certain in the database ``name``, and the database itself, to ``role``.

    Return ``{changed, adopted, diff, warnings}`` for the module synapse_ownership; Refusal, with nothing changed, where the
    connected role may not.
    """
    with server.within(name, autocommit=True) as cursor:
        if not _is_there(cursor, role):
            raise Refusal(f"The server has no role {role!r}.", "Correct the name, or have the playbook site make it.")
        owners = [owner for owner, objects in _foreign(cursor, role).items() if _are_synapses(objects)]
        before = {owner: _adopt(cursor, owner, role, check_mode=True) for owner in owners}
        owner = database.current(cursor).owner
        if owner != role:
            before.setdefault(str(owner), []).append(f"DATABASE {sql.Identifier(name).as_string(cursor)}")
        if not check_mode:
            for former in owners:
                _adopt(cursor, former, role, check_mode=False)
            if owner != role:
                cursor.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(role)))
        warnings = beside(cursor, role) if not check_mode or not owners else []
    adopted = [words for objects in before.values() for words in objects]
    after = {**{former: [] for former in before}, role: adopted}
    return {
        "changed": bool(adopted),
        "adopted": adopted,
        "diff": {"before": {**before, role: []}, "after": after} if adopted else {},
        "warnings": warnings,
    }


def _is_there(cursor: Cursor, role: str) -> bool:
    cursor.execute("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", (role,))
    return cursor.fetchone() is not None


def _adopt(cursor: Cursor, former: str, role: str, check_mode: bool) -> list[str]:
    """Give what ``former`` owns in Synapse's schemas to ``role``, all or nothing; return it as words of ALTER with names.

    The connection must autocommit. Raises Refusal where the connected role may not.
    """
    objects = _foreign(cursor, role).get(former, [])
    if not objects:
        return []
    cursor.execute("SELECT current_user, pg_has_role(oid, 'USAGE') FROM pg_catalog.pg_roles WHERE rolname = %s", (former,))
    connected, may = only_row(cursor)
    if not may:
        grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(former), sql.Identifier(connected)).as_string(cursor)
        raise Refusal(
            f"The role {connected!r} may not give away what belongs to {former!r}.",
            f"Connect as a superuser, or have one run {_psql(cursor, grant)}.",
        )
    if not check_mode:
        cursor.execute("; ".join(["BEGIN", *_alters(cursor, role, objects), "COMMIT"]))
    return [f"{kind} {name}" for kind, name in objects]


def _alters(cursor: Cursor, role: str, objects: list[_Object]) -> list[str]:
    quoted = sql.Identifier(role).as_string(cursor)
    return [f"ALTER {kind} {name} OWNER TO {quoted}" for kind, name in objects]


def _command(cursor: Cursor, owner: str, role: str, objects: list[_Object]) -> str:
    """Return the command that gives ``objects`` of ``owner``'s to ``role``, and nothing that is not Synapse's."""
    cursor.execute(_OWNS_MORE, (owner,))
    if len(objects) <= _LISTED:
        return _psql(cursor, *_alters(cursor, role, objects))
    if not only_row(cursor)[0]:
        reassign = sql.SQL("REASSIGN OWNED BY {} TO {}").format(sql.Identifier(owner), sql.Identifier(role))
        return _psql(cursor, reassign.as_string(cursor))
    cursor.execute(f"SELECT quote_ident(nspname) FROM ({_SCHEMAS}) AS synapses")
    loop = sql.SQL(" ".join(_LOOP.split())).format(
        owner=sql.Literal(sql.Identifier(owner).as_string(cursor)),
        schemas=sql.SQL(", ").join(sql.Literal(name) for (name,) in cursor.fetchall()),
        role=sql.Literal(role),
    )
    rest = [each for each in objects if each.kind in ("FUNCTION", "PROCEDURE", "AGGREGATE", "TYPE", "SCHEMA")]
    return _psql(cursor, loop.as_string(cursor), *_alters(cursor, role, rest))


def _psql(cursor: Cursor, *statements: str) -> str:
    dsn = database.dsn(cursor.connection.info.dbname)
    return f"`psql -X -1 -d {shlex.quote(dsn)} -c {shlex.quote('; '.join(statements))}`"
