# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The kernel's one pool of huge pages, which tests that run at the same time on a machine have to share.

initdb tries servers that are small enough to find a place in the pool of a test; other servers of the tests are larger.
"""

import contextlib
import fcntl
import pathlib
import re
import subprocess
import sys

_SWITCH = pathlib.Path("/proc/sys/vm/nr_hugepages")

_TAKER = """
import mmap, sys
pages, size = int(sys.argv[1]), int(sys.argv[2])
taken = mmap.mmap(-1, pages * size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000)  # MAP_HUGETLB, x86 and ARM
for page in range(pages // 2):  # some are used, the others only promised
    taken[page * size] = 1
print("taken", flush=True)
sys.stdin.read()
"""


def there() -> bool:
    """Tell whether the kernel has a pool that we may change."""
    try:
        _SWITCH.write_text(_SWITCH.read_text())
    except OSError:
        return False
    return "HugePages_Total" in counters()


def counters() -> dict[str, int]:
    """Return the kernel's numbers of huge pages, and Hugepagesize in kB, by their names in /proc/meminfo."""
    text = pathlib.Path("/proc/meminfo").read_text()
    return {name: int(number) for name, number in re.findall(r"^(Huge\w+):\s+(\d+)", text, re.MULTILINE)}


def total() -> int:
    """Return the pages that are in the pool for good."""
    return int(_SWITCH.read_text())


def resize(pages: int) -> None:
    _SWITCH.write_text(str(pages))


@contextlib.contextmanager
def taken(pages: int):
    """Have a process take ``pages`` from the pool within the block."""
    words = [sys.executable, "-c", _TAKER, str(pages), str(counters()["Hugepagesize"] * 1024)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"taken\n"
        try:
            yield
        finally:
            process.stdin.close()


@contextlib.contextmanager
def alone():
    """Have the pool for ourselves within the block, empty at first, and as it was afterwards."""
    with _locked(fcntl.LOCK_EX):
        before = total()
        resize(0)
        try:
            yield
        finally:
            resize(before)


def left_alone():
    """Return a context in which nobody is alone with the pool."""
    return _locked(fcntl.LOCK_SH)


@contextlib.contextmanager
def _locked(how: int):
    """Hold a lock on the kernel's own file: every user may read it, and nothing of one is left for another to stumble over."""
    with contextlib.ExitStack() as held:
        if _SWITCH.exists():
            fcntl.flock(held.enter_context(_SWITCH.open()), how)
        yield
