# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is done and told about huge pages where this machine cannot show it: other servers, control groups, a shortage.

What a real server counts, and takes, is in tests/integration/test_postgres_huge_pages.py.
"""

import dataclasses
import os
import types

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._account import Account
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    huge_pages,
    huge_pages_advice,
    huge_pages_host,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages import Aim, Kept, Part, Pool
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages_advice import State
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages_demand import Demand, Server

GB, PAGE = 1024**3, 2 * 1024**2
MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nHugepagesize: 2048 kB\n"
DATA = "/var/lib/postgresql/15/main"
ACCOUNT = Account(104, 104, (104,), "/var/lib/postgresql")
SERVER = Server(42, DATA, "/etc/postgresql/15/main/postgresql.conf", 8192, 150018, 1.0, ACCOUNT)
DEMAND = Demand(huge_pages="try", chosen=True, shared_buffers=GB, count=38)
EMPTY = Pool(PAGE, 0, 0, 0, 0)
OURS = Kept(38, {DATA: Part(38, 38)})


def laid_out(root, files):
    for name, text in {"proc/meminfo": MEMINFO, "proc/sys/vm/nr_hugepages": "0\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def state(path="/nowhere/90.conf", pool=EMPTY, **other):
    """A State in which nothing is reserved; ``other`` may change it, its server's version or its demand."""
    server = dataclasses.replace(SERVER, version=other.pop("version", SERVER.version))
    demand = dataclasses.replace(DEMAND, **{name: other.pop(name) for name in list(other) if hasattr(DEMAND, name)})
    found = dict(held=0, in_use=False, as_it_runs=True, text=None)
    return State(server=server, demand=demand, pool=pool, path=str(path), **{**found, **other})


LIMIT = {"proc/42/cgroup": "0::/a\n", "sys/fs/cgroup/a/hugetlb.2MB.max": f"{37 * PAGE}\n"}
GROUPS = {"proc/42/status": "Gid:\t104\t104\t104\t104\nGroups:\t103 \n", "proc/sys/vm/hugetlb_shm_group": "7\n"}


@pytest.mark.parametrize(
    ("files", "other", "words"),
    [
        ({}, {}, []),
        ({}, dict(huge_pages="off"), []),
        ({}, dict(version=140012, count=0), ["PostgreSQL 14 does not tell", "ordinary pages"]),
        ({}, dict(version=140012, count=0, huge_pages="on"), ["PostgreSQL 14 does not tell", "does not start", "set it to try"]),
        ({}, dict(version=140012, count=0, chosen=False), []),
        ({}, dict(words="it is broken", count=0), ["it is broken", "ordinary pages"]),
        ({}, dict(pool=None), ["The kernel here has no huge pages.", "ordinary pages"]),
        ({}, dict(pool=None, page_size=GB), ["no huge pages of 1GB", "ordinary pages"]),
        ({}, dict(pool=Pool(GB, 3, 0, 1, 0), page_size=GB, count=2), ["write 4 to", "hugepages-1048576kB/nr_hugepages"]),
        ({}, dict(pool=Pool(GB, 3, 0, 2, 0), page_size=GB, count=2), []),
        (LIMIT, {}, ["have 37 huge pages of the 38", "hugetlb.2MB.max", "huge_pages to off"]),
        (LIMIT, dict(count=37), []),
        (GROUPS, dict(memory_type="sysv"), ["vm.hugetlb_shm_group", "to mmap"]),
        ({**GROUPS, "proc/sys/vm/hugetlb_shm_group": "103"}, dict(memory_type="sysv"), []),
        (GROUPS, {}, []),
    ],
)
def test_what_no_pool_can_help_with(tmp_path, files, other, words):
    told = " ".join(huge_pages_advice.problem(state(**other), laid_out(tmp_path, files)))
    assert all(word in told for word in words) and bool(words) == bool(told), told


def test_another_size_that_is_there_is_left_alone(tmp_path):
    found = state(pool=Pool(GB, 2, 0, 2, 0), page_size=GB, count=2)
    assert huge_pages_host._aim(found, huge_pages.Kernel(laid_out(tmp_path, {}))) == (None, [])
    result = huge_pages_host._result(found, found.pool, None, [], False)
    assert result["enough"] and result["page_size"] == GB and "started again" in result["note"]


def test_the_memory_that_is_available_now_decides_whether_only_the_boot_gets_them(tmp_path):
    kernel = huge_pages.Kernel(laid_out(tmp_path, {}))
    aim, notes = huge_pages_host._aim(state(count=3000), kernel)
    assert (aim.total, aim.kept.total, notes) == (3000, 3000, [])
    aim, notes = huge_pages_host._aim(state(count=4000), kernel)
    told = " ".join(notes)
    assert (aim.total, aim.kept.total) == (0, 4000) and "next boot" in told and "sysctl -w vm.nr_hugepages=4000" in told
    aim, notes = huge_pages_host._aim(state(count=7000), kernel)
    assert aim is None and "75%" in notes[0]


def test_a_later_file_that_overrules_ours_is_named(tmp_path):
    kernel = huge_pages.Kernel(laid_out(tmp_path, {"etc/sysctl.d/99.conf": "vm.nr_hugepages = 5", "etc/sysctl.d/90.conf": ""}))
    aim, notes = huge_pages_host._aim(state(tmp_path / "etc/sysctl.d/90.conf"), kernel)
    assert aim.total == 38 and "99.conf" in notes[0] and "remove that line" in notes[0]


class Module:
    """What a step asks of Ansible's module to put a file in its place."""

    check_mode = False

    def __init__(self, folder):
        self.tmpdir = str(folder)

    def atomic_move(self, draft, path):
        os.replace(draft, path)


@pytest.fixture
def short(tmp_path, monkeypatch):
    """``short(most)`` -> a kernel that gives that many pages of 2 MB; an exception instead is raised when it is asked."""
    monkeypatch.setattr(huge_pages, "PAUSE_SECONDS", 0)

    def made(most):
        kernel = huge_pages.Kernel(laid_out(tmp_path, {}))
        now = types.SimpleNamespace(total=0)

        def resize(total):
            if isinstance(most, Exception):
                raise most
            now.total = min(total, most)

        kernel.resize = resize
        kernel.pool = lambda page_size=0: Pool(PAGE, now.total, 0, now.total, 0)
        return kernel

    return made


def test_a_shortage_leaves_the_boot_to_get_them(tmp_path, short):
    found = state(tmp_path / "90.conf")
    pool, notes = huge_pages_host._resized(Module(tmp_path), short(20), found, Aim(38, OURS))
    result = huge_pages_host._result(found, pool, huge_pages.render(OURS), notes, False)
    assert (result["changed"], result["total"], result["got"], result["enough"]) == (True, 0, 0, False)
    assert (result["restart_required"], result["start_fails"]) == (False, False)
    assert "Of 38 huge pages that the server needs, 20 could be got" in result["note"] and "next boot" in result["note"]
    assert (tmp_path / "90.conf").read_text() == huge_pages.render(OURS)
    again = dataclasses.replace(found, text=huge_pages.render(OURS))
    pool, notes = huge_pages_host._resized(Module(tmp_path), short(20), again, Aim(38, OURS))
    assert not huge_pages_host._result(again, pool, again.text, notes, False)["changed"] and notes


def test_with_huge_pages_on_a_shortage_keeps_the_server_from_starting(tmp_path, short):
    found = state(tmp_path / "90.conf", huge_pages="on")
    pool, notes = huge_pages_host._resized(Module(tmp_path), short(20), found, Aim(38, OURS))
    result = huge_pages_host._result(found, pool, huge_pages.render(OURS), notes, False)
    assert result["start_fails"] and "set it to try" in result["note"]


@pytest.mark.parametrize("before", [None, "# ours, from before\n"])
def test_a_kernel_that_refuses_in_spite_of_its_permissions_leaves_no_file(tmp_path, short, before):
    found = state(tmp_path / "90.conf", text=before)
    if before:
        (tmp_path / "90.conf").write_text(before)
    pool, notes = huge_pages_host._resized(Module(tmp_path), short(PermissionError(1, "no")), found, Aim(38, OURS))
    assert pool == found.pool and "in this container" in notes[0]
    assert (tmp_path / "90.conf").exists() is bool(before) and (not before or (tmp_path / "90.conf").read_text() == before)


@pytest.mark.parametrize(
    ("since", "other", "waits", "words"),
    [
        # since when the pages are there, and the server runs since 1.0
        (2.0, {}, True, ""),
        (0.5, {}, False, "its log tells why"),
        (0.5, dict(as_it_runs=False), False, "when it is started again"),
        (None, {}, False, "when it is started again"),
        (0.5, dict(in_use=True), False, ""),
        (2.0, dict(in_use=True), False, ""),
        (2.0, dict(huge_pages="off"), False, ""),
    ],
)
def test_a_restart_is_asked_for_once(tmp_path, since, other, waits, words):
    path = tmp_path / "90.conf"
    if since:
        path.write_text("x")
        os.utime(path, (since, since))
    found = state(path, pool=Pool(PAGE, 38, 0, 38, 0), text="x" if since else None, **other)
    result = huge_pages_host._result(found, found.pool, found.text, [], False)
    assert (result["restart_required"], result["changed"]) == (waits, False)
    assert words in result["note"] and bool(words) == bool(result["note"])


def test_a_file_in_no_folder_is_refused():
    with pytest.raises(Refusal, match="no folder /nowhere"):
        huge_pages_host._require_folder(Aim(38, OURS), state())
    huge_pages_host._require_folder(Aim(38, None), state())


def test_a_file_with_the_line_ends_of_another_system_says_the_same(tmp_path):
    path = tmp_path / "90.conf"
    path.write_bytes(huge_pages.render(OURS).replace("\n", "\r\n").encode())
    assert huge_pages.read(huge_pages_host._content(str(path))) == OURS
