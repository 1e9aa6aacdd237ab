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

import collections
import contextlib
import dataclasses
import json
import math
import os
import re
import shlex
import signal
import time

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

# The controller's standard error. Ansible loads this file before it forks its workers, which keep this descriptor when they
# give up their own. After Ctrl-C nobody listens to what a worker says through Display any more.
_SCREEN = os.dup(2)
_CLEAR = "\r\x1b[K"

# Seconds between two lines of a log, unless the variable says otherwise.
_INTERVAL_VARIABLE = "synapse_postgres_progress_interval"
_INTERVAL = 30

# How long one look waits on the host, with a terminal and without one, and at most; it ends when the module does. It waits
# longer where a look costs much, on a small host say: of the time of the host, the work it looks at gets four fifths. In seconds.
_LOOK_IN_TERMINAL = 1
_LOOK_IN_LOG = 3
_LOOK_AT_MOST = 10

# How long the host may be out of reach, how long a module may be seen nowhere at first (async_wrapper needs a moment to start
# it), and how long it may run at all. In seconds.
_OUT_OF_REACH = 600
_UNSEEN = 15
_LONGEST = 30 * 86400

_INTERRUPTED = "Interrupted. What is ported stays ported; run the playbook again and it goes on."

# What a progress file of Progress may have at most, in bytes: some hundred tables are 20 kB.
_LARGEST = 256 * 1024

# async_wrapper makes a session of its own and ends the process that leads it. In it are a watcher, which removes Ansible's files
# in the end, and a child of it, which runs the module. The watcher's process group has the session's number; it gives the child
# a group of its own, but on a busy host only after the child has started the module, which then stays in the watcher's group.
# Both have the job's name among their words, and so had the leader, but not whoever is the watcher's parent once that is gone.
# Before that async_wrapper is in the session that it was started in: ours, or one from outside a container, with number 0.
# at_work() tells the processes of a session but the watcher by /proc/N/stat, where state, parent, group and session follow the
# name in brackets (proc(5)), zombies left out. A session is known by its number until the host is started again.
_SHELL = r"""
job=%(job)s; file=%(file)s; beside=%(beside)s; session=%(session)s; n=0
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
if [ "$boot" != %(boot)s ]; then session=; fi
named() { grep -qsw "$job" "/proc/$1/cmdline"; }
at_work() {
  sed -n "s/^\([0-9]*\) (.*) [^ZX] \([0-9]*\) \([0-9]*\) ${session:-none} .*/\1 \2 \3/p" /proc/[0-9]*/stat 2>/dev/null |
  while read -r process parent group; do
    if [ "$group" != "$session" ] || ! named "$process" || named "$parent"; then echo "$process"; fi
  done
}
session_of() { sed -n 's/^.*) [^ZX] [0-9]* [0-9]* \([0-9]*\) .*/\1/p' "$1/stat" 2>/dev/null; }
pause() { sleep 0.3 2>/dev/null || sleep 1; n=$((n+1)); }
find_session() {
  ours=$(session_of /proc/$$)
  for found in $(grep -lsw "$job" /proc/[0-9]*/cmdline); do
    number=$(session_of "${found%%/cmdline}")
    if [ "${number:-0}" -gt 1 ] && [ "$number" != "$ours" ] && ! grep -qs ') [^ZX] ' "/proc/$number/stat"; then
      session=$number
    fi
  done
}
if [ -z "$session" ]; then find_session; fi
"""

# Where nothing is seen of this very shell either - there is no /proc, no sed, no grep - that no module is seen says nothing.
# First a line of what was seen, then the job's file on one line, then the progress files: the module may write its own beside
# the file as it was named, or beside the one that a link leads to.
_LOOK = r"""
while [ $n -lt %(pauses)d ] && [ "$(at_work)" ] && grep -qs '^{"started"' "$file"; do pause; done
if [ "$(at_work)" ]; then state=working; elif session_of /proc/$$ | grep -q .; then state=ended; else state=unknown; fi
echo "SEEN $state ${session:--} ${boot:--} $(date +%%s)"
cat -- "$file" 2>/dev/null | tr -d '\n'; echo
case $beside in "~/"*) beside=$HOME/${beside#"~/"};; esac
for path in "$beside" "$(readlink -f -- "$beside" 2>/dev/null)"; do
  if [ -f "$path.progress.json" ]; then head -c %(largest)d < "$path.progress.json" | LC_ALL=C tr -cd ' -~\n'; echo; fi
done 2>/dev/null
true"""
_SEEN = re.compile(r"SEEN (working|ended|unknown) (\S+) (\S+) (\d+)")

# A module that was seen nowhere yet may only be about to start.
_END = r"""
while [ $n -lt %(pauses)d ] && [ -z "$session" ] && { [ ! -e "$file" ] || grep -qs '^{"started"' "$file"; }; do
  pause; find_session
done
for signal in TERM KILL; do
  n=0
  kill -s $signal $(at_work) 2>/dev/null
  while [ $n -lt 60 ] && [ "$(at_work)" ]; do pause; done
done
rm -f -- "$file" "$file.tmp" """


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
        """Show ``state``, if it is time for that; show no more once that has failed."""
        try:
            if not self.quiet:
                self._show(state)
        except Exception as error:
            self.quiet = True
            display.vv(f"The progress cannot be shown: {error}")

    def _show(self, state: dict) -> None:
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
        with contextlib.suppress(Exception):
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


class _Noted:
    """A signal of ``numbers`` is noted while the block runs, which ends in its own time: there is something to end on the host.

    ``asked`` is the last that came, 0 when none did. In a thread, which no signal reaches, there is nothing to note.
    """

    def __init__(self, *numbers: int) -> None:
        self.asked, self._numbers, self._before = 0, numbers, {}

    def __enter__(self) -> _Noted:
        with contextlib.suppress(ValueError):
            for number in self._numbers:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_reason) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        self.asked = number

    def strike(self) -> None:
        """Let the signal come, if it was asked for in the block."""
        if self.asked:
            signal.raise_signal(self.asked)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What one look at the host saw: the module's ``state``, what is ``kept`` in the job's file, and the progress."""

    state: str
    kept: str
    progress: dict | None

    @property
    def result(self) -> dict | None:
        """What async_wrapper kept of the module's result; None when there is nothing, or nothing whole, yet."""
        kept = _loaded(self.kept)
        return None if kept is None or "started" in kept else kept


class _Job:
    """A module at work in the background of a host."""

    def __init__(self, started: dict, beside: str, launched: float) -> None:
        """``started`` is async_wrapper's result, ``launched`` the controller's monotonic clock when it was called.

        The module's progress file stands beside the file ``beside``.
        """
        self.name, self.file, self.beside = started["ansible_job_id"], started["results_file"], beside
        self.told = {key: started[key] for key in ("warnings", "deprecations") if started.get(key)}
        self._launched, self._session, self._boot = launched, "", ""

    def look(self, seconds: int) -> str:
        """Return the script that waits for the job's end, ``seconds`` at most, and tells of it what seen() understands."""
        return self._shell() + _LOOK % {"pauses": seconds * 3, "largest": _LARGEST}

    def end(self) -> str:
        """Return the script that ends the module and all it started, if they are at work, and removes the job's file."""
        unseen = 0 if self._session else self._launched + _UNSEEN - time.monotonic()
        return self._shell() + _END % {"pauses": max(unseen, 0) * 3}

    def _shell(self) -> str:
        name = self.name.partition(".")[0]
        words = {"job": f"[{name[0]}]{name[1:]}", "file": self.file, "beside": self.beside}  # no grep finds itself by [j]123
        return _SHELL % {key: shlex.quote(word) for key, word in {**words, "session": self._session, "boot": self._boot}.items()}

    def seen(self, answer: str) -> _Seen:
        """Return what the ``answer`` to look() says; ValueError when it is none."""
        first, _end, rest = answer.partition("\n")
        mark = _SEEN.fullmatch(first)
        if not mark:
            raise ValueError(f"it answered {answer[:200]!r}")
        if mark[1] == "working" and mark[3] != "-":
            self._session, self._boot = mark[2], mark[3]
        kept, *written = rest.split("\n")
        # What an earlier run has left is older than the job; the host's clock tells its age.
        oldest = int(mark[4]) - (time.monotonic() - self._launched) - 1
        states = [state for state in map(progress_state, written) if state and state["since"] >= oldest]
        return _Seen(mark[1], kept, max(states, key=lambda state: state["at"], default=None))

    def lost(self, seen: _Seen) -> bool:
        """Whether the module has ended without a result: none can come from what ``seen`` saw."""
        known = self._session or time.monotonic() - self._launched > _UNSEEN
        return seen.state == "ended" and seen.result is None and bool(known)


def _loaded(text: str) -> dict | None:
    """Return the JSON object that is all of ``text``, None if it is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def progress_state(text: str) -> dict | None:
    """Return the state that ``text``, a line of a progress file, tells; None when Progress does not write such a one."""
    state = _loaded(text)
    if state is None:
        return None
    words, counts, times = (state.get(key) for key in ("step", "unit", "doing")), _counts(state), ("since", "at")
    sound = (
        all(isinstance(word, str) and word.isprintable() for word in words)
        and counts
        and all(isinstance(state.get(key), (int, float)) and abs(state[key]) < 2**53 for key in times)
        and isinstance(state.get("tables"), dict)
        and all(isinstance(table, dict) and _counts(table) for table in state["tables"].values())
    )
    return state if sound else None


def _counts(told: dict) -> bool:
    """Whether ``told`` says how many are done of how many."""
    found = (told.get("done"), told.get("total"))
    return all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63 for count in found)


class LiveAction(ActionBase):
    """The action of a module that writes its progress beside the file that its option PROGRESS_OF names."""

    PROGRESS_OF = "sqlite_database"

    _supports_async = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        if self._task.async_val:
            return self._execute_module(task_vars=task_vars, wrap_async=True)
        if self._task.check_mode:
            return self._plain(task_vars)
        # Ctrl-C, or the end of ansible-playbook by SIGTERM; Ansible sends its workers a second signal soon after the first.
        with _Noted(signal.SIGINT, signal.SIGTERM) as interrupted:
            result = self._live(task_vars, interrupted)
        return self._plain(task_vars) if result is None else result

    def _plain(self, task_vars: dict) -> dict:
        """Run the module as any other is run; return its result."""
        result = self._execute_module(task_vars=task_vars)
        status = result.get("rc")
        if "module_stdout" in result and isinstance(status, int) and (status < 0 or 128 < status < 255):
            # A shell tells of a program that was ended by signal N as of one that ended with 128 + N.
            return _lost(f"it was ended by signal {-status if status < 0 else status - 128}", result.get("module_stderr"))
        return result

    def _live(self, task_vars: dict, interrupted: _Noted) -> dict | None:
        """Return the module's result, and show its progress until it is there; None where it has to be run as any other."""
        shown = self._shown(task_vars)
        with _Noted(signal.SIGALRM) as limit:  # the task's time limit: before a job is known, nobody could end it
            job = self._start(task_vars, interrupted)
        if job is None:
            limit.strike()
            return None
        try:
            limit.strike()
            result = self._follow(job, shown, task_vars, interrupted)
        except AnsibleConnectionFailure:
            raise  # the host is left to itself
        except Exception as error:
            display.warning(f"The module cannot be followed ({error}); it is ended and run again, without its progress.")
            result = None
        except BaseException:  # the task's own time limit
            self._end(job, task_vars)
            raise
        finally:
            shown.clear()
        self._end(job, task_vars)
        if interrupted.asked:
            _say(_INTERRUPTED)
            raise KeyboardInterrupt
        return result

    def _shown(self, task_vars: dict) -> _Shown:
        interval = self._templar.template(task_vars.get(_INTERVAL_VARIABLE, _INTERVAL))
        try:
            seconds = float(interval)
        except (TypeError, ValueError):
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise AnsibleActionFail(f"{_INTERVAL_VARIABLE} is {interval!r}, not a number of seconds. Give it as one, 30 say.")
        alone = len(task_vars.get("ansible_play_batch", ())) < 2
        return _Shown(task_vars["inventory_hostname"], seconds, alone and os.isatty(_SCREEN), quiet=self._task.no_log)

    def _start(self, task_vars: dict, interrupted: _Noted) -> _Job | None:
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
            return _Job(started, str(self._task.args.get(self.PROGRESS_OF)), launched)
        if interrupted.asked:
            raise KeyboardInterrupt
        return None

    def _follow(self, job: _Job, shown: _Shown, task_vars: dict, interrupted: _Noted) -> dict:
        """Return what the module returned in the end; an empty dict when that was not waited for."""
        controller, reached = os.getppid(), time.monotonic()
        shortest = wait = _LOOK_IN_TERMINAL if shown.renewed else _LOOK_IN_LOG
        while not interrupted.asked:
            try:
                begun = time.monotonic()
                seen = job.seen(self._told(job.look(wait), task_vars))
                if seen.result is not None:
                    return self._returned(job, seen.result, task_vars)
            except Exception as error:  # no way to the host, no room for files there
                if time.monotonic() - reached > _OUT_OF_REACH:
                    raise
                display.vv(f"The host cannot be asked about the module: {error}")
                self._begin_anew()
                time.sleep(1)
                continue
            reached = time.monotonic()
            wait = min(max(shortest, round(4 * (reached - begun - wait))), _LOOK_AT_MOST)
            if job.lost(seen):
                return _lost(*_why(job, seen))
            if seen.progress and os.getppid() == controller:  # nobody reads what an orphan displays
                shown.show(seen.progress)
            if seen.state != "working":
                time.sleep(1)
        return {}

    def _told(self, script: str, task_vars: dict) -> str:
        """Run ``script`` on the host, with nothing of it in the host's log, and return what it printed.

        Raises AnsibleActionFail where it cannot be run, AnsibleConnectionFailure where the host cannot be reached.
        """
        words = {"argv": ["/bin/sh"], "stdin": script}
        unlogged = {**task_vars, "ansible_no_target_syslog": True}
        told = self._execute_module(module_name="ansible.builtin.command", module_args=words, task_vars=unlogged)
        if told.get("failed"):
            raise AnsibleActionFail(str(told.get("msg")))
        return str(told.get("stdout") or "")

    def _begin_anew(self) -> None:
        """Let go of a connection, and of a temporary folder of the host, that may be of no more use."""
        with contextlib.suppress(Exception):
            self._connection.reset()
        with contextlib.suppress(Exception):
            self.cleanup(force=True)

    def _end(self, job: _Job, task_vars: dict) -> None:
        """See that nothing of the job is left on the host, neither a process nor its file."""
        for _attempt in range(2):
            with contextlib.suppress(Exception):
                self._told(job.end(), task_vars)
                return
            self._begin_anew()

    def _returned(self, job: _Job, kept: dict, task_vars: dict) -> dict:
        """Return the module's result from what async_wrapper ``kept``, as _execute_module() would have."""
        if "invocation" not in kept and kept.get("failed") and {"cmd", "stderr"} <= set(kept):
            return _lost(_why_none(kept), kept["stderr"])
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
        for key, told in job.told.items():
            result[key] = [*told, *(one for one in result.get(key, []) if one not in told)]
        return result


def _why_none(kept: dict) -> str:
    """Return why async_wrapper ``kept`` words of its own in place of a result."""
    if "outdata" in kept:
        return str(kept["msg"])  # the system's words: it could not be started, or what it printed could not be written
    return "what it printed is none" if kept.get("data") or kept["stderr"] else "it printed nothing, as when it is killed"


def _why(job: _Job, seen: _Seen) -> tuple[str, str]:
    """Return why a module that ``seen`` saw nowhere has no result, and what it said last."""
    if not seen.kept:
        return f"its file {job.file} is gone, as after a restart of the host", ""
    if _loaded(seen.kept) is None:
        return f"its file {job.file} is not whole, as after a kill or on a full disk", ""
    return "it was killed, or the host was restarted", ""


def _lost(why: str, said: str | None) -> dict:
    """Return the result of a module that has ended without one: ``why``, and what it ``said`` last."""
    last = " ".join((said or "").split())[-500:]
    return {
        "failed": True,
        "changed": True,
        "msg": f"The module has ended on the host without a result: {why}. {f'It said last: {last} ' if last else ''}"
        "Look for its end in the host's log (journalctl -k tells of a lack of memory), then run the playbook again; "
        "it goes on where it stopped.",
    }
