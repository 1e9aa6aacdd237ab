# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pages of the checks say what the checks say, and each check says what a page needs."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor import catalogue, check
from support import pages


def test_every_check_has_its_page_as_it_is_made_today():
    wanted = pages.checks()
    assert {path.name for path in pages.CHECKS.glob("*.md")} == {path.name for path in wanted}, "run `make docs`"
    for path, text in wanted.items():
        assert path.read_text() == text, f"{path.name}: run `make docs`"


@pytest.mark.parametrize("one", catalogue.CHECKS, ids=lambda one: one.name)
def test_a_check_says_what_people_need(one):
    assert one.name.isidentifier() and one.title[0].isupper() and not one.title.endswith(".")
    assert one.why.endswith(".") and one.source
    assert set(one.limits) <= set(check.SEVERITIES) and bool(one.limits) == bool(one.unit)


def test_every_check_has_a_name_of_its_own_and_a_test_that_breaks_something():
    names = [one.name for one in catalogue.CHECKS]
    assert len(names) == len(set(names))
    tests = "".join(path.read_text() for path in (pages.ROOT / "tests" / "integration").rglob("test_*.py"))
    assert [name for name in names if f'"{name}"' not in tests] == []
