# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What somebody who was not let in is told."""

import dataclasses
import ipaddress

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_explanation, hba_match

HOST = "/etc/pg/pg_hba.conf"
OWN = tuple(map(ipaddress.ip_interface, ("127.0.0.1/8", "10.1.2.3/24", "fe80::1/64")))
TLS = hba_match.Connection("tls", "synapse", "synapse", frozenset({"synapse", "staff"}), "10.1.2.9", "a.example.org", OWN)


OURS = "hostssl synapse synapse 10.1.2.9/32 scram-sha-256"


@pytest.mark.parametrize(
    ("line", "stored", "change", "words"),
    [
        ("", "scram-sha-256", {}, ["No line of /etc/pg/pg_hba.conf matches the role 'synapse'", f"Put the rule '{OURS}' in ("]),
        ("local all all peer", "md5", {"kind": "plain"}, ["(not encrypted)", "'host synapse synapse 10.1.2.9/32 scram-sha-256'"]),
        ("", "none", {"address": "fd00::9"}, ["fd00::9/128"]),
        ("", "none", {"kind": "socket", "address": ""}, ["by the Unix socket", "'local synapse synapse scram-sha-256'"]),
        ("", "none", {"database": "all", "user": "a,b"}, ['hostssl "all" "a,b" 10.1.2.9/32']),
        ("host all all all reject", "scram-sha-256", {}, ["Line 1 of", "and rejects it.", f"'{OURS}' in front of that line"]),
        ("host  all all all\tident map=x", "scram-sha-256", {}, ["(host all all all ident map=x)", f"'{OURS}' in front of"]),
        ("host all all all cert", "scram-sha-256", {}, ["asks for cert", "in front of that line"]),
        ("host all all all scram-sha-256", "md5", {}, ["asks for scram-sha-256", "is stored for md5", "Set the password"]),
        ("host all all all md5", "none", {}, ["has no password", "Set the password"]),
        ("host all all all md5", "plain", {}, ["stored as it is", "Set the password"]),
        ("host all all all md5", "expired", {}, ["valid no more", "VALID UNTIL"]),
        ("host all all all md5", "md5", {}, ["stored for md5", "So it was another password"]),
        ("host all all all scram-sha-256", "scram-sha-256", {}, ["So it was another password"]),
        ("host all all all scram-sha-256", "unreadable", {}, ["may not be read", "So it was another password"]),
        ("host all all all scram-sha-256", "none", {"roles": frozenset()}, ["There is no such role", "Make the role"]),
        ("host all all all trust", "md5", {}, ["lets everybody in", "the server's log"]),
        ("host all all samenet md5", "md5", {"networks": None}, ["may decide about"]),
        ("host all all all ldap ldapserver=x ldapbindpasswd=hunter2", "none", {}, ["asks for ldap", "ldapbindpasswd=********)"]),
    ],
)
def test_what_somebody_who_was_not_let_in_is_told(line, stored, change, words):
    connection = dataclasses.replace(TLS, **change)
    files = hba_match.Files(160000, lambda _path: line, lambda _folder: [])
    entry = hba_match.first_match(hba_match.entries(HOST, files), connection, None)
    told = f"{hba_explanation.explain(entry, HOST, connection, stored)} {hba_explanation.remedy(entry, connection, stored)}"
    assert [word for word in words if word not in told] == [], told
    assert "hunter2" not in told
