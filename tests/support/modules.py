# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a module of the collection in a process of its own, as Ansible does, and read its result."""

import json
import os
import pathlib
import subprocess
import sys

_COLLECTIONS = pathlib.Path(__file__).parents[2] / ".cache" / "collections"

# Another user may not be able to read the Python that runs the tests: all of the module is loaded before we become that one.
_RUNNER = """
import importlib, os, pwd, runpy, sys
from ansible.module_utils import basic
module, account, arguments = sys.argv[1], sys.argv[2], sys.stdin.buffer.read()
module = f"ansible_collections.matrixops.synapse_postgres.plugins.modules.{module}"
basic._ANSIBLE_ARGS = arguments
basic._ANSIBLE_PROFILE = "legacy"
if account:
    main = importlib.import_module(module).main
    entry = pwd.getpwnam(account)
    os.setgroups(os.getgrouplist(account, entry.pw_gid))
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ["HOME"] = entry.pw_dir
    main()
else:
    runpy.run_module(module, run_name="__main__")
"""


def started(
    module: str, options: dict, check: bool = False, account: str | None = None, python: str = sys.executable
) -> subprocess.Popen:
    """Return ``module``, at work with ``options``.

    ``account`` is the operating system user to run as (only root may choose one).
    """
    arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check, "_ansible_diff": True}}
    process = subprocess.Popen(
        [python, "-c", _RUNNER, module, account or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_COLLECTIONS)},
    )
    process.stdin.write(json.dumps(arguments).encode())
    process.stdin.close()
    process.stdin = None
    return process


def run(module: str, options: dict, **how) -> dict:
    """Return the result of ``module``, see started(): exit_json's or fail_json's dict, plus ``output``, all it printed.

    A traceback is an AssertionError, and so is a use of what ansible-core calls deprecated.
    """
    with started(module, options, **how) as process:
        try:
            told, complaints = process.communicate(timeout=300)
        except BaseException:
            process.kill()
            raise
    output = told.decode() + complaints.decode()
    assert "Traceback" not in output, output
    result = json.loads(told)
    assert not result.get("deprecations"), result["deprecations"]
    return {**result, "output": output}
