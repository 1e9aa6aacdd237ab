# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The order in which files are read that include others."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import include_order


def places(order):
    """Return ``order`` as file:line, without the folders."""
    return [file.rsplit("/", 1)[1] + f":{line}" for file, line in order]


def test_reading_order(tmp_path):
    config, ours = tmp_path / "postgresql.conf", tmp_path / "conf.d" / "50-ours.conf"
    ours.parent.mkdir()
    (ours.parent / "10-before.conf").write_text("a")
    (ours.parent / "60-after.conf").write_text("a")
    (ours.parent / ".hidden.conf").write_text("a")
    (ours.parent / "60-other.txt").write_text("a")
    (tmp_path / "nested.conf").write_text("INCLUDE_DIR = 'conf.d' # ours\n")
    config.write_text("include_if_exists 'missing.conf'\n#include 'missing.conf'\ninclude nested.conf\nincluded = 1")
    expected = "postgresql.conf:1 postgresql.conf:2 postgresql.conf:3 nested.conf:1 10-before.conf:1 50-ours.conf:0"
    expected += " 60-after.conf:1 nested.conf:2 postgresql.conf:4"
    assert places(include_order.reading_order(str(config), str(ours))) == expected.split()
    ours.write_text("a\nb\n")
    assert places(include_order.reading_order(str(config), str(ours))) == expected.split()


def test_a_circle_of_includes_is_refused(tmp_path):
    config = tmp_path / "postgresql.conf"
    config.write_text("include 'postgresql.conf'\n")
    with pytest.raises(Refusal, match="circle"):
        include_order.reading_order(str(config), str(tmp_path / "x.conf"))
