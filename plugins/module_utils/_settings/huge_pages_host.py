# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Huge pages on the server's host: a pool that has as many as the server will need, now and after a boot."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    conf_lines,
    huge_pages,
    huge_pages_advice,
    huge_pages_demand,
    owned_file,
    parameters,
    requested,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages import Aim, Kernel, Need, Pool
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages_advice import State
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.huge_pages_demand import Demand, Server
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def apply(module: AnsibleModule, cursor: Cursor, root: str = "/") -> dict[str, object]:
    """Bring the pool and our file to what the server needs, or predict it; return the module's result."""
    kernel = Kernel(root)
    conf_lines.require_superuser(cursor)
    known = parameters.read(cursor)
    requests = requested.requested(known, module.params["settings"])
    path = module.params["sysctl_file"]
    try:
        server = huge_pages_demand.running_server(cursor, known, root)
    except Refusal as refusal:
        demand = huge_pages_demand.from_running(known, requests)
        state = State(None, demand, kernel.pool(), 0, _says_in_use(known), False, _content(path), path)
        return _result(state, state.pool, state.text, huge_pages_advice.unseen(state, refusal), True)
    demand = huge_pages_demand.demand(cursor, server, known, requests, root)
    state = _inspect(kernel, server, known, demand, path)
    problem = huge_pages_advice.problem(state, root)
    aim, notes = (None, problem) if problem else _aim(state, kernel)
    pool, text = state.pool, state.text
    if aim:
        _require_folder(aim, state)
        text = _text_of(aim)
        pool, failure = _resized(module, kernel, state, aim)
        notes += failure
        # Either all of it was done, or nothing but the file; or nothing at all.
        text = text if module.check_mode else _content(path)
    return _result(state, pool, text, notes, bool(problem))


def _inspect(kernel: Kernel, server: Server, known: dict[str, Parameter], demand: Demand, path: str) -> State:
    """Return the State of a ``server`` whose process is seen, and that has this ``demand``."""
    pool = kernel.pool(demand.page_size if demand.wanted else 0)
    with _account.acting(server.account):
        held = huge_pages.held(kernel.root, server.process, pool.page_size) if pool else 0
    counted = known.get(huge_pages_demand.COUNT)
    return State(
        server=server,
        demand=demand,
        pool=pool,
        held=held,
        in_use=_says_in_use(known) if server.version >= huge_pages_demand.TELLING else held > 0,
        as_it_runs=counted is not None and counted.setting == str(demand.count) and known["huge_pages"].setting != "off",
        text=_content(path),
        path=path,
    )


def _says_in_use(known: dict[str, Parameter]) -> bool:
    """Tell whether the server says that its shared memory is in huge pages; before 17 it does not say."""
    status = known.get("huge_pages_status")
    return status is not None and status.setting == "on"


def _aim(state: State, kernel: Kernel) -> tuple[Aim | None, list[str]]:
    """Return the Aim, None when there is nothing to do or nothing can be done, and sentences for the administrator."""
    if state.server is None or state.pool is None or state.pool.page_size != kernel.page_size():
        return None, []
    boot = huge_pages.at_boot(kernel.root, state.path)
    kept = huge_pages.read(state.text or "")
    aim = huge_pages.aim(state.pool, kept, Need(state.server.data, state.needed, state.held), boot)
    if not os.access(kernel.switch, os.W_OK):
        as_it_is = aim.total == state.pool.total and _text_of(aim) == state.text
        return None, [] if as_it_is or (state.enough and state.needed) else huge_pages_advice.by_hand(state, aim)
    never, not_now = huge_pages.affordable(kernel.root, state.pool, aim.total)
    if never:
        return None, [never, *huge_pages_advice.meanwhile(state)]
    notes = [not_now, *huge_pages_advice.at_next_boot(state, aim)] if not_now else []
    if aim.kept and boot.place and boot.total < aim.kept.total:
        notes.append(
            f"{boot.place} is read after {state.path} at boot and has vm.nr_hugepages = {boot.total}: remove that line, or the "
            "pool will be too small after a boot."
        )
    return dataclasses.replace(aim, total=state.pool.total) if not_now else aim, notes


def _resized(module: AnsibleModule, kernel: Kernel, state: State, aim: Aim) -> tuple[Pool | None, list[str]]:
    """Write our file and bring the pool to the aim, or predict it; return the pool as it is then, and sentences on a failure."""
    text, pool = _text_of(aim), state.pool
    if pool is None:
        return None, []
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
        return pool, huge_pages_advice.by_hand(state, aim)
    after = kernel.pool()
    if most >= aim.total:
        if text is not None:
            os.utime(state.path)  # says since when a server that starts finds the pages
        return after, []
    got = state.obtainable(dataclasses.replace(pool, total=most))
    found = (
        f"Of {state.needed} huge pages that the server needs, {got} could be got: the rest of the memory is in too small pieces. "
        "The pool is as it was, since a server takes all of its pages or none."
    )
    return after, [found, *huge_pages_advice.at_next_boot(state, aim)]


def _result(state: State, pool: Pool | None, text: str | None, notes: list[str], problem: bool) -> dict[str, object]:
    """Return the module's result, for the ``pool`` and our file's ``text`` as they are now, or would be."""
    resized = pool is not None and state.pool is not None and pool.total != state.pool.total
    changed = resized or text != state.text
    got = state.obtainable(pool)
    enough = not state.unknown and got >= state.needed
    since = os.stat(state.path).st_mtime if os.path.exists(state.path) else 0.0
    unused = bool(state.needed and enough and not problem and not state.in_use)
    waits = unused and state.server is not None and (changed or since > state.server.started)
    if unused and not waits:
        advice = (
            "The pages are there, and the server, which was started when they were, runs without them: its log tells why."
            if since and state.as_it_runs
            else "The pages are there, and the server takes them when it is started again."
        )
        notes = [*notes, advice]
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
        "start_fails": state.demand.huge_pages == "on" and not state.unknown and (problem or got < state.needed),
        "note": " ".join(notes),
        "path": state.path,
        "diff": {
            "before_header": state.path,
            "after_header": state.path,
            "before": state.text or "",
            "after": text or "",
        },
    }


def _text_of(aim: Aim) -> str | None:
    return huge_pages.render(aim.kept) if aim.kept else None


def _require_folder(aim: Aim, state: State) -> None:
    """Raise Refusal when our file is to be written where there is no folder for it."""
    folder = os.path.dirname(state.path)
    if _text_of(aim) != state.text and not (os.path.isabs(state.path) and os.path.isdir(folder)):
        raise Refusal(
            f"There is no folder {folder or '.'} on this host for the file {state.path}.",
            "Make it, or give in sysctl_file a path that is read at boot.",
        )


def _content(path: str) -> str | None:
    """Return what the file holds, None when there is none; line ends of another system's make no difference."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _write(module: AnsibleModule, path: str, text: str | None) -> None:
    """Put ``text`` into the file at once, or remove it for None; everybody may read it, like its siblings."""
    owned_file.replace(module, path, None if text is None else text.encode("utf-8", "surrogateescape"))
    if text is not None:
        os.chmod(path, 0o644)
