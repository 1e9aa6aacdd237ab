# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Parameters as a server has them, for tests of what is made of them without one."""

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter


def parameter(name, vartype, setting, **columns):
    """Return a Parameter that nobody has set anything for, but for what ``columns`` say."""
    common = {"unit": None, "min_val": None, "max_val": None, "enumvals": None, "context": "sighup", "boot_val": setting}
    origin = {"source": "default", "sourcefile": None, "pending_restart": False, "shown": setting}
    return Parameter(**{"name": name, "vartype": vartype, "setting": setting, **common, **origin, **columns})


def from_file(name, vartype, setting, **columns):
    """Return a Parameter whose value comes from a file."""
    return parameter(name, vartype, setting, **{"source": "configuration file", "context": "user", **columns})
