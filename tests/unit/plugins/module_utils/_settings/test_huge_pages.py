# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pool of huge pages: what it is to hold, from numbers and from folders laid out as the kernel's."""

import dataclasses
import itertools

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import huge_pages
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages import (
    Aim,
    Boot,
    Kept,
    Need,
    Part,
    Pool,
)

GB, PAGE = 1024**3, 2 * 1024**2
HERE, THERE = "/var/lib/postgresql/15/main", "/srv/the other's, 5 of those"
NOTHING = Boot(0, "")
FOLDER = "sys/kernel/mm/hugepages/hugepages-2048kB"


def pool(total=0, used=0):
    """A pool of which processes have ``used`` pages; a lack of them is lent."""
    return Pool(PAGE, total, max(used - total, 0), max(total - used, 0), 0)


def laid_out(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("found", "needed", "ours", "boot", "expected", "added"),
    [
        # an empty pool; one with pages of others, used or not
        (pool(), 38, 0, 0, 38, 38),
        (pool(20, 6), 38, 0, 20, 58, 38),
        (pool(20, 20), 38, 0, 20, 58, 38),
        # others live on lent pages
        (pool(0, 6), 38, 0, 0, 44, 44),
        # an administrator's pages that suffice, after a boot too
        (pool(50, 6), 38, 0, 50, 50, None),
        (pool(44, 6), 38, 0, 44, 44, None),
        (pool(50, 38), 38, 38, 50, 50, None),
        # ones that are gone after a boot, or only come then
        (pool(50, 6), 38, 0, 0, 50, 0),
        (pool(0, 0), 38, 0, 100, 38, None),
        # an administrator's pages for this server, which needs more now
        (pool(40, 38), 72, 38, 40, 74, 34),
    ],
)
def test_the_first_time(found, needed, ours, boot, expected, added):
    kept = None if added is None else Kept(expected, {HERE: Part(needed, added)})
    assert huge_pages.aim(found, None, Need(HERE, needed, ours), Boot(boot, "")) == Aim(expected, kept)


@pytest.mark.parametrize(
    ("found", "needed", "ours", "expected", "lasting"),
    [
        # 50 pages, 38 of them for us and 30 of those added; what others can use is 12, and it was 20 without us
        (pool(50), 38, 0, 50, 50),
        (pool(50, 38), 38, 38, 50, 50),
        (pool(50, 50), 38, 38, 50, 50),
        # others took more, before our restart or after it
        (pool(50, 20), 38, 0, 58, 58),
        (pool(50, 58), 38, 38, 58, 58),
        # we need more or fewer; the administrator's 20 stay
        (pool(50, 38), 60, 38, 72, 72),
        (pool(50, 38), 20, 38, 32, 32),
        (pool(50, 38), 4, 38, 20, 20),
        # somebody put more into the pool, or less, or the pages were not to be had at first
        (pool(90, 60), 38, 38, 90, 60),
        (pool(90, 60), 60, 38, 112, 82),
        (pool(20), 38, 0, 50, 50),
        (pool(5), 60, 0, 72, 72),
    ],
)
def test_later_times(found, needed, ours, expected, lasting):
    kept = Kept(50, {HERE: Part(38, 30)})
    aim = huge_pages.aim(found, kept, Need(HERE, needed, ours), NOTHING)
    assert aim == Aim(expected, Kept(lasting, {HERE: Part(needed, lasting - 20)}))


@pytest.mark.parametrize(
    ("found", "ours", "expected"),
    [
        (pool(50), 0, 20),
        (pool(50, 38), 38, 20),
        # others have come to use what was ours; somebody added; the pages were not to be had
        (pool(50, 30), 0, 30),
        (pool(90, 60), 38, 60),
        (pool(20), 0, 20),
        (pool(10), 0, 10),
    ],
)
def test_given_back(found, ours, expected):
    kept = Kept(50, {HERE: Part(38, 30)})
    assert huge_pages.aim(found, kept, Need(HERE, 0, ours), NOTHING) == Aim(expected, None)
    assert huge_pages.aim(found, None, Need(HERE, 0, ours), NOTHING) == Aim(found.total, None)


def test_two_servers_of_a_host_share_the_file():
    first = huge_pages.aim(pool(8), None, Need(HERE, 38, 0), NOTHING)
    second = huge_pages.aim(pool(46), first.kept, Need(THERE, 10, 0), NOTHING)
    assert second == Aim(56, Kept(56, {HERE: Part(38, 38), THERE: Part(10, 10)}))
    assert huge_pages.aim(pool(56, 48), second.kept, Need(HERE, 38, 38), NOTHING) == second
    assert huge_pages.aim(pool(56, 48), second.kept, Need(THERE, 10, 10), NOTHING) == second
    assert huge_pages.aim(pool(56, 48), second.kept, Need(HERE, 0, 38), NOTHING) == Aim(18, Kept(18, {THERE: Part(10, 10)}))
    assert huge_pages.read(huge_pages.render(second.kept)) == second.kept


def test_it_is_stable_and_leaves_others_theirs_in_every_state():
    """The second run finds nothing to do, before our restart and after it; what others use is never counted on."""
    for total, others, needed, later, boot in itertools.product(*[[0, 5, 38, 70]] * 5):
        aim = huge_pages.aim(pool(total, others), None, Need(HERE, needed, 0), Boot(boot, ""))
        assert aim.total >= others + needed if needed else aim.total == total
        for ours in (0, needed):
            found = pool(aim.total, others + ours)
            assert huge_pages.aim(found, aim.kept, Need(HERE, needed, ours), Boot(boot, "")) == aim
            changed = huge_pages.aim(found, aim.kept, Need(HERE, later, ours), Boot(boot, ""))
            assert changed.total >= others + later or not later
            assert changed == huge_pages.aim(
                pool(changed.total, others + later), changed.kept, Need(HERE, later, later), Boot(boot, "")
            )
            given_back = huge_pages.aim(pool(changed.total, others), changed.kept, Need(HERE, 0, 0), Boot(boot, ""))
            assert given_back.kept is None
            without = total if aim.kept else aim.total
            assert changed.kept is None or given_back.total == max(without, others)


@pytest.mark.parametrize(
    "text",
    ["", "# vm.nr_hugepages = 5\n", "vm.nr_hugepages_mempolicy = 5\n", "vm.nr_hugepages = many\n", "kernel.x = 5\n"],
)
def test_a_file_that_says_nothing(text):
    assert huge_pages.read(text) is None


def test_the_file_says_what_it_is_and_is_read_again():
    kept = Kept(58, {HERE: Part(38, 30), THERE: Part(1, 0)})
    text = huge_pages.render(kept)
    assert text == (
        "# Ansible managed (matrixops.synapse_postgres)\n"
        "# The kernel's pool of huge pages; PostgreSQL's shared memory is in 39 of them.\n"
        f"# 1 of them for the server in {THERE}, 0 of those added to the pool.\n"
        f"# 38 of them for the server in {HERE}, 30 of those added to the pool.\n"
        "vm.nr_hugepages = 58\n"
    )
    assert huge_pages.read(text) == kept
    assert huge_pages.read("-vm/nr_hugepages=7\n") == Kept(7, {})


MEMINFO = "MemTotal: {} kB\nMemAvailable: {} kB\nHugePages_Total: 0\nHugepagesize:       2048 kB\n"


@pytest.mark.parametrize(
    ("memory", "available", "total", "never", "not_now"),
    [
        (16, 12, 2048, "", ""),
        # three quarters of 16 GB, of which 1 GB stays for the system
        (16, 14, 6144, "", ""),
        (16, 16, 6145, "more than 75%", ""),
        # 4 GB are to come, and 5 GB are needed with what stays
        (16, 5, 2048, "", ""),
        (16, 4.9, 2048, "", "5017 MB of memory are available, of which 1024 MB stay"),
        # a small board: a tenth stays
        (1, 0.5, 204, "", ""),
        (1, 0.5, 205, "", "102 MB stay"),
    ],
)
def test_what_the_memory_allows(tmp_path, memory, available, total, never, not_now):
    root = laid_out(tmp_path, {"proc/meminfo": MEMINFO.format(int(memory * GB / 1024), int(available * GB / 1024))})
    told = huge_pages.affordable(root, pool(), total)
    assert [bool(words) for words in told] == [bool(never), bool(not_now)] and never in told[0] and not_now in told[1], told
    assert huge_pages.affordable(root, pool(total), total) == ("", ""), "pages that are there need no memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Boot(0, "")),
        ({"proc/cmdline": "root=/dev/x hugepages=12 quiet\n"}, Boot(12, "")),
        ({"proc/cmdline": "default_hugepagesz=2M hugepagesz=1G hugepages=3 hugepagesz=2M hugepages=14\n"}, Boot(14, "")),
        ({"proc/cmdline": "hugepagesz=1G hugepages=3\n"}, Boot(0, "")),
        ({"proc/cmdline": "hugepages=12", "etc/sysctl.d/10-x.conf": "vm.nr_hugepages = 5\n"}, Boot(5, "")),
        # the last one counts, over all folders; ours is not asked
        ({"etc/sysctl.d/50-x.conf": "vm.nr_hugepages=5\n", "usr/lib/sysctl.d/60-y.conf": "-vm/nr_hugepages = 6\n"}, Boot(6, "")),
        ({"etc/sysctl.d/90-ours.conf": "vm.nr_hugepages=5\n"}, Boot(0, "")),
        ({"etc/sysctl.d/99-z.conf": "vm.nr_hugepages=5\n"}, Boot(5, "etc/sysctl.d/99-z.conf")),
        # hidden by a name in an earlier folder; no file of settings; a comment
        ({"etc/sysctl.d/99-z.conf": "", "run/sysctl.d/99-z.conf": "vm.nr_hugepages=5\n"}, Boot(0, "")),
        ({"etc/sysctl.d/99-z.txt": "vm.nr_hugepages=5\n"}, Boot(0, "")),
        ({"etc/sysctl.d/10-z.conf": "# vm.nr_hugepages=5\n"}, Boot(0, "")),
    ],
)
def test_what_there_is_after_a_boot_without_our_file(tmp_path, files, expected):
    ours = {"proc/meminfo": MEMINFO.format(1, 1), "etc/sysctl.d/90-ours.conf": "vm.nr_hugepages = 99\n"}
    root = laid_out(tmp_path, {**ours, **files})
    found = huge_pages.at_boot(root, str(tmp_path / "etc/sysctl.d/90-ours.conf"))
    assert found == Boot(expected.total, str(tmp_path / expected.place) if expected.place else "")


@pytest.mark.parametrize(
    ("ours", "place"),
    [
        ("etc/sysctl.d/90-ours.conf", "etc/sysctl.d/99-z.conf"),
        ("run/sysctl.d/90-ours.conf", "etc/sysctl.d/99-z.conf"),
        ("etc/sysctl.d/99-zz.conf", ""),
        # read at no boot, or by somebody else
        ("etc/sysctl.d/90-ours.txt", ""),
        ("srv/90-ours.conf", ""),
    ],
)
def test_a_later_file_is_known_before_ours_is_written(tmp_path, ours, place):
    root = laid_out(tmp_path, {"proc/meminfo": MEMINFO.format(1, 1), "etc/sysctl.d/99-z.conf": "vm.nr_hugepages=5\n"})
    found = huge_pages.at_boot(root, str(tmp_path / ours))
    assert found == Boot(5, str(tmp_path / place) if place else "")


def test_our_file_hides_one_of_its_name_before_it_is_written(tmp_path):
    files = {"run/sysctl.d/90-ours.conf": "vm.nr_hugepages=7\n", "run/sysctl.d/99-z.conf": "vm.nr_hugepages=5\n"}
    root = laid_out(tmp_path, {"proc/meminfo": MEMINFO.format(1, 1), **files})
    found = huge_pages.at_boot(root, str(tmp_path / "etc/sysctl.d/90-ours.conf"))
    assert found == Boot(5, str(tmp_path / "run/sysctl.d/99-z.conf"))


SMAPS = """\
00400000-00401000 r--p 00000000 fe:00 1 /usr/lib/postgresql/15/bin/postgres
Size:                  4 kB
KernelPageSize:        4 kB
7f5d60200000-7f5d64e00000 rw-s 00000000 00:11 7788                       /anon_hugepage (deleted)
Size:              77824 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
Shared_Hugetlb:    12288 kB
7f5d66000000-7f5da6000000 rw-s 00000000 00:11 7789                       /anon_hugepage (deleted)
Size:            1048576 kB
KernelPageSize:  1048576 kB
"""


def test_what_a_server_holds(tmp_path):
    root = laid_out(tmp_path, {"proc/42/smaps": SMAPS})
    assert (huge_pages.held(root, 42, PAGE), huge_pages.held(root, 42, GB)) == (38, 1)
    with pytest.raises(OSError, match="43"):
        huge_pages.held(root, 43, PAGE)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/42/cgroup": "0::/a/b\n"}, None),
        ({"proc/42/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/hugetlb.2MB.max": "max\n"}, None),
        ({"proc/42/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/hugetlb.2MB.max": f"{5 * PAGE}\n"}, 5),
        ({"proc/42/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.max": f"{7 * PAGE}\n"}, 7),
        ({"proc/42/cgroup": "3:hugetlb:/a\n", "sys/fs/cgroup/hugetlb/a/hugetlb.2MB.limit_in_bytes": "0\n"}, 0),
        ({"proc/42/cgroup": "3:memory:/a\n", "sys/fs/cgroup/hugetlb/a/hugetlb.2MB.limit_in_bytes": "0\n"}, None),
        ({"proc/42/cgroup": "0::/a\n", "sys/fs/cgroup/a/hugetlb.1GB.max": "0\n"}, None),
    ],
)
def test_what_a_control_group_lets_a_server_have(tmp_path, files, expected):
    assert huge_pages.limit(laid_out(tmp_path, files), 42, PAGE) == expected


@pytest.mark.parametrize(("group", "expected"), [("104", True), ("7", True), ("0", False), ("10", False)])
def test_who_may_have_shared_memory_of_system_v(tmp_path, group, expected):
    status = "Name:\tpostgres\nUid:\t101\t0\t101\t101\nGid:\t104\t104\t104\t104\nGroups:\t103 7 \n"
    root = laid_out(tmp_path, {"proc/42/status": status, "proc/sys/vm/hugetlb_shm_group": f"{group}\n"})
    assert huge_pages.may_share(root, 42) is expected


class Short(huge_pages.Kernel):
    """A kernel of a laid-out folder that has ``most`` pages to give, and ``gain`` more each time that memory was compacted."""

    def __init__(self, root, most, gain):
        super().__init__(root)
        self.most, self.gain, self.asked = most, gain, []

    def resize(self, total):
        self.asked.append(total)
        super().resize(total)
        laid_out(self.folder, {f"{FOLDER}/nr_hugepages": f"{min(total, self.most)}\n"})

    def compact(self):
        super().compact()
        self.most += self.gain


@pytest.fixture
def short(tmp_path, monkeypatch):
    """``short(most, gain)`` -> a kernel with 5 pages in its pool, which does not make us wait."""
    monkeypatch.setattr(huge_pages, "PAUSE_SECONDS", 0)

    def made(most, gain):
        files = {"nr": "5", "surplus": "0", "free": "5", "resv": "2"}
        root = laid_out(tmp_path, {f"{FOLDER}/{name}_hugepages": f"{text}\n" for name, text in files.items()})
        kernel = Short(laid_out(tmp_path, {"proc/meminfo": MEMINFO.format(1, 1), "proc/sys/vm/nr_hugepages": "5"}), most, gain)
        kernel.folder = tmp_path
        assert kernel.pool() == Pool(PAGE, 5, 0, 5, 2) and kernel.pool().used == 2 and kernel.pool(GB) is None, root
        return kernel

    return made


@pytest.mark.parametrize(
    ("most", "gain", "got", "asked"),
    [
        (60, 0, 60, [60]),
        (50, 5, 60, [60, 60, 60]),
        (40, 1, 43, [60, 60, 60, 60, 5]),
        (0, 0, 5, [60, 60, 60, 60, 5]),
    ],
)
def test_a_shortage_is_tried_again_and_what_was_got_is_let_go(short, most, gain, got, asked):
    kernel = short(most, gain)
    assert huge_pages.reserve(kernel, 60) == got and kernel.asked == asked
    assert kernel.pool().total == (60 if got == 60 else min(5, kernel.most))


def test_an_interruption_lets_go_too(short):
    kernel = short(40, 0)

    def interrupted():
        raise SystemExit(1)

    kernel.compact = interrupted
    with pytest.raises(SystemExit):
        huge_pages.reserve(kernel, 60)
    assert kernel.asked == [60, 5] and kernel.pool().total == 5


def test_a_kernel_without_huge_pages(tmp_path):
    assert huge_pages.Kernel(laid_out(tmp_path, {"proc/meminfo": "MemTotal: 1 kB\n"})).pool() is None


def test_lent_pages_are_not_of_the_pool(tmp_path):
    files = {"nr": "41", "surplus": "38", "free": "10", "resv": "9"}
    files = {f"{FOLDER}/{name}_hugepages": f"{text}\n" for name, text in files.items()}
    found = huge_pages.Kernel(laid_out(tmp_path, files)).pool(PAGE)
    assert found == dataclasses.replace(found, total=3, surplus=38) and found.used == 40
