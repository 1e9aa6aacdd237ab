# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A private authority of certificates, and the certificates that it issues for a server or its client.

The program openssl does the cryptography. An authority is a folder with ca.crt, ca.key (which nobody else reads), and pairs
server-N.crt and server-N.key, and client-N likewise, of which the one with the greatest N counts. A renewed certificate thus
comes with a new path for the server's ssl_cert_file, so that both its files come into force at once, or none.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import secrets
import tempfile
import time
from typing import Any, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _tls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# How long an authority is valid, in days: longer than any server lives, since its homeservers would have to be told.
AUTHORITY_DAYS = 36500

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


@dataclasses.dataclass(frozen=True)
class Request:
    """The certificate that is to be in the authority's ``folder``: its ``purpose`` is server or client.

    It carries ``names``, is valid for ``days`` when it is made, and is made anew ``renew_days`` before it expires.
    """

    folder: str
    purpose: str
    names: list[str]
    days: int
    renew_days: int

    def require_possible(self) -> None:
        """Raise Refusal for what cannot be meant."""
        require_names(self.purpose, self.names)
        if not self.folder.startswith("/"):
            raise Refusal(f"The folder {self.folder} is no absolute path.", "Give one that begins with /.")
        if not 0 <= self.renew_days < self.days:
            raise Refusal(
                f"A certificate of {self.days} days cannot be renewed {self.renew_days} days before it expires.",
                "Give a smaller renew_days, or more days.",
            )


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
        if not _tls.address(name) and not (_HOST_NAME.fullmatch(name) and len(name) <= 253):
            raise Refusal(f"{name!r} is no host name and no address.", "Give names such as db.example.org or 10.1.2.3.")


def ensure(request: Request, check_mode: bool) -> dict[str, Any]:
    """Have an authority in the folder of the ``request``, and a certificate of it as the request has it.

    Returns the result of the module postgres_certificate; in check mode the paths that would be there. Raises Refusal.
    """
    request.require_possible()
    home, purpose = pathlib.Path(request.folder), request.purpose
    _tls.require_openssl()
    if not home.parent.is_dir():
        raise Refusal(f"{home.parent} is no folder.", f"Make it, for the folder {home.name} in it, or give another path.")
    authority = home / "ca.crt"
    files = "\n".join(os.listdir(home)) if home.is_dir() else ""
    numbers = sorted(map(int, re.findall(rf"^{purpose}-([0-9]+)\.crt$", files, re.MULTILINE)))
    newest = home / f"{purpose}-{numbers[-1]}.crt" if numbers else None
    reason = _reason(home, newest, request)
    number = numbers[-1] + bool(reason) if numbers else 1
    certificate = home / f"{purpose}-{number}.crt"
    if reason and not check_mode:
        _make_authority(home)
        _make_pair(home, certificate.stem, request)
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
        "diff": _diff(newest, certificate, request.names, reason),
    }


def _reason(home: pathlib.Path, newest: pathlib.Path | None, request: Request) -> str:
    """Return why a certificate has to be made, in words; empty where the ``newest`` one is right."""
    authority = home / "ca.crt"
    if not authority.exists() or not (home / "ca.key").exists():
        return "there is no authority yet"
    if newest is None or not newest.with_suffix(".key").exists():
        return "there is none yet"
    found = _tls.read(str(newest))
    missing = [name for name in request.names if _tls.normalized(name) not in found.names]
    if missing:
        return f"it does not carry {', '.join(missing)}"
    if found.not_after < time.time() + request.renew_days * 86400:
        return f"it expires in less than {request.renew_days} days"
    if _fails("verify", "-CAfile", str(authority), str(newest)):
        return "another authority issued it"
    return ""


def _make_authority(home: pathlib.Path) -> None:
    """Make the folder and the authority in it, unless it is there; the certificate comes last, for a run that is killed."""
    home.mkdir(mode=0o755, exist_ok=True)
    if (home / "ca.crt").exists() and (home / "ca.key").exists():
        return
    (home / "ca.crt").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as made:
        settings = _write_settings(made, "Authority of Synapse's PostgreSQL", "server")
        words = ["-x509", "-extensions", "authority", "-days", str(AUTHORITY_DAYS), "-set_serial", _serial()]
        _new_key(made, settings, "-out", f"{made}/crt", *words)
        os.replace(f"{made}/key", home / "ca.key")
        _publish(f"{made}/crt", home / "ca.crt")


def _make_pair(home: pathlib.Path, stem: str, request: Request) -> None:
    """Make a key and a certificate for it; the certificate comes last, for a run that is killed."""
    with tempfile.TemporaryDirectory(dir=home) as made:
        alternatives = request.names if request.purpose == "server" else []
        settings = _write_settings(made, request.names[0], request.purpose, alternatives)
        _new_key(made, settings, "-out", f"{made}/request")
        words = ["-in", f"{made}/request", "-CA", str(home / "ca.crt"), "-CAkey", str(home / "ca.key"), "-set_serial", _serial()]
        words += ["-days", str(request.days), "-sha256", "-extfile", settings, "-extensions", "pair", "-out", f"{made}/crt"]
        _tls.openssl("x509", "-req", *words)
        os.replace(f"{made}/key", home / f"{stem}.key")
        _publish(f"{made}/crt", home / f"{stem}.crt")


def _new_key(made: str, settings: str, *words: str) -> None:
    """Have openssl make a key that nobody else can read, and what ``words`` ask for it."""
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha256", "-nodes"]
    _tls.openssl("req", "-new", *kind, "-config", settings, "-keyout", f"{made}/key", *words)
    os.chmod(f"{made}/key", 0o600)


def _publish(made: str, path: pathlib.Path) -> None:
    """Put a certificate in its place, for everybody to read."""
    os.chmod(made, 0o644)
    os.replace(made, path)


def _write_settings(made: str, common_name: str, purpose: str, names: Sequence[str] = ()) -> str:
    """Write openssl's settings into the folder ``made``, with the alternative ``names`` for a pair; return their path."""
    listed = ", ".join(f"{'IP' if _tls.address(name) else 'DNS'}:{name}" for name in names)
    path = pathlib.Path(made) / "settings"
    text = _SETTINGS.format(common_name=common_name[:64], purpose=purpose)
    path.write_text(text + (f"subjectAltName = {listed}\n" if names else ""))
    return str(path)


def _serial() -> str:
    """Return a serial number of 19 bytes, as RFC 5280 allows 20 with a sign."""
    return f"0x{secrets.token_hex(19)}"


def _diff(newest: pathlib.Path | None, certificate: pathlib.Path, names: list[str], reason: str) -> dict[str, Any]:
    before = {"certificate": str(newest), "names": _tls.read(str(newest)).names} if newest else {}
    after = {"certificate": str(certificate), "names": [_tls.normalized(name) for name in names]} if reason else before
    return {"before": before, "after": after}


def _fails(*words: str) -> bool:
    """Tell whether openssl refuses what ``words`` ask for."""
    try:
        _tls.openssl(*words)
    except Refusal:
        return True
    return False
