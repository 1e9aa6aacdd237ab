# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to a PostgreSQL server: the options of every module that connects, and the connection itself."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _certificate
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    import psycopg2
except ImportError:
    psycopg2 = None

# The least server that Synapse accepts: synapse/storage/engines/postgres.py, check_database().
MINIMUM_SERVER = 140000

# A server's identifiers are cut at NAMEDATALEN - 1 bytes: manual, section 4.1.1.
LONGEST_NAME = 63

# How long a reload, which is asked for by a signal, is waited for.
RELOAD_SECONDS = 10

# By which a link that fell silent is noticed within a minute (manual, section 34.1.2).
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 40000}

# Option of ours -> keyword of libpq (manual, section 34.1.2).
_KEYWORDS = {
    "login_port": "port",
    "login_user": "user",
    "login_password": "password",
    "login_db": "dbname",
    "ssl_mode": "sslmode",
    "ca_cert": "sslrootcert",
    "ssl_cert": "sslcert",
    "ssl_key": "sslkey",
}

# A value in a message, from the first of any language's quotes to the last.
_QUOTES = "\"'`\u00ab\u00bb\u2018-\u201f\u2039\u203a\u300c-\u300f"
_QUOTED = re.compile(f"[{_QUOTES}].*[{_QUOTES}]", re.DOTALL)

# What the server says to somebody whom pg_hba.conf, or the proof that it asks for, keeps out: auth.c, ClientAuthentication.
_DENIALS = ("authentication failed", "pg_hba.conf", "no password supplied", "valid client certificate")


def connection_spec(**options: dict) -> dict:
    """Return an ``argument_spec`` of ``options`` and those of the connection (doc fragment ``connection``)."""
    return dict(
        login_host=dict(type="str", default=""),
        login_port=dict(type="int", default=5432),
        login_user=dict(type="str", default=""),
        login_password=dict(type="str", no_log=True),
        login_unix_socket=dict(type="path"),
        login_db=dict(type="str", default="postgres"),
        ssl_mode=dict(
            type="str",
            default="prefer",
            choices=["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        ),
        ca_cert=dict(type="path"),
        ssl_cert=dict(type="path"),
        ssl_key=dict(type="path"),
        **options,
    )


def keywords(params: dict) -> dict:
    """Return libpq's keywords for the connection options in a module's ``params``."""
    found = {keyword: params[option] for option, keyword in _KEYWORDS.items() if params.get(option)}
    host = params.get("login_host") or params.get("login_unix_socket")
    if host:
        found["host"] = host
    return found


def require_psycopg2() -> None:
    """Raise Refusal unless the interpreter that runs the module has psycopg2."""
    if psycopg2 is None:
        raise Refusal(
            f"The Python that Ansible uses here, {sys.executable}, has no psycopg2.",
            "Install it for that interpreter (on Debian: apt-get install python3-psycopg2), or point "
            "ansible_python_interpreter at one that has it.",
            missing=["psycopg2"],
        )


def require_name(kind: str, name: str) -> None:
    """Raise Refusal unless ``name`` can name a ``kind`` (a role, a database) on a server as it stands."""
    size = len(name.encode("utf-8"))
    if not name or "\0" in name:
        raise Refusal(f"The name of the {kind} is empty or holds a NUL character.", f"Give the {kind} a name.")
    if size > LONGEST_NAME:
        raise Refusal(
            f"The name of the {kind}, {name!r}, has {size} bytes; PostgreSQL keeps {LONGEST_NAME} and cuts the rest off.",
            "Choose a shorter name.",
        )


@contextlib.contextmanager
def session(params: dict, autocommit: bool = False, what: str = "ansible"):
    """Yield a psycopg2 connection for a module's ``params``; see connected()."""
    with connected(keywords(params), autocommit, what) as connection:
        yield connection


@contextlib.contextmanager
def connected(libpq: dict, autocommit: bool = False, what: str = "ansible"):
    """Yield a psycopg2 connection for ``libpq``'s keywords; one transaction unless ``autocommit``.

    The transaction is committed when the block ends and rolled back when it raises; the connection is closed. ``what``
    is shown to the server as part of the application's name. Raises Refusal when there is no psycopg2, no connection,
    a server older than Synapse accepts, or an error of the server's that the block does not handle.
    """
    require_psycopg2()
    connection = _open(libpq, what)
    try:
        if connection.server_version < MINIMUM_SERVER:
            raise Refusal(
                f"The server at {place(libpq)} is PostgreSQL {connection.server_version // 10000}; "
                f"Synapse needs {MINIMUM_SERVER // 10000} or newer.",
                "Upgrade the server (on Debian: pg_upgradecluster), then run this again.",
            )
        connection.autocommit = autocommit
        yield connection
        connection.commit()
    except psycopg2.Error as error:
        raise server_refusal(error) from error
    finally:
        connection.close()


def loaded(cursor) -> float:
    """Return when the server last loaded its files, in seconds since the epoch."""
    cursor.execute("SELECT extract(epoch FROM pg_conf_load_time())")
    return float(cursor.fetchone()[0])


def started(cursor) -> float:
    """Return when the server was started, in seconds since the epoch."""
    cursor.execute("SELECT extract(epoch FROM pg_postmaster_start_time())")
    return float(cursor.fetchone()[0])


def reload(cursor) -> bool:
    """Make the server load its files; tell whether it was seen to within RELOAD_SECONDS.

    Who connects after that meets the new rules: the postmaster, which signals the sessions and then loads the files,
    accepts no connection before it is done with both.
    """
    before = loaded(cursor)
    cursor.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + RELOAD_SECONDS
    while time.monotonic() < deadline:
        if loaded(cursor) != before:
            return True
        time.sleep(0.02)
    return False


def place(libpq: dict) -> str:
    """Return where ``libpq``'s keywords point, as a person would say it: ``db.example.org:5432``."""
    host, port = libpq.get("host") or "", libpq.get("port") or 5432
    if host and not host.startswith("/"):
        return f"{host}:{port}"
    return f"the Unix socket in {host or 'the default folder'}, port {port}"


def without_values(kind: type, message: str, *more: str | None) -> str:
    """Return the server's ``message`` of an error of psycopg2's class ``kind``, and ``more`` of it, but for what a row may hold.

    The message of a data exception (class 22), or of a function of the database's, has a value in quotes, those of the server's
    language. That of a violated constraint (class 23) names tables and constraints, and only its detail holds the row (manual,
    section 56.3 and appendix A).
    """
    if issubclass(kind, (psycopg2.DataError, psycopg2.InternalError)):
        return _QUOTED.sub('"..."', message)
    shown = () if issubclass(kind, psycopg2.IntegrityError) else filter(None, more)
    return " ".join([message, *(f"({' '.join(part.split())})" for part in shown)])


def server_refusal(error: Exception) -> Refusal:
    """Return a Refusal in the server's own words for a psycopg2 ``error``: its SQLSTATE, message, detail and hint."""
    report = getattr(error, "diag", None)
    words = (report and report.message_primary) or " ".join(str(error).split())
    detail = f" ({report.message_detail})" if report and report.message_detail else ""
    hint = report.message_hint if report and report.message_hint else "See the server's log for the circumstances."
    return Refusal(f"PostgreSQL refused, SQLSTATE {error.pgcode or 'none'}: {words}{detail}.", hint)


def _open(libpq: dict, what: str):
    try:
        return psycopg2.connect(
            **{"connect_timeout": 10, **KEEPALIVES, **libpq, "application_name": f"matrixops.synapse_postgres {what}"}
        )
    except psycopg2.Error as error:
        raise _no_connection(libpq, " ".join(str(error).split())) from error


def _certificate_names(libpq: dict) -> list[str]:
    """Return the names in the certificate of the server that ``libpq``'s keywords point to; none where they name several."""
    host, port = libpq["host"], str(libpq.get("port") or 5432)
    return _certificate.presented(host, int(port), libpq.get("sslrootcert")) if port.isdigit() and "," not in host else []


def _no_connection(libpq: dict, words: str) -> Refusal:
    """Return the Refusal for libpq's ``words`` on a failed connection, with the remedy for the common causes."""
    names = _certificate_names(libpq) if "does not match host name" in words else []
    if names:
        return _certificate.refuse_name(libpq["host"], names)
    causes = {
        "password authentication failed": "Check login_user and login_password.",
        "no password supplied": "Give login_password.",
        "Peer authentication failed": "Run the task as the role's operating system user (become_user=postgres for the "
        "superuser), or give login_host and login_password.",
        "no pg_hba.conf entry": "Allow this user, database and address in pg_hba.conf (module postgres_hba) and reload.",
        "Ident authentication failed": "Put a rule with scram-sha-256 before the ident line in pg_hba.conf "
        "(module postgres_hba) and reload.",
        "does not exist": "Check login_user and login_db.",
        "certificate verify failed": "Give in ca_cert the certificate of the authority that issued the server's.",
        "does not match host name": "Connect by a name that the certificate carries, or be content with verify-ca.",
        "SSL": "Check ssl_mode, ca_cert, ssl_cert and ssl_key, and whether the server has ssl on.",
    }
    remedy = next(
        (remedy for cause, remedy in causes.items() if cause in words),
        "Start the server, or correct login_host, login_port or login_unix_socket.",
    )
    # Said apart, for roles that start a server which does not run yet.
    facts = {"no_server": "Connection refused" in words or "No such file or directory" in words}
    # And for ones that then ask which line of pg_hba.conf it was.
    if any(denial in words for denial in _DENIALS):
        facts["denied"] = _denied(libpq, words)
    return Refusal(f"No connection to PostgreSQL at {place(libpq)}: {words}.", remedy, **facts)


def _denied(libpq: dict, words: str) -> dict:
    """Return ``{address, encryption}`` of a connection that the server denied, as options of postgres_hba_info.

    The address is empty on a Unix socket, the encryption None where it is not known.
    """
    tried = (
        "tls" if "SSL encryption" in words else "none" if "no encryption" in words or libpq.get("sslmode") == "disable" else None
    )
    seen = re.search(r'for host "([^"]+)"', words)
    return {"address": seen[1] if seen else _own_address(libpq, words), "encryption": tried}


def _own_address(libpq: dict, words: str) -> str:
    """Return our address on the way to where ``libpq`` connected by its own ``words``; empty for a Unix socket."""
    host = libpq.get("host") or ""
    if not host or host.startswith("/"):
        return ""
    reached = re.search(r'server at "[^"]*" \(([^)]+)\)', words)
    try:
        family, kind, *_names, target = socket.getaddrinfo(
            reached[1] if reached else host, libpq.get("port") or 5432, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # a datagram socket only looks up the way, and sends nothing
            return probe.getsockname()[0]
    except OSError:
        return ""
