# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only a server of the test's own shows: prepared transactions, which a server has to be set up for."""

import contextlib

import pytest

from support import clusters
from support import move as moves
from support.ward import Ward


@pytest.fixture
def own(tmp_path, homeserver):
    """A Ward on a server of the test's own, without Synapse's tables."""
    with clusters.running(clusters.installations()[0], settings="max_prepared_transactions = 5") as cluster:
        with moves.prepared(tmp_path, homeserver[0], cluster) as found:
            yield Ward(found)


def test_a_prepared_transaction_is_found_and_rolled_back_by_the_command(own):
    name = "it's left"
    with contextlib.closing(own.cluster.connect(dbname=own.move.name)) as connection:
        connection.autocommit = False
        connection.tpc_begin(connection.xid(0, name, "branch"))
        connection.cursor().execute("CREATE TABLE left_behind ()")
        connection.tpc_prepare()
    limits = {"prepared_transactions": {"critical": 0}}
    [finding] = own.only("prepared_transactions", limits=limits)
    assert finding["severity"] == "critical"
    own.heal(finding["remedy"])
    own.healthy(limits=limits)
