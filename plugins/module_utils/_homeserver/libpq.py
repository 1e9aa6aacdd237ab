# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may stand under ``args:`` of Synapse's ``database:`` section: the keywords of libpq and of Twisted's pool."""

from __future__ import annotations

from typing import Any

_TLS = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
_BOOLEAN = [0, 1]

# libpq's keywords through PostgreSQL 18 (manual, section 32.1.2; PQconndefaults() lists them) as Ansible's option specs, in
# the order in which they are written. psycopg2.connect() hands each to libpq. ``replication`` is left out: Synapse cannot
# use such a connection. ``port`` is text because several hosts may have a port each: "5432,5433".
LIBPQ: dict[str, dict[str, Any]] = {
    "user": dict(type="str"),
    "password": dict(type="str", no_log=True),
    "dbname": dict(type="str"),
    "host": dict(type="str"),
    "hostaddr": dict(type="str"),
    "port": dict(type="str"),
    "service": dict(type="str"),
    "passfile": dict(type="str", no_log=False),
    "require_auth": dict(type="str"),
    "channel_binding": dict(type="str", choices=["disable", "prefer", "require"]),
    "connect_timeout": dict(type="int"),
    "client_encoding": dict(type="str"),
    "options": dict(type="str"),
    "application_name": dict(type="str"),
    "fallback_application_name": dict(type="str"),
    "keepalives": dict(type="int", choices=_BOOLEAN),
    "keepalives_idle": dict(type="int"),
    "keepalives_interval": dict(type="int"),
    "keepalives_count": dict(type="int"),
    "tcp_user_timeout": dict(type="int"),
    "target_session_attrs": dict(type="str", choices=["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]),
    "load_balance_hosts": dict(type="str", choices=["disable", "random"]),
    "sslmode": dict(type="str", choices=["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
    "sslnegotiation": dict(type="str", choices=["postgres", "direct"]),
    "sslcompression": dict(type="int", choices=_BOOLEAN),
    "sslcert": dict(type="str"),
    "sslkey": dict(type="str", no_log=False),
    "sslpassword": dict(type="str", no_log=True),
    "sslcertmode": dict(type="str", choices=["disable", "allow", "require"]),
    "sslrootcert": dict(type="str"),
    "sslcrl": dict(type="str"),
    "sslcrldir": dict(type="str"),
    "sslsni": dict(type="int", choices=_BOOLEAN),
    "sslkeylogfile": dict(type="str", no_log=False),
    "ssl_min_protocol_version": dict(type="str", choices=_TLS),
    "ssl_max_protocol_version": dict(type="str", choices=_TLS),
    "min_protocol_version": dict(type="str"),
    "max_protocol_version": dict(type="str"),
    "requirepeer": dict(type="str"),
    "gssencmode": dict(type="str", choices=["disable", "prefer", "require"]),
    "krbsrvname": dict(type="str"),
    "gsslib": dict(type="str", choices=["gssapi", "sspi"]),
    "gssdelegation": dict(type="int", choices=_BOOLEAN),
    "scram_client_key": dict(type="str", no_log=True),
    "scram_server_key": dict(type="str", no_log=True),
    "oauth_issuer": dict(type="str"),
    "oauth_client_id": dict(type="str"),
    "oauth_client_secret": dict(type="str", no_log=True),
    "oauth_scope": dict(type="str"),
}

# Twisted's twisted.enterprise.adbapi.ConnectionPool takes these away before it connects; the two further ones that it knows
# (cp_openfun, cp_reactor) are Synapse's own: make_pool() in synapse/storage/database.py.
POOL: dict[str, dict[str, Any]] = {
    "cp_min": dict(type="int"),
    "cp_max": dict(type="int"),
    "cp_reconnect": dict(type="bool"),
    "cp_noisy": dict(type="bool"),
    "cp_good_sql": dict(type="str"),
    "cp_name": dict(type="str"),
}

KEYWORDS = {**LIBPQ, **POOL}
SECRETS = frozenset(keyword for keyword, option in KEYWORDS.items() if option.get("no_log"))
