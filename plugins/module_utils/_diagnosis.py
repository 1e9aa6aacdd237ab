# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why there is no session on a server, and what to do about it, for a person."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _tls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier

# With which libpq is content with nothing less than TLS.
_ENCRYPTED = ("require", "verify-ca", "verify-full")

# What to do about a connection that the server has refused with a SQLSTATE (manual, appendix A), by the code or its class.
_REMEDIES = {
    "28P01": "Check login_user and login_password.",
    "28": "pg_hba.conf has no line for this user, database and address, or one that asks for another proof, or the role has no "
    "LOGIN: the server's administrator may ask which (module postgres_hba_info). On the Unix socket, run the task as the role's "
    "operating system user (become_user=postgres for the superuser), or give login_host and login_password.",
    "3D000": "Check login_user and login_db.",
    "42501": "Let the role connect to this database: `GRANT CONNECT ON DATABASE {database} TO {role}`.",
    "55000": "Let the database take connections, if that is meant to be: `ALTER DATABASE {database} ALLOW_CONNECTIONS true`.",
    "53300": "End connections that nobody needs, or allow more: max_connections of the server, CONNECTION LIMIT of the role or "
    "the database.",
    "57P03": "The server starts, stops or recovers, or the database takes no connections: wait for it, or see the server's log.",
    "58P01": "A library that each session is to load may be missing: see session_preload_libraries of the role (psql's \\drds), "
    "the database and the server, install it, or take it out there.",
    "08P01": "A pooler may be in between, and say that: read its log.",
}

# invalid_authorization_specification: past a password that was wanted, the role itself is what is not let in.
_NOT_ALLOWED = "28000"

# And about one that never came to a server, by errno.
_OBSTACLES = {
    errno.ECONNREFUSED: "Start the server, or correct login_host, login_port or login_unix_socket.",
    errno.ENOENT: "Start the server, or correct login_host, login_port or login_unix_socket.",
    errno.EACCES: "Run the task as a user who may enter the folder of the socket, or give login_host.",
}


def place(libpq: dict[str, Any]) -> str:
    """Return where ``libpq``'s keywords point, as a person would say it: ``db.example.org:5432``."""
    host, port = libpq.get("host") or libpq.get("hostaddr") or "", libpq.get("port") or 5432
    if libpq.get("service") and not host:
        return f"the service {libpq['service']}"
    if host and not host.startswith("/"):
        return f"{host}:{port}"
    return f"the Unix socket in {host or 'the default folder'}, port {port}"


def no_connection(libpq: dict[str, Any], words: str, tried: _attempt.Attempt) -> Refusal:
    """Return the Refusal for a connection that failed with these ``words``, which are only told, and what ``tried`` found."""
    remedy: str | None = None
    no_server = False
    if tried.sqlstate == _NOT_ALLOWED and tried.password == "used":
        remedy = "Let the role log in: `ALTER ROLE {role} LOGIN`; with LDAP, PAM or RADIUS, check login_password."
    elif tried.sqlstate:
        remedy = _REMEDIES.get(tried.sqlstate) or _REMEDIES.get(tried.sqlstate[:2])
    elif tried.password == "missing":
        remedy = _no_password(libpq)
    elif tried.reached:
        names = _certificate_names(libpq)
        if names and not _tls.carries(names, libpq["host"]):
            return _tls.refuse_name(libpq["host"], names)
        if libpq.get("sslmode") in _ENCRYPTED:
            remedy = "Check ssl_mode, ca_cert, ssl_cert and ssl_key, and whether the server has ssl on."
    else:
        obstacle = tried.obstacle()
        no_server = obstacle is not None and obstacle.errno in (errno.ECONNREFUSED, errno.ENOENT)
        if obstacle:
            other = "Correct login_host and login_port, or mend the way to that host."
            remedy = _OBSTACLES.get(obstacle.errno or 0, other)
    # Said apart, for roles that start a server which does not run yet.
    facts: dict[str, Any] = {"no_server": no_server}
    # And for ones that then ask which line of pg_hba.conf it was.
    if tried.denied:
        facts["denied"] = {"address": _seen_address(words, tried), "encryption": tried.encryption}
    remedy = remedy or "See the server's log for the circumstances."
    for placeholder, name in (("{role}", tried.user), ("{database}", tried.database)):
        remedy = remedy.replace(placeholder, identifier(name))
    return Refusal(f"No connection to PostgreSQL at {place(libpq)}: {words.rstrip('.')}.", remedy, **facts)


def _certificate_names(libpq: dict[str, Any]) -> list[str]:
    """Return the names in the certificate of the server that ``libpq``'s keywords point to, where they count and it is known."""
    host, port = libpq.get("host") or "", str(libpq.get("port") or 5432)
    if libpq.get("sslmode") != "verify-full" or not port.isdigit() or "," in host or host[:1] in ("", "/", "@"):
        return []
    return _tls.shown_by_server(host, int(port), libpq.get("sslrootcert"))


def _seen_address(words: str, tried: _attempt.Attempt) -> str:
    """Return the address from which the server sees us: the one in its ``words`` that is not its own, else ours.

    The two differ where addresses are translated on the way.
    """
    addresses = set()
    for word in re.findall(r"[0-9a-fA-F:.]{2,}", words):
        with contextlib.suppress(ValueError):
            addresses.add(str(ipaddress.ip_address(word.rstrip(":."))))
    addresses -= {tried.peer, tried.host}
    return addresses.pop() if tried.address and len(addresses) == 1 else tried.address


def _no_password(libpq: dict[str, Any]) -> str:
    """Return what to do where libpq found no password: one from a file has to match, and the file to be private."""
    if not libpq.get("passfile") and not libpq.get("service"):
        return "Give login_password."
    file = libpq.get("passfile") or f"the password file, or a password into the service {libpq['service']}"
    return (
        f"Put a fitting line host:port:database:user:password into {file}, and see that the user who connects may read the file "
        "and nobody else (mode 0600; libpq passes over any other)."
    )


def ended(libpq: dict[str, Any], error: Exception) -> Refusal:
    """Return the Refusal for a session that was let in, and ended by ``error``, whatever the server's options."""
    return Refusal(
        f"The session at {place(libpq)} ended as soon as it was there: {' '.join(str(error).split()).rstrip('.')}.",
        "See the server's log. If it was a timeout of the role's, the database's or the server's (psql's \\drds) and a pooler is "
        "in between, which takes no options, take the timeout away, or give the host and the port of the server itself.",
    )


def no_session(libpq: dict[str, Any]) -> Refusal:
    """Return the Refusal for a pooler that has no session for more than one transaction."""
    return Refusal(
        f"A pooler is at {place(libpq)} that hands a session on as it was left, as PgBouncer does with pool_mode transaction: "
        "what is set for this work would stay for Synapse's.",
        "Give the host and the port of the server itself, or of a pool with pool_mode session.",
    )
