# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the first match in pg_hba.conf depends on, asked of the server and of its host: files, roles, addresses, names."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
from typing import Callable

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _hba, _hba_match

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


def files(cursor) -> _hba_match.Files:
    """Return how to read the server's files through the server, wherever it is."""
    return _hba_match.Files(
        cursor.connection.server_version,
        lambda path: _hba.decode(bytes(_asked(cursor, "SELECT pg_read_binary_file(%s)", path)[0][0])),
        lambda path: [name for (name,) in _asked(cursor, "SELECT pg_ls_dir(%s)", path)],
    )


def searcher(cursor) -> Callable[[str, str], bool] | None:
    """Return what tells whether a regular expression is found in a text, by the server itself; None before 16."""
    if cursor.connection.server_version < _hba_match.SINCE:
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


def _asked(cursor, query: str, *values: str) -> list[tuple]:
    """Return the rows of ``query``; FileNotFoundError when it is about a file that is not there."""
    try:
        cursor.execute(query, values)
    except psycopg2.errors.UndefinedFile as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), values[0]) from error
    return cursor.fetchall()
