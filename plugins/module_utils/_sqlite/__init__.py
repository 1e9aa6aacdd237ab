# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A SQLite file: which one a path leads to, its other names, who has it open, what it holds, a copy of it, its rows.

Called by the modules synapse_sqlite_info and synapse_sqlite_snapshot, and by _compare and _move; it calls no other wing.
"""
