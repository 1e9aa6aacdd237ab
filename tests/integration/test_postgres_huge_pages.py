# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_huge_pages with real servers and the kernel's own pool: counted, reserved, in use, given back; or a clear note."""

import pwd
import shlex
import shutil
import sys

import pytest

from support import clusters, huge_pages, needs

# Few pages, so that no other server of the tests finds a place among them.
SMALL = {"shared_buffers": "16MB", "huge_pages": "try"}

# What check mode has to foretell; "msg" is of a run that fails.
TOLD = ["changed", "needed", "page_size", "total", "others", "got", "enough", "in_use", "restart_required", "start_fails"]
TOLD += ["note", "path", "diff", "msg"]

# Where nothing depends on the server's version, one will do.
_ONE = clusters.installations()[0]
one_version = pytest.mark.parametrize("cluster", [_ONE], ids=[f"pg{_ONE.major}-{_ONE.origin}"], indirect=True, scope="session")


@pytest.fixture
def pool(cluster):
    """The kernel's pool, empty and for this test alone."""
    needs.root()
    needs.need(huge_pages.there(), "the kernel has no huge pages, or does not let us have them")
    with huge_pages.alone():
        yield


@pytest.fixture
def conf(cluster, pool):
    """A file that the server reads, absent; afterwards the server is as it was."""
    path = cluster.data / "conf.d" / "90-huge-pages.conf"
    auto = cluster.data / "postgresql.auto.conf"
    before = auto.read_bytes()
    yield path
    path.unlink(missing_ok=True)
    auto.write_bytes(before)
    cluster.stop()
    cluster.start()


@pytest.fixture
def kept(tmp_path):
    """Our file of settings for the kernel, absent."""
    return tmp_path / "90-huge-pages.conf"


@pytest.fixture
def have(cluster, run, pool, kept):
    """``have(settings, **options)`` -> the module's result, which check mode has foretold without a change."""

    def with_settings(settings=None, by=None, python=sys.executable, **options):
        options = {**cluster.login, "settings": settings or {}, "sysctl_file": str(kept), **options}
        before = (huge_pages.total(), kept.read_bytes() if kept.exists() else None)
        foretold = run("postgres_huge_pages", options, check=True, account=by, python=python)
        assert before == (huge_pages.total(), kept.read_bytes() if kept.exists() else None)
        result = run("postgres_huge_pages", options, account=by, python=python)
        assert {name: foretold.get(name) for name in TOLD} == {name: result.get(name) for name in TOLD}
        assert result.get("failed") or result["total"] == huge_pages.total()
        return result

    return with_settings


def configure(cluster, conf, settings):
    conf.write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
    cluster.stop()
    cluster.start()


def test_they_are_counted_reserved_in_use_and_given_back(cluster, conf, have, kept):
    first = have(SMALL)
    needed = first["needed"]
    assert first["changed"] and first["note"] == "" and first["enough"], first
    assert 8 < needed < 40 and first["page_size"] == huge_pages.counters()["Hugepagesize"] * 1024
    assert (first["total"], first["others"], first["got"]) == (needed, 0, needed)
    assert (first["in_use"], first["restart_required"]) == (False, True)
    text = kept.read_text()
    assert f"vm.nr_hugepages = {needed}\n" in text and text == first["diff"]["after"] and kept.stat().st_mode & 0o777 == 0o644
    again = have(SMALL)
    assert (again["changed"], again["restart_required"], again["total"]) == (False, True, needed)

    configure(cluster, conf, SMALL)
    assert cluster.rows("SHOW shared_memory_size_in_huge_pages") == [(str(needed),)]
    assert huge_pages.counters()["HugePages_Free"] - huge_pages.counters()["HugePages_Rsvd"] == 0
    for settings in ({}, SMALL):
        after = have(settings)
        assert (after["changed"], after["restart_required"], after["in_use"], after["note"]) == (False, False, True, "")
        assert (after["needed"], after["total"], after["others"], after["got"]) == (needed, needed, 0, needed)
    if cluster.major >= 17:
        assert cluster.rows("SHOW huge_pages_status") == [("on",)]

    off = have({"huge_pages": "off"})
    assert (off["changed"], off["needed"], off["total"], off["in_use"]) == (True, 0, 0, True) and not kept.exists(), off
    assert not have({"huge_pages": "off"})["changed"]
    assert cluster.rows("SELECT count(*) > 100 FROM pg_class") == [(True,)]
    configure(cluster, conf, {**SMALL, "huge_pages": "off"})
    assert have()["in_use"] is False and huge_pages.counters()["HugePages_Total"] == 0


def test_more_and_fewer_are_needed(cluster, conf, have, kept):
    small = have(SMALL)["needed"]
    more = have({**SMALL, "shared_buffers": "24MB"})
    assert more["changed"] and more["total"] == more["needed"] > small
    configure(cluster, conf, {**SMALL, "shared_buffers": "24MB"})
    fewer = have(SMALL)
    assert fewer["changed"] and fewer["in_use"] and (fewer["total"], fewer["needed"]) == (small, small)
    configure(cluster, conf, SMALL)
    result = have()
    assert (result["changed"], result["in_use"], result["total"]) == (False, True, small)
    assert huge_pages.counters()["HugePages_Total"] == small


@one_version
def test_what_others_use_or_may_use_stays_theirs(cluster, conf, have, kept):
    huge_pages.resize(9)
    with huge_pages.taken(6):
        first = have(SMALL)
        assert (first["others"], first["total"], first["got"]) == (6, 9 + first["needed"], first["needed"]), first
        assert not have(SMALL)["changed"]
        with huge_pages.taken(5):
            result = have(SMALL)
            assert (result["changed"], result["others"], result["total"]) == (True, 11, 11 + result["needed"])
            configure(cluster, conf, SMALL)
            assert (have()["in_use"], have()["others"], have()["changed"]) == (True, 11, False)
            assert have({"huge_pages": "off"})["total"] == 11
        configure(cluster, conf, {**SMALL, "huge_pages": "off"})
    assert not kept.exists()


@one_version
def test_pages_that_an_administrator_reserved_are_enough(cluster, have, kept):
    needed = have(SMALL)["needed"]
    kept.unlink()
    huge_pages.resize(needed + 3)
    result = have(SMALL)
    assert (result["total"], result["got"], result["enough"]) == (needed + 3, needed, True)
    assert f"vm.nr_hugepages = {needed + 3}\n" in kept.read_text(), "they would not be there after a boot"
    assert not have(SMALL)["changed"]
    assert have({"huge_pages": "off"})["total"] == needed + 3 and not kept.exists()


@one_version
def test_by_default_little_memory_asks_for_none(cluster, run, have, kept):
    result = have({"shared_buffers": "2047MB"})
    assert (result["changed"], result["needed"], result["enough"], result["note"]) == (False, 0, True, "")
    # Only foretold: other tests' servers would find a place among so many pages.
    options = {**cluster.login, "settings": {"shared_buffers": "2GB"}, "sysctl_file": str(kept)}
    result = run("postgres_huge_pages", options, check=True)
    assert result["changed"] and result["needed"] >= 2 * 1024**3 // result["page_size"] and not kept.exists(), result


@one_version
def test_more_than_the_host_has_is_refused_beforehand(cluster, have, kept):
    result = have({"shared_buffers": "2TB", "huge_pages": "try"})
    assert not result["changed"] and not kept.exists() and result["needed"] > 10**6, result
    assert "more than 75%" in result["note"] and "uses ordinary pages" in result["note"]
    assert (result["got"], result["enough"], result["start_fails"]) == (0, False, False)
    result = have({"shared_buffers": "2TB", "huge_pages": "on"})
    assert result["start_fails"] and "set it to try" in result["note"]


@one_version
def test_who_may_not_change_the_pool_is_told_and_needs_nothing_where_it_suffices(cluster, have, kept):
    result = have(SMALL, by=cluster.account)
    needed = result["needed"]
    assert not result["changed"] and not kept.exists() and not result["enough"], result
    assert f"sysctl -w vm.nr_hugepages={needed}" in result["note"] and "uses ordinary pages" in result["note"]
    huge_pages.resize(needed)
    result = have(SMALL, by=cluster.account)
    assert (result["changed"], result["enough"], result["got"], kept.exists()) == (False, True, needed, False)
    assert "takes them when it is started again" in result["note"]


@pytest.fixture
def python(tmp_path):
    """``python(command)`` -> a program like our Python that runs as the words of ``command`` before it have it."""
    path = tmp_path / "python"

    def run_by(command):
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)
        return str(path)

    return run_by


OURS = shlex.quote(sys.executable)
READ_ONLY = f'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec {OURS} "$@"'


@one_version
def test_a_container_whose_kernel_settings_are_read_only(cluster, have, kept, python):
    inside = python(f"unshare --mount sh -c {shlex.quote(READ_ONLY)} sh")
    result = have(SMALL, python=inside)
    assert not result["changed"] and not kept.exists() and "in this container" in result["note"], result
    assert not have({"huge_pages": "on"}, python=inside)["changed"]


def test_a_container_whose_root_may_not_look_into_processes(cluster, conf, have, kept, python):
    needs.need(shutil.which("setpriv") is not None, "no setpriv (util-linux) to be root with fewer rights by")
    inside = python(f"setpriv --bounding-set -sys_ptrace {OURS}")
    first = have(SMALL, python=inside)
    assert first["changed"] and first["enough"] and first["note"] == "" and first["needed"] > 8, first
    configure(cluster, conf, SMALL)
    assert have(python=inside)["in_use"] and not have()["changed"]


@one_version
def test_a_server_that_cannot_be_seen_is_left_alone_with_a_note(cluster, have, kept, python):
    other = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_name not in ("root", cluster.account))
    elsewhere = python(f"unshare --pid --fork --mount-proc {OURS}")
    for way, words in ({"by": other}, f"may not act as {cluster.account}. Run it as root"), ({"python": elsewhere}, "own host"):
        result = have(SMALL, **way)
        assert not result.get("failed") and not result["changed"] and not kept.exists(), result
        assert words in result["note"] and "uses ordinary pages" in result["note"]
        assert (result["needed"], result["enough"], result["start_fails"]) == (0, False, False)
        assert have({}, **way)["note"] == "", "it wants none"
    kept.write_text("vm.nr_hugepages = 3\n")
    result = have({"huge_pages": "off"}, python=elsewhere)
    assert (result["changed"], result["enough"], result["needed"]) == (False, True, 0) and "own host" in result["note"]


@one_version
def test_the_servers_own_user_by_peer_authentication(cluster, have):
    rules = cluster.data / "pg_hba.conf"
    before = rules.read_bytes()
    role = cluster.account
    cluster.rows(f'CREATE ROLE "{role}" SUPERUSER LOGIN')
    rules.write_bytes(f"local all {role} peer\n".encode() + before)
    cluster.rows("SELECT pg_reload_conf()")
    way = {"login_host": "", "login_unix_socket": str(cluster.folder), "login_user": "", "login_password": None}
    try:
        refused = have(SMALL, **way)
        result = have(SMALL, account=role, **way)
    finally:
        rules.write_bytes(before)
        cluster.rows("SELECT pg_reload_conf()")
        cluster.rows(f'DROP ROLE "{role}"')
    assert refused.get("failed") and "No connection" in refused["msg"], "root is no role of this server's"
    assert result["changed"] and result["enough"], result


def test_the_command_line_and_a_configuration_elsewhere_count(cluster, conf, have):
    elsewhere = cluster.folder / "etc"
    elsewhere.mkdir(exist_ok=True)
    text = (cluster.data / "postgresql.conf").read_text().replace("'conf.d'", f"'{cluster.data}/conf.d'")
    (elsewhere / "it's.conf").write_text(f"{text}\ndata_directory = '{cluster.data}'\ninclude 'more.conf'\n")
    (elsewhere / "more.conf").write_text("max_connections = 40\n")
    plain = have({"huge_pages": "try", "shared_buffers": "24MB"})["needed"]
    cluster.stop()
    words = shlex.join(["-c", f"config_file={elsewhere}/it's.conf", "-B", "3072", "-c", "huge_pages=try"])
    options = ["-w", "-l", str(cluster.folder / "log"), "-D", str(cluster.data), "-o", words]
    clusters.program(cluster.installation, "pg_ctl", "start", *options, account=cluster.account)
    configured = have({"shared_buffers": "16MB", "max_connections": "100"})["needed"]
    assert cluster.rows("SHOW config_file") == [(f"{elsewhere}/it's.conf",)]
    assert have()["needed"] < plain == configured, "shared_buffers of the command line, max_connections of the files"
    assert cluster.rows("SHOW shared_memory_size_in_huge_pages") == [(str(have()["needed"]),)]


@one_version
def test_a_configuration_that_the_server_would_not_take_is_told(cluster, conf, have, kept):
    conf.write_text("shared_preload_libraries = 'nowhere_to_be_found'\n")
    result = have(SMALL)
    assert not result["changed"] and not kept.exists() and "nowhere_to_be_found" in result["note"], result
    assert (result["enough"], result["start_fails"]) == (False, False)
    assert have({"work_mem": "lots"}).get("failed")
