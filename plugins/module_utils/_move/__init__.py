# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The move from SQLite, by the rules of Synapse's port routine: what is looked at before, who carries, what is done after.

Called by the modules synapse_port, synapse_port_info, synapse_port_verify and synapse_sequences; it calls every wing but
_settings.
"""
