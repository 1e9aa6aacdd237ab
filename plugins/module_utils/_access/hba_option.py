# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules of pg_hba.conf as users give them to a module: the option ``rules``, and what is refused in it."""

from __future__ import annotations

import ipaddress
import re
import socket

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import (
    METHODS,
    TYPES,
    Address,
    Name,
    Rule,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# One name of a comma list as a user of the module writes it.
_ITEM = re.compile(r'[ \t]*(?:("(?:[^"]|"")+")|([^", \t][^,]*?))[ \t]*(,|\Z)')
_HOST_NAME = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")

# One rule of the option, wherever a module has it.
SPEC = dict(
    type=dict(type="str", required=True, choices=list(TYPES)),
    database=dict(type="str", default="all"),
    user=dict(type="str", default="all"),
    address=dict(type="str"),
    method=dict(type="str", choices=METHODS),
    options=dict(type="dict"),
)


def rules(given: list[dict], state: str = "present") -> list[Rule]:
    """Return the rules that are ``given`` as in SPEC, read and checked; Refusal for one that cannot be meant."""
    return [rule(each, position, state == "present") for position, each in enumerate(given, 1)]


def rule(given: dict, position: int, complete: bool = True) -> Rule:
    """Return the Rule that a user's ``given`` describes: ``{type, database, user, address, method, options}``.

    ``database`` and ``user`` are comma lists in which a keyword is one unless it is quoted; ``address`` has CIDR form, is
    a host name or a keyword; ``options`` is a dict. ``complete`` rules have a method (scram-sha-256 unless given).
    Raises Refusal, naming the rule by its ``position`` from 1, for what the server would refuse or read as something else.
    """
    where = f"Rule {position}"
    for column in ("type", "database", "user", "address", "method"):
        _require_one_line(where, column, given.get(column) or "")
    kind, method = given.get("type"), given.get("method")
    if kind not in TYPES:
        raise Refusal(f"{where} has the type {kind!r}.", f"Use one of {', '.join(TYPES)}.")
    if method is not None and method not in METHODS:
        raise Refusal(f"{where} has the method {method!r}.", f"Use one of {', '.join(METHODS)}.")
    options = given.get("options")
    return Rule(
        kind,
        _names(where, "database", given.get("database", "all")),
        _names(where, "user", given.get("user", "all")),
        _address(where, kind, given.get("address")),
        method or ("scram-sha-256" if complete else None),
        _options(where, options or {}) if options or complete else None,
    )


def _require_one_line(where: str, what: str, text: str) -> None:
    if any(char in text for char in "\n\r\0"):
        raise Refusal(
            f"{where} has a line end or a NUL character in its {what}.",
            "pg_hba.conf cannot hold that; give the value without it.",
        )


def _names(where: str, column: str, text: str) -> tuple[Name, ...]:
    """Return the names of a user's comma list; an item in quotes is a name, whatever it looks like."""
    names, position, more = [], 0, True
    while more:
        item = _ITEM.match(text, position)
        if not item:
            raise Refusal(
                f"{where} has the {column} {text!r}, in which a name is missing or a quote is not closed.",
                "Separate names with commas, and write a name that holds a comma or a quote, or is a keyword, "
                'in double quotes (a quote within as "").',
            )
        quoted = item[1] is not None
        name = hba.name_of(column, item[1][1:-1].replace('""', '"') if quoted else item[2], quoted)
        if name.kind in ("name", "member"):
            _connection.require_name("database" if column == "database" else "role", name.text)
        names.append(name)
        position, more = item.end(), item[3] == ","
    return tuple(names)


def _address(where: str, kind: str, text: str | None) -> Address | None:
    """Return a user's address; None for local. Stricter than the server, which takes a mistyped number for a host name."""
    if kind == "local":
        if text:
            raise Refusal(f"{where} is local and has the address {text!r}.", "A Unix socket has none; leave it away.")
        return None
    if not text:
        raise Refusal(f"{where} has the type {kind} and no address.", "Give one, such as 127.0.0.1/32, or all.")
    if text in ("all", "samehost", "samenet"):
        return Address(text, text)
    if _HOST_NAME.fullmatch(text) and not text.rstrip(".").rpartition(".")[2].isdigit():
        return Address("host", text, name=text.lower())
    base, slash, bits = text.partition("/")
    try:
        net = ipaddress.ip_network(text, strict=False) if slash else None
        ipaddress.ip_address(base)
    except ValueError as error:
        raise Refusal(
            f"{where} has the address {text!r}, which is neither an address with a mask length nor a host name.",
            "Write it like 10.0.0.0/8, fd00::/8, db.example.org or .example.org, or use all, samehost or samenet.",
        ) from error
    if net is None or not (bits.isdigit() and bits.isascii()) or "%" in text:
        raise Refusal(
            f"{where} has the address {text!r} without the length of its mask.",
            f"For this one address write {base}/{32 if '.' in base else 128}.",
        )
    family = socket.AF_INET if net.version == 4 else socket.AF_INET6
    shown = f"{ipaddress.ip_address(base)}/{net.prefixlen}"
    return Address("net", shown, family=int(family), base=int(net.network_address), mask=int(net.netmask))


def _options(where: str, options: dict) -> tuple[tuple[str, str], ...]:
    """Return a user's options as text; true and false as the 1 and 0 that the server knows."""
    found = []
    for name, value in options.items():
        if not re.fullmatch(r"[a-z_]+", str(name)):
            raise Refusal(f"{where} has an option named {name!r}.", "Use the names of the manual, section 21.1.")
        if name in hba.SECRETS:
            raise Refusal(
                f"{where} has the option {name}, which holds a secret, and Ansible logs the options of a task.",
                "Keep such a line by hand; this module leaves it as it is.",
            )
        if not isinstance(value, (str, int)):
            raise Refusal(f"{where} has no text or number for the option {name}.", "Give the option a value.")
        text = str(int(value)) if isinstance(value, bool) else str(value)
        _require_one_line(where, f"option {name}", text)
        found.append((name, text))
    return tuple(found)
