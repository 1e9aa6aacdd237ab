# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The progress file: whole, private, not written too often, and never in the way of the step."""

import json
import time

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._progress import Progress


def test_a_step_is_told_at_its_beginning_and_its_end(tmp_path):
    path = tmp_path / "homeserver.db.progress.json"
    before = time.time()
    with Progress(str(path), "verify") as progress:
        begun = json.loads(path.read_text())
        assert (begun["step"], begun["unit"], begun["done"], begun["tables"]) == ("verify", "rows", 0, {})
        assert before <= begun["since"] <= begun["at"] <= time.time()
        progress.tell("events", 5, 10, tables={"events": {"done": 5, "total": 10}})
        progress.tell("rooms", 6, 10)
        assert json.loads(path.read_text()) == begun  # no second has passed
    ended = json.loads(path.read_text())
    assert (ended["doing"], ended["done"], ended["total"]) == ("rooms", 6, 10)
    assert ended["tables"] == {"events": {"done": 5, "total": 10}} and ended["since"] == begun["since"] < ended["at"]
    assert path.stat().st_mode & 0o777 == 0o600 and [path] == list(tmp_path.iterdir())


def test_what_is_said_before_a_silence_is_written_at_once(tmp_path):
    path = tmp_path / "progress.json"
    with Progress(str(path), "snapshot", unit="pages") as progress:
        progress.tell("checking the copy", 7, 7, now=True)
        assert json.loads(path.read_text())["doing"] == "checking the copy"


def test_it_is_written_again_after_a_second(tmp_path):
    path = tmp_path / "progress.json"
    with Progress(str(path), "port") as progress:
        time.sleep(1.1)
        progress.tell("events", 1, 2)
        assert json.loads(path.read_text())["done"] == 1


def test_a_step_that_fails_leaves_its_last_state(tmp_path):
    path = tmp_path / "progress.json"
    with pytest.raises(ValueError, match="the step's own"), Progress(str(path), "port") as progress:
        progress.tell("events", 1, 2)
        raise ValueError("the step's own")
    assert json.loads(path.read_text())["done"] == 1


@pytest.mark.parametrize("path", ["/nowhere/progress.json", "/proc/progress.json"])
def test_a_file_that_cannot_be_written_stops_no_step(path):
    with Progress(path, "port") as progress:
        progress.tell("events", 1, 2, now=True)


def test_a_link_that_somebody_left_in_its_place_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("theirs")
    path = tmp_path / "progress.json"
    for name in (path, tmp_path / "progress.json.new"):
        name.symlink_to(other)
    with Progress(str(path), "port"):
        pass
    assert other.read_text() == "theirs" and not path.is_symlink()


def test_a_place_that_is_taken_stops_no_step(tmp_path):
    path = tmp_path / "progress.json"
    with Progress(str(path), "port") as progress:
        (tmp_path / "progress.json.new").mkdir()
        progress.tell("events", 1, 2, now=True)
    assert json.loads(path.read_text())["done"] == 0
