# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is in the connected database of Synapse's, what is wrong with it, and what tells it from every other one."""

from __future__ import annotations

import dataclasses
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _defaults
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import database, ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

# Where Synapse finds its tables, and where it makes them while there are none.
_SCHEMA = """
SELECT coalesce((SELECT nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE c.oid = pg_catalog.to_regclass('schema_version')), pg_catalog.current_schema())
"""

# Whether Synapse's version is there and may be read, whatever else belongs to somebody else.
_READABLE = """
SELECT 1 FROM pg_catalog.pg_tables WHERE (schemaname, tablename) = (%s, 'schema_version')
    AND has_schema_privilege(schemaname, 'USAGE')
    AND has_table_privilege(format('%%I.%%I', schemaname, tablename), 'SELECT')
"""


@dataclasses.dataclass(frozen=True)
class Identity:
    """What tells a database from every other one, whatever it is called by and whoever is in between.

    ``system_identifier`` and ``timeline`` are the cluster's, None where the role may not ask; ``database_oid`` is the number in
    it; ``started`` is when the server was, in seconds since the epoch.
    """

    system_identifier: str | None
    timeline: int | None
    database_oid: int
    started: str
    standby: bool

    def is_same(self, other: Identity) -> bool:
        """Tell whether both are one database's. A standby is its primary's; a copy of the files that runs itself is not."""
        if self._in_cluster != other._in_cluster:
            return False
        return self.started == other.started or (self.standby != other.standby and self.system_identifier is not None)

    @property
    def _in_cluster(self) -> tuple[str | None, int | None, int]:
        return self.system_identifier, self.timeline, self.database_oid


def inspect(cursor: Cursor, allow_unsafe_locale: bool) -> dict:
    """Return the result of the module synapse_database_info, with its warnings."""
    problems, warnings = database.locale_problems(cursor, allow_unsafe_locale)
    remedies = [database.how_to_recreate(cursor, cursor.connection.info.dbname)] if problems else []
    cursor.execute("SELECT current_user")
    (role,) = only_row(cursor)
    for problem in ownership.problems(cursor, role, every=False):
        problems.append(problem.found)
        remedies.append(problem.remedy)
    schema = _defaults.by_own_path(cursor, _SCHEMA)
    return {
        "problems": problems,
        "remedies": remedies,
        "warnings": warnings + ownership.beside(cursor, role),
        "sessions": _other_sessions(cursor),
        "server_version": cursor.connection.server_version,
        "psycopg2_version": psycopg2.__version__,  # type: ignore[attr-defined]
        "database": dataclasses.asdict(database.current(cursor)),
        "tables": len(database.tables(cursor)),
        "schema_version": _schema_version(cursor, schema),
        "schema": schema,
        "schemas": database.synapse_schemas(cursor),
        "identity": dataclasses.asdict(identity(cursor)),
        "space": space(cursor),
    }


def identity(cursor: Cursor) -> Identity:
    """Return what tells the connected database from every other one."""
    cursor.execute(
        "SELECT oid::bigint, extract(epoch FROM pg_postmaster_start_time())::text, pg_is_in_recovery(),"
        " has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"
        " AND has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')"
        " FROM pg_database WHERE datname = current_database()"
    )
    *found, may_ask = only_row(cursor)
    cluster: tuple = (None, None)
    if may_ask:
        cursor.execute("SELECT system_identifier::text, timeline_id FROM pg_control_system(), pg_control_checkpoint()")
        cluster = only_row(cursor)
    return Identity(*cluster, *found)


def _schema_version(cursor: Cursor, schema: object) -> int | None:
    """Return the version of Synapse's tables in ``schema``; None where there are none that may be read."""
    cursor.execute(_READABLE, (schema,))
    if cursor.fetchone() is None:
        return None
    cursor.execute(sql.SQL("SELECT max(version) FROM {}").format(sql.Identifier(str(schema), "schema_version")))
    return only_row(cursor)[0]


def _other_sessions(cursor: Cursor) -> int:
    """Return how many sessions the connected role has in the database besides this one."""
    cursor.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    )
    return only_row(cursor)[0]


def space(cursor: Cursor) -> dict | None:
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
