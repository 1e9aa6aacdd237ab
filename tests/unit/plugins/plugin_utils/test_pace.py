# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a step is, how fast it goes and how long it still takes, in words."""

import json

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils._pace import Pace, State, percent, time_left


def state(seconds: float, done: int, total: int = 90_000, **other) -> State:
    """Return what _progress.Progress wrote ``seconds`` after the beginning."""
    plain = {"step": "port", "unit": "rows", "doing": "events", "tables": {}, "since": 1000.0}
    return State.parsed(json.dumps({**plain, "at": 1000.0 + seconds, "done": done, "total": total, **other}))


def paced(*states: State) -> str:
    """Return the line that is shown after ``states`` were seen."""
    pace = Pace()
    for one in states:
        pace.add(one)
    return pace.line(states[-1])


def test_a_line_says_table_rows_percent_rate_and_time_left():
    tables = {"events": {"done": 1200, "total": 4000}}
    line = paced(state(0, 10_000), state(10, 30_000, tables=tables))
    assert line == "port: events 1,200/4,000, 30,000 of 90,000 rows, 33 %, 2,000 rows/s, about 30 s left"


def test_the_first_state_says_nothing_of_the_pace():
    assert paced(state(0, 45_000)) == "port: events, 45,000 of 90,000 rows, 50 %"
    assert paced(state(0, 0, total=0, doing="")) == "port"


def test_the_pace_is_that_of_the_last_half_minute():
    slow_then_fast = [state(second, second) for second in range(100)] + [state(100 + n, 100 + n * 1000) for n in range(40)]
    assert " 1,000 rows/s, " in paced(*slow_then_fast)
    fast_then_stuck = [state(n, n * 1000) for n in range(40)] + [state(40 + n, 40_000) for n in range(40)]
    assert paced(*fast_then_stuck).endswith(", 0 rows/s")


def test_what_an_earlier_run_has_done_is_not_this_ones_pace():
    assert paced(state(0, 80_000), state(10, 81_000)).endswith(" 100 rows/s, about 2 min left")


def test_another_part_of_the_step_has_a_pace_of_its_own():
    assert paced(state(0, 0), state(10, 90_000), state(0, 500, since=1010.0, at=1010.5)).endswith("0 %")


def test_a_step_that_is_through_has_no_time_left():
    assert paced(state(0, 0), state(9, 90_000)) == "port: events, 90,000 of 90,000 rows, 100 %, 10,000 rows/s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (45, "about 45 s"), (90, "about 2 min"), (3600, "about 60 min"), (30_000, "about 8 h 20 min")],
)
def test_time_is_told_as_somebody_would_who_estimates(seconds, words):
    assert time_left(seconds) == words


@pytest.mark.parametrize(("done", "total", "expected"), [(0, 0, 0), (999, 1000, 99), (1000, 1000, 100), (1001, 1000, 100)])
def test_a_hundred_percent_are_everything_and_no_more(done, total, expected):
    assert percent(done, total) == expected
