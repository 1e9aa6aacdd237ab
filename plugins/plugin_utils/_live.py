# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module that runs for long: run in the background of its host, while the controller shows how far it is.

It is started by Ansible's own async_wrapper and followed by short shell commands, each of which waits on the host for a
second or more, then tells whether the module is at work, what it has returned, and its progress file (_progress.py). What
the module returns is returned unchanged. A module in check mode, with ``async`` of its own, or where the background
cannot be used (a user without a home, files that the become user may not read) is run as any other.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import json
import os
import re
import shlex
import signal
import time

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.vars.clean import remove_internal_keys

display = Display()

# The controller's standard error. Ansible loads this file before it forks its workers, which keep this descriptor when they
# give up their own. After Ctrl-C nobody listens to what a worker says through Display any more.
_SCREEN = os.dup(2)
_CLEAR = "\r\x1b[K"

# Seconds between two lines of a log, unless the variable says otherwise.
_INTERVAL_VARIABLE = "synapse_postgres_progress_interval"
_INTERVAL = 30

# How long one look waits on the host, with a terminal and without one; it ends when the module does. In seconds.
_LOOK_IN_TERMINAL = 1
_LOOK_IN_LOG = 3

# How long the host may be out of reach, how long a module may be seen neither at work nor with a result (async_wrapper needs
# a moment at the start), and how long it may run at all. In seconds.
_OUT_OF_REACH = 600
_LOST = 15
_LONGEST = 30 * 86400

_INTERRUPTED = "Interrupted. What is ported stays ported; run the playbook again and it goes on."

# async_wrapper leads the process group of the module and of all that the module starts, and has the job's name among its
# words. The name comes here in two parts, so that these commands do not find themselves. living() takes no zombie for
# alive: in /proc/N/stat, the state, the parent and the group follow the name in brackets (proc(5)).
_SHELL = r"""
leader() {
  for found in $(grep -ls "$1" /proc/[0-9]*/cmdline); do
    found=${found%%/cmdline}; found=${found#/proc/}
    if kill -s 0 -- "-$found" 2>/dev/null; then echo "$found"; return; fi
  done
}
living() { [ "$group" ] && grep -qsE "\) [^ZX] [0-9]+ $group " /proc/[0-9]*/stat; }
pause() { sleep 0.2 2>/dev/null || sleep 1; }
one=%s; two=%s; group=$(leader "$one$two"); n=0
"""

_LOOK = """
while [ $n -lt %d ] && living; do pause; n=$((n+1)); done
if living; then state=working; elif [ -e /proc/self/cmdline ]; then state=ended; else state=unknown; fi
cat %s; echo; echo "SEEN $state $(date +%%s)"; cat %s; true"""
_SEEN = re.compile(r"^SEEN (working|ended|unknown) (\d+)$", re.MULTILINE)

_END = """
if living; then
  kill -s TERM -- "-$group"
  while [ $n -lt 100 ] && living; do pause; n=$((n+1)); done
  if living; then kill -s KILL -- "-$group"; fi
fi
rm -f %s"""


class Pace:
    """How fast a step goes and how long it still takes, from the states of its progress file, as one line of text."""

    # Seconds of the step's recent past from which its speed is taken.
    WINDOW = 30

    def __init__(self) -> None:
        self._seen: collections.deque = collections.deque()

    def see(self, state: dict) -> None:
        """Take in a state that _progress.Progress wrote."""
        if self._seen and (state["since"] != self._seen[-1][2] or state["done"] < self._seen[-1][1]):
            self._seen.clear()  # another part of the step
        if not self._seen or state["at"] > self._seen[-1][0]:
            self._seen.append((state["at"], state["done"], state["since"]))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > self.WINDOW:
            self._seen.popleft()

    def rate(self) -> float | None:
        """Return how many units a second are done lately, None when that cannot be told yet."""
        seconds = self._seen[-1][0] - self._seen[0][0] if self._seen else 0
        return (self._seen[-1][1] - self._seen[0][1]) / seconds if seconds > 0 else None

    def line(self, state: dict) -> str:
        """Return ``state`` and the pace in words."""
        table = state["tables"].get(state["doing"])
        doing = f"{state['doing']} {table['done']:,}/{table['total']:,}" if table else state["doing"]
        words = [f"{state['step']}: {doing}" if doing else state["step"]]
        if state["total"]:
            words.append(f"{state['done']:,} of {state['total']:,} {state['unit']}")
            words.append(f"{percent(state)} %")
        rate = self.rate()
        if rate is not None:
            words.append(f"{rate:,.0f} {state['unit']}/s")
        if rate and state["done"] < state["total"]:
            words.append(f"{time_left((state['total'] - state['done']) / rate)} left")
        return ", ".join(words)


def percent(state: dict) -> int:
    """Return the whole percent of ``state``, 100 only when everything is done."""
    return min(state["done"], state["total"]) * 100 // state["total"] if state["total"] else 0


def time_left(seconds: float) -> str:
    """Return ``seconds`` in the words of somebody who estimates."""
    if seconds < 90:
        return f"about {max(int(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60 // 10 * 10} min"


class _Shown:
    """Where the progress of one host's step is shown: on a line of a terminal that is renewed, or in a log now and then."""

    def __init__(self, host: str, interval: float, renewed: bool, quiet: bool) -> None:
        self.host, self.interval, self.renewed, self.quiet = host, interval, renewed, quiet
        self.pace, self.begun = Pace(), False
        self.told, self.quarter = time.monotonic(), 0

    def show(self, state: dict) -> None:
        """Show ``state``, if it is time for that."""
        if self.quiet:
            return
        self.pace.see(state)
        line = f"{self.host}: {self.pace.line(state)}"
        if self.renewed:
            self.begun = True
            display.display(f"{_CLEAR}{line[: _width() - 1]}", stderr=True, screen_only=True, newline=False)
        quarter = percent(state) // 25
        if time.monotonic() - self.told >= self.interval or self.quarter < quarter < 4:
            self.told, self.quarter = time.monotonic(), quarter
            # With a terminal this is for the file of log_path only.
            display.display(line, stderr=True, log_only=self.renewed)

    def clear(self) -> None:
        """Take away the line of a terminal."""
        if self.begun:
            display.display(_CLEAR, stderr=True, screen_only=True, newline=False)


def _width() -> int:
    """Return the columns of the terminal as it is now."""
    with contextlib.suppress(OSError):
        return os.get_terminal_size(_SCREEN).columns or 80
    return 80


def _say(text: str) -> None:
    """Tell the person at the controller, whatever has become of Ansible."""
    clear = _CLEAR if os.isatty(_SCREEN) else ""
    with contextlib.suppress(OSError):
        os.write(_SCREEN, f"{clear}{text}\n".encode())


class _Interrupted:
    """Whether Ctrl-C, or the end of ansible-playbook by SIGTERM, was asked for while the block ran.

    It is noted only, and the block ends in its own time: there is something to end on the host. Ansible sends a second signal
    to its workers soon after the first.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupted:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_reason) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number, _frame) -> None:
        self.asked = True


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What one look at the host saw; all empty when it failed."""

    state: str = ""
    result: str = ""
    progress: dict | None = None


class _Job:
    """A module at work in the background of a host."""

    def __init__(self, started: dict, progress: str, launched: float) -> None:
        """``started`` is async_wrapper's result, ``launched`` the controller's monotonic clock when it was called."""
        self.facts = started.get("ansible_facts")
        self.told = {key: started[key] for key in ("warnings", "deprecations") if started.get(key)}
        self._launched = launched
        self._file, self._progress = shlex.quote(started["results_file"]), shlex.quote(progress)
        name = started["ansible_job_id"].partition(".")[0]
        self._shell = _SHELL % (shlex.quote(name[:3]), shlex.quote(name[3:]))
        # The file's name has the job's name in it.
        self._file = self._file.replace(name, f"{name[:3]}''{name[3:]}")

    def look(self, seconds: int) -> str:
        """Return the command that waits for the job's end, ``seconds`` at most, and tells of it what seen() understands."""
        return self._shell + _LOOK % (seconds * 5, self._file, self._progress)

    def end(self) -> str:
        """Return the command that ends the module and all it started, if they are at work, and removes the job's file."""
        return self._shell + _END % self._file

    def seen(self, answer: str) -> _Seen:
        """Return what the ``answer`` to look() says."""
        mark = _SEEN.search(answer)
        if not mark:
            return _Seen()
        kept, written = _document(answer[: mark.start()]), _document(answer[mark.end() :])
        progress = json.loads(written) if written else None
        # What an earlier run has left is older than the job; the host's clock tells its age.
        if progress and int(mark[2]) - progress["since"] > time.monotonic() - self._launched + 1:
            progress = None
        return _Seen(mark[1], "" if kept and "started" in json.loads(kept) else kept, progress)


def _document(text: str) -> str:
    """Return the line of ``text`` that is a JSON object, whatever else the host's shell printed; empty if there is none."""
    return next((line for line in text.splitlines() if line.startswith("{")), "")


class LiveAction(ActionBase):
    """The action of a module that writes its progress beside the file that its option PROGRESS_OF names."""

    PROGRESS_OF = "sqlite_database"

    _supports_async = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        native = self._connection.has_native_async
        if self._task.async_val or self._task.check_mode or native:
            background = self._task.async_val and not native
            result.update(self._execute_module(task_vars=task_vars, wrap_async=background))
        else:
            background = False
            with _Interrupted() as interrupted:
                result.update(self._live(task_vars, interrupted))
        if not background:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _live(self, task_vars: dict, interrupted: _Interrupted) -> dict:
        """Return the module's result; show its progress until it is there."""
        shown = self._shown(task_vars)
        job = self._start(task_vars, interrupted)
        if job is None:
            return self._execute_module(task_vars=task_vars)
        try:
            result = self._follow(job, shown, interrupted)
        except AnsibleConnectionFailure:
            raise  # the host is left to itself
        except BaseException:  # the task's own time limit
            self._end(job)
            raise
        finally:
            shown.clear()
        self._end(job)
        if interrupted.asked:
            _say(_INTERRUPTED)
            raise KeyboardInterrupt
        return result

    def _shown(self, task_vars: dict) -> _Shown:
        interval = self._templar.template(task_vars.get(_INTERVAL_VARIABLE, _INTERVAL))
        try:
            interval = float(interval)
        except (TypeError, ValueError):
            raise AnsibleActionFail(f"{_INTERVAL_VARIABLE} is {interval!r}, not a number. Give it in seconds.") from None
        alone = len(task_vars.get("ansible_play_batch", ())) < 2
        return _Shown(task_vars["inventory_hostname"], interval, alone and os.isatty(_SCREEN), quiet=self._task.no_log)

    def _start(self, task_vars: dict, interrupted: _Interrupted) -> _Job | None:
        """Start the module in the background of the host; None where that cannot be."""
        launched, started = time.monotonic(), {}
        self._task.async_val = _LONGEST
        try:
            started = self._execute_module(task_vars=task_vars, wrap_async=True)
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as error:
            display.vv(f"The module cannot run in the background: {error}")
        finally:
            self._task.async_val = 0
        if started.get("ansible_job_id") and started.get("results_file"):
            return _Job(started, f"{self._task.args.get(self.PROGRESS_OF)}.progress.json", launched)
        if interrupted.asked:
            raise KeyboardInterrupt
        return None

    def _follow(self, job: _Job, shown: _Shown, interrupted: _Interrupted) -> dict:
        """Return what the module returned in the end; an empty dict when that was not waited for."""
        controller, heard, reached = os.getppid(), time.monotonic(), time.monotonic()
        while not interrupted.asked:
            try:
                answer = self._low_level_execute_command(job.look(_LOOK_IN_TERMINAL if shown.renewed else _LOOK_IN_LOG))
            except AnsibleConnectionFailure:
                if time.monotonic() - reached > _OUT_OF_REACH:
                    raise
                with contextlib.suppress(AttributeError):
                    self._connection.reset()
                answer = {"stdout": ""}
            seen = job.seen(answer["stdout"])
            reached = time.monotonic() if seen.state else reached
            if seen.result:
                return self._returned(job, seen.result)
            if seen.state in ("working", "unknown"):
                heard = time.monotonic()
            elif seen.state == "ended" and time.monotonic() - heard > _LOST:
                return _lost()
            if seen.progress and os.getppid() == controller:  # nobody reads what an orphan displays
                shown.show(seen.progress)
            if seen.state != "working":
                time.sleep(1)
        return {}

    def _end(self, job: _Job) -> None:
        """See that nothing of the job is left on the host, neither a process nor its file."""
        with contextlib.suppress(AnsibleError):
            self._low_level_execute_command(job.end())

    def _returned(self, job: _Job, text: str) -> dict:
        """Return the module's result from ``text``, what async_wrapper kept of it, as _execute_module() would have."""
        kept = json.loads(text)
        died = "invocation" not in kept and {"cmd", "data", "stderr"} <= set(kept)
        answer = {"stdout": kept["data"] if died else text, "stderr": kept.get("stderr", ""), "rc": int(died)}
        # ansible-core 2.19 wants to know how the module encoded its answer; modules written in Python do in one way.
        known = inspect.signature(self._parse_returned_data).parameters
        result = self._parse_returned_data(answer, **({"profile": "legacy"} if "profile" in known else {}))
        remove_internal_keys(result)
        if not died:
            result.pop("stderr", None)  # the module's own results have none
        if job.facts:
            result.setdefault("ansible_facts", {}).update(job.facts)
        for key, told in job.told.items():
            result[key] = [*told, *result.get(key, [])]
        return result


def _lost() -> dict:
    """Return the result of a module whose processes are gone and have left no result."""
    return {
        "failed": True,
        "changed": True,
        "msg": "The module has ended on the host without a result: it was killed, or the host was restarted. "
        "Look for its end in the host's log (journalctl -k tells of a lack of memory), then run the playbook again; "
        "it goes on where it stopped.",
    }
