# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The playbook doctor on a real homeserver that the playbooks brought onto PostgreSQL: well, broken, and not to be reached."""

import html
import json
import re
import time

import pytest

from support import clusters, conversation, playbooks, ward

# What the throwaway server lacks on purpose.
SKIP = {"synapse_doctor_skip": [name for name in ward.LACKING if name in ward.names()]}


@pytest.fixture(scope="module")
def site(tmp_path_factory, homeserver):
    """A Site on a server of its own, whose homeserver was moved by the playbooks site and port, and runs."""
    folder = tmp_path_factory.mktemp("doctor")
    with clusters.running(clusters.installations()[0]) as cluster:
        made = playbooks.Site(folder, cluster, playbooks.copied(homeserver[0], folder / "synapse"))
        made.variables.update(SKIP)
        made.server.start()
        made.play("site")
        made.play("port")
        conversation.require_found(made.server.url, homeserver[1])
        while made.rows("SELECT 1 FROM background_updates"):
            time.sleep(0.2)
        made.rows("ANALYZE")
        yield made
        made.close()


def test_a_homeserver_that_the_playbooks_moved_is_well_and_the_files_say_so(site):
    paths = {name: str(site.folder / name) for name in ("doctor.json", "doctor.prom", "doctor.html")}
    given = {
        "synapse_doctor_html_path": paths["doctor.html"],
        "synapse_doctor_json_path": paths["doctor.json"],
        "synapse_doctor_metrics_path": paths["doctor.prom"],
    }
    said = site.play("doctor", **given)
    assert not said.missing("0 critical, 0 warning, 0 notice"), said.output[-3000:]
    found = json.loads((site.folder / "doctor.json").read_text())
    assert found["findings"] == [] and found["unseen"] == {} and "connection" in found["healthy"]
    page = (site.folder / "doctor.html").read_text()
    assert "Nothing was found wrong" in page and "The largest tables" in page and ">events<" in page and "shared_buffers" in page
    metrics = (site.folder / "doctor.prom").read_text().splitlines()
    assert 'synapse_postgres_doctor_findings{severity="critical"} 0' in metrics
    assert 'synapse_postgres_doctor_check_healthy{check="connection"} 1' in metrics
    assert site.play("doctor", **given).changed == 0


def test_a_server_that_lets_synapse_in_no_more_is_reported_and_the_play_fails(site):
    site.rows(f"ALTER ROLE {site.name} NOLOGIN")
    try:
        said = site.play("doctor", fails=True)
        assert not said.missing("CRITICAL", "synapse_doctor_fail_on"), said.output[-3000:]
        paths = {"html": site.folder / "ill.html", "json": site.folder / "ill.json"}
        files = {f"synapse_doctor_{kind}_path": str(path) for kind, path in paths.items()}
        site.play("doctor", synapse_doctor_fail_on="never", **files)
        page, findings = html.unescape(paths["html"].read_text()), json.loads(paths["json"].read_text())["findings"]
        assert {one["check"] for one in findings} == {"connection", "password"}
        finding = next(one for one in findings if one["check"] == "connection")
        assert '<article class="critical">' in page and finding["found"][1:].rstrip(".") in page and finding["why"] in page
        assert all(f"<code>{command}</code>" in page for command in re.findall("`([^`]+)`", finding["remedy"]))
    finally:
        site.rows(f"ALTER ROLE {site.name} LOGIN")


def test_a_server_that_is_down_is_one_finding(site):
    site.cluster.stop()
    try:
        said = site.play("doctor", fails=True)
        assert not said.missing("Connection to the server", "1 critical, 0 warning, 0 notice"), said.output[-4000:]
    finally:
        site.cluster.start()


def test_a_configuration_that_cannot_be_read_keeps_nothing_else_from_being_seen(site):
    config = site.server.config
    before = config.read_text()
    config.write_text("database: [\n" + before)
    try:
        said = site.play("doctor", synapse_doctor_json_path=str(site.folder / "broken.json"), synapse_doctor_fail_on="never")
        found = json.loads((site.folder / "broken.json").read_text())
        assert "server_version" in found["healthy"], said.output[-3000:]
    finally:
        config.write_text(before)
