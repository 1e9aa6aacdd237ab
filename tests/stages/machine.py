# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests need on the machine: programs of Debian's, a virtualenv, the collection where Ansible looks for it.

Only the standard library is used here, since this is what makes the rest available. All that is made goes to .cache.
"""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
VENV = CACHE / "venv"

# What the virtualenv is made of; another file brings another ansible-core.
REQUIREMENTS = ROOT / os.environ.get("REQUIREMENTS", "tests/requirements.txt")
COLLECTIONS = CACHE / "collections"
OWN = COLLECTIONS / "ansible_collections" / "matrixops" / "synapse_postgres"
SYNAPSE = CACHE / "synapse"
OLDEST_SYNAPSE = CACHE / "synapse-oldest"

# Debian installs PostgreSQL with a running cluster; the tests make their own, and this machine may not want one.
NO_CLUSTER = pathlib.Path("/etc/postgresql-common/createcluster.conf")


class Unable(Exception):
    """The machine lacks something, or a program failed; the sentence says which."""


def run(*words, timeout: int, quiet: bool = False, **keywords) -> str:
    """Run a program from the repository's root to its end; return its output when ``quiet``, else let it print.

    Raises Unable when it fails or is not done after ``timeout`` seconds; then it and all it started are ended.
    """
    command = [str(word) for word in words]
    keywords = {"cwd": ROOT, "env": environment(), **keywords}
    if quiet:
        keywords |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **keywords)
    except OSError as error:
        raise Unable(f"{command[0]} cannot be run: {error}") from None
    with process:
        try:
            output = process.communicate(timeout=timeout)[0]
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Unable(f"{command[0]} was not done after {timeout} s and was ended.") from None
            raise
    if process.returncode:
        raise Unable(f"{' '.join(command)} ended with {process.returncode}." + (f"\n{output}" if output else ""))
    return output or ""


def _end(process: subprocess.Popen) -> None:
    """End a process and everything in its process group, asking first: as Ctrl-C does, so that pytest takes its servers away."""
    for number, seconds in ((signal.SIGINT, 30), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def environment() -> dict:
    """Return the environment of every program the stages run: our virtualenv first, Ansible's folders under .cache."""
    path = [str(VENV / "bin"), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "VIRTUAL_ENV": str(VENV),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "160",
        "ANSIBLE_HOME": str(CACHE / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        # git looks into no repository of another user's unless it is told that it may.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": str(ROOT),
    }


def debian(packages: dict[str, bool], *beside: str) -> None:
    """Install Debian packages, given as {name: is what we need of it here already}; with any goes all of ``beside``.

    Unable says what to install where this is not Debian or we are not root.
    """
    missing = [name for name, here in packages.items() if not here]
    if not missing:
        return
    if os.geteuid() != 0 or not has("apt-get"):
        raise Unable(f"Missing on this machine, and to be installed by its administrator: {' '.join([*missing, *beside])}.")
    if "postgresql" in missing and not NO_CLUSTER.exists():
        NO_CLUSTER.parent.mkdir(exist_ok=True)
        NO_CLUSTER.write_text("# The tests of matrixops.synapse_postgres need the programs alone.\ncreate_main_cluster = false\n")
    apt("update")
    apt("install", "--yes", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", *missing, *beside)


def has(program: str) -> bool:
    """Tell whether a program is on this machine."""
    return shutil.which(program, path=environment()["PATH"]) is not None


def apt(*words: str) -> None:
    """Run apt-get, waiting a while for another one that holds its lock."""
    quiet = {**environment(), "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", *words, timeout=900, quiet=True, env=quiet)


def virtualenv(folder: pathlib.Path, requirements: pathlib.Path) -> None:
    """Make a virtualenv from a requirements file, unless it was made from just that and the files it includes."""
    included = [requirements.with_name(line[3:]) for line in requirements.read_text().splitlines() if line.startswith("-r ")]
    files = b"".join(path.read_bytes() for path in (requirements, *included))
    made_from = hashlib.sha256(files + sys.version.encode() + str(folder).encode()).hexdigest()
    stamp = folder / "made-from"
    if stamp.exists() and stamp.read_text() == made_from:
        return
    debian({"python3-venv": importlib.util.find_spec("ensurepip") is not None})
    print(f"Making the virtualenv {folder} of {requirements.name}.", flush=True)
    run(sys.executable, "-m", "venv", "--clear", folder, timeout=120, quiet=True, env=None)
    run(folder / "bin" / "pip", "install", "--quiet", "-r", requirements, timeout=900, quiet=True)
    stamp.write_text(made_from)


def collection() -> None:
    """Link the repository to where Ansible and Python look for the collection."""
    if not OWN.exists():
        OWN.parent.mkdir(parents=True, exist_ok=True)
        OWN.unlink(missing_ok=True)
        OWN.symlink_to(os.path.relpath(ROOT, OWN.parent))


def copy(folder: pathlib.Path) -> None:
    """Copy what git tracks, or would, of the repository into ``folder``; what was there before is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", timeout=60, quiet=True)
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, folder / name
        if not source.exists() and not source.is_symlink():
            continue  # deleted, not committed yet
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def postgresql() -> None:
    """Have Debian's PostgreSQL beside PyPI's where we may install it; without it PyPI's alone serves the tests."""
    here = any(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not here and os.geteuid() != 0:
        print("Debian's PostgreSQL is not on this machine, so the tests run against PyPI's servers alone.", flush=True)
        return
    debian({"postgresql": here})


def pooler() -> None:
    """Have PgBouncer's program where we may install what it needs; Debian's package itself would start a service of it."""
    folder = CACHE / "pgbouncer"
    if has("pgbouncer") or (folder / "usr").exists() or os.geteuid() != 0 or not has("apt-get"):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    apt("update")
    run("apt-get", "-q", "download", "pgbouncer", timeout=300, quiet=True, cwd=folder)
    (package,) = folder.glob("*.deb")
    needed = run("dpkg-deb", "--field", package, "Depends", timeout=60, quiet=True)
    apt("install", "--yes", "--no-install-recommends", *re.findall(r"\blib(?:event|c-ares)[\w.+-]*", needed))
    run("dpkg-deb", "--extract", package, folder, timeout=60, quiet=True)


def _ours() -> None:
    """Raise Unable where an earlier run by another user has left what we may not change."""
    if not CACHE.exists() and not os.access(ROOT, os.W_OK, effective_ids=True):
        raise Unable(f"{ROOT} may not be written to. Run this in a clone of your own.")
    left = [
        path
        for path in (CACHE, *CACHE.glob("*"), *CACHE.glob("ansible/*"))
        if path.is_dir() and not os.access(path, os.W_OK, effective_ids=True)
    ]
    if left:
        raise Unable(
            f"{left[0]} is another user's, who ran the tests here. Run this in a clone of your own, or have that user say: "
            f"make -C {shlex.quote(str(ROOT))} clean."
        )


def setup() -> None:
    """Everything that every stage needs."""
    if sys.version_info < (3, 11):
        raise Unable(f"The tests need Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")
    _ours()
    CACHE.mkdir(exist_ok=True)
    virtualenv(VENV, REQUIREMENTS)
    collection()


def servers() -> None:
    """What is needed to run PostgreSQL and Synapse on this machine itself."""
    postgresql()
    pooler()
    virtualenv(SYNAPSE, ROOT / "tests" / "requirements-synapse.txt")
    virtualenv(OLDEST_SYNAPSE, ROOT / "tests" / "requirements-synapse-oldest.txt")
