# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._words import identifier


def test_names_are_quoted():
    assert identifier('a"b') == '"a""b"'
