# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which line of pg_hba.conf decides about a connection: the files as the server puts them together, and its first match.

Nothing here opens a file or asks a server; who calls hands over how to read one.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os.path
import socket
from typing import Callable, Iterable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import TYPES, Address, Name, Rule
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# How deep files may include each other: CONF_FILE_MAX_DEPTH of src/include/utils/conffiles.h.
_DEEPEST = 10

# Tells whether a regular expression is found in a text.
Search = Callable[[str, str], bool]


@dataclasses.dataclass(frozen=True)
class Connection:
    """Somebody at the server's door.

    ``kind`` is socket, plain, tls or gss; ``database`` is None for physical replication. ``roles`` are all that ``user`` is
    a member of, directly or not, itself among them; none where there is no such role. A client that comes by TCP has an
    ``address``. What the server's host knows of it is None where we do not: its ``name``, empty when its address has none
    that leads back to it, and the ``networks`` of the host's own addresses.
    """

    kind: str
    database: str | None
    user: str
    roles: frozenset[str] = frozenset()
    address: str = ""
    name: str | None = None
    networks: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Files:
    """How to get at the server's files: ``read`` returns the text at a path, ``names`` what there is in a folder.

    Both raise OSError. ``version`` is the server's, such as 160004.
    """

    version: int
    read: Callable[[str], str]
    names: Callable[[str], list[str]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A rule where it stands: ``line`` of the file at ``path``. ``sure`` is False when it is not known whether it matches."""

    path: str
    line: hba.Line
    rule: Rule
    sure: bool = True


def entries(path: str, files: Files) -> Iterator[Entry]:
    """Yield the rules of the file at ``path`` and of all it includes, in the order in which the server tries them.

    Included files and lists of names stand where they are named (hba.c, tokenize_auth_file and next_field_expand). The
    server must have accepted the file; a line that it would refuse is passed over. Raises OSError and Refusal.
    """
    yield from _entries(path, files, 0)


def first_match(found: Iterable[Entry], connection: Connection, search: Search | None) -> Entry | None:
    """Return the first entry that matches ``connection`` (hba.c, check_hba), or None: then the server lets nobody in.

    ``search`` tells whether a regular expression of the server's is found in a text; None for a server before 16, to which
    a name with a leading / is like any other.
    """
    for entry in found:
        matched = _matches(entry.rule, connection, search)
        if matched is not False:
            return dataclasses.replace(entry, sure=matched is True)
    return None


def _entries(path: str, files: Files, depth: int) -> Iterator[Entry]:
    for line in _lines(path, files, depth):
        fields = _expanded(line.fields, path, files, depth)
        if files.version >= hba.INCLUDES_SINCE and hba.is_include(fields):
            for included in _included(fields[0][0].text, _beside(path, fields[1][0].text), files):
                yield from _entries(included, files, depth + 1)
            continue
        found = hba.rule_of(fields)
        if found:
            yield Entry(path, line, found[0])


def _lines(path: str, files: Files, depth: int) -> list[hba.Line]:
    if depth > _DEEPEST:
        raise Refusal(f"The files that lead to {path} include each other more than {_DEEPEST} times.", "Untie them.")
    return hba.parse(files.read(path))


def _beside(path: str, name: str) -> str:
    """Return the path of ``name`` as it is meant in the file at ``path`` (conffiles.c, AbsoluteConfigLocation)."""
    return os.path.normpath(os.path.join(os.path.dirname(path), name))


def _included(directive: str, target: str, files: Files) -> list[str]:
    """Return the paths of the files that an include names (conffiles.c, GetConfFilesInDir; manual, section 21.1)."""
    if directive == "include_dir":
        names = [name for name in files.names(target) if name.endswith(".conf") and not name.startswith(".")]
        return [os.path.join(target, name) for name in sorted(names, key=hba.encode)]
    if directive == "include_if_exists":
        try:
            files.read(target)
        except FileNotFoundError:
            return []
    return [target]


def _expanded(fields: list[list[hba.Token]], path: str, files: Files, depth: int) -> list[list[hba.Token]]:
    """Return ``fields`` with the names of files (@file) in their place; a field of which nothing is left is none."""
    found = [[each for token in field for each in _tokens(token, path, files, depth)] for field in fields]
    return [field for field in found if field]


def _tokens(token: hba.Token, path: str, files: Files, depth: int) -> list[hba.Token]:
    if token.quoted or len(token.text) < 2 or token.text[0] != "@":
        return [token]
    names = _beside(path, token.text[1:])
    lines = [_expanded(line.fields, names, files, depth + 1) for line in _lines(names, files, depth + 1)]
    return [each for fields in lines for field in fields for each in field]


def _matches(rule: Rule, connection: Connection, search: Search | None) -> bool | None:
    """Tell whether a connection matches; None where that depends on what is not known of it."""
    if connection.kind not in TYPES[rule.type]:
        return False
    if not any(_is_database(name, connection, search) for name in rule.databases):
        return False
    if not any(_is_user(name, connection, search) for name in rule.users):
        return False
    return _is_from(rule.address, connection)


def _is_database(name: Name, connection: Connection, search: Search | None) -> bool:
    """Tell whether ``name`` means the connection's database (hba.c, check_db)."""
    if connection.database is None or name.kind == "replication":
        return connection.database is None and name.kind == "replication"
    if name.kind == "sameuser":
        return connection.database == connection.user
    if name.kind == "samerole":
        return connection.database in connection.roles
    return _is_called(name, connection.database, search)


def _is_user(name: Name, connection: Connection, search: Search | None) -> bool:
    """Tell whether ``name`` means the connection's user (hba.c, check_role)."""
    return name.text in connection.roles if name.kind == "member" else _is_called(name, connection.user, search)


def _is_called(name: Name, text: str, search: Search | None) -> bool:
    if name.kind == "regex" and search:
        return search(name.text[1:], text)
    return name.kind == "all" or name.text == text


def _is_from(address: Address | None, connection: Connection) -> bool | None:
    """Tell whether ``address`` means the client's (hba.c, check_ip, check_hostname and check_same_host_or_net)."""
    if address is None or address.kind == "all":
        return True
    if address.kind == "host":
        return None if connection.name is None else address.is_host(connection.name.lower())
    client = ipaddress.ip_address(connection.address.partition("%")[0])
    if address.kind == "net":
        family = socket.AF_INET if client.version == 4 else socket.AF_INET6
        return family == address.family and not (int(client) ^ address.base) & address.mask
    if connection.networks is None:
        return None
    return any(client == own.ip if address.kind == "samehost" else client in own.network for own in connection.networks)
