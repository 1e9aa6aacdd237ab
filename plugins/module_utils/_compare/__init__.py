# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether two databases hold the same rows, and which rows only one of them holds. Nothing here writes to a table of Synapse's.

Called by _move; it calls _access, for keys and owners, and _sqlite.
"""
