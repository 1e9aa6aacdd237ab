# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How Synapse is started, by the words of a command or of systemctl, and where the files of a process are on its host."""

import os
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import startup
from support import needs

PYTHON = "/opt/venvs/matrix-synapse/bin/python"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("python -m synapse.app.homeserver -c a.yaml -c/b", (startup.MAIN, ["a.yaml", "/b"])),
        ("python -X dev -W ignore -m synapse.app.homeserver --config-path=/a --config-path /b -D", (startup.MAIN, ["/a", "/b"])),
        ("python -m synapse.app.homeserver --config-p /a --keys-directory /k", (startup.MAIN, ["/a"])),
        ("python -m synapse.app.generic_worker --config-path=/a --config-path=/w", ("synapse.app.generic_worker", ["/a", "/w"])),
        ("python /venv/bin/synapse_homeserver -c /a --generate-missing-and-run", (startup.MAIN, ["/a"])),
        ("/venv/bin/synapse_worker -c /a -c /w", ("synapse.app.generic_worker", ["/a", "/w"])),
        ("/usr/bin/env CACHE=1 python3 -m synapse.app.homeserver -c /a", (startup.MAIN, ["/a"])),
        ("python3 -sP /usr/bin/synapse_homeserver -c /a", (startup.MAIN, ["/a"])),
        ("/nix/store/p/bin/python3.12 /nix/store/s/bin/.synapse_homeserver-wrapped -c /a", (startup.MAIN, ["/a"])),
        ("python -m synapse._scripts.synctl start /a", None),
        # What these start sees other files, or starts in another folder.
        ("podman run --rm -v /srv/synapse:/data synapse -m synapse.app.homeserver -c /data/homeserver.yaml", None),
        ("/bin/sh -c cd /srv/synapse && python -m synapse.app.homeserver -c homeserver.yaml", None),
        ("sudo -u synapse python -m synapse.app.homeserver -c /a", None),
        ("python wait.py -m synapse.app.homeserver", None),
        ("python -m synapse.app.homeserver -c", None),
        ("docker run synapse", None),
        ("", None),
    ],
)
def test_the_words_of_a_command_say_what_synapse_reads(words, found):
    started = startup.parse_command(words.split(" "), ["/here"])
    assert (started and (started.app, started.config_paths)) == found


def test_the_option_of_the_database_is_read():
    assert startup.parse_command(["python", "-m", startup.MAIN, "-c", "/a", "-d", "/b"], []).database_path == "/b"


# What systemd 252 answers for the unit of the matrix.org packages, but for the variables.
SHOWN = """\
ExecStart={ path=%(python)s ; argv[]=%(python)s -m synapse.app.homeserver --config-path=${CONF}/homeserver.yaml $MORE ; \
ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=CONF=/wrong "MORE=-c /etc/matrix-synapse/conf.d/"
EnvironmentFiles=%(file)s (ignore_errors=yes)
WorkingDirectory=!/var/lib/matrix-synapse
"""


def test_a_unit_says_what_synapse_will_read(tmp_path, monkeypatch):
    (tmp_path / "default").write_text("# CONF=/no\nCONF='/etc/matrix-synapse'\n")
    shown = SHOWN % {"python": PYTHON, "file": tmp_path / "default"}
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (unit,) = startup.units(["matrix-synapse.service"])
    assert unit.config_paths == ["/etc/matrix-synapse/homeserver.yaml", "/etc/matrix-synapse/conf.d/"]
    assert (
        unit.working_folders == ["/var/lib/matrix-synapse"]
        and unit.name == "the unit matrix-synapse.service"
        and not unit.is_isolated
    )


def test_without_systemd_no_unit_says_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert startup.units(["matrix-synapse.service"]) == []


@pytest.fixture
def contained(tmp_path):
    """A process that sees ``volume`` of the host as /data and has a root of its own: what a container is, without its tools."""
    needs.mounts()
    root, volume = tmp_path / "root", tmp_path / "a volume"
    for folder in (root / "data", root / "layer", volume / "sub"):
        folder.mkdir(parents=True)
    inside = "import os, sys, time; os.chroot(sys.argv[1]); os.chdir('/data'); print(flush=True); time.sleep(60)"
    script = f'mount --bind "$1" "$1" && mount --bind "$2" "$1/data" && exec {sys.executable} -c "{inside}" "$1"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", root, volume]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield startup.Invocation(startup.MAIN, ["/data", "conf.d"], ["/data"], pid=process.pid), volume
        process.kill()


def test_a_file_in_a_containers_volume_is_found_on_the_host(contained):
    started, volume = contained
    (volume / "homeserver.db").write_text("x")
    (volume / "b.yaml").write_text("")
    (volume / "sub" / "link.db").symlink_to("/data/homeserver.db")
    (volume / "away.db").symlink_to("/etc/passwd")
    assert started.is_isolated
    for name in ("/data/homeserver.db", "homeserver.db", "/data/sub/../homeserver.db", "/data/sub/link.db", "sub/link.db"):
        assert started.host_path(name) == str(volume / "homeserver.db"), name
    assert started.host_path("/data") == str(volume)
    # A link of the container's to a file that it does not have is no way to the host's of that name.
    assert started.host_path("/data/away.db") is None and started.host_path("/etc/passwd") is None
    assert started.host_path("/data/none.db") is None
    (volume / "old.db").write_text("x")
    assert started.has_another_file("/data/homeserver.db", str(volume / "old.db"))
    assert started.has_another_file("homeserver.db", "/etc/passwd")
    assert not started.has_another_file("homeserver.db", str(volume / "homeserver.db"))
    assert not started.has_another_file("/data/none.db", str(volume / "old.db"))
    assert [name for name in started.config_files() if name.endswith("b.yaml")] == [str(volume / "b.yaml")]


def test_a_process_of_the_hosts_own_is_taken_at_its_word(tmp_path):
    (tmp_path / "a.db").write_text("x")
    (tmp_path / "link.db").symlink_to("a.db")
    here = startup.Invocation(startup.MAIN, [], [str(tmp_path)], pid=os.getpid())
    assert here.host_path("link.db") == str(tmp_path / "link.db") and not here.is_isolated
    assert here.host_path("b.db") is None
    assert startup.Invocation(startup.MAIN, [], []).host_path("a.db") is None


@pytest.fixture(params=["as the host", "in a namespace of its own"])
def process(request):
    """The number of a process that sees the host's files: as it is, or as systemd starts one with PrivateTmp."""
    if request.param == "as the host":
        yield os.getpid()
        return
    needs.mounts()
    words = ["unshare", "--mount", sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as started:
        started.stdout.readline()
        yield started.pid
        started.kill()


def test_the_way_back_above_a_linked_folder_leads_to_another_database(tmp_path, process):
    (tmp_path / "disk" / "below").mkdir(parents=True)
    (tmp_path / "below").symlink_to("disk/below")
    for database in (tmp_path / "disk" / "homeserver.db", tmp_path / "homeserver.db"):
        database.write_text(str(database))
    synapse = startup.Invocation(startup.MAIN, [], [str(tmp_path)], pid=process)
    for name in (f"{tmp_path}/below/../homeserver.db", "below/../homeserver.db"):
        assert os.path.samefile(synapse.host_path(name), tmp_path / "disk" / "homeserver.db"), name


def test_a_link_that_the_host_has_too_is_left_to_who_opens_it(tmp_path, process):
    (tmp_path / "a.db").write_text("x")
    (tmp_path / "link.db").symlink_to("a.db")
    synapse = startup.Invocation(startup.MAIN, [], [str(tmp_path)], pid=process)
    assert synapse.host_path("./link.db") == synapse.host_path(f"{tmp_path}/link.db") == str(tmp_path / "link.db")
