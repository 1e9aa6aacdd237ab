# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who the demonstration runs as, and where. Root hands it, with copies of what it needs, to an ordinary user."""

import contextlib
import os
import pathlib
import pwd
import shutil
import sqlite3
import subprocess
import sys

from demo import path, show

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What the collection is built from and the demonstration runs by.
_SOURCES = ("LICENSE", "README.md", "CHANGELOG.md", "galaxy.yml", "meta", "playbooks", "plugins", "roles", "changelogs", "tests")


def run(wish: str, sqlite: str, config: str) -> int:
    """Start or stop (``wish``) the demonstration as an ordinary user; return its exit status."""
    chosen = os.environ.get("DEMO_FOLDER")
    if os.geteuid() != 0:
        folder = pathlib.Path(chosen or ROOT / ".demo").absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wish == "start" and sqlite:
            _copy_theirs(folder, sqlite, config)
        return path.stop(folder) if wish == "stop" else path.start(folder, ROOT)
    owner = _ordinary_user()
    folder = pathlib.Path(chosen or f"/var/tmp/synapse-postgres-demo-{owner.pw_name}").absolute()
    _make_folder(folder, owner)
    if wish == "start":
        _copy_sources(folder)
        if sqlite:
            _copy_theirs(folder, sqlite, config)
        _give(folder, owner)
    show.tell(f"Started by root, it runs as the user {owner.pw_name}, in {folder}.")
    return _handed_over(wish, folder, owner)


def _ordinary_user() -> pwd.struct_passwd:
    """Return the user who called sudo, or nobody."""
    with contextlib.suppress(KeyError):
        found = pwd.getpwnam(os.environ.get("SUDO_USER", ""))
        if found.pw_uid != 0:
            return found
    return pwd.getpwnam("nobody")


def _make_folder(folder: pathlib.Path, owner: pwd.struct_passwd) -> None:
    """Make the folder, or make sure that the one that is there is the user's and no trap."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    found = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or found.st_uid != owner.pw_uid:
        show.fail(f"{folder} is there and does not belong to {owner.pw_name}. Remove it, or set DEMO_FOLDER to another one.")


def _copy_sources(folder: pathlib.Path) -> None:
    target = folder / "source"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in _SOURCES:
        found = ROOT / name
        if found.is_dir():
            shutil.copytree(found, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, target / name)


def _copy_theirs(folder: pathlib.Path, sqlite: str, config: str) -> None:
    """Copy the user's own database, in use or not, and configuration into ``folder``; they are only read."""
    show.step(f"Copying {sqlite} and {config}; the files themselves are only read")
    target = folder / "theirs"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    try:
        shutil.copy(config, target / "homeserver.yaml")
        if not pathlib.Path(sqlite).is_file():
            raise FileNotFoundError(f"there is no file {sqlite}")
        source = sqlite3.connect(f"{pathlib.Path(sqlite).absolute().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(source), contextlib.closing(sqlite3.connect(target / "homeserver.db")) as copy:
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM users").fetchone()
            source.backup(copy)
    except (OSError, sqlite3.Error) as error:
        show.fail(f"The files cannot be copied: {error}. Give SQLITE and CONFIG as Synapse's own homeserver.yaml names them.")


def _give(folder: pathlib.Path, owner: pwd.struct_passwd) -> None:
    for name in ("source", "theirs"):
        for parent, folders, files in os.walk(folder / name):
            for entry in (".", *folders, *files):
                os.chown(pathlib.Path(parent, entry), owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _handed_over(wish: str, folder: pathlib.Path, owner: pwd.struct_passwd) -> int:
    """Run the demonstration's copy as ``owner``, with a Python that this user can run; return its exit status."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "DEMO_FOLDER": str(folder),
        "LC_ALL": "C.UTF-8",
    }
    kept = ("TERM", "PIP_", "SSL_CERT", "REQUESTS_CA", "http_proxy", "https_proxy", "no_proxy")
    environment |= {key: value for key, value in os.environ.items() if key.startswith(kept)}
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": folder, "env": environment}
    probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", probe], capture_output=True, check=False, **as_owner).returncode == 0:
                return subprocess.run(
                    [python, "-u", str(folder / "source" / "tests" / "demo"), wish], check=False, **as_owner
                ).returncode
    show.fail(
        f"The user {owner.pw_name} has no Python 3.11 or newer with venv on this machine (tried {sys.executable} and the "
        "system's). Install python3-venv, or run make demo as an ordinary user."
    )
    return 1
