# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Huge pages for PostgreSQL's shared memory: what the kernel's pool is to hold, and the file that has it so after a boot.

Everything counts in pages (the kernel's admin-guide, mm/hugetlbpage). The pool is everybody's:
virtual machines and other servers take from it too, so it is only ever changed by what one server needs or had. A server
takes all of its pages or none, and it takes them when it starts (manual, section 19.4.5). ``root`` is the folder in which
/proc, /sys and /etc are.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    conf_syntax,
    host_memory,
    memory_budget,
    owned_file,
    quantities,
)

# At most this part of the memory may be in the pool, where nothing but huge pages can be made of it.
MOST_OF_MEMORY = 0.75

# Movable memory is in the way of a large piece: the kernel is asked to move it together, and then for the piece again.
ATTEMPTS = 4
PAUSE_SECONDS = 0.3

_PART = re.compile(r"^# (\d+) of them for the server in (.+), (\d+) of those added to the pool\.$", re.MULTILINE)
_LINE = re.compile(r"^\s*-?\s*vm[./]nr_hugepages\s*=\s*(\d+)\s*$", re.MULTILINE)

# Where settings of the kernel are read from at boot; a name in an earlier folder hides the same one in a later (sysctl.d(5)).
_SYSCTL_FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")


@dataclasses.dataclass(frozen=True)
class Pool:
    """The kernel's pool: ``page_size`` in bytes, and pages: ``total`` for good, ``surplus`` ones lent beyond them for a while.

    ``free`` are not taken, but ``promised`` ones of them are to come to a process that has not touched them yet.
    """

    page_size: int
    total: int
    surplus: int
    free: int
    promised: int

    @property
    def used(self) -> int:
        """Pages that processes have, or have been promised."""
        return self.total + self.surplus - self.free + self.promised


@dataclasses.dataclass(frozen=True)
class Part:
    """What of the pool is one server's: ``pages``, of which ``added`` were not in the pool before."""

    pages: int
    added: int


@dataclasses.dataclass(frozen=True)
class Need:
    """What the ``server``, told by its data directory, will need after its next start: ``pages``; it has ``held`` ones now."""

    server: str
    pages: int
    held: int


@dataclasses.dataclass(frozen=True)
class Kept:
    """What our file says: the pool's ``total`` after a boot, and the servers' ``parts`` by their data directory."""

    total: int
    parts: dict[str, Part]


@dataclasses.dataclass(frozen=True)
class Aim:
    """The ``total`` that the pool is to have now, and what our file is to say, None for no file."""

    total: int
    kept: Kept | None


@dataclasses.dataclass(frozen=True)
class Boot:
    """What the pool has after a boot by files and options that are not ours, and the ``place`` that overrules our file."""

    total: int
    place: str


class Kernel:
    """The running kernel's pools, of which only the one of its default page size is changed here."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.switch = os.path.join(root, "proc/sys/vm/nr_hugepages")

    def page_size(self) -> int:
        """Return the default size of a huge page in bytes, 0 when this kernel has none."""
        return host_memory.numbers(self.root).get("Hugepagesize", 0) * quantities.KB

    def pool(self, page_size: int = 0) -> Pool | None:
        """Return the Pool of pages of ``page_size`` bytes, 0 for the default size; None when this kernel has none."""
        size = (page_size or self.page_size()) // quantities.KB
        folder = os.path.join(self.root, f"sys/kernel/mm/hugepages/hugepages-{size}kB")
        texts = [
            host_memory.text_of(os.path.join(folder, f"{name}_hugepages")).strip() for name in ("nr", "surplus", "free", "resv")
        ]
        if not all(text.isdigit() for text in texts):
            return None
        total, surplus, free, promised = map(int, texts)
        return Pool(size * quantities.KB, total - surplus, surplus, free, promised)

    def total(self) -> int:
        """Return how many pages of the default size the pool has for good."""
        pool = self.pool()
        return pool.total if pool else 0

    def resize(self, total: int) -> None:
        """Ask for a pool of ``total`` pages; the kernel gives what it can, and takes none from who uses them."""
        with open(self.switch, "w", encoding="ascii") as stream:
            stream.write(f"{total}\n")

    def compact(self) -> None:
        """Have the kernel move memory together, where it can."""
        try:
            with open(os.path.join(self.root, "proc/sys/vm/compact_memory"), "w", encoding="ascii") as stream:
                stream.write("1\n")
        except OSError:
            pass


def reserve(kernel: Kernel, total: int) -> int:
    """Bring the pool to ``total`` pages; return how many it had at most.

    When that is less, the pool is again as it was: a part of the pages would be of use to nobody.
    """
    before = kernel.total()
    most = before
    try:
        for attempt in range(ATTEMPTS):
            if attempt:
                kernel.compact()
                time.sleep(PAUSE_SECONDS)
            kernel.resize(total)
            most = max(most, kernel.total())
            if most >= total:
                return most
    except BaseException:
        kernel.resize(before)
        raise
    kernel.resize(before)
    return most


def held(root: str, process: int, page_size: int) -> int:
    """Return how many huge pages the postmaster's shared memory has, by its mappings (proc(5), smaps).

    A page that no process has touched yet is in no counter of theirs, but it is in the mapping. OSError when we may not look.
    """
    pages = 0
    with open(os.path.join(root, "proc", str(process), "smaps"), encoding="utf-8", errors="replace") as stream:
        size = 0
        for line in stream:
            name, _colon, value = line.partition(":")
            if name == "Size":
                size = int(value.split()[0]) * quantities.KB
            elif name == "KernelPageSize" and int(value.split()[0]) * quantities.KB == page_size:
                pages += size // page_size
    return pages


def read(text: str) -> Kept | None:
    """Return what our file says, None when it does not say anything."""
    total = _LINE.findall(text)
    parts = {path: Part(int(pages), int(added)) for pages, path, added in _PART.findall(text)}
    return Kept(int(total[-1]), parts) if total else None


def render(kept: Kept) -> str:
    """Return our file."""
    lines = [
        conf_syntax.HEADER,
        f"# The kernel's pool of huge pages; PostgreSQL's shared memory is in {_pages_of_servers(kept)} of them.",
    ]
    for path, part in sorted(kept.parts.items()):
        lines.append(f"# {part.pages} of them for the server in {path}, {part.added} of those added to the pool.")
    return "\n".join([*lines, f"vm.nr_hugepages = {kept.total}", ""])


def at_boot(root: str, path: str) -> Boot:
    """Return what the pool has after a boot without our file at ``path``: by the kernel's command line, or by sysctl.d(5)."""
    files: dict[str, str] = {}
    for folder in (os.path.join(root, folder) for folder in _SYSCTL_FOLDERS):
        # Our file has its place among the others before it is written, too.
        own = [os.path.basename(path)] if owned_file.same_file(folder, os.path.dirname(path)) else []
        for name in (name for name in _names(folder) + own if name.endswith(".conf")):
            files.setdefault(name, os.path.join(folder, name))
    total, place, passed = _command_line(root), "", False
    for name in sorted(files):
        if owned_file.same_file(files[name], path):
            passed = True
            continue
        found = _LINE.findall(host_memory.text_of(files[name]))
        if found:
            total, place = int(found[-1]), files[name] if passed else ""
    return Boot(total, place)


def aim(pool: Pool, kept: Kept | None, need: Need, boot: Boot) -> Aim:
    """Return what the pool and our file are to be, for a server to find the pages that it will ``need``.

    What others use, or could use without us, stays for them. Asked again for the same pages, before the server's restart or
    after it, this gives the same.
    """
    if not need.pages:
        return _without(pool, kept, need)
    if kept is None or need.server not in kept.parts:
        return _first(pool, kept, need, boot)
    part, others = kept.parts[need.server], pool.used - need.held

    def grown(total: int) -> int:
        """Return ``total`` with what the server needs now in place of what it had; never fewer than there were without it."""
        return max(max(total - part.pages, others) + need.pages, total - part.added)

    lasting = grown(kept.total)
    # What somebody has put into the pool beside our file stays in it; what was not to be had yet is tried again.
    now = grown(max(pool.total, kept.total))
    return Aim(now, _with(kept, need.server, Part(need.pages, lasting - (kept.total - part.added)), lasting))


def affordable(root: str, pool: Pool, total: int) -> tuple[str, str]:
    """Return why the memory does not allow a pool of ``total`` pages, and why not now, before a boot; each empty if it does."""
    found = host_memory.numbers(root)
    memory, available = found.get("MemTotal", 0) * quantities.KB, found.get("MemAvailable", 0) * quantities.KB
    if total <= pool.total:
        return "", ""
    size = total * pool.page_size
    if size > memory * MOST_OF_MEMORY:
        return (
            f"The pool of huge pages would take {_megabytes(size)} of the host's {_megabytes(memory)}, more than "
            f"{MOST_OF_MEMORY:.0%}: lower shared_buffers."
        ), ""
    floor = min(max(int(memory * memory_budget.SYSTEM_SHARE), memory_budget.SYSTEM_LEAST), memory_budget.SYSTEM_MOST)
    more = (total - pool.total) * pool.page_size
    if more > available - floor:
        return "", (
            f"{_megabytes(more)} more for huge pages cannot be had now: {_megabytes(available)} of memory are available, of "
            f"which {_megabytes(floor)} stay for the system."
        )
    return "", ""


def limit(root: str, process: int, page_size: int) -> int | None:
    """Return how many huge pages the control group of ``process`` lets it have, None for no limit (cgroup-v2, HugeTLB)."""
    name = f"hugetlb.{quantities.size(page_size).upper()}"
    kinds = ("", "rsvd.")
    names, split_names = (tuple(f"{name}.{kind}{end}" for kind in kinds) for end in ("max", "limit_in_bytes"))
    found = host_memory.limits(root, str(process), "hugetlb", names, split_names)
    return min(found) // page_size if found else None


def may_share(root: str, process: int) -> bool:
    """Tell whether ``process`` is of the group whose System V shared memory may have huge pages (vm.hugetlb_shm_group)."""
    status = host_memory.text_of(os.path.join(root, "proc", str(process), "status"))
    groups = " ".join(re.findall(r"^(?:Gid|Groups):(.*)$", status, re.MULTILINE)).split()
    return host_memory.text_of(os.path.join(root, "proc/sys/vm/hugetlb_shm_group")).strip() in groups


def _first(pool: Pool, kept: Kept | None, need: Need, boot: Boot) -> Aim:
    """Return the Aim for a server that has no part of the file yet; pages that an administrator reserved may do for it."""
    others = max(pool.used - need.held, _pages_of_servers(kept) if kept else 0)
    reserved = max(pool.total, kept.total if kept else 0)
    total = reserved if reserved >= others + need.pages else max(reserved - need.held, others) + need.pages
    if kept is None and boot.total >= total:
        return Aim(total, None)
    return Aim(total, _with(kept, need.server, Part(need.pages, total - reserved), total))


def _without(pool: Pool, kept: Kept | None, need: Need) -> Aim:
    """Return the Aim for a server that needs none: what was added for it is taken from the pool, but nothing that others use."""
    if kept is None or need.server not in kept.parts:
        return Aim(pool.total, kept)
    total = kept.total - kept.parts[need.server].added
    rest = {path: other for path, other in kept.parts.items() if path != need.server}
    now = max(total + max(pool.total - kept.total, 0), pool.used - need.held)
    return Aim(min(pool.total, now), Kept(total, rest) if rest else None)


def _with(kept: Kept | None, server: str, part: Part, total: int) -> Kept:
    return Kept(total, {**(kept.parts if kept else {}), server: part})


def _pages_of_servers(kept: Kept) -> int:
    return sum(part.pages for part in kept.parts.values())


def _command_line(root: str) -> int:
    """Return the pages of the default size that the kernel's command line asks for (hugepages, after hugepagesz)."""
    size = default = host_memory.numbers(root).get("Hugepagesize", 0)
    total = 0
    for name, value in re.findall(
        r"(?:^|\s)(hugepagesz|hugepages)=(\w+)", host_memory.text_of(os.path.join(root, "proc/cmdline"))
    ):
        if name == "hugepagesz":
            unit = value.lstrip("0123456789")
            number = value[: len(value) - len(unit)]
            size = int(number or 0) * {"K": 1, "M": 1024, "G": 1024**2}.get(unit.upper(), 0)
        elif size == default and value.isdigit():
            total = int(value)
    return total


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _megabytes(size: int) -> str:
    return f"{size // quantities.MB} MB"
