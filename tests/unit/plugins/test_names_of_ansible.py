# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Of ansible-core, the plugins use what it documents and nothing else: what it does not, the next release takes away.

The lists are those of Ansible's developer guide: "Conventions, tips, and pitfalls" and the module utilities for modules,
"Action plugins" and the plugins of ansible-core that this refers to for actions (async_val and wrap_async are in gather_facts).
"""

import ast
import inspect
import pathlib
import re

import pytest
from ansible.plugins.action import ActionBase

from ansible_collections.matrixops.synapse_postgres.plugins.plugin_utils._live import LiveAction

_PLUGINS = pathlib.Path(__file__).parents[3] / "plugins"
_OF_MODULES = {
    "ansible.module_utils.basic": {"AnsibleModule"},
    "ansible.module_utils.common.respawn": {"has_respawned", "probe_interpreters_for_module", "respawn_module"},
}
_OF_ACTIONS = {
    "ansible.errors": {"AnsibleActionFail", "AnsibleConnectionFailure", "AnsibleError"},
    "ansible.plugins.action": {"ActionBase"},
    "ansible.utils.display": {"Display"},
}
# What an action may use of the private attributes of ActionBase: of itself, and of each of these.
_ATTRIBUTES = {
    "_execute_module": set(),
    "_task": {"args", "async_val", "check_mode", "no_log"},
    "_templar": {"template"},
    "_connection": {"reset"},
    "_supports_async": set(),
}


def undocumented(source: str, action: bool) -> list[str]:
    """Return the names of ansible-core in ``source`` that are on no list."""
    tree = ast.parse(source)
    known, own, found = _OF_ACTIONS if action else _OF_MODULES, _own(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] == "ansible"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ansible":
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in known.get(node.module, ())]
        elif isinstance(node, ast.Call):
            words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            found += [word for word in words if re.fullmatch(r"ansible(\.\w+)*", word)]  # import_module("ansible.…")
            if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr"):
                found += [word for word in words if word.startswith("_")]
        elif isinstance(node, ast.Attribute):
            found += _foreign(node, own)
    return found


def _own(tree: ast.Module) -> set[str]:
    """Return the names that a file gives to functions, and to attributes of its own objects."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return defined | {node.attr for node in nodes if getattr(node.value, "id", "") == "self"}


def _foreign(node: ast.Attribute, own: set[str]) -> list[str]:
    """Return the attribute ``node`` if it is a private one of ansible-core's, or of one of those and not listed."""
    holder = getattr(node.value, "attr", getattr(node.value, "id", ""))
    if getattr(node.value, "attr", "") in _ATTRIBUTES and node.attr not in _ATTRIBUTES[holder]:
        return [f"{holder}.{node.attr}"]
    if holder in ("self", "module", "basic", "display") and re.match("_(?!_)", node.attr) and node.attr not in own:
        return [] if node.attr in _ATTRIBUTES else [f"{holder}.{node.attr}"]
    return []


@pytest.mark.parametrize("path", sorted(_PLUGINS.rglob("*.py")), ids=lambda path: str(path.relative_to(_PLUGINS)))
def test_every_name_of_ansible_core_is_a_documented_one(path):
    assert not undocumented(path.read_text(), action=path.parent.name in ("action", "plugin_utils"))


@pytest.mark.parametrize(
    "source",
    [
        "from ansible.vars.clean import remove_internal_keys",
        "from ansible.module_utils.common._collections_compat import Mapping",
        "from ansible import constants",
        "import ansible.constants as C",
        "importlib.import_module('ansible.vars.clean')",
        "self._parse_returned_data(answer)",
        "self._low_level_execute_command('true')",
        "self._remove_tmp_path(self._connection._shell.tmpdir)",
        "self._connection.has_native_async",
        "self._task._parent",
        "getattr(self, '_loader')",
        "module._name",
        "display._final_q",
    ],
)
def test_a_name_that_is_not_documented_is_found(source):
    assert undocumented(source, action=True) and undocumented(source, action=False)


def test_no_method_of_ours_takes_the_place_of_one_of_ansible_core():
    ours = {name for name, value in vars(LiveAction).items() if inspect.isfunction(value) and not name.startswith("__")}
    assert ours & set(dir(ActionBase)) == {"run"}
