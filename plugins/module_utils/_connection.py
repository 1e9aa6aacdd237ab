# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions on a PostgreSQL server: the options of every module that connects, and the connection itself."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from typing import Any, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _attempt, _defaults, _diagnosis, _pooler
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Connection, Cursor

try:
    import psycopg2
except ImportError:
    psycopg2 = None  # type: ignore[assignment]

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

# Option of a module -> keyword of libpq (manual, section 34.1.2).
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

# The options of modules that log in as Synapse does; what each keyword is, _homeserver.libpq knows.
AS_SYNAPSE = dict(login_args=dict(type="dict"), login_secrets=dict(type="dict", no_log=True))


def connection_spec(**options: dict[str, Any]) -> dict[str, dict[str, Any]]:
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


def keywords(params: dict[str, Any]) -> dict[str, Any]:
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
def session(
    params: dict[str, Any], autocommit: bool = False, what: str = "ansible", schema: str | None = CATALOG
) -> Iterator[Connection]:
    """Yield a psycopg2 connection for a module's ``params``; see connected()."""
    with connected(keywords(params), autocommit, what, schema) as connection:
        yield connection


@contextlib.contextmanager
def connected(
    libpq: dict[str, Any], autocommit: bool = False, what: str = "ansible", schema: str | None = CATALOG
) -> Iterator[Connection]:
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


def with_options(libpq: dict[str, Any], options: str) -> dict[str, Any]:
    """Return ``libpq``'s keywords with further ``options``, which count before those that are there."""
    given = libpq.get("options") or os.environ.get("PGOPTIONS", "")
    return {**libpq, "options": f"{given} {options}".strip()}


def loaded(cursor: Cursor) -> float:
    """Return when the server last loaded its files, in seconds since the epoch."""
    cursor.execute("SELECT extract(epoch FROM pg_conf_load_time())")
    [(seconds,)] = cursor.fetchall()
    return float(seconds)


def started(cursor: Cursor) -> float:
    """Return when the server was started, in seconds since the epoch."""
    cursor.execute("SELECT extract(epoch FROM pg_postmaster_start_time())")
    [(seconds,)] = cursor.fetchall()
    return float(seconds)


def reload(cursor: Cursor) -> bool:
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


def server_refusal(error: psycopg2.Error) -> Refusal:
    """Return a Refusal in the server's own words for a psycopg2 ``error``: its SQLSTATE, message, detail and hint."""
    report = getattr(error, "diag", None)
    words = (report and report.message_primary) or " ".join(str(error).split())
    detail = f" ({report.message_detail})" if report and report.message_detail else ""
    hint = report.message_hint if report and report.message_hint else "See the server's log for the circumstances."
    return Refusal(f"PostgreSQL refused, SQLSTATE {error.pgcode or 'none'}: {words}{detail}.", hint)


def _open(libpq: dict[str, Any], autocommit: bool, what: str, schema: str | None) -> Connection:
    """Return a connection by ``libpq``'s keywords as connected() promises it; Refusal."""
    given = {"connect_timeout": _attempt.SECONDS, **KEEPALIVES, **libpq, "application_name": f"matrixops.synapse_postgres {what}"}
    _require_known_keywords(given)
    try:
        return _open_neutral(given, autocommit, schema)
    except psycopg2.Error as error:
        tried = _attempt.attempt(given)
        if not tried.let_in:
            raise _diagnosis.no_connection(libpq, " ".join(str(error).split()), tried) from error
        ended = error
    # A default may have ended the session before it was left. A pooler takes no options, so it is not asked to at first.
    try:
        return _open_neutral(with_options(given, _defaults.AT_ONCE), autocommit, schema)
    except psycopg2.Error:
        raise _diagnosis.ended(libpq, ended) from ended


def _open_neutral(libpq: dict[str, Any], autocommit: bool, schema: str | None) -> Connection:
    """Return a connection that goes by no defaults, but with ``schema`` None; psycopg2's error, or Refusal."""
    connection = psycopg2.connect(**libpq)
    try:
        _require_version(connection.server_version, libpq)
        connection.autocommit = True
        shared = bool(schema) and _pooler.keeps_session_state(connection, libpq)
        if shared and autocommit:
            raise _diagnosis.no_session(libpq)
        if shared:
            connection.autocommit = False
        if schema:
            _defaults.neutralize(connection, schema, for_transaction=shared)
        if not shared:
            connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def _require_known_keywords(libpq: dict[str, Any]) -> None:
    """Raise Refusal for keywords that the libpq at hand does not know, as an older one a newer one's, and for a NUL."""
    unknown = []
    for keyword, value in libpq.items():
        if "\0" in str(value):
            raise Refusal(f"The value of {keyword} holds a NUL character, which no connection can have.", "Correct it.")
        try:
            psycopg2.extensions.make_dsn(**{keyword: value})
        except psycopg2.ProgrammingError:
            unknown.append(keyword)
    if unknown:
        version = psycopg2.extensions.libpq_version() // 10000
        raise Refusal(
            f"The libpq of {sys.executable} is of PostgreSQL {version} and does not know {', '.join(unknown)}.",
            "Leave that out (login_args, synapse_postgres_args), or give that Python a psycopg2 with a newer libpq.",
        )


def _require_version(version: int, libpq: dict[str, Any]) -> None:
    if version < MINIMUM_SERVER:
        raise Refusal(
            f"The server at {_diagnosis.place(libpq)} is PostgreSQL {version // 10000}; "
            f"Synapse needs {MINIMUM_SERVER // 10000} or newer.",
            "Upgrade the server (on Debian: pg_upgradecluster), then run this again.",
        )
