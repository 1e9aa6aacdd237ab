# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an administrator sees of a long step, in a log and in a terminal, and what is left when they end it half-way.

The routine is Synapse's own, after a script that makes it last: it tells of rows as the routine does, of a table that no
homeserver has.
"""

import contextlib
import pathlib
import re
import sys
import time

import pytest
import yaml

from support import modules, sqlite
from support import move as moves
from support.step import Play

_SLOW = """
for n in $(seq 1 {seconds}0); do
  echo "chatter: 0% ($((n * 100))/{seconds}000)"; sleep 0.1
  if [ -e {folder}/enough ]; then break; fi
done
"""
_LINE = re.compile(r"here: port: chatter [\d,]+/[\d,]+, [\d,]+ of [\d,]+ rows, \d+ %, [\d,]+ rows/s, about \d+ (s|min) left")
INTERRUPTED = "Interrupted. Nothing is lost; run the playbook again and it goes on."


@pytest.fixture
def move(tmp_path, homeserver, any_cluster):
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as made:
        yield made


def slow(move, seconds: int, then: str = 'exec $routine "$@"') -> dict:
    """Return the options of a port that lasts ``seconds`` longer, or until the play has said enough."""
    path, chatter = move.folder / "routine", _SLOW.format(seconds=seconds, folder=move.folder)
    path.write_text(f'#!/bin/sh\nroutine="{move.server.python} -m synapse._scripts.synapse_port_db"\n{chatter}{then}\n')
    path.chmod(0o755)
    found = {**move.options, "engine": "synapse", "command": [str(path)], "python_command": [str(move.server.python)]}
    del found["synapse_python"]
    return found


def alive(move) -> list[str]:
    """Return the command lines of the processes at work on the move; Ansible's watcher, which ends soon, is none of them."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode()
            if str(move.folder) in words and "postgres:" not in words and "async_wrapper" not in words:
                found.append(words)
    return found


def wait(condition, seconds: float) -> None:
    """Return when ``condition()`` is true; AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_log_gets_a_line_now_and_then(move):
    play = Play(move.folder, "synapse_port", slow(move, 80))
    assert play.piped(enough=lambda output: len(_LINE.findall(output)) >= 2) == 0, play.output
    assert play.enough.exists(), play.output
    assert "\r" not in play.output and "\x1b" not in play.output
    result = play.result()
    assert result["changed"] and result["finished"] is True and result["tables"]["events"]["rows"] > 0
    assert not {"ansible_job_id", "started", "results_file", "stderr"} & set(result) and not play.left()
    assert move.rows("SELECT count(*) FROM users") == [(3,)]


def test_a_terminal_gets_a_line_that_is_renewed_and_gone_in_the_end(move):
    play = Play(move.folder, "synapse_port", slow(move, 80))
    assert play.in_terminal(enough=lambda output: len(_LINE.findall(output)) >= 4) == 0, play.output
    drawn = re.findall(r"\r\x1b\[K([^\r\n]+)", play.output)
    assert len([line for line in drawn if _LINE.match(line)]) >= 3 and max(map(len, drawn)) < 100
    assert not [line for line in play.seen() if "rows" in line], play.seen()


def test_several_hosts_and_a_long_pause_between_lines(move):
    """With two hosts no line is renewed; within the pause only the three quarters are told, by the one that is first."""
    play = Play(move.folder, "synapse_port", slow(move, 60), hosts=("here", "there"))
    play.variables["synapse_postgres_progress_interval"] = 600
    line = re.compile(r"\n(here|there): port: chatter [^\r\n]* (\d+) %")

    def quarters(output: str) -> list[list[int]]:
        told = line.findall(output)
        return [[int(percent) // 25 for host, percent in told if host == one] for one in play.hosts]

    play.in_terminal(enough=lambda output: max(map(len, quarters(output))) >= 2)
    assert "\r\x1b[K" not in play.output, play.output
    for told in quarters(play.output):
        assert told == sorted(set(told)) and set(told) <= {1, 2, 3}, play.output
    assert max(map(len, quarters(play.output))) >= 2, play.output


def test_a_step_that_fails_fails_as_without_its_progress(move):
    failing = slow(move, 1, then="echo 'the disk is on fire'; exit 5")
    direct = modules.run("synapse_port", failing)
    play = Play(move.folder, "synapse_port", failing, ignore_errors=True)
    assert play.piped() == 0, play.output
    result = play.result()
    assert result["failed"] and result["msg"] == direct["msg"] and "the disk is on fire" in result["msg"]
    assert set(result) <= {"changed", "failed", "msg", "invocation", "exception"} and not play.left()


def test_check_mode_and_a_task_with_async_of_its_own_are_left_to_ansible(move):
    play = Play(move.folder, "synapse_port", slow(move, 1))
    assert play.piped("--check") == 0, play.output
    assert play.result()["changed"] and not play.result()["finished"] and not play.jobs.exists()

    play = Play(move.folder, "synapse_port", slow(move, 1), **{"async": 100, "poll": 1})
    assert play.piped() == 0, play.output
    assert play.result()["ansible_job_id"] and "chatter" not in play.output


def test_where_the_background_cannot_be_used_the_module_runs_as_any_other(move):
    play = Play(move.folder, "synapse_port", slow(move, 2))
    play.variables["ansible_async_dir"] = "/proc/nowhere"
    assert play.piped() == 0, play.output
    assert play.result()["finished"] and "chatter" not in play.output


def test_a_result_is_the_modules_own(tmp_path):
    source, copy = tmp_path / "homeserver.db", tmp_path / "copy.db"
    sqlite.homeserver(source)
    play = Play(tmp_path, "synapse_sqlite_snapshot", {"src": str(source)})
    text = yaml.safe_load((tmp_path / "play.yml").read_text())
    text[0]["module_defaults"] = {"matrixops.synapse_postgres.synapse_sqlite_snapshot": {"dest": str(copy)}}
    (tmp_path / "play.yml").write_text(yaml.safe_dump(text))
    play.variables |= {"ansible_python_interpreter": "auto_silent", "ansible_interpreter_python_fallback": [sys.executable]}
    assert play.piped("--diff", "-vvv") == 0, play.output
    assert '"invocation"' in play.output and f"a copy of {source}" in play.output
    direct = modules.run("synapse_sqlite_snapshot", {"src": str(source), "dest": str(tmp_path / "direct.db")})
    result = play.result()
    assert result["ansible_facts"]["discovered_interpreter_python"]
    own = {key: value for key, value in result.items() if key not in ("failed", "ansible_facts", "warnings", "invocation")}
    assert set(own) == set(direct) - {"output", "invocation"} and own["source"] == direct["source"]
    assert play.jobs.exists() and not play.left()


def test_a_secret_task_shows_nothing(move):
    play = Play(move.folder, "synapse_port", slow(move, 4), no_log=True)
    assert play.piped("-vvv") == 0, play.output
    assert "chatter" not in play.output and move.name not in play.output


@pytest.mark.parametrize("limit", [1, 8])
def test_a_time_limit_ends_the_step_on_the_host(move, limit):
    """Within the first second the step is still being started."""
    play = Play(move.folder, "synapse_port", slow(move, 120), timeout=limit, ignore_errors=True)
    assert play.piped() == 0, play.output
    assert play.result()["failed"] and not alive(move) and not play.left()


def test_ctrl_c_ends_module_and_routine_and_the_next_run_goes_on(move):
    play = Play(move.folder, "synapse_port", slow(move, 60))
    status = play.in_terminal(press=_LINE.search)
    assert status == 99 and INTERRUPTED in play.output, play.output
    wait(lambda: not alive(move), 10)
    assert not play.left() and not list(move.folder.glob(".port-*"))
    again = Play(move.folder, "synapse_port", move.options)
    assert again.piped() == 0 and again.result()["finished"], again.output


def test_a_killed_ansible_leaves_the_step_at_work_and_the_next_run_waits_for_it(move):
    play = Play(move.folder, "synapse_port", slow(move, 6))
    play.killed((move.folder / "homeserver.db.progress.json").exists)
    assert alive(move)
    again = Play(move.folder, "synapse_port", slow(move, 60))
    assert again.piped() == 0 and again.result()["finished"] and not again.result()["changed"], again.output


def test_a_module_that_is_killed_on_the_host_is_not_waited_for(move):
    kill = 'kill -9 -"$(ps -o pgid= -p $$ | tr -d " ")"'
    play = Play(move.folder, "synapse_port", slow(move, 1, then=kill), ignore_errors=True)
    assert play.piped() == 0, play.output
    assert play.result()["failed"] and "without a result" in play.result()["msg"] and not play.left()
