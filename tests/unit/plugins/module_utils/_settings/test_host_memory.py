# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's memory and the limits of control groups, from folders laid out as the kernel's."""

import os

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import host_memory

HOST = "MemTotal:        8000000 kB\nMemFree:         1000000 kB\n"
V1_UNLIMITED = "9223372036854771712\n"


def laid_out(root, files):
    for name, text in {"proc/meminfo": HOST, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8192000000),
        ({"proc/self/cgroup": "0::/\n"}, 8192000000),
        # a container that sees its own group as the root
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "2147483648\n"}, 2147483648),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8192000000),
        # a limit of our group, and a tighter one above it
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "3000\n"}, 3000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "3000\n",
                "sys/fs/cgroup/a/memory.max": "2000\n",
            },
            2000,
        ),
        # a larger limit than there is memory
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "99999999999\n"}, 8192000000),
        # version 1, alone and beside version 2
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
            },
            1073741824,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "4096\n",
            },
            4096,
        ),
        # what a group is slowed down above, and a hybrid host with version 2 beside version 1
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "3000\n",
                "sys/fs/cgroup/a/memory.high": "2500\n",
            },
            2500,
        ),
        ({"proc/self/cgroup": "3:memory:/\n0::/a\n", "sys/fs/cgroup/unified/a/memory.max": "5000\n"}, 5000),
        # another group's limit is not ours
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/b/memory.max": "2000\n"}, 8192000000),
    ],
)
def test_the_least_of_the_host_and_the_limits(tmp_path, files, expected):
    assert host_memory.usable(laid_out(tmp_path, files)) == expected


def test_a_host_that_does_not_tell(tmp_path):
    with pytest.raises(Refusal, match="option memory"):
        host_memory.usable(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"data/postmaster.pid": "77\n/var/lib/postgresql\n"}, None),
        ({"data/postmaster.pid": "77\n", "proc/77/cgroup": "0::/system.slice/pg.service\n"}, None),
        (
            {
                "data/postmaster.pid": "77\n/var/lib/postgresql\n",
                "proc/77/cgroup": "0::/system.slice/pg.service\n",
                "sys/fs/cgroup/system.slice/pg.service/memory.max": "2000\n",
                "sys/fs/cgroup/system.slice/memory.max": "max\n",
            },
            2000,
        ),
        (
            {
                "data/postmaster.pid": "77\n",
                "proc/77/cgroup": "4:memory:/pg\n",
                "sys/fs/cgroup/memory/pg/memory.limit_in_bytes": "1500\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
            },
            1500,
        ),
        # our own group's limit is not the server's
        (
            {
                "data/postmaster.pid": "77\n",
                "proc/77/cgroup": "0::/pg\n",
                "proc/self/cgroup": "0::/user\n",
                "sys/fs/cgroup/user/memory.max": "1000\n",
            },
            None,
        ),
        ({"data/postmaster.pid": "not a number\n"}, None),
    ],
)
def test_the_limit_of_a_running_server(tmp_path, files, expected):
    assert host_memory.limit(str(tmp_path / "data"), laid_out(tmp_path, files)) == expected


def test_a_data_directory_whose_name_is_in_another_encoding(tmp_path):
    files = {"proc/77/cgroup": "0::/pg\n", "sys/fs/cgroup/pg/memory.max": "2000\n"}
    root, folder = laid_out(tmp_path, files), tmp_path / "data"
    folder.mkdir()
    (folder / "postmaster.pid").write_bytes("77\n/srv/Zürich\n".encode("latin-1"))
    assert host_memory.limit(str(folder), root) == 2000


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 9999),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            9999,
        ),
    ],
)
def test_a_quota_of_processors(tmp_path, files, quota):
    assert host_memory.processors(root=laid_out(tmp_path, files)) == min(quota, len(os.sched_getaffinity(0)))


PID = {"data/postmaster.pid": "77\n/var/lib/postgresql\n"}
SERVICE = {"proc/77/cgroup": "0::/system.slice/pg.service\n", "proc/self/cgroup": "0::/user\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({**PID, **SERVICE, "sys/fs/cgroup/system.slice/pg.service/cpu.max": "80000 100000\n"}, 1),
        ({**PID, **SERVICE, "sys/fs/cgroup/system.slice/cpu.max": "80000 100000\n"}, 1),
        # the least of the server's and ours, whichever that is
        (
            {
                **PID,
                **SERVICE,
                "sys/fs/cgroup/user/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/system.slice/pg.service/cpu.max": "99900000 100000\n",
            },
            1,
        ),
        # a server that does not run has no group, and another service's quota is not its
        ({**SERVICE, "sys/fs/cgroup/system.slice/pg.service/cpu.max": "80000 100000\n"}, 9999),
        ({**PID, **SERVICE, "sys/fs/cgroup/system.slice/other.service/cpu.max": "80000 100000\n"}, 9999),
    ],
)
def test_a_quota_of_the_servers_service(tmp_path, monkeypatch, files, quota):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(8))
    root = laid_out(tmp_path, files)
    assert host_memory.processors(str(tmp_path / "data"), root) == min(quota, 8)


def test_this_host():
    assert 0 < host_memory.usable() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 <= host_memory.processors() <= os.cpu_count()
