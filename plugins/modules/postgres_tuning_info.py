#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_tuning_info
short_description: PostgreSQL's parameters for a host, with the reason for each
description:
  - Works out a budget of memory for PostgreSQL, and from it and the other options the parameters that
    M(matrixops.synapse_postgres.postgres_settings) can set.
  - The budget is the memory, times the share, less what the system and, on the same host, Synapse's processes need. What
    PostgreSQL can take in the worst case is at most 90 % of it.
  - Changes nothing, and needs no server.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.info
options:
  memory:
    description:
      - The memory of the host with its unit, for instance V(4GB).
      - Without it, what this host has, or the limit of the control group (container) that the task runs in, if that is
        less.
    type: str
  share:
    description:
      - The part of the memory that is for PostgreSQL, and for Synapse with O(synapse_on_host), on a host that has other
        tasks too. More than 0, at most 1.
    type: float
    default: 1.0
  connections:
    description:
      - How many connections there can be at once, which is C(cp_max) of each of Synapse's processes added up, and those of
        other programs.
    type: int
    default: 20
  cpus:
    description:
      - The number of processors. Without it, what the task may run on.
    type: int
  storage:
    description:
      - What the database is stored on; V(network) is for a storage area network or a provider's volume.
    type: str
    choices: [ssd, hdd, network]
    default: ssd
  synapse_on_host:
    description:
      - Whether Synapse runs on the same host.
    type: bool
    default: false
  server_version:
    description:
      - The server's major version, 14 or newer.
    type: int
    default: 15
"""

EXAMPLES = r"""
- name: What a host with Synapse and PostgreSQL should have
  matrixops.synapse_postgres.postgres_tuning_info:
    synapse_on_host: true
    server_version: 17
  register: tuning

- name: What a database host of 64 GB should have for Synapse with workers
  matrixops.synapse_postgres.postgres_tuning_info:
    memory: 64GB
    cpus: 16
    connections: 150
  delegate_to: localhost
"""

RETURN = r"""
settings:
  description: The parameters, as the option O(matrixops.synapse_postgres.postgres_settings#module:settings) takes them.
  returned: always
  type: dict
  sample:
    shared_buffers: 912MB
    work_mem: 27MB
comments:
  description: The reasons as text, as the option O(matrixops.synapse_postgres.postgres_settings#module:comments) takes them.
  returned: always
  type: dict
  sample:
    shared_buffers: "25 % of the budget of 3686MB; more than 40 % is unlikely to help (manual, Memory)."
reasons:
  description:
    - For each parameter its C(value), the C(reason) for it, and the C(context), which tells whether a C(reload) or a
      C(restart) brings it into force.
  returned: always
  type: dict
  sample:
    shared_buffers:
      value: 912MB
      reason: "25 % of the budget of 3686MB; more than 40 % is unlikely to help (manual, Memory)."
      context: restart
budget:
  description:
    - The division of the memory in bytes. C(available) is the share of C(memory); C(budget) is what remains of it after
      C(system) and C(synapse); C(envelope) is the worst case and C(envelope_limit) what it may be.
  returned: always
  type: dict
  sample:
    memory: 4294967296
    available: 4294967296
    system: 429496729
    synapse: 0
    budget: 3865470567
    shared_buffers: 956301312
    maintenance_work_mem: 241172480
    autovacuum_work_mem: 120586240
    work_mem: 28311552
    envelope: 3427794944
    envelope_limit: 3478923510
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _memory, _settings, _tuning
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to


def memory(text: str | None) -> int:
    """Return the bytes that ``text`` means, or that this host has; Refusal when it is not a size with a unit."""
    if text is None:
        return _memory.usable()
    try:
        if text.strip()[-1:].isdigit():
            raise ValueError("it has no unit; give kB, MB, GB or TB")
        return int(_settings.quantity(text, "B"))
    except (ValueError, OverflowError) as error:
        raise Refusal(f"The memory cannot be {text!r}: {error}.", "Give a size like 4GB.") from None


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            memory=dict(type="str"),
            share=dict(type="float", default=1.0),
            connections=dict(type="int", default=20),
            cpus=dict(type="int"),
            storage=dict(type="str", choices=sorted(_tuning.STORAGE), default="ssd"),
            synapse_on_host=dict(type="bool", default=False),
            server_version=dict(type="int", default=15),
        ),
        supports_check_mode=True,
    )
    params = dict(module.params)
    with told_to(module):
        params["memory"] = memory(params["memory"])
        params["cpus"] = _memory.processors() if params["cpus"] is None else params["cpus"]
        host = _tuning.Host(**params)
        found, budget = _tuning.settings(host), _tuning.divide(host)
    module.exit_json(
        changed=False,
        settings={name: setting.value for name, setting in found.items()},
        comments={name: setting.reason for name, setting in found.items()},
        reasons={name: dataclasses.asdict(setting) for name, setting in found.items()},
        budget=budget.parts(),
    )


if __name__ == "__main__":
    main()
