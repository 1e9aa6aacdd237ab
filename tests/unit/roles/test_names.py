# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A play's log reads as a procedure, and a role's own variables are told from those that others read."""

import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[3]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())

VERBS = re.compile(
    r"(Add|Apply|Ask|Check|Choose|Compare|Compute|Configure|Copy|Count|Create|Examine|Explain|Find|Gather|Generate|"
    r"Include|Install|Keep|Link|List|Log|Mark|Move|Note|Port|Prepare|Prove|Provide|Read|Record|Remove|"
    r"Rename|Report|Reserve|Restart|Restore|Return|Roll|Run|Set|Show|Start|Stop|Switch|Verify|Wait|Write)$"
)


def named(tasks):
    """Return the names of all ``tasks``, those in blocks too, and of plays; AssertionError for one without."""
    found = []
    for task in tasks:
        assert task.get("name"), task
        found.append(task["name"])
        for inside in ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks"):
            found += named(task.get(inside, []))
    return found


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/*.yml")],
    ids=lambda path: f"{path.parents[1].name}-{path.stem}",
)
def test_every_task_is_named_by_a_verb_and_its_object(path):
    for name in named(yaml.safe_load(path.read_text())):
        verb, *words = name.split()
        assert VERBS.match(verb), name
        assert words and words != ["it"] and not {"it", "them", "one", "those"} & {words[0]}, name


def variables(role):
    """Return the names that a ``role``'s tasks and vars/main.yml give values to."""
    found = set(yaml.safe_load((role / "vars" / "main.yml").read_text())) if (role / "vars").is_dir() else set()

    def walk(value):
        for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inside)
        if isinstance(value, dict):
            found.update(value.get("ansible.builtin.set_fact", {}), value.get("vars", {}))
            found.update([value["register"]] if "register" in value else [])

    for path in (role / "tasks").glob("*.yml"):
        walk(yaml.safe_load(path.read_text()))
    return found - {"ansible_python_interpreter"}


def texts_of(*folders):
    return "".join(path.read_text() for folder in folders for path in folder.rglob("*") if path.suffix in (".yml", ".j2"))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_variable_of_the_roles_own_begins_with_an_underscore(role):
    others = texts_of(*(each for each in ROLES if each != role), ROOT / "playbooks")
    for name in variables(role):
        shared = re.search(rf"(?<!\w){name}(?!\w)", others) is not None
        own = next((each.name for each in ROLES if name.lstrip("_").startswith(f"{each.name}_")), "")
        assert own, f"{name} does not name its role"
        assert name.startswith("_") != shared, f"{name} is {'read by another role' if shared else 'of the role alone'}"
