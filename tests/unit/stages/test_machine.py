# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the stages leave behind: nothing of what they started, and a sentence where another user's files are."""

import sys

import machine
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account
from support import needs

_TIDY = """
import pathlib, sys, time
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text("taken away")
"""


def test_what_lasts_too_long_takes_away_what_it_started(tmp_path):
    """By SIGTERM pytest ended at once, and its servers lived on."""
    left = tmp_path / "left"
    with pytest.raises(machine.Unable, match="was not done after 2 s"):
        machine.run(sys.executable, "-c", _TIDY, left, timeout=2)
    assert left.read_text() == "taken away"


def test_the_cache_of_another_user_is_told_in_a_sentence(tmp_path, monkeypatch):
    needs.root()
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest-" in parent.name or "popen-" in parent.name or parent == tmp_path:
            parent.chmod(0o755)
    cache = tmp_path / ".cache"
    (cache / "ansible").mkdir(parents=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "CACHE", cache)
    machine._ours()
    with _account.acting(_account.named("nobody")), pytest.raises(machine.Unable, match=f"{cache} is another user's"):
        machine._ours()
    cache.chmod(0o777)
    with _account.acting(_account.named("nobody")), pytest.raises(machine.Unable, match=f"make -C {tmp_path} clean"):
        machine._ours()
    (cache / "ansible").rmdir()
    with _account.acting(_account.named("nobody")):
        machine._ours()
