# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may connect to a server, and to what: roles, passwords, lines of pg_hba.conf and pg_ident.conf, databases, rights.

Called by the modules that are about one of these, and by _compare and _move; it calls no other wing.
"""
