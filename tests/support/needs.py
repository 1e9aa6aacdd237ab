# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What some machines of developers' cannot do: there a test is passed over, with its reason; under CI it fails."""

import os
import shutil
import subprocess

import pytest


def need(here: bool, reason: str) -> None:
    """Go on if what the test needs is ``here``; else it is passed over for the ``reason``, or under CI it has failed."""
    if not here:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def root() -> None:
    need(os.geteuid() == 0, "only root may become another user or give files away")


def mounts() -> None:
    here = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0
    need(here, "only root may make mounts of its own, by unshare")
