# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several processes at work on the tables of a move, each with connections of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

# At most; while one of them works on SQLite, a process of the server's works for it.
_MOST = 4

# In a process of the crew the one that made it.
_PARENT = None


def size() -> int:
    """Return of how many processes a crew is where nothing else limits it."""
    return max(2, min(_MOST, len(os.sched_getaffinity(0))))


def work(tool, tasks, done, most: int) -> None:
    """Have a crew of ``most`` processes at most do all tasks, and return when they are done and the crew has ended.

    ``tasks()`` returns the next task that can be begun, or None when there is none before another one is done. Each process is
    in the context ``tool()``, whose value is called with a task and returns its answer; ``done(task, answer)`` hears of it here.
    Tasks and answers are pickled. Raises Refusal, a tool's as well.
    """
    crew: dict = {}
    # A process that is forked has all modules at hand, wherever Ansible has unpacked them.
    context = multiprocessing.get_context("fork")
    try:
        for _number in range(min(size(), most)):
            mine, theirs = context.Pipe()
            # A pipe tells of its owner's end when nobody else has it open, and a process that is forked has all of them.
            process = context.Process(target=_serve, args=(theirs, [*crew, mine], tool))
            process.start()
            crew[mine] = process
            theirs.close()
        _hand_out(list(crew), tasks, done)
    except BaseException:
        for process in crew.values():
            process.kill()
        raise
    finally:
        for pipe, process in crew.items():
            pipe.close()
            process.join()


def is_orphaned() -> bool:
    """Tell, in a process of a crew, whether the one that made it has ended: then nobody hears of its work."""
    return os.getppid() != _PARENT


def _hand_out(idle: list, tasks, done) -> None:
    at_work: dict = {}
    while True:
        while idle:
            task = tasks()
            if task is None:
                break
            pipe = idle.pop()
            with _heard_of(task):
                pipe.send(task)
            at_work[pipe] = task
        if not at_work:
            return
        for pipe in multiprocessing.connection.wait(list(at_work)):
            task = at_work.pop(pipe)
            with _heard_of(task):
                refused, answer = pipe.recv()
            if refused:
                raise Refusal(*refused[:2], **refused[2])
            done(task, answer)
            idle.append(pipe)


@contextlib.contextmanager
def _heard_of(task):
    """Turn the end of the process at the other end of a pipe into a Refusal."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise Refusal(
            f"A process that was at work on {task.table} was killed.",
            "See the host's log (journalctl -k tells of a lack of memory), then run this again; it goes on where it stopped.",
        ) from None


def _serve(pipe, others: list, tool) -> None:
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
