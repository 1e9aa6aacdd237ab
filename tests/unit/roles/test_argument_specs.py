# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every role's defaults and its argument_specs say the same; every variable that a role's tasks read is one of them."""

import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[3]
SHARED = ROOT / "roles" / "shared_defaults"
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir() and path != SHARED)


def spec(role):
    """Return the options of all of the role's ways in."""
    ways = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"].values()
    return {name: option for way in ways for name, option in way["options"].items()}


def own(role):
    return yaml.safe_load((role / "defaults" / "main.yml").read_text())


def defaults(role):
    """Return the defaults of the role's options, those of the role that it depends on too."""
    roles = [each["role"].rpartition(".")[2] for each in yaml.safe_load((role / "meta" / "main.yml").read_text())["dependencies"]]
    shared = {name: value for each in roles for name, value in own(ROOT / "roles" / each).items() if name in spec(role)}
    assert not set(shared) & set(own(role))
    return {**shared, **own(role)}


def computed(value):
    return isinstance(value, str) and "{{" in value


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_specs_are_in_step(role):
    options, values = spec(role), defaults(role)
    assert set(values) == {name for name, option in options.items() if not option.get("required")}
    assert {name: option["default"] for name, option in options.items() if "default" in option} == {
        name: value for name, value in values.items() if not computed(value)
    }
    for name, option in options.items():
        assert option.get("description") and option.get("type"), name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_the_tasks_set_is_not_what_the_play_gives(role):
    """A variable that a task registers or sets hides the play's of the same name, whatever the play says."""
    texts = "".join(path.read_text() for path in (role / "tasks").glob("*.yml"))
    registered = set(re.findall(r"^\s+register: (\w+)$", texts, re.M))
    assert (registered and not registered & set(spec(role))) or not registered
    assert all(name.lstrip("_").startswith(f"{role.name}_") for name in registered), registered


def test_the_first_name_of_the_return_to_sqlite_went_without_validation():
    ways = yaml.safe_load((ROOT / "roles" / "synapse_port" / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    assert ways["back"] == ways["return_to_sqlite"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_play_variables_that_the_tasks_read_are_documented(role):
    known = {name for each in ROLES for name in spec(each)}
    texts = "".join(path.read_text() for folder in ("tasks", "vars", "templates") for path in (role / folder).glob("*"))
    read = set(re.findall(r"\bsynapse_postgres_\w+", texts)) - {"synapse_postgres_remote", "synapse_postgres_remote_addresses"}
    assert read <= known | {"synapse_postgres_become"}, read - known


def test_an_expression_stood_in_the_defaults_of_two_roles():
    expressions = [(name, value) for role in [*ROLES, SHARED] for name, value in own(role).items() if computed(value)]
    assert len({name for name, _value in expressions}) == len(expressions)
    assert all(sum(name in spec(role) for role in ROLES) > 1 for name in own(SHARED))
