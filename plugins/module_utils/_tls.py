# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a certificate carries, whether libpq and the server take it, and which one a server shows; openssl reads it."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import time
from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# libpq's and PostgreSQL's code of a client that asks for TLS (manual, section 55.7, SSLRequest).
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The ``names`` that a certificate carries, and when it expires, in seconds since the epoch.

    The names are those of the subject's alternative names, or its common name where there are none, as libpq takes them
    (manual, section 32.19.1).
    """

    names: list[str]
    not_after: int


def read(path: str) -> Certificate:
    """Return the certificate at ``path``, the first one in that file. Raises Refusal where there is none."""
    text = openssl("x509", "-in", path, "-noout", "-enddate", "-subject", "-nameopt", "multiline", "-ext", "subjectAltName")
    names = re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)
    common_name = re.findall(r"^subject=\n(?:.*\n)*?\s+commonName\s*= (.*)$", text, re.MULTILINE)
    not_after = re.findall("notAfter=(.+)", text)[0]  # the first, since a name of the subject may hold these words as well
    return Certificate([normalized(name) for name in names or common_name], int(ssl.cert_time_to_seconds(not_after)))


def carries(names: list[str], wanted: str) -> bool:
    """Tell whether libpq finds the host ``wanted`` among a certificate's ``names``, of which one may begin with ``*.``."""
    low = wanted.lower()
    return any(
        name.lower() == low or (name.startswith("*.") and not address(wanted) and low.partition(".")[2] == name[2:].lower())
        for name in names
    )


def refuse_name(host: str, names: list[str]) -> Refusal:
    """Return the Refusal for a certificate that does not carry the name ``host``, by which Synapse connects."""
    return Refusal(
        f"The server's certificate does not carry the name {host}; it carries {', '.join(names) or 'none'}.",
        "Connect by a name that it carries (synapse_postgres_host), have one made with this name, or be content with verify-ca.",
    )


def problems(path: str, key: str, names: list[str]) -> list[str]:
    """Return why the server or Synapse would not take the certificate at ``path`` with its ``key``, as sentences.

    It is to carry ``names``. The rules for the key's file are the server's (src/backend/libpq/be-secure-common.c); we run as
    the user that the server runs as.
    """
    if not key:
        return [f"The key of the certificate {path} is not named. Give the path of its file."]
    found = read(path)
    wrong = [str(refuse_name(name, found.names)) for name in names if not carries(found.names, name)]
    if found.not_after < time.time():
        wrong.append(f"The certificate {path} has expired. Renew it.")
    status = os.stat(key)
    if not os.access(key, os.R_OK) or status.st_uid not in (0, os.geteuid()):
        wrong.append(
            f"The server may not read {key}, or the file is neither its user's nor root's. Give it to the server's user."
        )
    elif stat.S_IMODE(status.st_mode) & (0o037 if status.st_uid == 0 and os.geteuid() != 0 else 0o077):
        wrong.append(f"Others may read {key}, which the server refuses. Set its mode to 0600, or 0640 where it is root's.")
    elif openssl("x509", "-in", path, "-noout", "-pubkey") != openssl("pkey", "-in", key, "-pubout"):
        wrong.append(f"{key} is not the key of {path}. Give the one that belongs to it.")
    return wrong


def shown_by_server(host: str, port: int, authority: str | None) -> list[str]:
    """Return the names of the certificate that the server at ``host`` shows, if ``authority`` (a file, or system) issued it.

    Empty when it cannot be had: this only helps to explain a connection that has failed.
    """
    try:
        context = ssl.create_default_context(cafile=None if authority in (None, "system") else authority)
        context.check_hostname = False
        with socket.create_connection((host, port), timeout=10) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return []
            with context.wrap_socket(plain, server_hostname=host) as encrypted:
                shown: dict[str, Any] = encrypted.getpeercert() or {}
    except (OSError, ValueError):
        return []
    alternative = [name for _kind, name in shown.get("subjectAltName", ())]
    common = [value for entry in shown.get("subject", ()) for kind, value in entry if kind == "commonName"]
    return [normalized(name) for name in alternative or common]


def require_openssl() -> None:
    """Raise Refusal where the program is not there."""
    if shutil.which("openssl") is None:
        raise Refusal("The program openssl is not on this host.", "Install it (on Debian: `apt-get install openssl`).")


def openssl(*words: str) -> str:
    """Run openssl to its end and return what it printed; Refusal in its own words when it fails."""
    require_openssl()
    done = subprocess.run(["openssl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise Refusal(f"openssl {words[0]} failed: {said}.", "See what the file holds, and whether this user may read it.")
    return done.stdout


def address(name: str) -> str | None:
    """Return an address as it is compared, None for a host name."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None


def normalized(name: str) -> str:
    """Return ``name`` as names are compared: an address in one form, a host name as it is."""
    return address(name) or name
