# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases as the catalog has them, what Synapse asks of one, and the statements that make or mend one."""

from __future__ import annotations

import dataclasses
import shlex

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import collation
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

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


@dataclasses.dataclass(frozen=True)
class Database:
    """A database as the catalog has it; one that is to be made may have no ``owner``, for who makes it.

    The provider builtin with its locale C, which does as libc does with C, is told as libc.
    """

    owner: str | None
    encoding: str
    lc_collate: str
    lc_ctype: str
    locale_provider: str = "libc"

    def differences(self, wanted: Database) -> list[str]:
        """Return what cannot be changed on this existing one and is not as ``wanted``: ``["LC_COLLATE is de_DE, not C"]``.

        An ICU or builtin locale provider sorts by its own rules whatever LC_COLLATE says.
        """
        pairs = {
            "encoding": (self.encoding, wanted.encoding),
            "LC_COLLATE": (self.lc_collate, wanted.lc_collate),
            "LC_CTYPE": (self.lc_ctype, wanted.lc_ctype),
            "locale provider": (self.locale_provider, wanted.locale_provider),
        }
        return [f"{label} is {found}, not {other}" for label, (found, other) in pairs.items() if found != other]

    def unfit_for_synapse(self, allow_unsafe_locale: bool = False) -> list[str]:
        """Return why Synapse would refuse, or mis-sort in, this; empty when it is right.

        After check_database() in synapse/storage/engines/postgres.py, whose switch waives the locale and never the encoding; the
        provider is ours (see differences()).
        """
        locale = {} if allow_unsafe_locale else {"lc_collate": "C", "lc_ctype": "C", "locale_provider": "libc"}
        return self.differences(dataclasses.replace(self, encoding="UTF8", **locale))


@dataclasses.dataclass(frozen=True)
class Desired:
    """A database as it is to be: the options of the module postgres_database, which say what each is.

    With ``allow_unsafe_locale`` an existing one is refused for another encoding alone, as the module synapse_database may ask.
    """

    name: str
    owner: str | None
    encoding: str = "UTF8"
    lc_collate: str = "C"
    lc_ctype: str = "C"
    template: str = "template0"
    allow_unsafe_locale: bool = False


def find(cursor: Cursor, name: str) -> Database | None:
    """Return the database ``name``, or None."""
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
    return Database(owner, encoding, lc_collate, lc_ctype, _PROVIDERS.get(provider, provider))


def current(cursor: Cursor) -> Database:
    """Return the connected database."""
    found = find(cursor, cursor.connection.info.dbname)
    if found is None:
        raise AssertionError("such a query gives a row")
    return found


def present(server: Server, desired: Desired, check_mode: bool) -> dict:
    """Bring the database to its desired state; return the result of the module postgres_database.

    The connection must autocommit. Raises Refusal for an existing database of another locale or encoding.
    """
    cursor, name, owner = server.cursor, desired.name, desired.owner
    before = find(cursor, name)
    wanted = Database(owner, _known_encoding(cursor, desired.encoding), desired.lc_collate, desired.lc_ctype)
    if owner and (before is None or owner != before.owner):
        _require_may_set_owner(cursor, owner)
    if before is None:
        if not check_mode:
            _create(cursor, name, wanted, desired.template)
        return _result(name, None, wanted)
    wrong = before.unfit_for_synapse(True) if desired.allow_unsafe_locale else before.differences(wanted)
    if wrong:
        raise _locale_refusal(cursor, name, wrong)
    warnings = []
    if collation.contradiction(cursor, name):
        with server.within(name, autocommit=True) as inside:
            warnings = require_fit(inside, desired.allow_unsafe_locale)
    if owner and owner != before.owner and not check_mode:
        cursor.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(owner)))
    return {**_result(name, before, dataclasses.replace(before, owner=owner or before.owner)), "warnings": warnings}


def absent(server: Server, desired: Desired, check_mode: bool) -> dict:
    """Make the database not exist, unless it holds tables; return the result of the module postgres_database.

    The connection must autocommit.
    """
    before = find(server.cursor, desired.name)
    if before:
        with server.within(desired.name) as inside:
            _require_empty(inside, desired.name)
        if not check_mode:
            server.cursor.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(desired.name)))
    return _result(desired.name, before, None)


def locale_problems(cursor: Cursor, allow_unsafe_locale: bool = False) -> tuple[list[str], list[str]]:
    """Return why Synapse cannot work in the connected database, as (problems, warnings): what it says, and whether that is so.

    The switch makes warnings of what is not so.
    """
    found = current(cursor)
    problems = found.unfit_for_synapse(allow_unsafe_locale)
    if not problems:
        problems = collation.not_utf8(cursor)
    if problems or found.unfit_for_synapse():
        return problems, []
    broken, warnings = collation.inspect(cursor, collation.contradiction(cursor, cursor.connection.info.dbname))
    return ([], broken + warnings) if allow_unsafe_locale else (broken, warnings)


def require_fit(cursor: Cursor, allow_unsafe_locale: bool = False) -> list[str]:
    """Raise Refusal where locale_problems() finds a problem in the connected database; return the warnings."""
    problems, warnings = locale_problems(cursor, allow_unsafe_locale)
    if problems:
        raise _locale_refusal(cursor, cursor.connection.info.dbname, problems)
    return warnings


def how_to_recreate(cursor: Cursor, name: str) -> str:
    """Return how the database ``name``, which has a wrong locale or encoding, is made anew; its commands run as printed."""
    found = find(cursor, name)
    owner = str(found and found.owner)
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
        "If it is empty, drop it. Otherwise have the playbook matrixops.synapse_postgres.repair_collation make it anew; or stop "
        "Synapse, and make it anew as the server's administrator, in a folder with room: "
        + f"`{' && '.join(' '.join(map(shlex.quote, command)) for command in commands)}`."
    )


def dsn(name: str) -> str:
    """Return the database ``name`` as psql takes it for ``-d``: one that looks like keywords or a URI, as a keyword."""
    if "=" not in name and not name.startswith(("postgres://", "postgresql://")):
        return name
    return "dbname='{}'".format(name.replace("\\", "\\\\").replace("'", "\\'"))


def tables(cursor: Cursor) -> list[str]:
    """Return the tables of the connected database, schema-qualified, without the server's own."""
    cursor.execute(
        "SELECT schemaname || '.' || tablename FROM pg_catalog.pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
    )
    return [row[0] for row in cursor.fetchall()]


def synapse_schemas(cursor: Cursor) -> list[str]:
    """Return the schemas of the connected database that hold tables of Synapse's."""
    cursor.execute(
        "SELECT schemaname FROM pg_catalog.pg_tables WHERE tablename IN ('schema_version', 'applied_schema_deltas')"
        " GROUP BY 1 HAVING count(*) = 2 ORDER BY 1"
    )
    return [name for (name,) in cursor.fetchall()]


def unique_keys(cursor: Cursor) -> dict[str, list[list[str]]]:
    """Return, for each table of the schema public that has one, the columns of its unique indexes without conditions.

    The primary key comes first, then other constraints.
    """
    cursor.execute(_KEYS)
    found: dict[str, list[list[str]]] = {}
    for table, columns in cursor.fetchall():
        found.setdefault(table, []).append(columns)
    return found


def _known_encoding(cursor: Cursor, encoding: str) -> str:
    """Return the server's own spelling of ``encoding`` (utf-8 -> UTF8); Refusal for one that it does not know."""
    cursor.execute("SELECT pg_encoding_to_char(pg_char_to_encoding(%s))", (encoding,))
    spelling = only_row(cursor)[0]
    if not spelling:
        raise Refusal(f"The server does not know the encoding {encoding!r}.", "Synapse needs UTF8.")
    return spelling


def _locale_refusal(cursor: Cursor, name: str, found: list[str]) -> Refusal:
    """Return the Refusal for an existing database whose locale or encoding is wrong: they are fixed when it is made."""
    return Refusal(
        f"The database {name!r} exists with another locale or encoding than wished: {'; '.join(found)}. "
        "Neither can be changed on an existing database, and editing the catalog would corrupt its indexes.",
        how_to_recreate(cursor, name),
    )


def _require_may_set_owner(cursor: Cursor, owner: str) -> None:
    """Raise Refusal where the connected role may not make the role ``owner`` the owner of anything, as a provider's may not.

    That takes a superuser or a member of it, since PostgreSQL 16 one that may SET ROLE to it (manual, CREATE DATABASE).
    """
    right = "SET" if cursor.connection.server_version >= 160000 else "MEMBER"
    cursor.execute(
        "SELECT current_user FROM pg_catalog.pg_roles WHERE rolname = %s AND NOT pg_has_role(oid, %s)",
        (owner, right),
    )
    row = cursor.fetchone()
    if row:
        grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), sql.Identifier(row[0])).as_string(cursor)
        raise Refusal(
            f"The role {row[0]!r} of this task is no member of {owner!r}, and may not give a database to it.",
            f"Run `{grant}` as {row[0]!r} or as the server's administrator, then this again.",
        )


def _create(cursor: Cursor, name: str, wanted: Database, template: str) -> None:
    """Run CREATE DATABASE for ``name`` as ``wanted``; the connection must autocommit."""
    statement = "CREATE DATABASE {} OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {} TEMPLATE {}"
    if cursor.connection.server_version >= 150000:
        # A cluster made with ICU would otherwise hand its provider on, and LC_COLLATE would mean nothing.
        statement += " LOCALE_PROVIDER libc"
    cursor.execute(
        sql.SQL(statement).format(
            sql.Identifier(name),
            sql.Identifier(wanted.owner) if wanted.owner else sql.SQL("DEFAULT"),
            *map(sql.Literal, (wanted.encoding, wanted.lc_collate, wanted.lc_ctype)),
            sql.Identifier(template),
        )
    )


def _require_empty(cursor: Cursor, name: str) -> None:
    """Raise Refusal when the connected database, ``name``, holds a table: what Synapse wrote is never dropped by us."""
    found = tables(cursor)
    if found:
        raise Refusal(
            f"The database {name!r} is not empty: it holds {len(found)} tables, {found[0]} among them.",
            "If nobody needs them any more, drop it by hand.",
        )


def _result(name: str, before: Database | None, after: Database | None) -> dict:
    shown = [_described(name, before), _described(name, after)]
    return {"changed": before != after, "database": shown[1], "diff": {"before": shown[0], "after": shown[1]}}


def _described(name: str, found: Database | None) -> dict:
    return {"name": name, "state": "present", **dataclasses.asdict(found)} if found else {"name": name, "state": "absent"}
