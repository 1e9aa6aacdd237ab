#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_sequences
short_description: Bring the sequences of Synapse's database up to their tables and streams
description:
  - Brings every sequence of Synapse's PostgreSQL database at or past the rows of its tables and its position in
    C(stream_positions).
  - A sequence that lags its table is moved by Synapse itself when it starts. One that lags its position in C(stream_positions)
    makes it refuse to start ("Postgres sequence ... is inconsistent with associated stream position").
  - Synapse's message says to delete the position before every start. That is not needed, since with the sequence moved the
    position is right as it stands.
  - Nothing is guessed. What each sequence serves is known from Synapse's source, and from the catalog for those that
    belong to a column; a sequence of which nothing is known is left alone and named.
  - Sequences are only ever moved forward and rows are never touched, so that this may run while Synapse does. A Synapse that
    refuses to start can be started afterwards.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.connection.as_synapse
  - matrixops.synapse_postgres.attributes.step
seealso:
  - module: matrixops.synapse_postgres.synapse_port
  - name: Using Postgres
    description: Synapse's documentation on PostgreSQL, which no longer tells of sequences.
    link: https://element-hq.github.io/synapse/latest/postgres.html
"""

EXAMPLES = r"""
- name: Mend the sequences, so that Synapse starts
  become: true
  become_user: postgres
  matrixops.synapse_postgres.synapse_sequences:
    login_db: synapse
"""

RETURN = r"""
sequences:
  description: The sequences that were moved, with the number each had last given out, where it is now, and why.
  returned: always
  type: dict
  sample:
    receipts_sequence:
      before: 41
      after: 57
      because: stream_positions has the stream receipts there
unknown:
  description: Sequences in the schema C(public) of which nothing is known; they were left as they are.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import ownership
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import told_to
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import sequences


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(**_connection.AS_SYNAPSE),
        supports_check_mode=True,
    )
    with told_to(module):
        with _connection.session(module.params, autocommit=True, what="synapse_sequences") as connection:
            with connection.cursor() as cursor:
                sequences.require_synapses(cursor)
                ownership.require_own(cursor, every=False)
                mended = sequences.mend(cursor, module.check_mode)
    for name in mended.unknown:
        module.warn(f"Nothing is known of the sequence {name}; it was left as it is.")
    moved = mended.as_results()
    diff = {when: {name: found[when] for name, found in moved.items()} for when in ("before", "after")}
    module.exit_json(changed=bool(moved), sequences=moved, unknown=mended.unknown, diff=diff)


if __name__ == "__main__":
    main()
