# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Numbers with units as the server reads them, who confirms it in tests/integration/test_postgres_settings.py."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import quantities
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.quantities import GB, MB


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("128", "8kB", 128),
        ("1MB", "8kB", 128),
        ("1 MB ", "8kB", 128),
        ("1.5GB", "MB", 1536),
        ("30.1GB", "MB", 30822),  # 30822.4, rounded to the next smaller unit
        ("30.1GB", "kB", 30822 * 1024),
        ("0.5kB", "B", 512),
        ("1TB", "kB", 1024**3),
        ("0x10MB", "kB", 16384),
        ("0x10B", "kB", 0x10B),  # C takes the B for a digit
        ("010", "kB", 8),
        ("1e2", "kB", 100),
        ("0x1.8p3", None, 12),
        (".5GB", "MB", 512),
        ("-1", "kB", -1),
        ("+5", None, 5),
        ("1d", "s", 86400),
        ("1.5h", "min", 90),
        ("2min", "ms", 120000),
        ("500us", "ms", 0.5),
        ("90s", "min", 1.5),
        ("\t7\n", None, 7),
    ],
)
def test_quantity(text, unit, expected):
    assert quantities.quantity(text, unit) == expected


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        ("", "kB", "not a number"),
        ("many", "kB", "not a number"),
        ("-.5", "kB", "not a number"),
        ("1e400", "kB", "not a number"),
        ("١", "kB", "not a number"),
        ("08", "kB", "'8' is not a unit"),
        ("128KB", "kB", "'KB' is not a unit of it; it has B, kB, MB, GB, TB"),
        ("128GiB", "kB", "'GiB' is not a unit"),
        ("1min30s", "s", "not a unit"),
        ("5min", "kB", "'min' is not a unit"),
        ("5MB", "ms", "it has us, ms, s, min, h, d"),
        ("5MB", None, "the parameter has none"),
        ("1,5GB", "kB", "not a unit"),
    ],
)
def test_no_quantity(text, unit, words):
    with pytest.raises(ValueError, match=words):
        quantities.quantity(text, unit)


@pytest.mark.parametrize(
    ("count", "text"),
    [(64 * 1024, "64kB"), (1536 * MB, "1536MB"), (2 * GB, "2GB"), (256 * MB, "256MB")],
)
def test_size(count, text):
    assert quantities.size(count) == text
