# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a report draws beside the findings: the size of the tables, what memory the server may take, and the age of things."""

from __future__ import annotations

from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import Unseen
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# With indexes and what is stored out of line; the planner's estimate of the rows, since a count reads the whole table.
_TABLES = """
SELECT relname::text AS name, pg_total_relation_size(c.oid) AS bytes, greatest(reltuples, 0)::bigint AS rows
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 2 DESC LIMIT 12
"""

# The most that each use may come to (manual, section 20.4): every backend may sort or hash more than once, which is not counted.
_MEMORY = """
WITH setting AS (SELECT name, pg_size_bytes(current_setting(name)) AS bytes FROM unnest(%s) AS name)
SELECT name, CASE name
    WHEN 'work_mem' THEN bytes * current_setting('max_connections')::bigint
    WHEN 'maintenance_work_mem' THEN bytes * current_setting('autovacuum_max_workers')::bigint
    ELSE bytes END
FROM setting ORDER BY name = 'shared_buffers' DESC, name
"""
_USES = {
    "shared_buffers": "shared by all (shared_buffers)",
    "work_mem": "one sort of every connection (work_mem x max_connections)",
    "maintenance_work_mem": "upkeep (maintenance_work_mem x autovacuum_max_workers)",
}

_AGES = """
SELECT 'the server was started', extract(epoch FROM now() - pg_postmaster_start_time())::float8
UNION ALL SELECT 'its files were last loaded', extract(epoch FROM now() - pg_conf_load_time())::float8
UNION ALL SELECT 'the oldest transaction began', extract(epoch FROM now() - min(xact_start))::float8
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
UNION ALL SELECT 'a table was last vacuumed', extract(epoch FROM now() - max(greatest(last_vacuum, last_autovacuum)))::float8
    FROM pg_stat_user_tables
UNION ALL SELECT 'a table was last analyzed', extract(epoch FROM now() - max(greatest(last_analyze, last_autoanalyze)))::float8
    FROM pg_stat_user_tables
"""


def portray(patient: Patient) -> dict[str, Any]:
    """Return ``{server, database, bytes, tables, memory, ages}`` as far as they can be seen; nothing without a session.

    ``tables`` are dicts with name, bytes and rows, the largest first; ``memory`` ones with use and bytes; ``ages`` ones with what
    and seconds.
    """
    found: dict[str, Any] = {}
    try:
        found["server"] = str(patient.value("SHOW server_version"))
        found["database"] = patient.database
        found["bytes"] = patient.value("SELECT pg_database_size(current_database())")
        found["ages"] = [{"what": what, "seconds": seconds} for what, seconds in patient.rows(_AGES) if seconds is not None]
        memory = patient.rows(_MEMORY, list(_USES))
        found["memory"] = [{"use": _USES[name], "bytes": size} for name, size in memory]
        found["tables"] = [{"name": name, "bytes": size, "rows": rows} for name, size, rows in patient.rows(_TABLES)]
    except Unseen:
        return found
    return found
