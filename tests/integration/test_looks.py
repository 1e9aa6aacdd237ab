# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a look at a module in the background makes of what is on the host: progress files that are none, results that are none.

The scripts run in the shell that a host would run them in, on real files and on processes as async_wrapper leaves them.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils import _background, _live, _pace, _screen
from support import modules, sqlite
from support.step import Play

_STARTED = '{"started": 1, "finished": 0, "ansible_job_id": "j987654321.7"}'
# A session as async_wrapper makes it: its leader has ended, a watcher is in it, and the child that runs the module, which is
# given a group of its own.
_WRAPPER = """
import os, subprocess, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
there, told = os.pipe()
child = os.fork()
if not child:
    if "on a busy host" not in sys.argv: os.setpgid(0, 0)
    module = subprocess.Popen(["/bin/sleep", "60"], stdout=2)
    os.write(told, b"%d" % module.pid)
    os.close(1)
    sys.exit(module.wait())
module = os.read(there, 20).decode()
os.setpgid(child, child)
print(module, child, os.getpid(), flush=True)
os.close(1)
os.waitpid(child, 0)
time.sleep(60)
"""


@contextlib.contextmanager
def wrapper(*words: str):
    """Yield the processes of a session as async_wrapper makes it: the module, the child that runs it, the watcher."""
    words = [sys.executable, "-c", _WRAPPER, "async_wrapper.py", "j987654321", "100", *words]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        found = [int(number) for number in process.stdout.readline().split()]
    try:
        yield found
    finally:
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def ended(job: _background.Job) -> None:
    """Run the script that ends a job."""
    subprocess.run(["/bin/sh"], input=job.end_script(), text=True, timeout=30, check=True)


def running(number: int) -> bool:
    """Whether a process runs, which one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


def state(**other) -> dict:
    """Return a state as Progress writes it now."""
    told = {
        "step": "port",
        "unit": "rows",
        "doing": "events",
        "done": 5,
        "total": 10,
        "tables": {"events": {"done": 5, "total": 9}},
    }
    return {**told, "since": time.time(), "at": time.time(), **other}


def polled(
    folder: pathlib.Path, beside: pathlib.Path | str, job: _background.Job | None = None
) -> tuple[_background.Job, _background.Status]:
    """Poll a job whose file is in ``folder``, and whose progress file is ``beside`` a file."""
    started = {"ansible_job_id": "j987654321.7", "results_file": str(folder / "job")}
    job = job or _background.Job(started, str(beside), time.monotonic())
    done = subprocess.run(["/bin/sh"], input=job.poll_script(0), capture_output=True, text=True, timeout=20, check=True)
    assert not done.stderr
    return job, job.status(done.stdout)


WRONG = {
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "half": lambda path: path.write_text(json.dumps(state())[:-5]),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a loop": lambda path: path.symlink_to(path),
    "huge": lambda path: path.write_text(json.dumps(state(tables={f"table{n}": {"done": 1, "total": 2} for n in range(20000)}))),
    "a list": lambda path: path.write_text("[1, 2]"),
    "deep": lambda path: path.write_text("{" + '"a":{' * 5000),
    "a lie": lambda path: path.write_text("SEEN ended 1 1 1\n{}\n"),
    "of another day": lambda path: path.write_text(json.dumps(state(since=1.0, at=time.time()))),
    **{
        f"{key} {value!r:.20}": lambda path, told={key: value}: path.write_text(json.dumps(state(**told)))
        for key, value in [
            ("done", "5"),
            ("done", None),
            ("done", -1),
            ("done", 10**400),
            ("total", True),
            ("total", 1.5),
            ("since", None),
            ("at", float("nan")),
            ("at", 10**400),
            ("tables", []),
            ("tables", {"events": 5}),
            ("tables", {"events": {"done": 5}}),
            ("doing", None),
            ("doing", "\x1b[2J"),
            ("step", ["port"]),
            ("unit", 5),
        ]
    },
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_progress_file_that_is_none_is_no_progress(tmp_path, wrong):
    (tmp_path / "job").write_text(_STARTED)
    wrong(tmp_path / "homeserver.db.progress.json")
    _job, seen = polled(tmp_path, tmp_path / "homeserver.db")
    assert seen.progress is None and seen.kept == _STARTED and seen.result is None


def test_progress_is_found_however_the_file_is_named(tmp_path, monkeypatch):
    told = state()
    expected = _pace.State.parsed(json.dumps(told))
    (tmp_path / "disk").mkdir()
    (tmp_path / "it's $HOME.db").symlink_to(tmp_path / "disk" / "real.db")
    for written in ("disk/real.db.progress.json", "it's $HOME.db.progress.json"):
        (tmp_path / written).write_text(json.dumps(told))
        assert polled(tmp_path, tmp_path / "it's $HOME.db")[1].progress == expected
        (tmp_path / written).unlink()
    monkeypatch.setenv("HOME", str(tmp_path / "disk"))
    (tmp_path / "disk" / "homeserver.db.progress.json").write_text(json.dumps(told))
    assert polled(tmp_path, "~/homeserver.db")[1].progress == expected


@pytest.mark.parametrize("states", [[state(at=50.0), state(at=40.0)], [state(done=9), state(done=2)], [state(since=9e9)] * 2])
def test_a_time_that_goes_backwards_is_shown_all_the_same(states):
    shown = _screen.ProgressDisplay("here", 0, renewed=False, quiet=False)
    parsed = [_pace.State.parsed(json.dumps(one)) for one in states]
    for one in parsed:
        shown.show(one)
    assert not shown.quiet and "port: events 5/9" in f"here: {shown.pace.line(parsed[-1])}"


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (None, "is gone"),
        ("", "is gone"),
        (_STARTED, "it was killed, or the host was restarted"),
        ('{"changed": tr', "is not whole"),
        (_STARTED[:20], "is not whole"),
    ],
)
def test_a_file_without_a_result_is_told_of(tmp_path, kept, why):
    if kept is not None:
        (tmp_path / "job").write_text(kept)
    job, seen = polled(tmp_path, tmp_path / "homeserver.db")
    assert seen.state == "ended" and not job.is_lost(seen)  # async_wrapper may still be starting it
    job._launched -= _background.UNSEEN
    assert job.is_lost(seen) and why in _live.lost_result(*_live.why_lost(job, seen))["msg"]


@pytest.mark.parametrize("lacking", ["sed", "grep"])
def test_a_host_that_lacks_what_finds_a_module_does_not_say_that_it_was_killed(tmp_path, monkeypatch, lacking):
    (tmp_path / "job").write_text(_STARTED)
    for name in {"cat", "date", "grep", "head", "readlink", "sed", "sleep", "tr"} - {lacking}:
        (tmp_path / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    started = {"ansible_job_id": "j987654321.7", "results_file": str(tmp_path / "job")}
    job = _background.Job(started, "", time.monotonic() - _background.UNSEEN)
    told = subprocess.run(["/bin/sh"], input=job.poll_script(1), capture_output=True, text=True, timeout=20, check=True).stdout
    seen = job.status(told)
    assert seen.state == "unknown" and seen.kept == _STARTED and not job.is_lost(seen)


def test_the_module_is_found_and_ended_when_its_watchers_are_gone(tmp_path):
    (tmp_path / "job").write_text(_STARTED)
    (tmp_path / "job.tmp").write_text(_STARTED[:9])
    with wrapper() as (_module, child, watcher):
        job, seen = polled(tmp_path, tmp_path / "homeserver.db")
        assert seen.state == "working"
        for number in (watcher, child):
            os.kill(number, signal.SIGKILL)
            assert polled(tmp_path, "", job)[1].state == "working" and not job.is_lost(seen)
        ended(job)
        _job, seen = polled(tmp_path, "", job)
        assert seen.state == "ended" and job.is_lost(seen) and not list(tmp_path.iterdir())


def test_a_module_in_the_watchers_group_is_ended_and_the_watcher_is_not(tmp_path):
    """On a busy host the module is started before the child that starts it is given its group."""
    (tmp_path / "job").write_text(_STARTED)
    with wrapper("on a busy host") as (module, child, watcher):
        assert os.getpgid(module) == os.getpgid(watcher) != os.getpgid(child)
        job, _seen = polled(tmp_path, "")
        os.kill(child, signal.SIGKILL)
        assert polled(tmp_path, "", job)[1].state == "working"
        ended(job)
        assert not running(module) and running(watcher) and polled(tmp_path, "", job)[1].state == "ended"


def test_a_module_that_is_only_about_to_start_is_ended(tmp_path):
    started = {"ansible_job_id": "j987654321.7", "results_file": str(tmp_path / "job")}
    with subprocess.Popen(["/bin/sh"], stdin=subprocess.PIPE, text=True) as ending:
        ending.stdin.write(_background.Job(started, "", time.monotonic()).end_script())
        ending.stdin.close()
        time.sleep(1)
        assert ending.poll() is None
        with wrapper() as (module, child, watcher):
            assert ending.wait(30) == 0 and not running(module) and not running(child) and running(watcher)


def test_no_session_but_async_wrappers_is_taken_for_it(tmp_path):
    """A process with the job's name among its words, in a session whose leader lives: that of whoever runs the tests."""
    with subprocess.Popen(["/bin/sh", "-c", "sleep 60 & wait", "j987654321"], process_group=0) as process:
        try:
            job, seen = polled(tmp_path, "")
            assert seen.state == "ended"
            job._launched -= _background.UNSEEN
            ended(job)
            assert process.poll() is None
        finally:
            os.killpg(process.pid, signal.SIGKILL)


_NEWER = """
import sys
from ansible.plugins.action import ActionBase
old = ActionBase._execute_module
def newer(self, module_name=None, module_args=None, task_vars=None, **more):
    {refusal}
    return old(self, module_name=module_name, module_args=module_args, task_vars=task_vars, **more)
ActionBase._execute_module = newer
"""


@pytest.mark.parametrize(
    "refusal",
    [
        "if more.get('wrap_async'): raise TypeError('there is no wrap_async any more')",
        "if module_name == 'ansible.builtin.async_status': raise TypeError('there is no async_status any more')",
        "if module_name == 'ansible.builtin.async_status': return {'failed': True, 'msg': 'there is no _async_dir any more'}",
    ],
    ids=["wrap_async", "async_status", "_async_dir"],
)
def test_a_newer_ansible_core_that_lacks_what_progress_needs_runs_the_module_all_the_same(tmp_path, refusal):
    """The ansible-core of the tests, with one thing taken away."""
    source = tmp_path / "homeserver.db"
    sqlite.homeserver(source)
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "sitecustomize.py").write_text(_NEWER.format(refusal=refusal))
    play = Play(tmp_path, "synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "copy.db")})
    play.more = {"PYTHONPATH": str(tmp_path / "newer")}
    assert play.piped() == 0, play.output
    direct = modules.run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "direct.db")})
    result = play.result()
    assert result["changed"] and result["source"] == direct["source"] and result["pages"] == direct["pages"]
    assert not {"ansible_job_id", "finished", "started"} & set(result) and not play.left()


def test_a_signal_is_noted_until_the_block_ends_and_in_a_thread_never():
    def noted() -> None:
        with _live._DeferredSignals(signal.SIGALRM):
            noting.append(signal.getsignal(signal.SIGALRM))

    noting, before = [], signal.getsignal(signal.SIGALRM)
    thread = threading.Thread(target=noted)
    thread.start()
    thread.join()
    noted()
    assert noting[0] == before != noting[1] and signal.getsignal(signal.SIGALRM) == before
