# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Synapse's database on every server there is, a fresh one for each test, to be broken, examined and mended."""

import pytest

from support import modules
from support import move as moves
from support.ward import Ward


@pytest.fixture(scope="module")
def template(tmp_path_factory, homeserver, cluster):
    """A Move that the official routine made, the template of every test's database; its role ends with the module."""
    with moves.prepared(tmp_path_factory.mktemp("doctor"), homeserver[0], cluster) as found:
        found.routine()
        for module in ("synapse_sequences", "synapse_user_directory"):
            assert not modules.run(module, found.login).get("failed")
        with found.synapse():
            found.settle()
        found.rows("ANALYZE")
        yield found


@pytest.fixture
def ward(tmp_path, template):
    """A healthy Ward of a test's own."""
    with moves.prepared(tmp_path, template.server, template.cluster, template=template.name) as found:
        yield Ward(found)
