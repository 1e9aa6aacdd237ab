# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An ordinary user for what root started: PostgreSQL refuses to run as root, and a demonstration needs no rights.

Only the standard library is used here.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What the collection is built from, and what the demonstration and the benchmarks run by.
_SOURCES = ("LICENSE", "README.md", "CHANGELOG.md", "galaxy.yml", "meta", "playbooks", "plugins", "roles", "changelogs", "tests")

# Variables of root's that the user's programs need to reach PyPI as root does.
_KEPT = ("TERM", "PIP_", "SSL_CERT", "REQUESTS_CA", "http_proxy", "https_proxy", "no_proxy")


class Unable(Exception):
    """The machine or the folder does not serve; the sentence says why, and what to do."""


def user() -> pwd.struct_passwd:
    """Return the user who called sudo, or nobody."""
    with contextlib.suppress(KeyError):
        found = pwd.getpwnam(os.environ.get("SUDO_USER", ""))
        if found.pw_uid != 0:
            return found
    return pwd.getpwnam("nobody")


def own_folder(folder: pathlib.Path, variable: str) -> None:
    """Make ``folder`` for the one who runs this, or make sure that it is theirs; Unable, with the ``variable`` to set, if not."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise Unable(f"{folder} cannot be made: {error.strerror}. Set {variable} to a folder of your own.") from None
    if owner != os.geteuid():
        raise Unable(f"{folder} is another user's. Set {variable} to a folder of your own.")


def make_folder(folder: pathlib.Path, owner: pwd.struct_passwd, variable: str) -> None:
    """Make ``folder`` for ``owner``, or make sure that the one that is there is the owner's and no trap.

    Unable, with the ``variable`` to set, if not.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    found = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or found.st_uid != owner.pw_uid:
        raise Unable(f"{folder} is there and does not belong to {owner.pw_name}. Remove it, or set {variable} to another folder.")


def copy_sources(folder: pathlib.Path) -> None:
    """Copy this tree to ``folder``/source, since the owner may not be able to read it where it is."""
    target = folder / "source"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in _SOURCES:
        found = ROOT / name
        if found.is_dir():
            shutil.copytree(found, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, target / name)


def give(path: pathlib.Path, owner: pwd.struct_passwd) -> None:
    """Make ``owner`` the owner of ``path`` and all below it; links are not followed."""
    for parent, folders, files in os.walk(path):
        for entry in (".", *folders, *files):
            os.chown(pathlib.Path(parent, entry), owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def run(program: str, words: list[str], folder: pathlib.Path, owner: pwd.struct_passwd, **variables: str) -> int:
    """Run ``program``, a path in this tree, from ``folder``/source as ``owner``; return its exit status.

    It runs by a Python >= 3.11 with venv that the owner can run, with ``variables`` in its environment; Unable without one.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LC_ALL": "C.UTF-8", **variables}
    environment |= {key: value for key, value in os.environ.items() if key.startswith(_KEPT)}
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": folder, "env": environment}
    probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", probe], capture_output=True, check=False, **as_owner).returncode == 0:
                command = [python, "-u", str(folder / "source" / program), *words]
                return subprocess.run(command, check=False, **as_owner).returncode
    raise Unable(
        f"The user {owner.pw_name} has no Python 3.11 or newer with venv on this machine (tried {sys.executable} and the "
        "system's). Install python3-venv, or run this as an ordinary user."
    )
