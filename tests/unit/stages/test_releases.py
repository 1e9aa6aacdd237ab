# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the stages newest and oldest make of what was said on their hosts."""

import re

import machine
import pytest
import releases

README = """
## Requirements

| controller | ansible-core ≥ 2.16 | ansible-core 2.16 on Python 3.11, ansible-core 2.21 on Python 3.13 |
| database host | PostgreSQL ≥ 14 | PostgreSQL 16; PostgreSQL 18 |
| Synapse host | of the last twelve months | Synapse 1.163 |

## Installation

Synapse 1.9
"""


RAN = {"ansible-core": "2.21.5", "Python": "3.13.5", "PostgreSQL": "18.1", "Synapse": "1.163.2"}


@pytest.mark.parametrize("version", ["2.16.18", "2.21.5"])
def test_a_release_that_the_table_names_is_as_it_says(version, capsys):
    releases.compare(README, {*RAN.items(), ("ansible-core", version)}, "newest")
    assert capsys.readouterr().out == ""


def test_a_new_release_of_ansible_core_is_told_and_fails_nothing(capsys):
    releases.compare(README, {*RAN.items(), ("ansible-core", "2.22.0")}, "newest")
    assert "do not name ansible-core 2.22.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "ran", [("ansible-core", "2.20.10"), ("ansible-core", "2.2.1"), ("PostgreSQL", "17.2"), ("Synapse", "1.9.0")]
)
def test_a_table_that_promises_what_did_not_run_fails(ran):
    with pytest.raises(machine.Unable, match=f"do not name {ran[0]} {ran[1]}"):
        releases.compare(README, {*RAN.items(), ran}, "newest")


def test_a_run_that_does_not_say_what_it_ran_with_fails():
    with pytest.raises(machine.Unable, match="with which PostgreSQL and Synapse oldest ran"):
        releases.compare(README, {("ansible-core", "2.16.18"), ("Python", "3.11.2")}, "oldest")


def test_nothing_of_pips_settings_names_a_file_that_the_host_has_not():
    settings = {"constraint": "/etc/caps.txt", "extra-index-url": "file:///opt/x https://index.example/simple", "timeout": "9"}
    assert releases._of_the_network(settings) == {"extra-index-url": "https://index.example/simple", "timeout": "9"}


def test_a_warning_of_what_is_deprecated_fails():
    line = "2026-11-25 17:00:00,000 p=7 u=visitor n=ansible WARNING| [DEPRECATION WARNING]: The x is deprecated.\n"
    releases._nothing_deprecated(f"[WARNING]: The x is odd.\n[DEPRECATION WARNING]: {releases.OTHERS[0]}. It goes.\n")
    with pytest.raises(machine.Unable, match="The x is deprecated"):
        releases._nothing_deprecated(line)


def test_only_what_needs_root_may_be_passed_over():
    roots = "SKIPPED [1] tests/unit/a.py:28: only root may become another user or give files away\n"
    releases._nothing_passed_over(roots)
    with pytest.raises(machine.Unable, match="no server here"):
        releases._nothing_passed_over(roots + "SKIPPED [2] tests/unit/b.py:1: no server here\n")


def test_the_oldest_release_that_runs_is_the_one_that_is_promised():
    promised = re.search(r'requires_ansible: ">=(\d+\.\d+)', (machine.ROOT / "meta" / "runtime.yml").read_text())[1]
    oldest = (machine.ROOT / releases.OLDEST.requirements).read_text()
    assert f"ansible-core=={promised}.*" in oldest.split()
    assert f"ansible-core ≥ {promised}," in (machine.ROOT / "README.md").read_text()
