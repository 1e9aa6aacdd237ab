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
    PostgreSQL can take in the worst case, when everything that can run does and each takes all that it may, is at most 90 %.
  - Parameters of your own (O(settings)) are counted in it as they are, and the others computed around them. A worst case that
    they make exceed that is said in a warning.
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
  data_directory:
    description:
      - The folder of the running server's data, whose C(postmaster.pid) tells in which control group the server is. A limit of
        that group, such as C(MemoryMax) of its service, is a limit of the budget. Without O(memory) only.
    type: path
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
      - The number of processors. Without it, what the task may run on, or the quota of its control group or of the server's
        (O(data_directory)), if that is less.
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
  synapse_processes:
    description:
      - How many processes of Synapse's run on the same host, the main one and workers.
    type: int
    default: 1
  settings:
    description:
      - Parameters of your own, by name. They win over the computed ones, and those that the model knows are returned as they are.
      - Others are not returned, since they may hold secrets; set them beside the returned ones.
    type: dict
    default: {}
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
  description:
    - The model's parameters, as the option O(matrixops.synapse_postgres.postgres_settings#module:settings) takes them, those of
      O(settings) among them as they are.
  returned: always
  type: dict
  sample:
    shared_buffers: 912MB
    work_mem: 26MB
comments:
  description:
    - The reasons as text, as the option O(matrixops.synapse_postgres.postgres_settings#module:comments) takes them. The first
      line of each is the C(reason), the second one the C(source) and the C(context).
  returned: always
  type: dict
  sample:
    shared_buffers: |-
      25 % of the budget (budget 3686MB).
      Source: manual, Resource Consumption: 25 % is a good start, more than 40 % is unlikely to help. A change needs a restart.
reasons:
  description:
    - For each parameter its C(value), the C(rule) that it follows, the C(inputs) that the rule was fed with, the C(source) of
      the rule, and the C(context), which tells whether a C(reload) or a C(restart) brings it into force. C(reason) is the rule
      and its inputs as a line.
  returned: always
  type: dict
  sample:
    shared_buffers:
      value: 912MB
      rule: 25 % of the budget
      inputs: {budget: 3686MB}
      reason: 25 % of the budget (budget 3686MB).
      source: "manual, Resource Consumption: 25 % is a good start, more than 40 % is unlikely to help"
      context: restart
budget:
  description:
    - The division of the memory in bytes. C(available) is the share of C(memory); C(budget) is what remains of it after
      C(system) and C(synapse), or the limit of the server's control group; C(envelope) is the worst case, in which C(queries) are
      all uses of C(work_mem) and C(processes) what the server's processes take; C(envelope_limit) is what it may be.
  returned: always
  type: dict
  sample:
    memory: 4294967296
    available: 4294967296
    system: 429496729
    synapse: 0
    budget: 3865470567
    shared_buffers: 956301312
    wal_buffers: 16777216
    maintenance_work_mem: 241172480
    autovacuum_work_mem: 120586240
    work_mem: 27262976
    queries: 1799356416
    processes: 78643200
    envelope: 3454009344
    envelope_limit: 3478923510
bar:
  description: The division of the memory in the worst case, as lines of text.
  returned: always
  type: list
  elements: str
  sample:
    - Memory 4096 MB, PostgreSQL's budget 3686 MB,
    - "of which it takes 3294 MB in the worst case, 89 %:"
    - "[ssssssBBBBBBBBBBBBBBmmmvvvvvqqqqqqqqqqqqqqqqqqqqqqqqp.......]"
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    budget_bar,
    host_memory,
    memory_budget,
    quantities,
    secrecy,
    tuned_host,
    tuning,
)


def memory(text: str | None) -> int:
    """Return the bytes that ``text`` means, or that this host has; Refusal when it is not a size with a unit."""
    if text is None:
        return host_memory.usable()
    try:
        if text.strip()[-1:].isdigit():
            raise ValueError("it has no unit; give kB, MB, GB or TB")
        return int(quantities.quantity(text, "B"))
    except (ValueError, OverflowError) as error:
        raise Refusal(f"The memory cannot be {text!r}: {error}.", "Give a size like 4GB.") from None


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            memory=dict(type="str"),
            share=dict(type="float", default=1.0),
            connections=dict(type="int", default=20),
            cpus=dict(type="int"),
            storage=dict(type="str", choices=sorted(tuned_host.STORAGE), default="ssd"),
            synapse_on_host=dict(type="bool", default=False),
            synapse_processes=dict(type="int", default=1),
            server_version=dict(type="int", default=15),
            data_directory=dict(type="path"),
            settings=dict(type="dict", default={}),
        ),
        supports_check_mode=True,
        no_log=True,  # one's own parameters may hold secrets, and the options would be in the host's log
    )
    params = dict(module.params)
    own, folder, given = params.pop("settings"), params.pop("data_directory"), params["memory"]
    module.no_log_values.update(secrecy.secret_values(own))
    with told_to(module):
        params["memory"] = memory(given)
        params["limit"] = host_memory.limit(folder) if folder and given is None else None
        params["cpus"] = host_memory.processors(folder) if params["cpus"] is None else params["cpus"]
        host = tuned_host.Host(**params)
        found, budget = tuning.settings(host, own), memory_budget.divide(host, own)
    known = {name: setting for name, setting in found.items() if setting.context}
    excess = memory_budget.excess_warning(budget, own)
    if excess:
        module.warn(excess)
    module.exit_json(
        changed=False,
        settings={name: setting.value for name, setting in known.items()},
        comments={name: setting.comment for name, setting in found.items()},
        reasons={name: {**dataclasses.asdict(setting), "reason": setting.reason} for name, setting in known.items()},
        budget=budget.parts(),
        bar=budget_bar.lines(budget),
    )


if __name__ == "__main__":
    main()
