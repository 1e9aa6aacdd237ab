# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses as the host knows them: its own with their networks, and the name of a client's."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal


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
_ADDRESS_SPANS: dict[int, tuple[int, int]] = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}


def networks() -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]:
    """Return this host's own addresses with their networks, by the call that the server makes too (ifaddr.c)."""
    library, first = ctypes.CDLL(None, use_errno=True), ctypes.POINTER(_Interface)()
    if library.getifaddrs(ctypes.byref(first)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    found, entry = [], first
    while entry:
        address, netmask = entry.contents.address, entry.contents.netmask
        family = ctypes.c_ushort.from_address(address).value if address and netmask else None
        if family in _ADDRESS_SPANS:
            start, size = _ADDRESS_SPANS[family]
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
