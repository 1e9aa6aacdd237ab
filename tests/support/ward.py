# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A homeserver's database that is broken, examined by the doctor, and mended by the command that it prints."""

import dataclasses
import os
import re
import shlex
import subprocess

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor import catalogue
from support import modules
from support import move as moves

# What the throwaway clusters lack on purpose, so that they are quick.
LACKING = ["durability"]


@dataclasses.dataclass
class Ward:
    """A homeserver's database that is broken and examined; ``move`` has its names, its folder and its log-in."""

    move: moves.Move

    @property
    def cluster(self):
        return self.move.cluster

    @property
    def administrator(self) -> dict:
        """The options with which the server's administrator examines."""
        return {**self.cluster.login, "login_db": self.move.name, "role": moves.USER, **self._here}

    @property
    def synapse(self) -> dict:
        """The options with which Synapse's role examines."""
        return {**self.move.login, "role": moves.USER, **self._here}

    @property
    def _here(self) -> dict:
        return {"config": [str(self.move.config)], "synapse_python": str(self.move.server.python), "processes": 1}

    def break_(self, *statements: str) -> None:
        """Run ``statements`` in the database as the superuser, each by itself."""
        for statement in statements:
            self.move.rows(statement)

    def examine(self, options: dict | None = None, **more) -> dict:
        """Return what the module says, as the administrator unless ``options`` name somebody else."""
        given = {"skip": LACKING, **(options or self.administrator), **more}
        given["skip"] = [name for name in given["skip"] if name in names()]
        result = modules.run("synapse_doctor_info", given)
        assert not result.get("failed"), result["msg"]
        return result

    def only(self, check: str, options: dict | None = None, **more) -> list[dict]:
        """Return the findings, all of which must be of ``check``; and there must be some."""
        result = self.examine(options, **more)
        names = {finding["check"] for finding in result["findings"]}
        assert names == {check}, result["report"] + [str(result["unseen"])]
        return result["findings"]

    def heal(self, remedy: str) -> None:
        """Run the command in backticks of a ``remedy`` as it is printed, where the administrator would."""
        for command in re.findall(r"`([^`]+)`", remedy)[:1] or pytest.fail(f"no command in: {remedy}"):
            found = {"PGHOST": "127.0.0.1", "PGPORT": str(self.cluster.port)}
            found.update(PGUSER=self.cluster.login["login_user"], PGPASSWORD=self.cluster.login["login_password"])
            path = os.pathsep.join([str(self.cluster.installation.programs), os.environ["PATH"]])
            words = ["bash", "-euo", "pipefail", "-c", command]
            done = subprocess.run(
                words,
                cwd=self.move.folder,
                env={**os.environ, **found, "PATH": path},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"

    def healthy(self, options: dict | None = None, **more) -> None:
        """Fail unless nothing is found."""
        result = self.examine(options, **more)
        assert result["findings"] == [], result["report"]


def names() -> set[str]:
    """Return the names of all checks."""
    return {check.name for check in catalogue.CHECKS}
