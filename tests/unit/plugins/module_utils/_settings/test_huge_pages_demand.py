# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a server will need of huge pages, where it does not count them itself."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import huge_pages_demand
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages_demand import Demand
from support.pg_settings import parameter

GB = 1024**3


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (dict(huge_pages="off", chosen=True, shared_buffers=64 * GB), False),
        (dict(huge_pages="try", chosen=True, shared_buffers=GB), True),
        (dict(huge_pages="on", chosen=True, shared_buffers=GB), True),
        (dict(huge_pages="try", chosen=False, shared_buffers=2 * GB), True),
        (dict(huge_pages="try", chosen=False, shared_buffers=2 * GB - 8192), False),
    ],
)
def test_when_they_are_wished_for(demand, expected):
    assert Demand(**demand).wanted is expected


@pytest.mark.parametrize(
    ("wished", "source", "expected"),
    [
        ({}, "default", Demand("try", False, 0, 128 * 1024**2)),
        ({}, "configuration file", Demand("try", True, 0, 128 * 1024**2)),
        ({"shared_buffers": "3GB"}, "default", Demand("try", False, 0, 3 * GB)),
        ({"shared_buffers": "262144", "huge_pages": "off"}, "default", Demand("off", True, 0, 2 * GB)),
    ],
)
def test_what_is_known_of_a_server_that_does_not_count(wished, source, expected):
    buffers = {"unit": "8kB", "min_val": "16", "max_val": "1073741823"}
    known = {
        "huge_pages": parameter("huge_pages", "enum", "try", source=source, enumvals=["off", "on", "try"]),
        "shared_buffers": parameter("shared_buffers", "integer", "16384", source="configuration file", **buffers),
        "block_size": parameter("block_size", "integer", "8192"),
    }
    assert huge_pages_demand.from_running(known, wished) == expected
