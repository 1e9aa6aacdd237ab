# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to a PostgreSQL server: the options of every module that connects, and the connection itself."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import sys
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _defaults, _pooler, _tls
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

try:
    import psycopg2
except ImportError:
    psycopg2 = None

# Where a session looks for names: an administrator's only among the server's own, since what is in a database may be anybody's;
# one that writes to Synapse's tables in their schema, the only one that a move knows.
CATALOG = "pg_catalog"
MOVED = "public"

# The least server that Synapse accepts: synapse/storage/engines/postgres.py, check_database().
MINIMUM_SERVER = 140000

# A server's identifiers are cut at NAMEDATALEN - 1 bytes: manual, section 4.1.1.
LONGEST_NAME = 63

# How long a reload, which is asked for by a signal, is waited for.
RELOAD_SECONDS = 10

# By which a link that fell silent is noticed within a minute (manual, section 34.1.2).
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 40000}

# With which libpq is content with nothing less than TLS.
_ENCRYPTED = ("require", "verify-ca", "verify-full")

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

# The options of modules that log in as Synapse does; what each keyword is, _homeserver.libpq knows.
AS_SYNAPSE = dict(login_args=dict(type="dict"), login_secrets=dict(type="dict", no_log=True))


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
    """Return libpq's keywords for the connection options in a module's ``params``.

    Those of AS_SYNAPSE go alone: defaults of ours beside them would be another connection than Synapse's, which takes what is
    not said from the service, the environment and libpq.
    """
    if params.get("login_args"):
        given = {**params["login_args"], **(params.get("login_secrets") or {})}
        return {key: value for key, value in given.items() if not key.startswith("cp_") and value not in (None, "")}
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
            "Install it for that interpreter (on Debian: `apt-get install python3-psycopg2`), or point "
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
def session(params: dict, autocommit: bool = False, what: str = "ansible", schema: str | None = CATALOG):
    """Yield a psycopg2 connection for a module's ``params``; see connected()."""
    with connected(keywords(params), autocommit, what, schema) as connection:
        yield connection


@contextlib.contextmanager
def connected(libpq: dict, autocommit: bool = False, what: str = "ansible", schema: str | None = CATALOG):
    """Yield a psycopg2 connection for ``libpq``'s keywords; one transaction unless ``autocommit``.

    The transaction is committed when the block ends and rolled back when it raises; the connection is closed. ``what``
    is shown to the server as part of the application's name. The session goes by none of the defaults that role, database or
    server may carry, and finds names in ``schema`` alone: MOVED where Synapse's triggers run. Without one it is left as it is,
    for who asks about parameters. Raises Refusal when there is no psycopg2, no connection, a server older than Synapse accepts,
    a pooler in between that has no session for more than one transaction, or an error of the server's that the block does not
    handle.
    """
    require_psycopg2()
    connection = _open(libpq, autocommit, what, schema)
    try:
        yield connection
        connection.commit()
    except psycopg2.Error as error:
        raise server_refusal(error) from error
    finally:
        connection.close()


def with_options(libpq: dict, options: str) -> dict:
    """Return ``libpq``'s keywords with further ``options``, which count before those that are there."""
    theirs = libpq.get("options") or os.environ.get("PGOPTIONS", "")
    return {**libpq, "options": f"{theirs} {options}".strip()}


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
    host, port = libpq.get("host") or libpq.get("hostaddr") or "", libpq.get("port") or 5432
    if libpq.get("service") and not host:
        return f"the service {libpq['service']}"
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


def _open(libpq: dict, autocommit: bool, what: str, schema: str | None):
    """Return a connection by ``libpq``'s keywords as connected() promises it; Refusal."""
    given = {"connect_timeout": _attempt.SECONDS, **KEEPALIVES, **libpq, "application_name": f"matrixops.synapse_postgres {what}"}
    _require_taken(given)
    try:
        return _left_alone(given, autocommit, schema)
    except psycopg2.Error as error:
        tried = _attempt.attempt(given)
        if not tried.let_in:
            raise _no_connection(libpq, " ".join(str(error).split()), tried) from error
        ended = error
    # A default may have ended the session before it was left. A pooler takes no options, so it is not asked to at first.
    try:
        return _left_alone(with_options(given, _defaults.AT_ONCE), autocommit, schema)
    except psycopg2.Error:
        raise _ended(libpq, ended) from ended


def _left_alone(libpq: dict, autocommit: bool, schema: str | None):
    """Return a connection that goes by no defaults, but with ``schema`` None; psycopg2's error, or Refusal."""
    connection = psycopg2.connect(**libpq)
    try:
        _require_version(connection.server_version, libpq)
        connection.autocommit = True
        shared = bool(schema) and _pooler.hands_on(connection, libpq)
        if shared and autocommit:
            raise _no_session(libpq)
        if shared:
            connection.autocommit = False
        if schema:
            _defaults.leave(connection, schema, for_transaction=shared)
        if not shared:
            connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def _require_taken(libpq: dict) -> None:
    """Raise Refusal for keywords that the libpq at hand does not know, as an older one a newer one's, and for a NUL."""
    strange = []
    for keyword, value in libpq.items():
        if "\0" in str(value):
            raise Refusal(f"The value of {keyword} holds a NUL character, which no connection can have.", "Correct it.")
        try:
            psycopg2.extensions.make_dsn(**{keyword: value})
        except psycopg2.ProgrammingError:
            strange.append(keyword)
    if strange:
        version = psycopg2.extensions.libpq_version() // 10000
        raise Refusal(
            f"The libpq of {sys.executable} is of PostgreSQL {version} and does not know {', '.join(strange)}.",
            "Leave that out (login_args, synapse_postgres_args), or give that Python a psycopg2 with a newer libpq.",
        )


def _ended(libpq: dict, error: Exception) -> Refusal:
    """Return the Refusal for a session that was let in, and ended by ``error``, whatever the server's options."""
    return Refusal(
        f"The session at {place(libpq)} ended as soon as it was there: {' '.join(str(error).split()).rstrip('.')}.",
        "See the server's log. If it was a timeout of the role's, the database's or the server's (psql's \\drds) and a pooler is "
        "in between, which takes no options, take the timeout away, or give the host and the port of the server itself.",
    )


def _no_session(libpq: dict) -> Refusal:
    """Return the Refusal for a pooler that has no session for more than one transaction."""
    return Refusal(
        f"A pooler is at {place(libpq)} that hands a session on as it was left, as PgBouncer does with pool_mode transaction: "
        "what is set for this work would stay for Synapse's.",
        "Give the host and the port of the server itself, or of a pool with pool_mode session.",
    )


def _require_version(version: int, libpq: dict) -> None:
    if version < MINIMUM_SERVER:
        raise Refusal(
            f"The server at {place(libpq)} is PostgreSQL {version // 10000}; Synapse needs {MINIMUM_SERVER // 10000} or newer.",
            "Upgrade the server (on Debian: pg_upgradecluster), then run this again.",
        )


def _no_connection(libpq: dict, words: str, tried: _attempt.Attempt) -> Refusal:
    """Return the Refusal for a connection that failed with these ``words``, which are only told, and what ``tried`` found."""
    remedy, no_server = None, False
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
        remedy = obstacle and _OBSTACLES.get(obstacle.errno, "Correct login_host and login_port, or mend the way to that host.")
    # Said apart, for roles that start a server which does not run yet.
    facts: dict = {"no_server": no_server}
    # And for ones that then ask which line of pg_hba.conf it was.
    if tried.denied:
        facts["denied"] = {"address": _seen_address(words, tried), "encryption": tried.encryption}
    remedy = remedy or "See the server's log for the circumstances."
    for what, name in (("{role}", tried.user), ("{database}", tried.database)):
        remedy = remedy.replace(what, '"' + name.replace('"', '""') + '"')
    return Refusal(f"No connection to PostgreSQL at {place(libpq)}: {words.rstrip('.')}.", remedy, **facts)


def _certificate_names(libpq: dict) -> list[str]:
    """Return the names in the certificate of the server that ``libpq``'s keywords point to, where they count and it is known."""
    host, port = libpq.get("host") or "", str(libpq.get("port") or 5432)
    if libpq.get("sslmode") != "verify-full" or not port.isdigit() or "," in host or host[:1] in ("", "/", "@"):
        return []
    return _tls.presented(host, int(port), libpq.get("sslrootcert"))


def _seen_address(words: str, tried: _attempt.Attempt) -> str:
    """Return the address from which the server sees us: the one in its ``words`` that is not its own, else ours.

    The two differ where addresses are translated on the way.
    """
    told = set()
    for word in re.findall(r"[0-9a-fA-F:.]{2,}", words):
        with contextlib.suppress(ValueError):
            told.add(str(ipaddress.ip_address(word.rstrip(":."))))
    told -= {tried.peer, tried.host}
    return told.pop() if tried.address and len(told) == 1 else tried.address


def _no_password(libpq: dict) -> str:
    """Return what to do where libpq found no password: one from a file has to match, and the file to be private."""
    if not libpq.get("passfile") and not libpq.get("service"):
        return "Give login_password."
    file = libpq.get("passfile") or f"the password file, or a password into the service {libpq['service']}"
    return (
        f"Put a fitting line host:port:database:user:password into {file}, and see that the user who connects may read the file "
        "and nobody else (mode 0600; libpq passes over any other)."
    )
