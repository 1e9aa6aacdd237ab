# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module that runs for long: run in the background of its host, while the controller shows how far it is.

It is started as a task with ``async`` is, and followed by short shell commands, each of which waits on the host for a second
or more, then tells whether the module is at work, what it has returned, and its progress file (_progress.py). What the
module returns is returned unchanged. A module in check mode, with ``async`` of its own, or where the background cannot be
used (a user without a home, files that the become user may not read) is run as any other.

Of ansible-core, this uses only what its guide for action plugins names, or shows in the plugins that the guide refers to:
``_execute_module()`` runs everything on the host, and the background is used as its action gather_facts uses it. Whatever fails
on the way, the module is run to its end: what shows progress can do without each part of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from typing import Callable

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils import _background, _pace, _screen

display = Display()

# Seconds between two lines of a log, unless the variable says otherwise.
_INTERVAL_VARIABLE = "synapse_postgres_progress_interval"
_INTERVAL = 30

# How long one poll waits on the host, with a terminal and without one, and at most; it ends when the module does. It waits
# longer where a poll costs much, on a small host say: of the time of the host, the polled work gets four fifths. In seconds.
_POLL_IN_TERMINAL = 1
_POLL_IN_LOG = 3
_POLL_AT_MOST = 10

# How long the host may be out of reach, and how long a module may run at all. In seconds.
_OUT_OF_REACH = 600
_LONGEST = 30 * 86400

_INTERRUPTED = "Interrupted. Nothing is lost; run the playbook again and it goes on."


class _DeferredSignals:
    """A signal of ``numbers`` is noted while the block runs, which ends in its own time: there is something to end on the host.

    ``received`` is the last that came, 0 when none did. In a thread, which no signal reaches, there is nothing to note.
    """

    def __init__(self, *numbers: int) -> None:
        self.received, self._numbers = 0, numbers
        self._handlers: dict[int, Callable | int | None] = {}

    def __enter__(self) -> _DeferredSignals:
        with contextlib.suppress(ValueError):
            for number in self._numbers:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_reason: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.received = number

    def deliver(self) -> None:
        """Let the signal have its usual effect, if one came in the block."""
        if self.received:
            signal.raise_signal(self.received)


class LiveAction(ActionBase):
    """The action of a module that writes its progress beside the file that its option PROGRESS_OF names, or FILE in there."""

    PROGRESS_OF, FILE = "sqlite_database", ""

    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        if self._task.async_val:
            return self._execute_module(task_vars=task_vars, wrap_async=True)
        if self._task.check_mode:
            return self._in_foreground(task_vars)
        # Ctrl-C, or the end of ansible-playbook by SIGTERM; Ansible sends its workers a second signal soon after the first.
        with _DeferredSignals(signal.SIGINT, signal.SIGTERM) as interrupted:
            result = self._in_background(task_vars, interrupted)
        return self._in_foreground(task_vars) if result is None else result

    def _in_foreground(self, task_vars: dict) -> dict:
        """Run the module as any other is run; return its result."""
        result = self._execute_module(task_vars=task_vars)
        status = result.get("rc")
        if "module_stdout" in result and isinstance(status, int) and (status < 0 or 128 < status < 255):
            # A shell tells of a program that was ended by signal N as of one that ended with 128 + N.
            return lost_result(f"it was ended by signal {-status if status < 0 else status - 128}", result.get("module_stderr"))
        return result

    def _in_background(self, task_vars: dict, interrupted: _DeferredSignals) -> dict | None:
        """Return the module's result, and show its progress until it is there; None where it has to be run as any other."""
        progress = self._progress_display(task_vars)
        with _DeferredSignals(signal.SIGALRM) as limit:  # the task's time limit: before a job is known, nobody could end it
            job = self._start(task_vars, interrupted)
        if job is None:
            limit.deliver()
            return None
        try:
            limit.deliver()
            result = self._follow(job, progress, task_vars, interrupted)
        except AnsibleConnectionFailure:
            raise  # the host is left to itself
        except Exception as error:
            display.warning(f"The module cannot be followed ({error}); it is ended and run again, without its progress.")
            result = None
        except BaseException:  # the task's own time limit
            self._end_job(job, task_vars)
            raise
        finally:
            progress.clear()
        self._end_job(job, task_vars)
        if interrupted.received:
            _screen.write(_INTERRUPTED)
            raise KeyboardInterrupt
        return result

    def _progress_display(self, task_vars: dict) -> _screen.ProgressDisplay:
        """Return where this host's progress is shown; AnsibleActionFail where the variable of the interval is no number."""
        interval = self._templar.template(task_vars.get(_INTERVAL_VARIABLE, _INTERVAL))
        try:
            seconds = float(interval)
        except (TypeError, ValueError):
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise AnsibleActionFail(f"{_INTERVAL_VARIABLE} is {interval!r}, not a number of seconds. Give it as one, 30 say.")
        alone = len(task_vars.get("ansible_play_batch", ())) < 2
        renewed = alone and _screen.is_terminal()
        return _screen.ProgressDisplay(task_vars["inventory_hostname"], seconds, renewed, quiet=self._task.no_log)

    def _start(self, task_vars: dict, interrupted: _DeferredSignals) -> _background.Job | None:
        """Start the module in the background of the host; None where that cannot be."""
        launched, started = time.monotonic(), {}
        self._task.async_val = _LONGEST  # async_wrapper's limit of time; gather_facts gives its own in the same way
        try:
            started = self._execute_module(task_vars=task_vars, wrap_async=True)
        except AnsibleConnectionFailure:
            raise
        except Exception as error:
            display.vv(f"The module cannot run in the background: {error}")
        finally:
            self._task.async_val = 0
        if started.get("ansible_job_id") and started.get("results_file"):
            path = os.path.join(str(self._task.args.get(self.PROGRESS_OF)), self.FILE).rstrip("/")
            return _background.Job(started, path, launched)
        if interrupted.received:
            raise KeyboardInterrupt
        return None

    def _follow(
        self, job: _background.Job, progress: _screen.ProgressDisplay, task_vars: dict, interrupted: _DeferredSignals
    ) -> dict:
        """Return what the module returned in the end; an empty dict when that was not waited for."""
        controller, reached = os.getppid(), time.monotonic()
        shortest = wait = _POLL_IN_TERMINAL if progress.renewed else _POLL_IN_LOG
        while not interrupted.received:
            try:
                begun = time.monotonic()
                status = job.status(self._run_script(job.poll_script(wait), task_vars))
                if status.result is not None:
                    return self._module_result(job, status.result, task_vars)
            except Exception as error:  # no way to the host, no room for files there
                if time.monotonic() - reached > _OUT_OF_REACH:
                    raise
                display.vv(f"The host cannot be asked about the module: {error}")
                self._reset_connection()
                time.sleep(1)
                continue
            reached = time.monotonic()
            wait = min(max(shortest, round(4 * (reached - begun - wait))), _POLL_AT_MOST)
            if job.is_lost(status):
                return lost_result(*why_lost(job, status))
            if status.progress and os.getppid() == controller:  # nobody reads what an orphan displays
                progress.show(status.progress)
            if status.state != "working":
                time.sleep(1)
        return {}

    def _run_script(self, script: str, task_vars: dict) -> str:
        """Run ``script`` on the host, with nothing of it in the host's log, and return what it printed.

        Raises AnsibleActionFail where it cannot be run, AnsibleConnectionFailure where the host cannot be reached.
        """
        words = {"argv": ["/bin/sh"], "stdin": script}
        unlogged = {**task_vars, "ansible_no_target_syslog": True}
        result = self._execute_module(module_name="ansible.builtin.command", module_args=words, task_vars=unlogged)
        if result.get("failed"):
            raise AnsibleActionFail(str(result.get("msg")))
        return str(result.get("stdout") or "")

    def _reset_connection(self) -> None:
        """Let go of a connection, and of a temporary folder of the host, that may be of no more use."""
        with contextlib.suppress(Exception):
            self._connection.reset()
        with contextlib.suppress(Exception):
            self.cleanup(force=True)

    def _end_job(self, job: _background.Job, task_vars: dict) -> None:
        """See that nothing of the job is left on the host, neither a process nor its file."""
        for _attempt in range(2):
            with contextlib.suppress(Exception):
                self._run_script(job.end_script(), task_vars)
                return
            self._reset_connection()

    def _module_result(self, job: _background.Job, kept: dict, task_vars: dict) -> dict:
        """Return the module's result from what async_wrapper ``kept``, as _execute_module() would have."""
        if "invocation" not in kept and kept.get("failed") and {"cmd", "stderr"} <= set(kept):
            return lost_result(_why_unreadable(kept), kept["stderr"])
        asked = {"jid": job.name, "_async_dir": os.path.dirname(job.file)}
        try:
            result = self._execute_module(module_name="ansible.builtin.async_status", module_args=asked, task_vars=task_vars)
        except AnsibleConnectionFailure:
            raise
        except Exception as error:
            result = {"msg": error}
        if not result.get("finished"):
            display.vv(f"The module's result is read without async_status: {result.get('msg')}")
            # Only async_status knows how modules write these to ansible-core.
            result = {key: kept[key] for key in set(kept) - {"deprecations", "exception", "warnings"} if key[:9] != "_ansible_"}
        for key in ("ansible_job_id", "finished", "started", "results_file", "stderr", "stderr_lines"):
            result.pop(key, None)  # async_status's own, and what the module said besides
        if "finished" in kept:
            result["finished"] = kept["finished"]
        for key, notices in job.notices.items():
            result[key] = [*notices, *(one for one in result.get(key, []) if one not in notices)]
        return result


def _why_unreadable(kept: dict) -> str:
    """Return why async_wrapper ``kept`` words of its own in place of a result."""
    if "outdata" in kept:
        return str(kept["msg"])  # the system's words: it could not be started, or what it printed could not be written
    return "what it printed is none" if kept.get("data") or kept["stderr"] else "it printed nothing, as when it is killed"


def why_lost(job: _background.Job, status: _background.Status) -> tuple[str, str]:
    """Return why a module with the last ``status`` has no result, and what it said last."""
    if not status.kept:
        return f"its file {job.file} is gone, as after a restart of the host", ""
    if _pace.json_object(status.kept) is None:
        return f"its file {job.file} is not whole, as after a kill or on a full disk", ""
    return "it was killed, or the host was restarted", ""


def lost_result(why: str, said: str | None) -> dict:
    """Return the result of a module that has ended without one: ``why``, and what it ``said`` last."""
    last = " ".join((said or "").split())[-500:]
    return {
        "failed": True,
        "changed": True,
        "msg": f"The module has ended on the host without a result: {why}. {f'It said last: {last} ' if last else ''}"
        "Look for its end in the host's log (journalctl -k tells of a lack of memory), then run the playbook again; "
        "it goes on where it stopped.",
    }
