# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interpreter that a module runs under, where it needs a library that Ansible's own may lack there."""

from __future__ import annotations

import importlib.util

from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# Where a library may be that the interpreter of the task lacks: the matrix.org packages' Python, and the system's.
OTHERS = ["/opt/venvs/matrix-synapse/bin/python", "/usr/bin/python3"]


def need(libraries: dict[str, str], synapse_python: str | None) -> None:
    """Go on where every library is importable; run the module again under an interpreter that has them where one is not.

    ``libraries`` is ``{importable name: what a person installs}``. Synapse's interpreter has PyYAML always and psycopg2
    as soon as it can talk to PostgreSQL. Raises Refusal when no interpreter has them all.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if not missing:
        return
    if not has_respawned():
        others = ([synapse_python] if synapse_python else []) + OTHERS
        found = probe_interpreters_for_module(others, ", ".join(libraries))
        if found:
            respawn_module(found)
    wanted = " and ".join(libraries[name] for name in missing)
    where = f"Synapse's Python, {synapse_python}," if has_respawned() else "The Python that Ansible uses here"
    raise Refusal(
        f"{where} has no {wanted}.",
        f"Install {wanted} for it (Debian: python3-yaml, python3-psycopg2), or name Synapse's interpreter in synapse_python.",
    )
