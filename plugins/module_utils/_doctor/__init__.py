# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The doctor's wing: what may be wrong with Synapse's PostgreSQL, one file for each check, and what a finding is.

The module synapse_doctor_info calls examination; a check may call every wing below. Nothing here writes.
"""
