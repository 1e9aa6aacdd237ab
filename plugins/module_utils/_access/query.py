# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The answer to a query of the catalog's that always has one row."""

from __future__ import annotations

from typing import Any

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor


def only_row(cursor: Cursor) -> tuple[Any, ...]:
    """Return the row of the query that was just run."""
    found = cursor.fetchone()
    assert found is not None
    return found
