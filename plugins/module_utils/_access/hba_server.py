# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first match in pg_hba.conf and what it depends on, asked of the server and of its host: files, roles, addresses."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import ipaddress
import os
import socket
from typing import Callable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _diagnosis
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, hba_file, hba_match, role, scram
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    import psycopg2.errors
except ImportError:
    pass


class _Interface(ctypes.Structure):
    """One address of the host's: struct ifaddrs of getifaddrs(3), as far as it is read here."""


_Interface._fields_ = [
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
]

# Socket family -> where in a sockaddr its address begins, and how long it is: ip(7), ipv6(7).
_PLACES = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}


def files(cursor) -> hba_match.Files:
    """Return how to read the server's files through the server, wherever it is."""
    return hba_match.Files(
        cursor.connection.server_version,
        lambda path: hba.decode(bytes(_asked(cursor, "SELECT pg_read_binary_file(%s)", path)[0][0])),
        lambda path: [name for (name,) in _asked(cursor, "SELECT pg_ls_dir(%s)", path)],
    )


def searcher(cursor) -> Callable[[str, str], bool] | None:
    """Return what tells whether a regular expression is found in a text, by the server itself; None before 16."""
    if cursor.connection.server_version < hba_match.SINCE:
        return None
    # The server compiles them for the collation C (hba.c, regcomp_auth_token).
    return lambda pattern, text: _asked(cursor, 'SELECT %s ~ %s COLLATE "C"', text, pattern)[0][0]


def roles(cursor, user: str) -> frozenset[str]:
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


def networks() -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]:
    """Return this host's own addresses with their networks, by the call that the server makes too (ifaddr.c)."""
    library, first = ctypes.CDLL(None, use_errno=True), ctypes.POINTER(_Interface)()
    if library.getifaddrs(ctypes.byref(first)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    found, entry = [], first
    while entry:
        address, netmask = entry.contents.address, entry.contents.netmask
        family = ctypes.c_ushort.from_address(address).value if address and netmask else None
        if family in _PLACES:
            start, size = _PLACES[family]
            number, mask = (ctypes.string_at(each + start, size) for each in (address, netmask))
            bits = bin(int.from_bytes(mask, "big")).count("1")
            found.append(ipaddress.ip_interface((number, bits)))
        entry = entry.contents.next
    library.freeifaddrs(first)
    return tuple(found)


def client_name(address: str) -> str:
    """Return the name of ``address`` if it leads back to the address, and "" otherwise (hba.c, check_hostname)."""
    try:
        name = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
        back = {found[4][0] for found in socket.getaddrinfo(name, None)}
    except OSError:
        return ""
    return name if address in back else ""


def require_address(text: str) -> None:
    """Raise Refusal unless ``text`` is an address, or empty."""
    try:
        if text:
            ipaddress.ip_address(text.partition("%")[0])
    except ValueError as error:
        raise Refusal(f"{text!r} is not the address of a client.", "Give one such as 10.1.2.3 or ::1.") from error


def why(cursor, params: dict) -> dict:
    """Return the result of the module postgres_hba_info, whose ``params`` these are.

    Raises Refusal where the connected role may not read the server's files.
    """
    _require_reader(cursor, params)
    cursor.execute("SELECT current_setting('hba_file'), current_setting('ssl')")
    path, ssl = cursor.fetchone()
    found = list(hba_match.entries(path, files(cursor)))
    connection = _connection_of(cursor, params, ssl == "on")
    entry = hba_match.decides(found, connection, searcher(cursor))
    if entry and not entry.sure and connection.networks is not None:
        connection = dataclasses.replace(connection, name=client_name(connection.address))
        entry = hba_match.decides(found, connection, searcher(cursor))
    stored = _stored(cursor, connection.user)
    explanation = hba_match.explained(entry, path, connection, stored)
    return {
        "decides": entry and _described(entry),
        "password": stored if connection.roles else None,
        "explanation": " ".join([*_not_in_force(cursor, [path, *(each.path for each in found)]), explanation]),
    }


def _connection_of(cursor, params: dict, ssl: bool) -> hba_match.Connection:
    """Return the connection that ``params`` describe, with what the server's host knows of it where that is this host."""
    cursor.execute("SELECT inet_server_addr() IS NOT DISTINCT FROM inet_client_addr()")
    (is_here,) = cursor.fetchone()
    encryption = params["encryption"] or ("tls" if ssl else "none")
    return hba_match.Connection(
        {"none": "plain"}.get(encryption, encryption) if params["address"] else "socket",
        params["database"],
        params["user"],
        roles(cursor, params["user"]),
        params["address"],
        networks=networks() if is_here else None,
    )


def _described(entry: hba_match.Entry) -> dict:
    return {
        "file": entry.path,
        "line": entry.line.number,
        "text": " ".join(hba.shown(entry.line.raw).split()),
        "method": entry.rule.method,
        "sure": entry.sure,
    }


def _stored(cursor, user: str) -> str:
    """Return how the password of ``user`` is stored, never what it is; see hba_match.explained()."""
    found = role.find(cursor, user)
    if found and not found["attributes"]["LOGIN"]:
        return "nologin"
    cursor.execute("SELECT rolvaliduntil < now() FROM pg_catalog.pg_roles WHERE rolname = %s", (user,))
    expired = cursor.fetchone()
    if expired and expired[0]:
        return "expired"
    return scram.kind(role.stored_password(cursor, user)) if role.may_read_passwords(cursor) else "unreadable"


def _not_in_force(cursor, paths: list[str]) -> list[str]:
    """Return why what stands in the files at ``paths`` is not what the server goes by, in sentences."""
    wrong = [row for row in hba_file.server_rows(cursor) if row["error"] and row["type"] is None]
    if wrong:
        row = wrong[0]
        return [
            f"The server rejects line {row['line']} of {row['file']} ({row['error']}) and goes by what it loaded before. "
            "Correct that line first."
        ]
    loaded = "SELECT bool_or((pg_stat_file(path)).modification > pg_conf_load_time()) FROM unnest(%s) path"
    cursor.execute(loaded, (paths,))
    return ["The server has not loaded its files since they were changed: reload it first."] if cursor.fetchone()[0] else []


def _require_reader(cursor, params: dict) -> None:
    """Raise Refusal unless the connected role may read the files of the server."""
    cursor.execute(
        "SELECT has_function_privilege('pg_catalog.pg_read_binary_file(text)', 'EXECUTE')"
        " AND pg_has_role('pg_read_server_files', 'USAGE') AND pg_has_role('pg_read_all_settings', 'USAGE'), current_user"
    )
    allowed, found = cursor.fetchone()
    if not allowed:
        server = _diagnosis.place(_connection.keywords(params))
        raise Refusal(
            f"The role {found!r} at {server} may not read the server's files, so which line of pg_hba.conf decides is not known.",
            "Connect as a superuser, or ask the server's administrator.",
        )


def _asked(cursor, query: str, *values: str) -> list[tuple]:
    """Return the rows of ``query``; FileNotFoundError when it is about a file that is not there."""
    try:
        cursor.execute(query, values)
    except psycopg2.errors.UndefinedFile as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), values[0]) from error
    return cursor.fetchall()
