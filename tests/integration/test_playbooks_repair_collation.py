# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The playbook repair_collation on a real homeserver whose database sorts otherwise than C."""

import contextlib
import json

import pytest
import yaml

from support import conversation, playbooks


@pytest.fixture(scope="module")
def site(tmp_path_factory, homeserver, any_cluster):
    """A Site whose homeserver was moved by the playbooks site and port, and whose database was then made wrong; it runs."""
    folder = tmp_path_factory.mktemp("collation")
    made = playbooks.Site(folder, any_cluster, playbooks.copied(homeserver[0], folder / "synapse"))
    made.variables["synapse_database_rebuild_folder"] = str(folder / "work")
    made.server.start()
    made.play("site")
    made.play("port")
    healthy = made.play("repair_collation")
    assert healthy.changed == 0 and not healthy.missing("Nothing to mend")
    made.server.stop()
    config = yaml.safe_load(made.server.config.read_text())
    config["database"]["allow_unsafe_locale"] = True
    made.server.config.write_text(yaml.safe_dump(config))
    made.variables["synapse_postgres_allow_unsafe_locale"] = True
    yield made
    for suffix in ("before", "given_back", "rebuilding"):
        any_cluster.rows(f"DROP DATABASE IF EXISTS {made.name}_{suffix} WITH (FORCE)")
    made.close()


@pytest.fixture
def wrong(site):
    """The Site with a database that sorts as English does; Synapse runs on it, as it is told to."""
    name, cluster = site.name, site.cluster
    cluster.rows(f"ALTER DATABASE {name} RENAME TO {name}_c")
    cluster.rows(
        f"CREATE DATABASE {name} OWNER {name} ENCODING UTF8 LOCALE 'C.UTF-8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        " TEMPLATE template0"
    )
    cluster.fill(name, f"{name}_c")
    cluster.rows(f"DROP DATABASE {name}_c")
    site.server.start()
    yield site
    site.server.stop()


def databases(site) -> set[str]:
    found = site.cluster.rows("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", site.name)
    return {name.removeprefix(site.name) for (name,) in found}


def test_a_homeserver_whose_database_sorts_wrong_is_put_right_and_runs(wrong):
    site = wrong
    foretold = site.play("repair_collation", "--check")
    assert not foretold.missing("To be made anew", "locale provider is icu, not libc"), foretold.output[-3000:]
    assert databases(site) == {""}
    conversation.wait_for(site.server.url, 2)

    # Somebody who stays connected: nothing is done, and Synapse runs again.
    with contextlib.closing(site.cluster.connect(dbname=site.name, application_name="exporter")):
        refused = site.play("repair_collation", fails=True)
    assert not refused.missing("in use by admin (exporter", "Synapse was started again"), refused.output[-3000:]
    conversation.wait_for(site.server.url, 2)

    mended = site.play("repair_collation")
    assert not mended.missing("is made anew in UTF8 and C", "are the same", f"is kept as {site.name}_before"), mended.output[
        -3000:
    ]
    conversation.wait_for(site.server.url, 2)
    assert json.loads((site.folder / "work" / "rebuild.progress.json").read_text())["step"] == "compare"
    assert site.rows("SELECT datcollate FROM pg_database WHERE datname = current_database()") == [("C",)]
    assert site.play("repair_collation").changed == 0
    dropped = site.play("repair_collation", "-e", "synapse_repair_old_removed=true")
    assert dropped.changed == 1 and databases(site) == {""}
    conversation.wait_for(site.server.url, 2)


def test_a_synapse_that_does_not_start_on_the_new_database_gets_the_old_one_back(wrong):
    """Its first start fails; the second, on the old database, does not."""
    site, synctl = wrong, f"{wrong.server.python} -m synapse._scripts.synctl"
    command, marker = site.folder / "start", site.folder / "started"
    command.write_text(
        f"#!/bin/sh\n[ -e {marker} ] || {{ touch {marker}; exit 0; }}\ncd {site.server.folder}\n"
        f"exec {synctl} start {site.server.config}\n"
    )
    command.chmod(0o755)
    refused = site.play(
        "repair_collation",
        fails=True,
        synapse_postgres_service_manager="command",
        synapse_postgres_service_commands={"start": str(command), "stop": f"{synctl} stop {site.server.config}"},
        synapse_postgres_start_timeout=5,
    )
    assert not refused.missing("It runs on the old one again", f"is kept as {site.name}_given_back"), refused.output[-3000:]
    assert databases(site) == {"", "_given_back"}
    conversation.wait_for(site.server.url, 5)
