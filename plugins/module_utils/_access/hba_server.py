# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first match in pg_hba.conf and what it depends on, asked of the server: its files, roles and passwords."""

from __future__ import annotations

import dataclasses
import errno
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import (
    hba,
    hba_explanation,
    hba_file_rules,
    hba_match,
    host_addresses,
    role,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row

try:
    import psycopg2.errors
except ImportError:
    pass


def files(cursor: Cursor) -> hba_match.Files:
    """Return how to read the server's files through the server, wherever it is."""
    return hba_match.Files(
        cursor.connection.server_version,
        lambda path: hba.decode(bytes(_rows(cursor, "SELECT pg_read_binary_file(%s)", path)[0][0])),
        lambda path: [name for (name,) in _rows(cursor, "SELECT pg_ls_dir(%s)", path)],
    )


def regex_search(cursor: Cursor) -> hba_match.Search | None:
    """Return what tells whether a regular expression is found in a text, by the server itself; None before 16."""
    if cursor.connection.server_version < hba.INCLUDES_SINCE:
        return None
    # The server compiles them for the collation C (hba.c, regcomp_auth_token).
    return lambda pattern, text: _rows(cursor, 'SELECT %s ~ %s COLLATE "C"', text, pattern)[0][0]


def roles(cursor: Cursor, user: str) -> frozenset[str]:
    """Return the names of all roles that ``user`` is a member of, itself among them; none when there is no such role.

    A superuser is a member only of what it was made a member of (acl.c, is_member_of_role_nosuper).
    """
    cursor.execute(
        "WITH RECURSIVE held AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = %s"
        " UNION SELECT roleid FROM pg_catalog.pg_auth_members JOIN held ON member = held.oid)"
        " SELECT rolname FROM held JOIN pg_catalog.pg_roles USING (oid)",
        (user,),
    )
    return frozenset(name for (name,) in cursor.fetchall())


@dataclasses.dataclass(frozen=True)
class Decision:
    """The ``entry`` that decides about a connection, None for none, ``path`` of pg_hba.conf, and how the password is ``stored``.

    ``not_in_force`` says, in sentences, why the server does not go by its files. ``stored`` is as in hba_explanation.explain().
    """

    entry: hba_match.Entry | None
    path: str
    connection: hba_match.Connection
    stored: str
    not_in_force: list[str]

    @property
    def found(self) -> str:
        """How the connection is decided about, in sentences."""
        return " ".join([*self.not_in_force, hba_explanation.explain(self.entry, self.path, self.connection, self.stored)])

    @property
    def remedy(self) -> str:
        """The sentence that says what lets it in."""
        return hba_explanation.remedy(self.entry, self.connection, self.stored)


def explain(server: Server, params: dict) -> dict:
    """Return the result of the module postgres_hba_info, whose ``params`` these are; see decide()."""
    found = decide(server, params)
    return {
        "decides": found.entry and _described(found.entry),
        "password": found.stored if found.connection.roles else None,
        "explanation": f"{found.found} {found.remedy}",
    }


def decide(server: Server, params: dict) -> Decision:
    """Return the Decision about the connection of ``params`` (database, user, address, encryption).

    Raises Refusal where the connected role may not read the server's files.
    """
    _require_reader(server)
    cursor = server.cursor
    cursor.execute("SELECT current_setting('hba_file'), current_setting('ssl')")
    path, ssl = only_row(cursor)
    found = list(hba_match.entries(path, files(cursor)))
    connection = _connection_of(cursor, params, ssl == "on")
    entry = hba_match.first_match(found, connection, regex_search(cursor))
    if entry and not entry.sure and connection.networks is not None:
        connection = dataclasses.replace(connection, name=host_addresses.client_name(connection.address))
        entry = hba_match.first_match(found, connection, regex_search(cursor))
    paths = [path, *(each.path for each in found)]
    return Decision(entry, path, connection, _password_state(cursor, connection.user), _not_in_force(cursor, paths))


def _connection_of(cursor: Cursor, params: dict, ssl: bool) -> hba_match.Connection:
    """Return the connection that ``params`` describe, with what the server's host knows of it where that is this host."""
    cursor.execute("SELECT inet_server_addr() IS NOT DISTINCT FROM inet_client_addr()")
    (is_local,) = only_row(cursor)
    encryption = params["encryption"] or ("tls" if ssl else "none")
    return hba_match.Connection(
        {"none": "plain"}.get(encryption, encryption) if params["address"] else "socket",
        params["database"],
        params["user"],
        roles(cursor, params["user"]),
        params["address"],
        networks=host_addresses.networks() if is_local else None,
    )


def _described(entry: hba_match.Entry) -> dict:
    return {
        "file": entry.path,
        "line": entry.line.number,
        "text": " ".join(hba.masked(entry.line.raw).split()),
        "method": entry.rule.method,
        "sure": entry.sure,
    }


def _password_state(cursor: Cursor, user: str) -> str:
    """Return how the password of ``user`` is stored, never what it is; see hba_explanation.explain()."""
    found = role.find(cursor, user)
    if found and not found.attributes["LOGIN"]:
        return "nologin"
    return "expired" if role.expiry_warnings(cursor, user) else role.password_kind(cursor, user)


def _not_in_force(cursor: Cursor, paths: list[str]) -> list[str]:
    """Return why what stands in the files at ``paths`` is not what the server goes by, in sentences."""
    rejected = [row for row in hba_file_rules.rows(cursor) if row.is_rejected]
    if rejected:
        row = rejected[0]
        return [
            f"The server rejects line {row.line} of {row.file} ({row.error}) and goes by what it loaded before. "
            "Correct that line first."
        ]
    loaded = "SELECT bool_or((pg_stat_file(path)).modification > pg_conf_load_time()) FROM unnest(%s) path"
    cursor.execute(loaded, (paths,))
    return ["The server has not loaded its files since they were changed: reload it first."] if only_row(cursor)[0] else []


def _require_reader(server: Server) -> None:
    """Raise Refusal unless the connected role may read the files of the server."""
    server.cursor.execute(
        "SELECT has_function_privilege('pg_catalog.pg_read_binary_file(text)', 'EXECUTE')"
        " AND pg_has_role('pg_read_server_files', 'USAGE') AND pg_has_role('pg_read_all_settings', 'USAGE'), current_user"
    )
    allowed, found = only_row(server.cursor)
    if not allowed:
        raise Refusal(
            f"The role {found!r} at {server.place} may not read the server's files, so which line of pg_hba.conf decides is not "
            "known.",
            "Connect as a superuser, or ask the server's administrator.",
        )


def _rows(cursor: Cursor, query: str, *values: str) -> list[tuple]:
    """Return the rows of ``query``; FileNotFoundError when it is about a file that is not there."""
    try:
        cursor.execute(query, values)
    except psycopg2.errors.UndefinedFile as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), values[0]) from error
    return cursor.fetchall()
