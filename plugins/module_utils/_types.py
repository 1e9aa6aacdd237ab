# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The types of psycopg2 that annotations name, and what they leave open; a host without psycopg2 never asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
else:
    Connection = Cursor = object


def only_row(cursor: Cursor) -> tuple[Any, ...]:
    """Return the row of a query that always gives one, as SELECT count(*) does."""
    found = cursor.fetchone()
    if found is None:
        raise AssertionError("such a query gives a row")
    return found
