# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Molecule's hosts on this machine: podman, images made of Debian's packages, and what a machine like this one needs.

molecule/shared/create.yml makes an image from a registry's Debian where none is here yet; the ones made here spare it the
registry. What a machine needs beyond the ordinary is found out, and told to podman and create.yml by the environment.
"""

import hashlib
import os
import pathlib
import re
import resource
import shutil
import zipfile

import machine
import sanity

MOLECULE = machine.ROOT / "molecule"
PACKAGES = MOLECULE / "shared" / "packages"
IMAGE = "localhost/synapse-postgres-host"

# The connection plugin for podman is in the PyPI package `ansible`, of which we take that collection alone.
ANSIBLE = "ansible==12.3.0"
PODMAN = machine.COLLECTIONS / "ansible_collections" / "containers" / "podman"

# What podman raises a container's limits to, unless it is told other ones.
USUAL_FILES = 1048576

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def scenario(name: str) -> None:
    """Run one scenario of Molecule from end to end; take its hosts away whatever becomes of it."""
    described = MOLECULE / name / "molecule.yml"
    if not described.exists():
        raise machine.Unable(f"No scenario {name}: {described} is not there.")
    _podman_collection()
    suites = sorted(set(re.findall(r"^\s+suite: (\w+)", described.read_text(), re.MULTILINE)) | {"bookworm"})
    environment = ready(*suites)
    bundle = authorities()
    if bundle:
        environment["SYNAPSE_POSTGRES_TEST_VOLUMES"] = f"{bundle}:{BUNDLE}:ro"
    try:
        machine.run("molecule", "--base-config", MOLECULE / "config.yml", "test", "-s", name, timeout=1500, env=environment)
    finally:
        remove(name, environment)


def ready(*suites: str) -> dict[str, str]:
    """Have podman, and the image of each Debian release of ``suites``; return the environment that podman needs here."""
    programs = {"podman": machine.has("podman"), "mmdebstrap": machine.has("mmdebstrap")}
    machine.debian(programs, *([] if machine.has("crun") else ["runc"]))
    environment = machine.environment()
    lines = _limits() + _runtime()
    if lines:
        conf = machine.CACHE / "containers.conf"
        conf.write_text("\n".join([*lines, ""]))
        environment["CONTAINERS_CONF"] = str(conf)
    for suite in suites:
        _image(suite, environment)
    return environment


def remove(name: str, environment: dict) -> None:
    """Remove the containers of a scenario, running or not."""
    words = ["podman", "ps", "--all", "--quiet", "--filter", f"label=synapse-postgres={name}"]
    left = machine.run(*words, timeout=60, quiet=True, env=environment).split()
    if left:
        machine.run("podman", "rm", "--force", "--time", "0", *left, timeout=120, quiet=True, env=environment)


def authorities() -> str | None:
    """Return the file of the authorities that pip trusts on this machine, where it was told of one."""
    bundle = sanity.pip_settings().get("cert", "")
    return bundle if pathlib.Path(bundle).is_file() else None


def _limits() -> list[str]:
    """Return the lines of containers.conf for a machine that lets nobody open as many files as podman asks for."""
    files, processes = (resource.getrlimit(what)[1] for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    if files == resource.RLIM_INFINITY or files >= USUAL_FILES:
        return []
    if processes == resource.RLIM_INFINITY or processes > 30000:
        processes = 30000
    return ["[containers]", f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]']


def _runtime() -> list[str]:
    """Return the lines of containers.conf for runc, where crun is not here or cgroups are of both versions at once."""
    hybrid = pathlib.Path("/sys/fs/cgroup/unified").exists()
    return ["[engine]", 'runtime = "runc"'] if machine.has("runc") and (hybrid or not machine.has("crun")) else []


def _podman_collection() -> None:
    """Have the collection with podman's connection plugin beside our own."""
    if (PODMAN / "MANIFEST.json").exists():
        return
    downloads = machine.CACHE / "downloads"
    machine.run("pip", "download", "--quiet", "--no-deps", "--dest", downloads, ANSIBLE, timeout=300)
    shutil.rmtree(PODMAN, ignore_errors=True)
    with zipfile.ZipFile(next(downloads.glob("ansible-*.whl"))) as wheel:
        wanted = [name for name in wheel.namelist() if name.startswith("ansible_collections/containers/podman/")]
        wheel.extractall(machine.COLLECTIONS, sorted(wanted, key=lambda name: name.endswith("/MANIFEST.json")))
    shutil.rmtree(downloads)


def _image(suite: str, environment: dict) -> None:
    """Have a host's image of a Debian release, with the packages of molecule/shared/packages; made anew when they change."""
    packages = PACKAGES.read_text().split()
    made_from = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    words = ["podman", "images", "--quiet", "--filter", f"label=made-from={made_from}", "--filter", f"reference={IMAGE}:{suite}"]
    if machine.run(*words, timeout=60, quiet=True, env=environment).strip():
        return
    tree = machine.CACHE / f"host-{suite}.tar"
    print(f"Making the hosts' image of Debian {suite}.", flush=True)
    try:
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", suite, str(tree)]
        machine.run(*words, timeout=600, quiet=True, env={**environment, "TMPDIR": os.environ.get("TMPDIR", "/tmp")})
        words = ["podman", "import", "--quiet", "--change", f"LABEL made-from={made_from}", str(tree), f"{IMAGE}:{suite}"]
        machine.run(*words, timeout=300, quiet=True, env=environment)
    finally:
        tree.unlink(missing_ok=True)
