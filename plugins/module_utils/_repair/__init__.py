# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wing of repairs: a database made anew in the locale C beside the old one, proved, and put in its place.

The module synapse_database_rebuild calls rebuild; it goes by blockers (what is in the way), resolution (rows that a unique index
should have kept apart), properties and filling (the new database), contents (the proof) and swap.
"""
