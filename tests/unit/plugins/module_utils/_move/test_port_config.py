# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The private configuration that Synapse's tools are given."""

import pytest
import yaml

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move import port_config


@pytest.mark.parametrize("password", ["🐘", "a\x85b\u2028c\x7f", "\ufeffü", 'it\'s "a" \\ %s {{ x }} : @ #', " ", "\t\n"])
def test_every_password_arrives_in_the_private_configuration(password):
    config = {"database": {"args": {"password": password, "cp_max": 10, "sslmode": None}}, password: [True, 1.5]}
    assert yaml.safe_load(port_config.as_yaml(config)) == config
