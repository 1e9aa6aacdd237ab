# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rule of pg_hba.conf: which connections it is for, what happens to them, and which of two rules could have a connection."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import FrozenSet, Optional, Tuple

# Type of a line -> the kinds of connection it is for. One connection is never both TLS and GSSAPI encrypted.
TYPES = {
    "local": frozenset({"socket"}),
    "host": frozenset({"plain", "tls", "gss"}),
    "hostssl": frozenset({"tls"}),
    "hostnossl": frozenset({"plain", "gss"}),
    "hostgssenc": frozenset({"gss"}),
    "hostnogssenc": frozenset({"plain", "tls"}),
}
METHODS = [
    "scram-sha-256",
    "md5",
    "password",
    "peer",
    "ident",
    "cert",
    "trust",
    "reject",
    "gss",
    "sspi",
    "ldap",
    "radius",
    "pam",
    "bsd",
    "oauth",
]


@dataclasses.dataclass(frozen=True)
class Name:
    """What one word of the database or user column stands for.

    ``kind`` is name, all, replication, sameuser, samerole, member (of the role ``text``), regex or file (of names).
    """

    kind: str
    text: str

    def overlaps(self, other: Name) -> bool:
        """Tell whether both could mean the same database or user."""
        kinds = {self.kind, other.kind}
        if "file" in kinds:
            return True
        if "replication" in kinds:
            return len(kinds) == 1  # "all" does not match a physical replication connection
        return self.text == other.text if kinds == {"name"} else True

    def covers(self, other: Name) -> bool:
        """Tell whether this surely means whatever ``other`` means."""
        if self.kind == "all":
            return other.kind not in ("replication", "file")
        return self == other or (self.kind == "member" and other == Name("name", self.text))


@dataclasses.dataclass(frozen=True)
class Address:
    """What the address column stands for: ``kind`` is all, samehost, samenet, host (``name``, lower case) or net.

    A net has its socket family and, as integers, its masked ``base`` and its ``mask``. ``text`` is how it is written.
    """

    kind: str
    text: str = dataclasses.field(compare=False)
    name: str = ""
    family: int = 0
    base: int = 0
    mask: int = 0

    def is_host(self, name: str) -> bool:
        """Tell whether the host name of a line means ``name``, both in lower case (hba.c, hostname_match)."""
        return name == self.name or (self.name.startswith(".") and name.endswith(self.name))

    def overlaps(self, other: Address) -> bool:
        """Tell whether a client could be at both."""
        if self.kind == other.kind == "net":
            return self.family == other.family and not (self.base ^ other.base) & self.mask & other.mask
        if self.kind == other.kind == "host":
            return self.covers(other) or other.covers(self)
        return True

    def covers(self, other: Address) -> bool:
        """Tell whether whoever is at ``other`` surely is at this."""
        if self.kind == other.kind == "net":
            # The narrow one fixes every bit that the wide one fixes, and to the same value.
            fixed = self.mask & ~other.mask or (self.base ^ other.base) & self.mask
            return self.family == other.family and not fixed
        if self.kind == other.kind == "host":
            return self.is_host(other.name)  # the server looks up one name for the client (hba.c, check_hostname)
        return self.kind == "all" or self == other or (self.kind, other.kind) == ("samenet", "samehost")


# What tells the connections that a rule is for: type, databases, users, address.
Selector = Tuple[str, FrozenSet[Name], FrozenSet[Name], Optional[Address]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a line means: which connections it is for (its selector) and what happens to them (its effect).

    ``address`` is None for local; ``method`` and ``options`` are None in a rule that is to be removed whatever they are.
    """

    type: str
    databases: tuple[Name, ...]
    users: tuple[Name, ...]
    address: Address | None
    method: str | None
    options: tuple[tuple[str, str], ...] | None

    @functools.cached_property
    def selector(self) -> Selector:
        """The same for two rules that are for the very same connections."""
        return self.type, frozenset(self.databases), frozenset(self.users), self.address

    @functools.cached_property
    def effect(self) -> tuple[str | None, dict[str, str]]:
        """The method that the server uses and its options; on a Unix socket, ident means peer (manual, section 21.8)."""
        method = "peer" if (self.type, self.method) == ("local", "ident") else self.method
        return method, dict(self.options or ())

    def overlaps(self, other: Rule) -> bool:
        """Tell whether some connection could match both; True wherever that depends on what the file does not show."""
        if not TYPES[self.type] & TYPES[other.type] or not self._addresses_overlap(other):
            return False
        pairs = itertools.product(itertools.product(self.databases, self.users), itertools.product(other.databases, other.users))
        return any(_logins_overlap(one, another) for one, another in pairs)

    def covers(self, other: Rule) -> bool:
        """Tell whether every connection that matches ``other`` surely matches this too."""
        return (
            TYPES[self.type] >= TYPES[other.type]
            and all(any(wide.covers(narrow) for wide in self.databases) for narrow in other.databases)
            and all(any(wide.covers(narrow) for wide in self.users) for narrow in other.users)
            and self._covers_address(other)
        )

    def conflicts_with(self, other: Rule) -> bool:
        """Tell whether some connection could match both and would be treated differently."""
        return self.effect != other.effect and self.overlaps(other)

    def is_exception_to(self, other: Rule) -> bool:
        """Tell whether this rejects a part of what ``other`` lets in, which somebody meant."""
        return self.method == "reject" and self.effect != other.effect and other.covers(self) and not self.covers(other)

    def could_preempt(self, other: Rule) -> bool:
        """Tell whether this, before ``other``, could treat one of its connections otherwise, and is no exception to it."""
        return self.conflicts_with(other) and not self.is_exception_to(other)

    def narrowed_to(self, other: Rule) -> Rule:
        """Return a rule for all connections that match this and ``other``, and for none that do not match this."""
        types = [kind for kind in (self.type, other.type) if TYPES[kind] <= TYPES[self.type] & TYPES[other.type]]
        return dataclasses.replace(
            self,
            type=types[0] if types else self.type,
            databases=_narrowed_names(self.databases, other.databases),
            users=_narrowed_names(self.users, other.users),
            address=other.address if self._covers_address(other) else self.address,
        )

    def _addresses_overlap(self, other: Rule) -> bool:
        if self.address is None or other.address is None:
            return self.address is other.address
        return self.address.overlaps(other.address)

    def _covers_address(self, other: Rule) -> bool:
        if self.address is None or other.address is None:
            return self.address is other.address
        return self.address.covers(other.address)


def _logins_overlap(one: tuple[Name, Name], other: tuple[Name, Name]) -> bool:
    """Tell whether two pairs of (database, user) could mean the same; ``sameuser`` ties the one to the other."""
    (database, user), (other_database, other_user) = one, other
    if not (database.overlaps(other_database) and user.overlaps(other_user)):
        return False
    databases = {database.kind: database.text, other_database.kind: other_database.text}
    if databases.keys() != {"sameuser", "name"}:
        return True
    return all(name.text == databases["name"] for name in (user, other_user) if name.kind == "name")


def _narrowed_names(names: tuple[Name, ...], others: tuple[Name, ...]) -> tuple[Name, ...]:
    """Return names for all that both mean: where one of ``names`` covers another's the narrower one, else itself."""
    return tuple(other if name.covers(other) else name for name in names for other in others if name.overlaps(other))
