# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synapse's configuration: which files a process was started with, what they come to, and the database's section in them.

Called by the modules synapse_config_info, synapse_database_config and synapse_database_info, and by
_move; it calls no other wing.
"""
