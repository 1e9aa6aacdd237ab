# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which line of pg_hba.conf decides about Synapse, and whether it lets it in with the password that is stored."""

from __future__ import annotations

import ipaddress
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import (
    Check,
    Finding,
    NotApplicable,
    Unseen,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

_SESSIONS = """
SELECT DISTINCT coalesce(host(client_addr), ''), coalesce((SELECT ssl FROM pg_stat_ssl s WHERE s.pid = a.pid), false)
FROM pg_stat_activity a WHERE usename = %s AND datname = current_database() AND pid <> pg_backend_pid()
"""

# By these, no password of Synapse's lets it in; of others (peer, cert, ldap, ...) that cannot be told from here.
_REFUSING = ("reject", "ident")
_WITHOUT_VERIFIER = {"none": ("scram-sha-256", "md5", "password"), "plain": ("scram-sha-256",), "md5": ("scram-sha-256",)}


def _examine(patient: Patient) -> Iterator[Finding]:
    patient.require_member("pg_read_server_files")
    for address, encryption in sorted(_ways(patient)):
        asked = {"database": patient.database, "user": patient.role, "address": address, "encryption": encryption}
        try:
            found = hba_server.decide(patient.session, asked)
        except Refusal as refusal:
            raise Unseen(refusal.found) from refusal
        method = found.entry.rule.method if found.entry else None
        if method is None or method in _REFUSING or method in _WITHOUT_VERIFIER.get(found.stored, ()):
            yield Finding("critical", found.found.rstrip("."), found.remedy)
        elif method == "trust" and address and not ipaddress.ip_address(address).is_loopback:
            yield Finding(
                "critical",
                f"{found.found} Whoever comes from there is let in without a password",
                f"Put scram-sha-256 in place of trust, then load the file: {patient.psql('SELECT pg_reload_conf()')}.",
            )


def _ways(patient: Patient) -> set[tuple[str, str]]:
    """Return how Synapse comes, as (address, encryption): as its sessions do, or as its configuration says of this very host."""
    sessions = patient.rows(_SESSIONS, patient.role)
    if sessions:
        return {(address, "tls" if encrypted else "none") for address, encrypted in sessions}
    try:
        host = str(patient.section_args.get("hostaddr") or patient.section_args.get("host") or "")
    except Unseen:
        host = "?"
    if not host or host.startswith(("/", "@")):
        return {("", "none")}
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(address).is_loopback:
            return {(address, "none")}
    except ValueError:
        pass
    raise NotApplicable("Synapse has no session, and from which address it would come is not known here")


CHECK = Check(
    name="hba_rule",
    title="The line of pg_hba.conf that decides about Synapse",
    why="Sessions that are open go on, and the next one is refused; or everybody who can reach the server is let in.",
    source="PostgreSQL's manual, chapter 21.1; hba.c, check_hba",
    examine=_examine,
)
