# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""ansible-test sanity, every test of it and no ignore file, on a copy of the work tree laid out as it wants it.

ansible-test makes virtualenvs of its own and would fetch a script to put pip into them from a host that not every
network reaches. It takes a script of that name from its cache instead, so we give it one that installs the same release
of pip with the pip we have. Its home is a folder of ours: nothing is left in the user's.
"""

import configparser
import os
import pathlib

import machine

HOME = machine.CACHE / "home"
COPY = machine.CACHE / "sanity" / "ansible_collections" / "matrixops" / "synapse_postgres"

# Prints the release of pip that ansible-test puts into a virtualenv of this Python.
_RELEASE = """
import sys, types
from ansible_test._internal.python_requirements import get_venv_packages
print(get_venv_packages(types.SimpleNamespace(version="%d.%d" % sys.version_info[:2]))["pip"])
"""

_PIP_FOR = '''\
"""Put pip into the virtualenv this runs in; written by the tests of matrixops.synapse_postgres."""
import subprocess, sys
words = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([%r, "-m", "pip", "--python", sys.executable, "install", *words]))
'''


def sanity() -> None:
    _home()
    _copy()
    if any(COPY.glob("tests/sanity/ignore*.txt")):
        raise machine.Unable("tests/sanity holds an ignore file; mend what it ignores instead.")
    words = ["ansible-test", "sanity", "--venv", "--color", "no", "--truncate", "0"]
    environment = machine.environment()
    machine.run(*words, timeout=1200, cwd=COPY, env={**environment, "HOME": str(HOME), "PATH": _pythons(environment["PATH"])})


def _pythons(path: str) -> str:
    """Return a PATH with pyenv's real interpreters for its shims, which exist for Pythons that they then do not start."""
    folders = []
    for folder in map(pathlib.Path, path.split(os.pathsep)):
        real = sorted(folder.parent.glob("versions/*/bin")) if folder.name == "shims" else []
        folders += real or [folder]
    return os.pathsep.join(map(str, folders))


def _home() -> None:
    """Make a home for ansible-test: its pip script, and pip's settings, as ansible-test hides our environment from pip."""
    python = machine.VENV / "bin" / "python"
    release = machine.run(python, "-c", _RELEASE, timeout=60, quiet=True).split()[-1]
    script = HOME / ".ansible" / "test" / "cache" / f"get_pip_{release.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(_PIP_FOR % str(python))
    write_pip_settings(pip_settings(), HOME / ".config" / "pip" / "pip.conf")


def pip_settings() -> dict[str, str]:
    """Return pip's settings for every command, from its files and the environment: {option: value}."""
    listed = machine.run("pip", "config", "list", timeout=60, quiet=True)
    found = {}
    for line in listed.splitlines():
        name, value = line.split("=", 1)
        section, option = name.rsplit(".", 1)
        if section in ("global", ":env:"):
            found[option] = value.strip("'\"").replace("\\n", "\n")
    return found


def write_pip_settings(settings: dict[str, str], path: pathlib.Path) -> None:
    """Write pip's settings for every command to a file of its own."""
    parser = configparser.RawConfigParser()
    parser["global"] = settings
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        parser.write(stream)


def _copy() -> None:
    """Copy the repository into a work tree of its own; ansible-test asks git what there is."""
    machine.copy(COPY)
    environment = _without_git(os.environ)
    machine.run("git", "init", "--quiet", timeout=60, cwd=COPY, env=environment)
    with (COPY / ".git" / "info" / "exclude").open("a") as stream:
        stream.write("/tests/output/\n")  # where ansible-test itself writes
    machine.run("git", "add", "--all", timeout=60, cwd=COPY, env=environment)


def _without_git(environment: dict) -> dict:
    """Return ``environment`` without what ties git to another repository, as in a hook."""
    return {name: value for name, value in environment.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
