# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the documentation and the messages link to and advise."""

import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).parents[2]

# The sections of Synapse's pages that are linked to, as they are called in November 2026. "Fixing inconsistent sequences
# error" is not among them: Synapse moves a sequence that lags its table by itself (element-hq/synapse, pull request 17305).
SECTIONS = {"postgres.html#porting-from-sqlite"}


def texts():
    found = [*ROOT.glob("plugins/**/*.py"), *ROOT.glob("roles/**/*.*"), *ROOT.glob("playbooks/*.yml"), ROOT / "README.md"]
    return {path: path.read_text() for path in found if path.is_file() and path.suffix in (".py", ".yml", ".j2", ".md")}


def test_a_section_that_synapses_page_no_longer_has_was_linked_to():
    linked = re.compile(r"element-hq\.github\.io/synapse/latest/([\w./-]+#[\w-]+)")
    found = {section for text in texts().values() for section in linked.findall(text)}
    assert found and found <= SECTIONS


def test_nobody_is_told_to_delete_stream_positions():
    assert not [path for path, text in texts().items() if re.search("delete from stream_positions", text, re.IGNORECASE)]


def test_what_runs_of_the_tests_leave_behind_was_built_into_the_collection():
    left = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert ".hypothesis" in left and left <= set(yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"])
