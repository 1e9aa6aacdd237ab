# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Huge pages on the server's host: how many the server will need by its own count, and a pool that has them.

The server counts for the configuration that it is going to have, while it runs with another one: its program is asked
(postgres -C) with a data directory that holds no more than it reads for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account, _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import huge_pages, parameters, tuning

# The servers that count huge pages themselves, and that tell whether they have them (release notes of 15 and of 17).
_COUNTING, _TELLING = 150000, 170000

_COUNT = "shared_memory_size_in_huge_pages"
_ASKED = ("huge_pages", "huge_page_size", "shared_buffers", "shared_memory_type")

# What the program needs of a data directory to count: src/backend/postmaster/postmaster.c, PostmasterMain().
_READ_BY_IT = ("PG_VERSION", os.path.join("global", "pg_control"), "postgresql.auto.conf")


@dataclasses.dataclass(frozen=True)
class Server:
    """The running server: its postmaster's number, its files, and since when it runs, in seconds since the epoch.

    What /proc tells of the postmaster is read as its own ``account``: root may lack the right to look into the processes of
    others (CAP_SYS_PTRACE, which containers are not given).
    """

    process: int
    data: str
    config_file: str
    block: int
    version: int
    started: float
    account: _account.Account


@dataclasses.dataclass(frozen=True)
class Future:
    """What the server will have: ``huge_pages``, whether somebody chose it, the page size if not the kernel's, and the count.

    Sizes are in bytes; ``words`` are the program's own when it did not tell.
    """

    huge_pages: str = "try"
    chosen: bool = False
    page_size: int = 0
    shared_buffers: int = 0
    memory_type: str = "mmap"
    count: int = 0
    words: str = ""

    @property
    def wished(self) -> bool:
        """Whether huge pages are to be had: when they were chosen, or when there is much to gain by them."""
        return self.huge_pages != "off" and (self.chosen or self.shared_buffers >= tuning.HUGE_PAGES_FROM)


@dataclasses.dataclass(frozen=True)
class State:
    """All that is found before anything is changed. ``ours`` are the pages that the server holds now, ``text`` our file's.

    There is no ``server`` when its process cannot be seen from here.
    """

    server: Server | None
    future: Future
    pool: huge_pages.Pool | None
    ours: int
    in_use: bool
    as_it_runs: bool
    text: str | None
    path: str

    @property
    def needed(self) -> int:
        return self.future.count if self.future.wished else 0

    @property
    def unknown(self) -> bool:
        """Whether huge pages are wished for that nobody can count."""
        return self.future.wished and not self.future.count

    @property
    def enough(self) -> bool:
        """Whether the pool has what the server needs as it is."""
        return self.got(self.pool) >= self.needed

    @property
    def others(self) -> int:
        return self.pool.used - self.ours if self.pool else 0

    def got(self, pool: huge_pages.Pool | None) -> int:
        """Return how many of the needed pages the server would find in the ``pool`` if it started again."""
        return max(min(self.needed, pool.total + pool.surplus - self.others), 0) if pool else 0


def step(module, cursor, root: str = "/") -> dict:
    """Bring the pool and our file to what the server needs, or foretell it; return the module's result."""
    kernel = huge_pages.Kernel(root)
    parameters.require_superuser(cursor)
    known = parameters.parameters(cursor)
    wished = parameters.wished(known, module.params["settings"])
    try:
        server = _server(cursor, known, root)
    except Refusal as refusal:
        return _unseen(module, kernel, known, wished, refusal)
    state = _found(module, cursor, kernel, server, known, wished)
    problem = _problem(state, root)
    aim, notes = (None, problem) if problem else _aim(state, kernel)
    pool, text = state.pool, state.text
    if aim:
        _require_folder(aim, state)
        text = _text_of(aim)
        pool, told = _resized(module, kernel, state, aim)
        notes += told
        # Either all of it was done, or nothing but the file; or nothing at all.
        text = text if module.check_mode else _content(state.path)
    return _result(state, pool, text, notes, bool(problem))


def _found(module, cursor, kernel: huge_pages.Kernel, server: Server, known: dict, wished: dict) -> State:
    """Return the State with the ``wished`` settings."""
    future = _known_future(known, wished)
    if server.version >= _COUNTING:
        future = _counted_future(server, known, wished, parameters.file_lines(cursor), kernel.root)
    pool = kernel.pool(future.page_size if future.wished else 0)
    with _account.acting(server.account):
        ours = huge_pages.held(kernel.root, server.process, pool.page_size) if pool else 0
    counted = known.get(_COUNT, {}).get("setting")
    path = module.params["sysctl_file"]
    return State(
        server=server,
        future=future,
        pool=pool,
        ours=ours,
        in_use=_told_in_use(known) if server.version >= _TELLING else ours > 0,
        as_it_runs=counted == str(future.count) and known["huge_pages"]["setting"] != "off",
        text=_content(path),
        path=path,
    )


def _server(cursor, known: dict, root: str) -> Server:
    """Return the Server; Refusal when its process is not among this host's, or we may not look at it."""
    data = known["data_directory"]["setting"]
    try:
        account = _account.owner(data)
        with _account.acting(account):
            with open(os.path.join(data, "postmaster.pid"), encoding="utf-8", errors="replace") as stream:
                process = int(stream.readline())
            here = os.path.samefile(os.path.join(root, "proc", str(process), "cwd"), data)
    except (OSError, ValueError):
        here = False
    if not here:
        raise Refusal(
            f"The server's data directory {data} is not in use by a process of this host that this task may look at.",
            "Run the task on the server's own host, as root or as the server's operating system user.",
        )
    version, block = cursor.connection.server_version, int(known["block_size"]["setting"])
    return Server(process, data, known["config_file"]["setting"], block, version, _connection.started(cursor), account)


def _unseen(module, kernel: huge_pages.Kernel, known: dict, wished: dict, refusal: Refusal) -> dict:
    """Return the module's result for a server whose process cannot be seen, as the ``refusal`` says: nothing is changed."""
    path = module.params["sysctl_file"]
    state = State(
        server=None,
        future=_known_future(known, wished),
        pool=kernel.pool(),
        ours=0,
        in_use=_told_in_use(known),
        as_it_runs=False,
        text=_content(path),
        path=path,
    )
    # Who wants none, and has none from us, need not care.
    concerned = state.future.wished or state.text is not None
    notes = [refusal.found, refusal.remedy, *(_meanwhile(state) if state.future.wished else [])] if concerned else []
    return _result(state, state.pool, state.text, notes, True)


def _told_in_use(known: dict) -> bool:
    """Tell whether the server says that its shared memory is in huge pages; before 17 it does not say."""
    return known.get("huge_pages_status", {}).get("setting") == "on"


def _known_future(known: dict, wished: dict) -> Future:
    """Return the Future without a count, of a server that does not tell it: by what it has now and the ``wished`` settings."""
    rows = {name: known[name] for name in ("huge_pages", "shared_buffers")}
    wanted, blocks = (parameters.meaning(row, wished.get(name, row["setting"])) for name, row in rows.items())
    chosen = "huge_pages" in wished or rows["huge_pages"]["source"] != "default"
    return Future(huge_pages=wanted, chosen=chosen, shared_buffers=blocks * int(known["block_size"]["setting"]))


def _counted_future(server: Server, known: dict, wished: dict, lines: list[dict], root: str) -> Future:
    """Return the Future of the ``server`` with its files (their ``lines``) as they are and the ``wished`` settings."""
    chosen = {name.lower() for name in wished} | {(line["name"] or "").lower() for line in lines}
    try:
        with _aside(server, wished) as folder:
            asked = {name: _ask(server, folder, name, root) for name in (*_ASKED, _COUNT)}
        return Future(
            huge_pages=asked["huge_pages"],
            chosen="huge_pages" in chosen or known["huge_pages"]["source"] == "command line",
            page_size=int(asked["huge_page_size"]) * tuning.KB,
            shared_buffers=int(asked["shared_buffers"]) * server.block,
            memory_type=asked["shared_memory_type"],
            count=max(int(asked[_COUNT]), 0),
            words="" if int(asked[_COUNT]) >= 0 else "it was built for a system without them",
        )
    except (OSError, RuntimeError, ValueError) as error:
        return dataclasses.replace(_known_future(known, wished), words=str(error))


@contextlib.contextmanager
def _aside(server: Server, wished: dict):
    """Yield a folder that passes for the data directory, with a configuration of the server's own and ``wished``.

    Settings may hold secrets: nobody but the server's account sees into the folder.
    """
    with _account.acting(server.account):
        folder = tempfile.mkdtemp(prefix="synapse-postgres-")
        try:
            os.mkdir(os.path.join(folder, "global"), 0o700)
            for name in _READ_BY_IT:
                if os.path.exists(os.path.join(server.data, name)):
                    shutil.copyfile(os.path.join(server.data, name), os.path.join(folder, name))
            text = parameters.render({"include": server.config_file, **wished}, {})
            with open(os.path.join(folder, "postgresql.conf"), "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
        except BaseException:
            shutil.rmtree(folder)
            raise
    try:
        yield folder
    finally:
        with _account.acting(server.account):
            shutil.rmtree(folder)


def _ask(server: Server, folder: str, name: str, root: str) -> str:
    """Return the value of the parameter ``name`` with the configuration in ``folder``; RuntimeError in the program's words.

    It is started as the postmaster was, with the same words before ours, which then count, and in the same environment.
    """
    process = os.path.join(root, "proc", str(server.process))
    with _account.acting(server.account):
        program = os.readlink(os.path.join(process, "exe")).replace(" (deleted)", "")
        words = _zero_ended(os.path.join(process, "cmdline"))[1:]
        variables = [entry.partition("=") for entry in _zero_ended(os.path.join(process, "environ"))]
    ours = {"config_file": f"{folder}/postgresql.conf", "data_directory": folder, "log_line_prefix": ""}
    ours = ["-D", folder, *(word for key, value in ours.items() for word in ("-c", f"{key}={value}")), "-C", name]
    try:
        done = subprocess.run(
            server.account.command([program, *words, *ours]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={key: value for key, _sign, value in variables},
            cwd="/",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(str(error)) from error
    told = done.stdout.split()
    if done.returncode or not told:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"it ended with {done.returncode}")
    return told[-1]


def _aim(state: State, kernel: huge_pages.Kernel) -> tuple[huge_pages.Aim | None, list[str]]:
    """Return the Aim, None when there is nothing to do or nothing can be done, and sentences for the administrator."""
    if state.pool is None or state.pool.page_size != kernel.page_size():
        return None, []
    boot = huge_pages.at_boot(kernel.root, state.path)
    kept = huge_pages.read(state.text or "")
    aim = huge_pages.aim(state.pool, kept, state.server.data, state.needed, state.ours, boot)
    if not os.access(kernel.switch, os.W_OK):
        as_it_is = aim.total == state.pool.total and _text_of(aim) == state.text
        return None, [] if as_it_is or (state.enough and state.needed) else _by_hand(state, aim)
    never, not_now = huge_pages.affordable(kernel.root, state.pool, aim.total)
    if never:
        return None, [never, *_meanwhile(state)]
    notes = [not_now, *_later(state, aim)] if not_now else []
    if aim.kept and boot.place and boot.total < aim.kept.total:
        notes.append(
            f"{boot.place} is read after {state.path} at boot and has vm.nr_hugepages = {boot.total}: remove that line, or the "
            "pool will be too small after a boot."
        )
    return dataclasses.replace(aim, total=state.pool.total) if not_now else aim, notes


def _problem(state: State, root: str) -> list[str]:
    """Return why this server cannot have its huge pages from us whatever the pool holds, as sentences; none when it can."""
    server, future, pool = state.server, state.future, state.pool
    if not future.wished:
        return []
    if server.version < _COUNTING:
        found = f"PostgreSQL {server.version // 10000} does not tell how many huge pages it needs; 15 and newer do."
    elif future.words:
        found = f"The server's program did not tell how many huge pages it will need: {future.words}."
    elif pool is None:
        size = f" of {tuning.size(future.page_size)}" if future.page_size else ""
        found = f"The kernel here has no huge pages{size}."
    elif future.memory_type == "sysv" and not huge_pages.may_share(root, server.process):
        found = (
            "shared_memory_type is sysv, for which the server's user has to be of the group in vm.hugetlb_shm_group: set it to "
            "mmap, which needs no such right."
        )
    elif pool.page_size != huge_pages.Kernel(root).page_size() and not state.enough:
        kilobytes = pool.page_size // tuning.KB
        found = (
            f"This module looks after pages of the kernel's default size, and huge_page_size is {tuning.size(pool.page_size)}: "
            f"write {state.others + state.needed} to /sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/nr_hugepages, and have "
            "them reserved at boot by the kernel's options hugepagesz and hugepages."
        )
    else:
        return _limited(state, root)
    return [found, *_meanwhile(state)]


def _limited(state: State, root: str) -> list[str]:
    """Return a sentence on a limit of the server's control group: beyond it, huge pages that are there end the server."""
    limit = huge_pages.limit(root, state.server.process, state.pool.page_size)
    if limit is None or limit >= state.needed:
        return []
    name = f"hugetlb.{tuning.size(state.pool.page_size).upper()}"
    return [
        f"The server's control group lets it have {limit} huge pages of the {state.needed} that it needs, and the kernel ends "
        f"a process that touches one more: raise the limit ({name}.max, in cgroup v1 {name}.limit_in_bytes), or set huge_pages "
        "to off."
    ]


def _meanwhile(state: State) -> list[str]:
    """Return a sentence on what the server does without its huge pages."""
    if state.future.huge_pages == "on":
        return ["With huge_pages = on the server does not start without them: set it to try."]
    return ["Without them the server uses ordinary pages."]


def _later(state: State, aim: huge_pages.Aim) -> list[str]:
    return [
        "They will be reserved at the next boot, while memory is in one piece; without a boot, stop the server, run "
        f"`sysctl -w vm.nr_hugepages={aim.total}`, and start it.",
        *_meanwhile(state),
    ]


def _by_hand(state: State, aim: huge_pages.Aim) -> list[str]:
    """Return what an administrator of the host itself is to do, since the pool is not ours to change."""
    return [
        f"The kernel's pool has {state.pool.total} huge pages, others use {state.others} of them, and the server needs "
        f"{state.needed}; vm.nr_hugepages cannot be set from here (by this user, or in this container).",
        f"As root on the host itself: `sysctl -w vm.nr_hugepages={aim.total}`, the same in a file of /etc/sysctl.d, and a "
        "restart of the server.",
        *(_meanwhile(state) if state.needed else []),
    ]


def _resized(module, kernel: huge_pages.Kernel, state: State, aim: huge_pages.Aim) -> tuple[huge_pages.Pool, list[str]]:
    """Write our file and bring the pool to the aim, or foretell it; return the pool as it is then, and sentences on a failure."""
    text, pool = _text_of(aim), state.pool
    if module.check_mode:
        return dataclasses.replace(pool, total=aim.total, surplus=max(pool.used - aim.total, 0)), []
    if text != state.text:
        _write(module, state.path, text)
    if aim.total == pool.total:
        return pool, []
    try:
        most = huge_pages.reserve(kernel, aim.total)
    except PermissionError:
        # Some containers show the switch as one that can be written, and then refuse.
        if text != state.text:
            _write(module, state.path, state.text)
        return pool, _by_hand(state, aim)
    after = kernel.pool()
    if most >= aim.total:
        if text is not None:
            os.utime(state.path)  # says since when a server that starts finds the pages
        return after, []
    got = state.got(dataclasses.replace(pool, total=most))
    found = (
        f"Of {state.needed} huge pages that the server needs, {got} could be got: the rest of the memory is in too small pieces. "
        "The pool is as it was, since a server takes all of its pages or none."
    )
    return after, [found, *_later(state, aim)]


def _result(state: State, pool: huge_pages.Pool | None, text: str | None, notes: list[str], problem: bool) -> dict:
    """Return the module's result, for the ``pool`` and our file's ``text`` as they are now, or would be."""
    resized = pool is not None and pool.total != state.pool.total
    changed = resized or text != state.text
    got = state.got(pool)
    enough = not state.unknown and got >= state.needed
    since = os.stat(state.path).st_mtime if os.path.exists(state.path) else 0.0
    unused = bool(state.needed and enough and not problem and not state.in_use)
    waits = unused and (changed or since > state.server.started)
    if unused and not waits:
        told = (
            "The pages are there, and the server, which was started when they were, runs without them: its log tells why."
            if since and state.as_it_runs
            else "The pages are there, and the server takes them when it is started again."
        )
        notes = [*notes, told]
    return {
        "changed": changed,
        "needed": state.needed,
        "page_size": pool.page_size if pool else 0,
        "total": pool.total if pool else 0,
        "others": state.others,
        "got": got,
        "enough": enough,
        "in_use": state.in_use,
        "restart_required": waits,
        "start_fails": state.future.huge_pages == "on" and not state.unknown and (problem or got < state.needed),
        "note": " ".join(notes),
        "path": state.path,
        "diff": {
            "before_header": state.path,
            "after_header": state.path,
            "before": state.text or "",
            "after": text or "",
        },
    }


def _text_of(aim: huge_pages.Aim) -> str | None:
    return huge_pages.render(aim.kept) if aim.kept else None


def _require_folder(aim: huge_pages.Aim, state: State) -> None:
    """Raise Refusal when our file is to be written where there is no folder for it."""
    folder = os.path.dirname(state.path)
    if _text_of(aim) != state.text and not (os.path.isabs(state.path) and os.path.isdir(folder)):
        raise Refusal(
            f"There is no folder {folder or '.'} on this host for the file {state.path}.",
            "Make it, or give in sysctl_file a path that is read at boot.",
        )


def _content(path: str) -> str | None:
    """Return what the file holds, None when there is none."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _write(module, path: str, text: str | None) -> None:
    """Put ``text`` into the file at once, or remove it for None; everybody may read it, like its siblings."""
    if text is None:
        os.unlink(path)
        return
    handle, draft = tempfile.mkstemp(dir=module.tmpdir)
    with open(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
    module.atomic_move(draft, path)
    os.chmod(path, 0o644)


def _zero_ended(path: str) -> list[str]:
    """Return the entries of a file of the kernel's that each end with a zero byte."""
    with open(path, "rb") as stream:
        return os.fsdecode(stream.read()).split("\0")[:-1]
