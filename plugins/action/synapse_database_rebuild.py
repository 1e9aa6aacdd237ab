# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils import _live


class ActionModule(_live.LiveAction):
    """Shows how far the module synapse_database_rebuild is while it runs."""

    PROGRESS_OF, FILE = "folder", "rebuild"
