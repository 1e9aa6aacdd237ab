# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several processes at work on the tables of a move, each with connections of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
from multiprocessing.connection import Connection
from typing import Any, Callable, ContextManager, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# At most; while one of them works on SQLite, a process of the server's works for it.
_MOST = 4

# In a worker the process that made it.
_PARENT: int | None = None


def size() -> int:
    """Return how many workers there are where nothing else limits them."""
    return max(2, min(_MOST, len(os.sched_getaffinity(0))))


def work(
    tool: Callable[[], ContextManager[Callable[[Any], Any]]],
    tasks: Callable[[], Any],
    done: Callable[[Any, Any], None],
    most: int,
) -> None:
    """Have ``most`` workers at most do all tasks, and return when they are done and the workers have ended.

    ``tasks()`` returns the next task that can be begun, or None when there is none before another one is done. Each worker is a
    process in the context ``tool()``, whose value is called with a task and returns its answer; then ``done(task, answer)`` is
    called in this one. Tasks and answers are pickled. Raises Refusal, a tool's as well.
    """
    workers: dict[Connection, Any] = {}
    # A process that is forked has all modules at hand, wherever Ansible has unpacked them.
    context = multiprocessing.get_context("fork")
    try:
        for _number in range(min(size(), most)):
            pipe, far_end = context.Pipe()
            # A pipe tells of its owner's end when nobody else has it open, and a process that is forked has all of them.
            process = context.Process(target=_serve, args=(far_end, [*workers, pipe], tool))
            process.start()
            workers[pipe] = process
            far_end.close()
        _hand_out(list(workers), tasks, done)
    except BaseException:
        for process in workers.values():
            process.kill()
        raise
    finally:
        for pipe, process in workers.items():
            pipe.close()
            process.join()


def is_orphaned() -> bool:
    """Tell, in a worker, whether the process that made it has ended: then nobody waits for its answer."""
    return os.getppid() != _PARENT


def _hand_out(idle: list[Connection], tasks: Callable[[], Any], done: Callable[[Any, Any], None]) -> None:
    at_work: dict[Any, Any] = {}
    while True:
        while idle:
            task = tasks()
            if task is None:
                break
            pipe = idle.pop()
            with _ending_refused(task):
                pipe.send(task)
            at_work[pipe] = task
        if not at_work:
            return
        ready: list[Any] = multiprocessing.connection.wait(list(at_work))
        for pipe in ready:
            task = at_work.pop(pipe)
            with _ending_refused(task):
                refused, answer = pipe.recv()
            if refused:
                raise Refusal(*refused[:2], **refused[2])
            done(task, answer)
            idle.append(pipe)


@contextlib.contextmanager
def _ending_refused(task: Any) -> Iterator[None]:
    """Turn the end of the worker at the other end of a pipe into a Refusal."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise Refusal(
            f"A process that was at work on {task.table} was killed.",
            "See the host's log (journalctl -k tells of a lack of memory), then run this again; it goes on where it stopped.",
        ) from None


def _serve(pipe: Connection, others: list[Connection], tool: Callable[[], ContextManager[Callable[[Any], Any]]]) -> None:
    """Answer each task that comes by ``pipe`` with (None, answer), until it is closed; or with a refusal's words, and end."""
    global _PARENT
    _PARENT = os.getppid()
    for other in others:
        other.close()
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            with tool() as do:
                while True:
                    pipe.send((None, do(pipe.recv())))
        except Refusal as refusal:
            pipe.send(((refusal.found, refusal.remedy, refusal.facts), None))
