# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module at work in the background of its host, as async_wrapper starts it, and the shell commands by which it is followed."""

from __future__ import annotations

import dataclasses
import re
import shlex
import time

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils import _pace

# How long (seconds) a module may be seen nowhere at first: async_wrapper needs a moment to start it.
UNSEEN = 15

# What a progress file of Progress may have at most, in bytes: some hundred tables are 20 kB.
_LARGEST = 256 * 1024

# async_wrapper makes a session of its own and ends the process that leads it. In it are a watcher, which removes Ansible's files
# in the end, and a child of it, which runs the module. The watcher's process group has the session's number; it gives the child
# a group of its own, but on a busy host only after the child has started the module, which then stays in the watcher's group.
# Both have the job's name among their words, and so had the leader, but not whoever is the watcher's parent once that is gone.
# Before that async_wrapper is in the session that it was started in: ours, or one from outside a container, with number 0.
# at_work() tells the processes of a session but the watcher by /proc/N/stat, where state, parent, group and session follow the
# name in brackets (proc(5)), zombies left out. A session is known by its number until the host is started again.
_PRELUDE = r"""
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
_POLL = r"""
while [ $n -lt %(pauses)d ] && [ "$(at_work)" ] && grep -qs '^{"started"' "$file"; do pause; done
if [ "$(at_work)" ]; then state=working; elif session_of /proc/$$ | grep -q .; then state=ended; else state=unknown; fi
echo "SEEN $state ${session:--} ${boot:--} $(date +%%s)"
cat -- "$file" 2>/dev/null | tr -d '\n'; echo
case $beside in "~/"*) beside=$HOME/${beside#"~/"};; esac
for path in "$beside" "$(readlink -f -- "$beside" 2>/dev/null)"; do
  if [ -f "$path.progress.json" ]; then head -c %(largest)d < "$path.progress.json" | LC_ALL=C tr -cd ' -~\n'; echo; fi
done 2>/dev/null
true"""
_ANSWER = re.compile(r"SEEN (working|ended|unknown) (\S+) (\S+) (\d+)")

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


@dataclasses.dataclass(frozen=True)
class Status:
    """What was found on the host: the module's ``state`` (working, ended, unknown), the job's file as ``kept``, the progress."""

    state: str
    kept: str
    progress: _pace.State | None

    @property
    def result(self) -> dict | None:
        """What async_wrapper kept of the module's result; None when there is nothing, or nothing whole, yet."""
        kept = _pace.json_object(self.kept)
        return None if kept is None or "started" in kept else kept


class Job:
    """A module at work in the background of a host."""

    def __init__(self, started: dict, beside: str, launched: float) -> None:
        """``started`` is async_wrapper's result, ``launched`` the controller's monotonic clock when it was called.

        The module's progress file stands beside the file ``beside``.
        """
        self.name, self.file, self.beside = started["ansible_job_id"], started["results_file"], beside
        self.notices = {key: started[key] for key in ("warnings", "deprecations") if started.get(key)}
        self._launched, self._session, self._boot = launched, "", ""

    def poll_script(self, seconds: int) -> str:
        """Return the script that waits for the job's end, ``seconds`` at most, and tells of it what status() understands."""
        return self._prelude() + _POLL % {"pauses": seconds * 3, "largest": _LARGEST}

    def end_script(self) -> str:
        """Return the script that ends the module and all it started, if they are at work, and removes the job's file."""
        unseen = 0 if self._session else self._launched + UNSEEN - time.monotonic()
        return self._prelude() + _END % {"pauses": max(unseen, 0) * 3}

    def _prelude(self) -> str:
        name = self.name.partition(".")[0]
        words = {"job": f"[{name[0]}]{name[1:]}", "file": self.file, "beside": self.beside}  # no grep finds itself by [j]123
        return _PRELUDE % {
            key: shlex.quote(word) for key, word in {**words, "session": self._session, "boot": self._boot}.items()
        }

    def status(self, answer: str) -> Status:
        """Return what the ``answer`` of poll_script() says; ValueError when it is none."""
        first, _end, rest = answer.partition("\n")
        found = _ANSWER.fullmatch(first)
        if not found:
            raise ValueError(f"it answered {answer[:200]!r}")
        if found[1] == "working" and found[3] != "-":
            self._session, self._boot = found[2], found[3]
        kept, *written = rest.split("\n")
        # What an earlier run has left is older than the job; the host's clock tells its age.
        oldest = int(found[4]) - (time.monotonic() - self._launched) - 1
        states = [state for state in map(_pace.State.parsed, written) if state and state.since >= oldest]
        return Status(found[1], kept, max(states, key=lambda state: state.at, default=None))

    def is_lost(self, status: Status) -> bool:
        """Tell whether the module has ended without a result, by its ``status``."""
        known = self._session or time.monotonic() - self._launched > UNSEEN
        return status.state == "ended" and status.result is None and bool(known)
