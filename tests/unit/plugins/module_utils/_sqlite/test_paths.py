# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import paths


def test_a_uri_names_the_very_bytes_of_the_path():
    assert paths.uri("//srv/a b?c#d%41\udcff") == "file:////srv/a%20b%3Fc%23d%2541%FF?mode=ro"
