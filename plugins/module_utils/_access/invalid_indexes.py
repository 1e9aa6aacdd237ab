# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Indexes whose making, or making anew, has failed or was cut short: they cost every write, and serve no question."""

from __future__ import annotations

import dataclasses

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._connection import server_refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

try:
    import psycopg2
except ImportError:
    psycopg2 = None  # type: ignore[assignment]

# What REINDEX CONCURRENTLY leaves of itself has a suffix of the server's, and its original is there (manual, REINDEX). One that
# somebody is making now is none.
INVALID = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text,
    CASE WHEN c.relname ~ '_cc(new|old)[0-9]*$' THEN format('DROP INDEX CONCURRENTLY %%I.%%I', n.nspname, c.relname)
    ELSE format('REINDEX INDEX CONCURRENTLY %%I.%%I', n.nspname, c.relname) END
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND NOT (i.indisvalid AND i.indisready)
    AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
ORDER BY 1
"""


@dataclasses.dataclass(frozen=True)
class InvalidIndex:
    """An invalid index and its table, as SQL has them, and the statement that mends it without a lock that Synapse waits for."""

    name: str
    table: str
    statement: str


def present(cursor: Cursor, schema: str = "public") -> list[InvalidIndex]:
    """Return the invalid indexes in ``schema`` of the connected database."""
    cursor.execute(INVALID, (schema,))
    return [InvalidIndex(*row) for row in cursor.fetchall()]


def rebuild(cursor: Cursor, check_mode: bool) -> list[str]:
    """Mend each invalid index of Synapse's; return what was, or would be, done. The connection must autocommit; Refusal."""
    found = present(cursor)
    for index in [] if check_mode else found:
        try:
            cursor.execute(index.statement)
        except psycopg2.errors.UniqueViolation as error:
            raise Refusal(
                f"The index {index.name} cannot be made anew: rows of {index.table} are equal that it has to keep apart.",
                "The playbook matrixops.synapse_postgres.doctor lists them. Keep one of each, then run this again.",
            ) from error
        except psycopg2.Error as error:
            raise server_refusal(error) from error
    return [index.statement for index in found]
