#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_sqlite_snapshot
short_description: A page-exact copy of a live SQLite database of Synapse's
description:
  - Copies Synapse's SQLite database, write-ahead log included, while Synapse goes on using it, and checks the copy.
  - The copy is made page by page, as the database is at one moment, so that every row keeps its row id, by which the port
    routine goes. It has mode 0600 and belongs to the user that the task runs as.
  - A copy that is already equal to its source stays as it is. An older one is made the new one - of its pages those are
    written that differ - and is called C(<dest>.partial) until it is whole. One that was killed half-way is gone on with.
  - While it runs, how far it is is kept beside the copy, as C(<dest>.progress.json), and shown by Ansible. In a log that is
    a line every 30 seconds; the variable C(synapse_postgres_progress_interval) says otherwise.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.attributes.step
options:
  src:
    description:
      - Absolute path of the database that Synapse uses, as its configuration has it. A symbolic link is followed once, as
        SQLite does, which keeps its log and its journal beside the file that the link leads to.
      - It is refused when the file has a second name - a hard link, or a mount of the file alone into a container - since
        SQLite keeps the log of what is committed beside the name that is used, and finds no other.
    type: path
    required: true
  dest:
    description:
      - Absolute path of the copy. Its folder must exist. An older copy there becomes the new one; a file that is no SQLite
        database is not written over. A symbolic link is followed, and the copy made where it leads to.
    type: path
    required: true
  alone:
    description:
      - Whether to refuse while any process has O(src) open to write, as a worker of Synapse's that was forgotten. What it writes
        after the copy would be lost. A process that is about to end is waited for.
      - Only root sees the processes of other users.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A copy of the homeserver's database to port from
  become: true
  matrixops.synapse_postgres.synapse_sqlite_snapshot:
    src: /var/lib/matrix-synapse/homeserver.db
    dest: /var/lib/matrix-synapse/port/snapshot.db
"""

RETURN = r"""
source:
  description: What the source holds.
  returned: always
  type: dict
  sample:
    size: 984000000
    journal_mode: wal
    auto_vacuum: false
    users: 120
    events: 410000
    background_updates: []
    schema_version: 93
dest:
  description: Path of the copy.
  returned: always
  type: str
  sample: /var/lib/matrix-synapse/port/snapshot.db
pages:
  description: How many pages the copy has, and how many had to be written; the others were there, from an older copy or from one
    that was killed.
  returned: when a copy was made
  type: dict
  sample:
    total: 240234
    written: 96000
"""

import dataclasses
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import (
    contents,
    file,
    holders,
    other_names,
    paths,
    snapshot,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            src=dict(type="path", required=True),
            dest=dict(type="path", required=True),
            alone=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    given = module.params["dest"]
    with told_to(module), paths.resolved_params(module.params, "src", "dest") as params:
        src, dest = params["src"], params["dest"]
        source = contents.inspect(src)
        snapshot.require_another(src, dest)
        other_names.require_none(src)
        snapshot.require_room(source.size + file.log_size(src), dest)
        if params["alone"]:
            holders.require_closed(src)
        is_older = os.path.exists(dest)
        written = None if module.check_mode else snapshot.make(src, dest)
        changed = not snapshot.is_copy(src, dest) if module.check_mode else written is not None
    before = {"path": given, "state": "an older copy" if is_older else "absent"}
    after = {"path": given, "state": f"a copy of {src}"} if changed else before
    module.exit_json(
        changed=changed,
        source=dataclasses.asdict(source),
        dest=given,
        pages=dataclasses.asdict(written) if written else None,
        diff={"before": before, "after": after},
    )


if __name__ == "__main__":
    main()
