# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what would change without changing it.
  diff_mode:
    description: Shows what changed, or would change, in C(diff) mode.
  idempotent:
    description: A second run with the same options changes nothing.
"""

    # A module that changes the host and predicts it.
    STEP = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what would change without changing it.
    support: full
  diff_mode:
    description: Shows what changed, or would change, in C(diff) mode.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

    # A module that only reads.
    INFO = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what would change without changing it.
    support: full
  diff_mode:
    description: Shows what changed, or would change, in C(diff) mode.
    support: N/A
    details: It changes nothing.
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""
