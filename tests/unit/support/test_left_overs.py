# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nothing that one user's run of the tests, the demonstration or the benchmarks leaves behind ends another user's."""

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account
from support import huge_pages, needs, ordinary

_TRIES = """
import fcntl
with open("/proc/sys/vm/nr_hugepages") as stream:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("held")
"""


def test_the_pool_of_huge_pages_that_root_has_locked_is_locked_by_others_afterwards():
    """The lock was a file of root's in the temporary folder, and make bench of anybody else ended in a traceback."""
    needs.root()
    with huge_pages.left_alone():
        pass
    with contextlib.ExitStack() as held:
        with _account.acting(_account.named("nobody")):
            held.enter_context(huge_pages.left_alone())
        tried = subprocess.run([sys.executable, "-c", _TRIES], capture_output=True, text=True, check=True)
    assert tried.stdout == "held\n"


def test_a_folder_that_cannot_be_ours_is_told_with_the_variable_to_set(tmp_path):
    with pytest.raises(ordinary.Unable, match=r"/proc/demo cannot be made: .* Set DEMO_FOLDER"):
        ordinary.own_folder(pathlib.Path("/proc/demo"), "DEMO_FOLDER")
    ordinary.own_folder(tmp_path / "a" / "b", "DEMO_FOLDER")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    needs.root()
    os.chown(tmp_path / "a", 12345, 12345)
    with pytest.raises(ordinary.Unable, match="is another user's"):
        ordinary.own_folder(tmp_path / "a", "BENCH_FOLDER")


@pytest.mark.parametrize("how", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_machine_without_huge_pages_needs_no_lock(tmp_path, monkeypatch, how):
    monkeypatch.setattr(huge_pages, "_SWITCH", tmp_path / "nr_hugepages")
    with huge_pages._locked(how):
        assert not list(tmp_path.iterdir())
