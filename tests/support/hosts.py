# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hosts of every kind, for tests of what the model makes of them."""

from hypothesis import assume
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import memory_budget, tuned_host
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import MB

TB = 1024**4

HOSTS = st.builds(
    tuned_host.Host,
    memory=st.integers(512 * MB, TB),
    share=st.floats(0.05, 1.0),
    limit=st.one_of(st.none(), st.integers(128 * MB, TB)),
    connections=st.integers(1, 2000),
    cpus=st.integers(1, 256),
    storage=st.sampled_from(sorted(tuned_host.STORAGE)),
    synapse_on_host=st.booleans(),
    synapse_processes=st.integers(1, 20),
    server_version=st.integers(14, 18),
)


def divided(host, own=None):
    """Return the Budget of ``host``; a host that is refused is none of the test's."""
    try:
        return memory_budget.divide(host, own)
    except Refusal:
        assume(False)
