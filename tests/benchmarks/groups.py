# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Control groups that limit memory, so that a server in one has no more than a small host's: of the kernel's cache of files, too.

Only root can make one, so __main__.py does, before it becomes an ordinary user, and gives it to that user, who makes a group
within it for each server. In version 2 of control groups a process is moved within what one owns alone; so root's process goes
into a group beside those, for all that it starts, and comes back at the end.

Only the standard library is used here.
"""

import contextlib
import os
import pathlib
import time

# Where the kernel's controller of memory can be: alone in version 1, with the others in version 2.
_MOUNTS = (pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup"))

# The limit's file, swap's, and the most that was taken, in version 1 and in version 2.
_LIMIT = ("memory.limit_in_bytes", "memory.max")
_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")
_PEAK = ("memory.max_usage_in_bytes", "memory.peak")


@contextlib.contextmanager
def given_to(uid: int):
    """Yield the path of a group of the user's, with this process in it; an empty one where that cannot be."""
    mount = next((mount for mount in _MOUNTS if _controls_memory(mount)), None)
    if mount is None:
        yield ""
        return
    home, base = _home(mount), mount / f"synapse-postgres-bench-{os.getpid()}"
    try:
        _make(mount, base, uid)
        _enter(base / "others")
    except OSError:  # a container's, for instance, which may be there to be read alone
        _remove(base)
        yield ""
        return
    try:
        yield str(base)
    finally:
        _enter(home)
        _remove(base)


@contextlib.contextmanager
def limited(base: str, size: int):
    """Yield the path of a new group within ``base`` that has ``size`` bytes; without a base, an empty one."""
    if not base:
        yield ""
        return
    group = pathlib.Path(base) / f"limited-{time.monotonic_ns()}"
    group.mkdir()
    try:
        _write(group, _LIMIT, str(size))
        with contextlib.suppress(OSError):  # a kernel need not count swap
            _write(group, _SWAP, str(size) if (group / _SWAP[0]).exists() else "0")
        yield str(group)
    finally:
        _remove(group)


def peak(group: str) -> int:
    """Return the most bytes that were in use in the group, 0 where the kernel does not tell."""
    found = [pathlib.Path(group) / name for name in _PEAK] if group else []
    return next((int(path.read_text()) for path in found if path.exists()), 0)


def within(group: str, words: list[str]) -> list[str]:
    """Return the words of a command that enters the group and then becomes the command ``words``."""
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group, *words] if group else words


def _controls_memory(mount: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return (mount / _LIMIT[0]).exists() or "memory" in (mount / "cgroup.controllers").read_text().split()
    return False


def _home(mount: pathlib.Path) -> pathlib.Path:
    """Return the group that this process is in; in a container, whose mount begins there, the mount."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, group = line.split(":", 2)
        if ("memory" in controllers.split(",")) if (mount / _LIMIT[0]).exists() else not controllers:
            found = mount / group.lstrip("/")
            return found if found.is_dir() else mount
    return mount


def _make(mount: pathlib.Path, base: pathlib.Path, uid: int) -> None:
    base.mkdir()
    if (base / "cgroup.subtree_control").exists():
        for above in (mount, base):
            (above / "cgroup.subtree_control").write_text("+memory")
    (base / "others").mkdir()
    for group in (base, base / "others"):
        for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
            if path.exists():
                os.chown(path, uid, -1)


def _enter(group: pathlib.Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _write(group: pathlib.Path, names: tuple[str, ...], text: str) -> None:
    next((group / name for name in names if (group / name).exists()), group / names[0]).write_text(text)


def _remove(group: pathlib.Path) -> None:
    """Remove a group and those within it; a process that has ended leaves its group a moment later."""
    for _again in range(50):
        with contextlib.suppress(OSError):
            for within_it in [path for path in group.iterdir() if path.is_dir()]:
                _remove(within_it)
            group.rmdir()
        if not group.exists():
            return
        time.sleep(0.1)
