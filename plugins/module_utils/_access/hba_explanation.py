# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why somebody is not let in, and what to change, said of the line of pg_hba.conf that decides about the connection."""

from __future__ import annotations

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, hba_option
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_match import Connection, Entry

# How a person calls a kind of connection, and a way to store a password.
_ENCRYPTION = {"plain": "not encrypted", "tls": "over TLS", "gss": "over GSSAPI"}

_PASSWORDS = {
    "scram-sha-256": "The role's password is stored for scram-sha-256.",
    "md5": "The role's password is stored for md5.",
    "plain": "The role's password is stored as it is, which a server before 10 did and none accepts any more.",
    "none": "The role has no password.",
    "expired": "The role's password is valid no more.",
    "nologin": "The role has no LOGIN.",
    "unreadable": "How the role's password is stored may not be read.",
}


def explain(entry: Entry | None, path: str, connection: Connection, stored: str) -> str:
    """Return why ``connection`` is not let in, in sentences, where ``entry`` of the file at ``path`` decides.

    ``stored`` is how the password is: scram-sha-256, md5, plain, none, expired or unreadable; nologin where it is of no use.
    """
    who = f"the role {connection.user!r}, for the database {connection.database!r},"
    who += f" from {connection.address} ({_ENCRYPTION[connection.kind]})" if connection.address else " by the Unix socket"
    if entry is None:
        found = f"No line of {path} matches {who}, so nobody asked for a password."
    else:
        line = " ".join(hba.masked(entry.line.raw).split())
        found = f"Line {entry.line.number} of {entry.path} ({line}) {'decides' if entry.sure else 'may decide'} about {who}"
        found += f" and {'rejects it' if entry.rule.method == 'reject' else f'asks for {entry.rule.method}'}."
    return f"{found} {_PASSWORDS[stored] if connection.roles else 'There is no such role.'}"


def remedy(entry: Entry | None, connection: Connection, stored: str) -> str:
    """Return the sentence that says what to change; the arguments are those of explain()."""
    if not connection.roles:
        return "Make the role (module postgres_role)."
    if stored == "nologin":
        return "Let it log in (module postgres_role; role synapse_database)."
    if entry is None or entry.rule.method not in ("scram-sha-256", "md5", "password", "trust"):
        where = "in" if entry is None else "in front of that line"
        return f"Put the rule '{_proposal(connection)}' {where} (module postgres_hba; role synapse_database)."
    if entry.rule.method == "trust":
        return "It lets everybody in, so the reason is another one: see the server's log."
    if stored == "expired":
        return f"Let it be valid again by `ALTER ROLE {_words.identifier(connection.user)} VALID UNTIL 'infinity'`."
    if stored in ("none", "plain") or (stored, entry.rule.method) == ("md5", "scram-sha-256"):
        return "Set the password, which stores it for scram-sha-256 (module postgres_role; role synapse_database)."
    return "So it was another password: correct the one that was given, or set it (module postgres_role)."


def _proposal(connection: Connection) -> str:
    """Return the line that would let ``connection`` in with a password."""
    database = "replication" if connection.database is None else _words.identifier(connection.database)
    names = {"database": database, "user": _words.identifier(connection.user)}
    address = connection.address and f"{connection.address}/{128 if ':' in connection.address else 32}"
    kind = {"socket": "local", "plain": "host", "tls": "hostssl", "gss": "hostgssenc"}[connection.kind]
    rule = hba_option.rule({"type": kind, **names, "address": address}, 1)
    return " ".join(hba.rule_text(rule).split())
