# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases as the catalog has them, what Synapse asks of one, and the statements that make or mend one."""

from __future__ import annotations

import os
import shlex

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import collation
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    from psycopg2 import sql
except ImportError:
    pass

# pg_database.datlocprovider, from PostgreSQL 15 (manual, section 53.15).
_PROVIDERS = {"b": "builtin", "c": "libc", "i": "icu"}


# The primary key before other constraints, and these before other unique indexes.
_KEYS = """
SELECT c.relname,
    ARRAY(SELECT a.attname::text FROM unnest(i.indkey::smallint[]) WITH ORDINALITY n(attnum, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = n.attnum WHERE place <= i.indnkeyatts ORDER BY place)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace AND i.indisunique AND i.indisvalid AND i.indimmediate
    AND i.indexprs IS NULL AND i.indpred IS NULL
ORDER BY 1, NOT i.indisprimary, NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype = 'u'),
    i.indnkeyatts, i.indexrelid
"""


def find(cursor, name: str) -> dict | None:
    """Return ``{owner, encoding, lc_collate, lc_ctype, locale_provider}`` of the database ``name``, or None.

    The provider builtin with its locale C, which does as libc does with C, is told as libc.
    """
    cursor.execute(
        "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype,"
        # The columns are not there before 15 and 17.
        " CASE WHEN to_jsonb(d) ->> 'datlocprovider' = 'b' AND to_jsonb(d) ->> 'datlocale' = 'C' THEN 'c'"
        "  ELSE coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') END"
        " FROM pg_catalog.pg_database d WHERE datname = %s",
        (name,),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    owner, encoding, lc_collate, lc_ctype, provider = row
    return {
        "owner": owner,
        "encoding": encoding,
        "lc_collate": lc_collate,
        "lc_ctype": lc_ctype,
        "locale_provider": _PROVIDERS.get(provider, provider),
    }


def known_encoding(cursor, encoding: str) -> str:
    """Return the server's own spelling of ``encoding`` (utf-8 -> UTF8); Refusal for one that it does not know."""
    cursor.execute("SELECT pg_encoding_to_char(pg_char_to_encoding(%s))", (encoding,))
    spelling = cursor.fetchone()[0]
    if not spelling:
        raise Refusal(f"The server does not know the encoding {encoding!r}.", "Synapse needs UTF8.")
    return spelling


def differences(database: dict, wished: dict) -> list[str]:
    """Return what cannot be changed on an existing ``database`` and is not as ``wished``: ``["LC_COLLATE is de_DE, not C"]``.

    Both are dicts as of find(). An ICU or builtin locale provider sorts by its own rules whatever LC_COLLATE says.
    """
    labels = {"encoding": "encoding", "lc_collate": "LC_COLLATE", "lc_ctype": "LC_CTYPE", "locale_provider": "locale provider"}
    return [f"{label} is {database[key]}, not {wished[key]}" for key, label in labels.items() if database[key] != wished[key]]


def refuse_locale(cursor, name: str, found: list[str]) -> Refusal:
    """Return the Refusal for an existing database whose locale or encoding is wrong: they are fixed when it is made."""
    return Refusal(
        f"The database {name!r} exists with another locale or encoding than wished: {'; '.join(found)}. "
        "Neither can be changed on an existing database, and editing the catalog would corrupt its indexes.",
        way_out(cursor, name),
    )


def way_out(cursor, name: str) -> str:
    """Return how the database ``name``, which has a wrong locale or encoding, is made anew; its commands run as printed."""
    owner = find(cursor, name)["owner"]
    kept = name.encode("utf-8")[: _connection.LONGEST_NAME - len("_before")].decode("utf-8", "ignore") + "_before"
    renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(kept))
    provider = ["--locale-provider=libc"] if cursor.connection.server_version >= 150000 else []
    commands = (
        ["pg_dump", "-Fc", "-f", "synapse.dump", "-d", dsn(name)],
        ["psql", "-X", "-d", "postgres", "-c", renamed.as_string(cursor)],
        ["createdb", "-O", owner, "-E", "UTF8", "--locale=C", *provider, "-T", "template0", "--", name],
        ["pg_restore", "-e", "-d", dsn(name), "synapse.dump"],
    )
    return (
        "If it is empty, drop it. Otherwise stop Synapse, and make it anew as the server's administrator, in a folder with room: "
        + f"`{' && '.join(' '.join(map(shlex.quote, command)) for command in commands)}`."
    )


def dsn(name: str) -> str:
    """Return the database ``name`` as psql takes it for ``-d``: one that looks like keywords or a URI, as a keyword."""
    if "=" not in name and not name.startswith(("postgres://", "postgresql://")):
        return name
    return "dbname='{}'".format(name.replace("\\", "\\\\").replace("'", "\\'"))


def require_may_give(cursor, owner: str) -> None:
    """Raise Refusal where the connected role may not make the role ``owner`` the owner of anything, as a provider's may not.

    That takes a superuser or a member of it, since PostgreSQL 16 one that may SET ROLE to it (manual, CREATE DATABASE).
    """
    right = "SET" if cursor.connection.server_version >= 160000 else "MEMBER"
    cursor.execute(
        "SELECT current_user FROM pg_catalog.pg_roles WHERE rolname = %s AND NOT pg_has_role(oid, %s)",
        (owner, right),
    )
    us = cursor.fetchone()
    if us:
        grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), sql.Identifier(us[0])).as_string(cursor)
        raise Refusal(
            f"The role {us[0]!r} of this task is no member of {owner!r}, and may not give a database to it.",
            f"Run `{grant}` as {us[0]!r} or as the server's administrator, then this again.",
        )


def create(cursor, name: str, wished: dict, template: str) -> None:
    """Run CREATE DATABASE for ``name`` as ``wished`` (a dict as of find()); the connection must autocommit."""
    statement = "CREATE DATABASE {} OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {} TEMPLATE {}"
    if cursor.connection.server_version >= 150000:
        # A cluster made with ICU would otherwise hand its provider on, and LC_COLLATE would mean nothing.
        statement += " LOCALE_PROVIDER libc"
    cursor.execute(
        sql.SQL(statement).format(
            sql.Identifier(name),
            sql.Identifier(wished["owner"]) if wished["owner"] else sql.SQL("DEFAULT"),
            *(sql.Literal(wished[key]) for key in ("encoding", "lc_collate", "lc_ctype")),
            sql.Identifier(template),
        )
    )


def give_to(cursor, name: str, owner: str) -> None:
    """Make ``owner`` the owner of the database ``name``."""
    cursor.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(owner)))


def drop(cursor, name: str) -> None:
    """Drop the database ``name``; the connection must autocommit. See require_empty()."""
    cursor.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def tables(cursor) -> list[str]:
    """Return the tables of the connected database, schema-qualified, without the server's own."""
    cursor.execute(
        "SELECT schemaname || '.' || tablename FROM pg_catalog.pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
    )
    return [row[0] for row in cursor.fetchall()]


def homes(cursor) -> list[str]:
    """Return the schemas of the connected database that hold tables of Synapse's."""
    cursor.execute(
        "SELECT schemaname FROM pg_catalog.pg_tables WHERE tablename IN ('schema_version', 'applied_schema_deltas')"
        " GROUP BY 1 HAVING count(*) = 2 ORDER BY 1"
    )
    return [name for (name,) in cursor.fetchall()]


def identity(cursor) -> dict:
    """Return what tells the connected database from every other one, whatever it is called by and whoever is in between.

    ``{system_identifier, timeline (both None where the role may not ask), database_oid, started (of the server, in seconds since
    the epoch), standby}``. See are_same().
    """
    cursor.execute(
        "SELECT oid::bigint, extract(epoch FROM pg_postmaster_start_time())::text, pg_is_in_recovery(),"
        " has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"
        " AND has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')"
        " FROM pg_database WHERE datname = current_database()"
    )
    *found, may_ask = cursor.fetchone()
    system = (None, None)
    if may_ask:
        cursor.execute("SELECT system_identifier::text, timeline_id FROM pg_control_system(), pg_control_checkpoint()")
        system = cursor.fetchone()
    return dict(zip(("system_identifier", "timeline", "database_oid", "started", "standby"), (*system, *found)))


def are_same(one: dict, other: dict) -> bool:
    """Tell whether two identities are one database's. A standby is its primary's; a copy of the files that runs itself is not."""
    of_cluster = ("system_identifier", "timeline", "database_oid")
    if any(one[key] != other[key] for key in of_cluster):
        return False
    return one["started"] == other["started"] or (one["standby"] != other["standby"] and one["system_identifier"] is not None)


def unique_keys(cursor) -> dict[str, list[list[str]]]:
    """Return, for each table of the schema public that has one, the columns of its unique indexes without conditions.

    The primary key comes first, then other constraints.
    """
    cursor.execute(_KEYS)
    found: dict = {}
    for table, columns in cursor.fetchall():
        found.setdefault(table, []).append(columns)
    return found


def space(cursor) -> dict | None:
    """Return where the connected database is on this host, and how much room is left there, in bytes.

    ``{data: {path, size, free}, wal: {path, free, max_wal_size}, same_file_system}``; None where the server is on another host
    or does not say.
    """
    # The log is a folder of the data directory, or a link there: manual, section 66.1.
    cursor.execute(
        "SELECT s.setting, coalesce(nullif(pg_tablespace_location(dattablespace), ''), s.setting),"
        " pg_database_size(oid), pg_size_bytes(current_setting('max_wal_size'))"
        " FROM pg_settings s, pg_database WHERE s.name = 'data_directory' AND datname = current_database()"
        " AND inet_server_addr() IS NOT DISTINCT FROM inet_client_addr()"
    )
    row = cursor.fetchone()
    if row is None:
        return None
    directory, tables, size, max_wal_size = row
    log = os.path.realpath(os.path.join(directory, "pg_wal"))
    try:
        free = {path: _free_bytes(path) for path in (tables, log)}
        same = os.stat(tables).st_dev == os.stat(log).st_dev
    except OSError:
        return None
    return {
        "data": {"path": tables, "size": size, "free": free[tables]},
        "wal": {"path": log, "free": free[log], "max_wal_size": max_wal_size},
        "same_file_system": same,
    }


def _free_bytes(path: str) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def require_empty(cursor, name: str) -> None:
    """Raise Refusal when the connected database, ``name``, holds a table: what Synapse wrote is never dropped by us."""
    found = tables(cursor)
    if found:
        raise Refusal(
            f"The database {name!r} is not empty: it holds {len(found)} tables, {found[0]} among them.",
            "If nobody needs them any more, drop it by hand.",
        )


def unfit_for_synapse(database: dict, allow_unsafe_locale: bool = False) -> list[str]:
    """Return why Synapse would refuse, or mis-sort in, ``database`` (a dict as of find()); empty when it is right.

    After check_database() in synapse/storage/engines/postgres.py, whose switch waives the locale and never the encoding; the
    provider is ours (see differences()).
    """
    wished = {"encoding": "UTF8", "lc_collate": "C", "lc_ctype": "C", "locale_provider": "libc"}
    if allow_unsafe_locale:
        wished = {**database, "encoding": wished["encoding"]}
    return differences(database, wished)


def doubted(cursor, allow_unsafe_locale: bool = False) -> tuple[list[str], list[str]]:
    """Return why Synapse cannot work in the connected database, as (problems, warnings): what it says, and whether that is so.

    The switch makes warnings of what is not so.
    """
    database = find(cursor, cursor.connection.info.dbname)
    problems = unfit_for_synapse(database, allow_unsafe_locale)
    if not problems:
        problems = collation.not_utf8(cursor)
    if problems or unfit_for_synapse(database):
        return problems, []
    broken, warnings = collation.doubts(cursor, collation.contradiction(cursor, cursor.connection.info.dbname))
    return ([], broken + warnings) if allow_unsafe_locale else (broken, warnings)


def require_fit(cursor, allow_unsafe_locale: bool = False) -> list[str]:
    """Raise Refusal where doubted() finds a problem in the connected database; return the warnings."""
    problems, warnings = doubted(cursor, allow_unsafe_locale)
    if problems:
        raise refuse_locale(cursor, cursor.connection.info.dbname, problems)
    return warnings


def present(cursor, params: dict, check_mode: bool) -> dict:
    """Bring the database to its wished state; return the result of the module postgres_database, whose ``params`` these are.

    The connection must autocommit. Raises Refusal for an existing database of another locale or encoding; of another
    encoding alone where ``params`` have ``allow_unsafe_locale``, as the module synapse_database's may.
    """
    name, owner = params["name"], params["owner"]
    before = find(cursor, name)
    wished = {
        "owner": owner,
        "encoding": known_encoding(cursor, params["encoding"]),
        "lc_collate": params["lc_collate"],
        "lc_ctype": params["lc_ctype"],
        "locale_provider": "libc",
    }
    if owner and owner != (before or {}).get("owner"):
        require_may_give(cursor, owner)
    if before is None:
        if not check_mode:
            create(cursor, name, wished, params["template"])
        return _result(name, None, wished)
    unsafe = params.get("allow_unsafe_locale", False)
    wrong = unfit_for_synapse(before, True) if unsafe else differences(before, wished)
    if wrong:
        raise refuse_locale(cursor, name, wrong)
    warnings = []
    if collation.contradiction(cursor, name):
        with _connection.session({**params, "login_db": name}, True, "postgres_database") as inside, inside.cursor() as look:
            warnings = require_fit(look, unsafe)
    if owner and owner != before["owner"] and not check_mode:
        give_to(cursor, name, owner)
    return {**_result(name, before, {**before, "owner": owner or before["owner"]}), "warnings": warnings}


def absent(cursor, params: dict, check_mode: bool) -> dict:
    """Make the database not exist, unless it holds tables; return the result of the module postgres_database."""
    name = params["name"]
    before = find(cursor, name)
    if before:
        within = {**params, "login_db": name}
        with _connection.session(within, what="postgres_database") as inside, inside.cursor() as look:
            require_empty(look, name)
        if not check_mode:
            drop(cursor, name)
    return _result(name, before, None)


def _result(name: str, before: dict | None, after: dict | None) -> dict:
    absent_one = {"name": name, "state": "absent"}
    shown = [{"name": name, "state": "present", **found} if found else absent_one for found in (before, after)]
    return {"changed": before != after, "database": shown[1], "diff": {"before": shown[0], "after": shown[1]}}
