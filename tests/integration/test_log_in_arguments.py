# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The log-in that proves what Synapse will do, by the keywords that Synapse's section has: files, services, several hosts."""

import uuid

import pytest
import yaml

from support import loopback, playbooks

PASSWORD = "in a file: \\ and so"


@pytest.fixture
def role(any_cluster):
    """A role with PASSWORD, and a database of its own of the same name."""
    name = f"args_{uuid.uuid4().hex[:8]}"
    any_cluster.rows(f"CREATE ROLE {name} LOGIN PASSWORD %s", PASSWORD)
    any_cluster.rows(f"CREATE DATABASE {name} OWNER {name} LOCALE 'C' TEMPLATE template0")
    yield name
    any_cluster.rows(f"DROP DATABASE {name}")
    any_cluster.rows(f"DROP ROLE {name}")


def passfile(tmp_path, server, role, password=PASSWORD):
    path = tmp_path / "passfile"
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    path.write_text(f"127.0.0.1:{server.port}:{role}:{role}:{escaped}\n")
    path.chmod(0o600)
    return path


def here(server, role, **others):
    return {"user": role, "dbname": role, "host": "127.0.0.1", "port": server.port, "cp_max": 7, **others}


def logged_in(run, args, module="synapse_database_info", **secrets):
    return run(module, {"login_args": args, "login_secrets": secrets})


def test_a_password_from_a_file_is_proved_and_one_that_does_not_fit_is_explained(run, any_cluster, role, tmp_path):
    path = passfile(tmp_path, any_cluster, role)
    args = here(any_cluster, role, passfile=str(path))
    assert logged_in(run, args)["database"]["owner"] == role
    # libpq: a password that is given goes before the file's.
    assert "denied" in logged_in(run, args, password="another")
    path.chmod(0o644)
    refused = logged_in(run, args)
    assert refused["denied"]["address"] == "127.0.0.1" and str(path) in refused["msg"] and "mode 0600" in refused["msg"]
    passfile(tmp_path, any_cluster, role, "another")
    assert "password authentication failed" in logged_in(run, args)["msg"]


def test_a_service_says_all_and_our_defaults_nothing(run, any_cluster, role, tmp_path, monkeypatch):
    services = tmp_path / "services"
    lines = [f"host=127.0.0.1\nport={any_cluster.port}\nuser={role}\ndbname={role}\npassword={PASSWORD}\n"]
    services.write_text("[good]\n" + lines[0] + "[nowhere]\n" + lines[0].replace(str(any_cluster.port), "1"))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert logged_in(run, {"service": "good"})["database"]["owner"] == role
    assert "the service nowhere" in logged_in(run, {"service": "nowhere"})["msg"]
    services.write_text("[good]\n" + lines[0].replace(f"password={PASSWORD}\n", ""))
    refused = logged_in(run, {"service": "good"})
    assert refused["denied"]["address"] == "127.0.0.1" and "service good" in refused["msg"], refused


def test_several_hosts_addresses_and_options_are_tried_as_libpq_does(run, any_cluster, role):
    ports = f"{loopback.free_port()},{any_cluster.port}"
    several = here(any_cluster, role, host="localhost,localhost", port=ports, target_session_attrs="read-write")
    assert logged_in(run, several, password=PASSWORD)["database"]["owner"] == role
    standby = {**several, "target_session_attrs": "standby"}
    assert "failed" in logged_in(run, standby, password=PASSWORD)
    by_address = here(any_cluster, role, host="no.such.host.invalid", hostaddr="127.0.0.1")
    assert logged_in(run, by_address, password=PASSWORD)["database"]["owner"] == role
    assert "no_such_setting" in logged_in(run, here(any_cluster, role, options="-c no_such_setting=1"), password=PASSWORD)["msg"]
    strict = here(any_cluster, role, sslmode="disable", require_auth="none")
    assert "failed" in logged_in(run, strict, password=PASSWORD)
    assert "is not Synapse's" in logged_in(run, here(any_cluster, role), "synapse_sequences", password=PASSWORD)["msg"]


def test_a_play_with_a_passfile_writes_no_password_and_with_the_switch_takes_another_locale(tmp_path, homeserver, any_cluster):
    site = playbooks.Site(tmp_path, any_cluster, playbooks.copied(homeserver[0], tmp_path / "synapse"))
    try:
        site.server.database.unlink()
        config = yaml.safe_load(site.server.config.read_text())
        del config["database"]
        site.server.config.write_text(yaml.safe_dump(config))
        password = site.variables["synapse_postgres_password"]
        path = passfile(tmp_path, any_cluster, site.name, "another")
        args = {"passfile": str(path), "application_name": "proved"}
        given = {"synapse_postgres_args": args, "synapse_postgres_allow_unsafe_locale": True}
        any_cluster.rows(f"CREATE DATABASE {site.name} LOCALE 'C.UTF-8' TEMPLATE template0")
        refused = site.play("site", fails=True, **given)
        assert not refused.missing("password authentication failed") and str(path) not in site.server.config.read_text()
        passfile(tmp_path, any_cluster, site.name, password)
        # The role is there: its password is in the file alone.
        del site.variables["synapse_postgres_password"]
        played = site.play("site", **given)
        section = yaml.safe_load(site.server.config.read_text())["database"]["args"]
        assert "password" not in section and section["passfile"] == str(path), played.output[-2000:]
        assert site.rows("SELECT datcollate FROM pg_database WHERE datname = current_database()") == [("C.UTF-8",)]
        assert site.rows("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'proved'")
    finally:
        site.close()
