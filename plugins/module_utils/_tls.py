# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Certificates of a private authority's that are made here, or ones that were given; and the names they carry.

The program openssl does the cryptography. An authority is a folder with ca.crt, ca.key (which nobody else reads), and pairs
server-N.crt and server-N.key, and client-N likewise, of which the one with the greatest N counts. A renewed certificate thus
comes with a new path for the server's ssl_cert_file, so that both its files come into force at once, or none.
"""

from __future__ import annotations

import ipaddress
import os
import pathlib
import re
import secrets
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# How long an authority is valid, in days: longer than any server lives, since its homeservers would have to be told.
AUTHORITY_DAYS = 36500

# libpq's and PostgreSQL's code of a client that asks for TLS (manual, section 55.7, SSLRequest).
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_ROLE_NAME = re.compile(r"[A-Za-z0-9_@.-]+( [A-Za-z0-9_@.-]+)*")

# What openssl reads: the extensions of RFC 5280, section 4.2.1.
_SETTINGS = """\
[req]
prompt = no
distinguished_name = name
[name]
CN = {common_name}
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[pair]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = {purpose}Auth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def require_names(purpose: str, names: list[str]) -> None:
    """Raise Refusal unless ``names`` are host names and addresses for the ``purpose`` server, or one role for client."""
    if not names:
        raise Refusal("The certificate would carry no name.", "Give the names and addresses that Synapse connects to.")
    if purpose == "client":
        # A role's name fits into a common name, which has at most 64 characters (RFC 5280, appendix A.1).
        if len(names) > 1 or not _ROLE_NAME.fullmatch(names[0]) or len(names[0]) > 63:
            raise Refusal(
                f"{', '.join(names)} cannot be the common name of a client's certificate.", "Give one simple role name."
            )
        return
    for name in names:
        if not _address(name) and not (_HOST_NAME.fullmatch(name) and len(name) <= 253):
            raise Refusal(f"{name!r} is no host name and no address.", "Give names such as db.example.org or 10.1.2.3.")


def read(path: str) -> dict:
    """Return ``{names, not_after}`` of the certificate at ``path``, the first one in that file.

    The names are those of the subject's alternative names, or its common name where there are none, as libpq takes them
    (manual, section 32.19.1); not_after is in seconds since the epoch. Raises Refusal where there is no certificate.
    """
    told = _openssl("x509", "-in", path, "-noout", "-enddate", "-subject", "-nameopt", "multiline", "-ext", "subjectAltName")
    names = re.findall(r"(?:DNS|IP Address):([^,\s]+)", told)
    common_name = re.findall(r"^subject=\n(?:.*\n)*?\s+commonName\s*= (.*)$", told, re.MULTILINE)
    return {
        "names": [_shown(name) for name in names or common_name],
        "not_after": int(ssl.cert_time_to_seconds(re.search("notAfter=(.+)", told)[1])),
    }


def carries(names: list[str], wanted: str) -> bool:
    """Tell whether libpq finds the host ``wanted`` among a certificate's ``names``, of which one may begin with ``*.``."""
    low = wanted.lower()
    return any(
        name.lower() == low or (name.startswith("*.") and not _address(wanted) and low.partition(".")[2] == name[2:].lower())
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
    wrong = [str(refuse_name(name, found["names"])) for name in names if not carries(found["names"], name)]
    if found["not_after"] < time.time():
        wrong.append(f"The certificate {path} has expired. Renew it.")
    status = os.stat(key)
    if not os.access(key, os.R_OK) or status.st_uid not in (0, os.geteuid()):
        wrong.append(
            f"The server may not read {key}, or the file is neither its user's nor root's. Give it to the server's user."
        )
    elif stat.S_IMODE(status.st_mode) & (0o037 if status.st_uid == 0 and os.geteuid() != 0 else 0o077):
        wrong.append(f"Others may read {key}, which the server refuses. Set its mode to 0600, or 0640 where it is root's.")
    elif _openssl("x509", "-in", path, "-noout", "-pubkey") != _openssl("pkey", "-in", key, "-pubout"):
        wrong.append(f"{key} is not the key of {path}. Give the one that belongs to it.")
    return wrong


def presented(host: str, port: int, authority: str | None) -> list[str]:
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
                shown = encrypted.getpeercert()
    except (OSError, ValueError):
        return []
    alternative = [name for _kind, name in shown.get("subjectAltName", ())]
    common = [value for entry in shown["subject"] for kind, value in entry if kind == "commonName"]
    return [_shown(name) for name in alternative or common]


def present(folder: str, purpose: str, names: list[str], days: int, renew_days: int, check_mode: bool) -> dict:
    """Have an authority in ``folder``, and a certificate of it that carries ``names`` and is valid for ``renew_days`` more.

    Its ``purpose`` is server or client. Returns the result of the module postgres_certificate; in check mode the paths that
    would be there.
    """
    home = pathlib.Path(folder)
    _require_openssl()
    if not home.parent.is_dir():
        raise Refusal(f"{home.parent} is no folder.", f"Make it, for the folder {home.name} in it, or give another path.")
    authority, key = home / "ca.crt", home / "ca.key"
    there = re.findall(rf"^{purpose}-([0-9]+)\.crt$", "\n".join(os.listdir(home)), re.MULTILINE) if home.is_dir() else []
    numbers = sorted(map(int, there))
    newest = home / f"{purpose}-{numbers[-1]}.crt" if numbers else None
    reason = _reason(authority, key, newest, names, renew_days)
    number = numbers[-1] + bool(reason) if numbers else 1
    certificate = home / f"{purpose}-{number}.crt"
    if reason and not check_mode:
        _make_authority(home)
        _make_pair(home, certificate.stem, purpose, names, days)
        # The one before stays until the server has loaded the new one.
        for old in numbers[:-1]:
            for suffix in (".crt", ".key"):
                (home / f"{purpose}-{old}{suffix}").unlink(missing_ok=True)
    return {
        "changed": bool(reason),
        "reason": reason,
        "certificate": str(certificate),
        "key": str(certificate.with_suffix(".key")),
        "authority": str(authority),
        "authority_text": authority.read_text() if authority.exists() else "",
        "diff": _diff(newest, certificate, names, reason),
    }


def _reason(authority: pathlib.Path, key: pathlib.Path, newest: pathlib.Path | None, names: list[str], renew_days: int) -> str:
    """Return why a certificate has to be made, in words; empty where the ``newest`` one is right."""
    if not authority.exists() or not key.exists():
        return "there is no authority yet"
    if newest is None or not newest.with_suffix(".key").exists():
        return "there is none yet"
    found = read(str(newest))
    missing = [name for name in names if _shown(name) not in found["names"]]
    if missing:
        return f"it does not carry {', '.join(missing)}"
    if found["not_after"] < time.time() + renew_days * 86400:
        return f"it expires in less than {renew_days} days"
    if _failed("verify", "-CAfile", str(authority), str(newest)):
        return "another authority issued it"
    return ""


def _make_authority(home: pathlib.Path) -> None:
    """Make the folder and the authority in it, unless it is there; the certificate comes last, for a run that is killed."""
    home.mkdir(mode=0o755, exist_ok=True)
    if (home / "ca.crt").exists() and (home / "ca.key").exists():
        return
    (home / "ca.crt").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as made:
        settings = _written(made, "Authority of Synapse's PostgreSQL", "server")
        words = ["-x509", "-extensions", "authority", "-days", str(AUTHORITY_DAYS), "-set_serial", _serial()]
        _new_key(made, settings, "-out", f"{made}/crt", *words)
        os.replace(f"{made}/key", home / "ca.key")
        _publish(f"{made}/crt", home / "ca.crt")


def _make_pair(home: pathlib.Path, stem: str, purpose: str, names: list[str], days: int) -> None:
    """Make a key and a certificate for it; the certificate comes last, for a run that is killed."""
    with tempfile.TemporaryDirectory(dir=home) as made:
        settings = _written(made, names[0], purpose, names if purpose == "server" else [])
        _new_key(made, settings, "-out", f"{made}/request")
        words = ["-in", f"{made}/request", "-CA", str(home / "ca.crt"), "-CAkey", str(home / "ca.key"), "-set_serial", _serial()]
        words += ["-days", str(days), "-sha256", "-extfile", settings, "-extensions", "pair", "-out", f"{made}/crt"]
        _openssl("x509", "-req", *words)
        os.replace(f"{made}/key", home / f"{stem}.key")
        _publish(f"{made}/crt", home / f"{stem}.crt")


def _new_key(made: str, settings: str, *words: str) -> None:
    """Have openssl make a key that nobody else can read, and what ``words`` ask for it."""
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha256", "-nodes"]
    _openssl("req", "-new", *kind, "-config", settings, "-keyout", f"{made}/key", *words)
    os.chmod(f"{made}/key", 0o600)


def _publish(made: str, path: pathlib.Path) -> None:
    """Put a certificate in its place, for everybody to read."""
    os.chmod(made, 0o644)
    os.replace(made, path)


def _written(made: str, common_name: str, purpose: str, names: list[str] = ()) -> str:
    """Write openssl's settings into the folder ``made``, with the alternative ``names`` for a pair; return their path."""
    listed = ", ".join(f"{'IP' if _address(name) else 'DNS'}:{name}" for name in names)
    path = pathlib.Path(made) / "settings"
    text = _SETTINGS.format(common_name=common_name[:64], purpose=purpose)
    path.write_text(text + (f"subjectAltName = {listed}\n" if names else ""))
    return str(path)


def _serial() -> str:
    """Return a serial number of 19 bytes, as RFC 5280 allows 20 with a sign."""
    return f"0x{secrets.token_hex(19)}"


def _diff(newest: pathlib.Path | None, certificate: pathlib.Path, names: list[str], reason: str) -> dict:
    before = {"certificate": str(newest), "names": read(str(newest))["names"]} if newest else {}
    after = {"certificate": str(certificate), "names": [_shown(name) for name in names]} if reason else before
    return {"before": before, "after": after}


def _require_openssl() -> None:
    if shutil.which("openssl") is None:
        raise Refusal("The program openssl is not on this host.", "Install it (on Debian: `apt-get install openssl`).")


def _openssl(*words: str) -> str:
    """Run openssl to its end and return what it printed; Refusal in its own words when it fails."""
    _require_openssl()
    done = subprocess.run(["openssl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise Refusal(f"openssl {words[0]} failed: {said}.", "See what the file holds, and whether this user may read it.")
    return done.stdout


def _failed(*words: str) -> bool:
    try:
        _openssl(*words)
    except Refusal:
        return True
    return False


def _address(name: str) -> str | None:
    """Return an address as it is compared, None for a host name."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None


def _shown(name: str) -> str:
    return _address(name) or name
