# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a connection fails, by facts: psycopg2 has only words for that, and server and libpq say them in any language.

libpq knows more, and is asked by its own functions (manual, sections 34.1, 34.2 and 34.11): the one that psycopg2 has loaded,
with everything that it makes of its keywords, of services and password files.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
import select
import socket
import time
from typing import Any

try:
    import psycopg2
    from psycopg2 import extensions
except ImportError:
    pass

# How long an attempt may take, in seconds.
SECONDS = 10

# ConnStatusType and PostgresPollingStatusType in libpq-fe.h.
_BAD, _READING, _WRITING, _OK = 1, 1, 2, 3

# PGVerbosity: of an error only its severity and SQLSTATE, since libpq 12. An older one says the words, and no code is found.
_SQLSTATE_ALONE = 3
_SQLSTATE = re.compile(r":  ([0-9A-Z]{5})$", re.MULTILINE)

_FUNCTIONS = {
    "PQconnectStart": (ctypes.c_void_p, ctypes.c_char_p),
    "PQconnectPoll": (ctypes.c_int, ctypes.c_void_p),
    "PQsetErrorVerbosity": (ctypes.c_int, ctypes.c_void_p, ctypes.c_int),
    "PQstatus": (ctypes.c_int, ctypes.c_void_p),
    "PQsocket": (ctypes.c_int, ctypes.c_void_p),
    "PQhost": (ctypes.c_char_p, ctypes.c_void_p),
    "PQport": (ctypes.c_char_p, ctypes.c_void_p),
    "PQuser": (ctypes.c_char_p, ctypes.c_void_p),
    "PQdb": (ctypes.c_char_p, ctypes.c_void_p),
    "PQsslInUse": (ctypes.c_int, ctypes.c_void_p),
    "PQgssEncInUse": (ctypes.c_int, ctypes.c_void_p),
    "PQconnectionNeedsPassword": (ctypes.c_int, ctypes.c_void_p),
    "PQconnectionUsedPassword": (ctypes.c_int, ctypes.c_void_p),
    "PQerrorMessage": (ctypes.c_char_p, ctypes.c_void_p),
    "PQfinish": (None, ctypes.c_void_p),
}


@dataclasses.dataclass
class Attempt:
    """What came of an attempt to connect; where libpq could not be asked, nothing is known.

    ``sqlstate`` is the server's, or a pooler's, None where there was none.
    ``password``: ``used`` when one was asked for and given, ``missing`` when none was given, else None. ``host``, ``port``,
    ``user`` and ``database`` are libpq's own, of the last place it tried, a folder for a Unix socket; ``address`` is ours on the
    way there, ``peer`` the server's, both empty for a Unix socket and where nobody was reached; ``encryption`` is none, tls or
    gss, None likewise.
    """

    let_in: bool = False
    sqlstate: str | None = None
    password: str | None = None
    host: str = ""
    port: str = ""
    user: str = ""
    database: str = ""
    reached: bool = False
    address: str = ""
    peer: str = ""
    encryption: str | None = None

    @property
    def denied(self) -> bool:
        """Whether the server did not take us for who we say we are: SQLSTATE class 28, or no password to show."""
        return self.password == "missing" or (self.sqlstate or "").startswith("28")

    def obstacle(self) -> OSError | None:
        """Return what the operating system says to a connection to ``host`` and ``port``; None where nothing is in the way."""
        try:
            if self.host.startswith(("/", "@")):
                path = f"{self.host}/.s.PGSQL.{self.port}"
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(SECONDS)
                    probe.connect("\0" + path[1:] if path.startswith("@") else path)
            elif self.host:
                socket.create_connection((self.host, int(self.port)), timeout=SECONDS).close()
        except OSError as error:
            return error
        except ValueError:  # a port that is none
            return None
        return None


def attempt(keywords: dict[str, Any]) -> Attempt:
    """Try to connect by libpq's ``keywords``, let go at once, and return what came of it."""
    try:
        library = _library()
    except (OSError, AttributeError):
        return Attempt()
    found = Attempt()
    connection = library.PQconnectStart(extensions.make_dsn(**keywords).encode())
    try:
        library.PQsetErrorVerbosity(connection, _SQLSTATE_ALONE)
        found.let_in = _poll(library, connection, found)
        functions = (library.PQhost, library.PQport, library.PQuser, library.PQdb)
        found.host, found.port, found.user, found.database = (os.fsdecode(one(connection) or b"") for one in functions)
        if library.PQconnectionUsedPassword(connection):
            found.password = "used"
        if library.PQconnectionNeedsPassword(connection):
            found.password = "missing"
        codes = _SQLSTATE.findall((library.PQerrorMessage(connection) or b"").decode("utf-8", "replace"))
        found.sqlstate = codes[-1] if codes and not found.let_in else None
    finally:
        library.PQfinish(connection)
    return found


def _library() -> ctypes.CDLL:
    """Return the libpq that psycopg2 has loaded, which its own file leads to; OSError, AttributeError where it does not."""
    library = ctypes.CDLL(psycopg2._psycopg.__file__)
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _poll(library: ctypes.CDLL, connection: int, found: Attempt) -> bool:
    """Bring ``connection`` to its end, as section 34.1 has it, noting in ``found`` what is seen on the way."""
    polled, deadline = _WRITING, time.monotonic() + SECONDS
    while polled in (_READING, _WRITING) and library.PQstatus(connection) != _BAD:
        descriptor = library.PQsocket(connection)
        if descriptor < 0:
            break
        poll = select.poll()
        poll.register(descriptor, select.POLLIN if polled == _READING else select.POLLOUT)
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            break
        # The state of a socket is gone with it, so each is noted before the step that may be its last.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connected:
            peer = connected.getpeername()  # of one that nobody has taken it fails
            found.reached = True
            if connected.family != socket.AF_UNIX:
                found.peer, found.address = peer[0], connected.getsockname()[0]
                by = {"tls": library.PQsslInUse, "gss": library.PQgssEncInUse}
                found.encryption = next((name for name, in_use in by.items() if in_use(connection)), "none")
        polled = library.PQconnectPoll(connection)
    return polled == _OK
