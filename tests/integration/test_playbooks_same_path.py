# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A homeserver that is down when the move begins, and whose Synapse, once started, has another file by the same path."""

import shutil

import pytest

from support import needs, playbooks
from support.talk import lives_on

# As a container does: the folder of the database is another one for whoever is started here.
_START = """#!/bin/sh
exec unshare --mount sh -c 'mount --bind {other} {disk} && exec {python} -m synapse._scripts.synctl start {config}'
"""


@pytest.fixture
def site(tmp_path, homeserver, any_cluster):
    """A Site whose Synapse, which is stopped, will see the folder ``other`` in the place of ``disk``."""
    needs.root()
    needs.mounts()
    made = playbooks.Site(tmp_path, any_cluster, playbooks.copied(homeserver[0], tmp_path / "synapse"))
    server, disk, other, start = made.server, tmp_path / "disk", tmp_path / "other", tmp_path / "start"
    disk.mkdir()
    server.database.rename(disk / "real.db")
    server.database.symlink_to("../disk/real.db")
    shutil.copytree(disk, other)
    start.write_text(_START.format(other=other, disk=disk, python=server.python, config=server.config))
    start.chmod(0o755)
    made.variables["synapse_postgres_service_manager"] = "command"
    made.variables["synapse_postgres_service_commands"] = {
        "start": str(start),
        "stop": f"{server.python} -m synapse._scripts.synctl stop {server.config}",
        "status": f"sh -c 'kill -0 $(cat {server.folder}/homeserver.pid)'",
    }
    yield made
    made.close()


def test_a_file_of_the_hosts_that_the_started_synapse_does_not_have_is_not_moved(site):
    site.prepare()
    refused = site.play("port", fails=True)
    assert not refused.missing(f"has another file as {site.server.database}", f"({site.folder}/other/real.db)")
    assert lives_on(site) == "sqlite3" and not site.rows("SELECT FROM pg_tables WHERE schemaname = 'public'")
