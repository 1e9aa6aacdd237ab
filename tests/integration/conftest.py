# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real throwaway clusters of every PostgreSQL there is, and modules run as Ansible runs them: in a process of their own."""

import pytest

from support import clusters, loopback, modules, synapse

# What takes whole minutes, test by test; begun last, one of them would keep one worker busy when the others have ended.
_LONG = ("test_faults", "test_playbooks")


def pytest_collection_modifyitems(items):
    """Begin with the long tests; among the others, and among these, the order is as it was."""
    items.sort(key=lambda item: not item.path.name.startswith(_LONG))


@pytest.fixture(scope="session", params=clusters.installations(), ids=lambda found: f"pg{found.major}-{found.origin}")
def cluster(request, tmp_path_factory):
    """A running cluster of each installation, shared by the session's tests; its superuser is ``admin``."""
    with clusters.running(request.param) as started:
        yield started


@pytest.fixture(scope="session")
def any_cluster():
    """One running cluster, for what does not depend on the server's version."""
    with clusters.running(clusters.installations()[0]) as started:
        yield started


@pytest.fixture
def run():
    """``run(module, options, check=False)`` -> the module's result; see support/modules.py."""
    return modules.run


@pytest.fixture(scope="session")
def homeserver(tmp_path_factory):
    """A stopped Synapse whose SQLite database holds a conversation: (Homeserver, the record of what was said)."""
    server = synapse.Homeserver(tmp_path_factory.mktemp("synapse"), loopback.free_port())
    server.generate()
    server.start()
    try:
        said = server.converse()
        server.settle()
    finally:
        server.stop()
    return server, said
