# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's parameters: what they are and where they stand, the memory that they share out, and the kernel's huge pages.

Called by the modules postgres_settings, postgres_tuning_info and postgres_huge_pages; it calls no other wing.
"""
