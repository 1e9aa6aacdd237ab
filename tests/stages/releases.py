# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The newest ansible-core, and the oldest that is promised, each on a host of Debian's whose Python it runs on.

The host is a container of Molecule's image, with nothing but Python and make. An ordinary user of it has a copy of this tree,
and does there what the README tells users: make demo. Then the tests run that stand on ansible-core, by `make plugins`.
"""

import dataclasses
import pathlib
import re

import hosts
import machine
import sanity

USER = "visitor"
HOME = pathlib.Path("/home", USER)
TREE = HOME / "synapse-postgres"
SHOWN, ANSIBLE_LOG = HOME / "shown.log", HOME / "ansible.log"

# Deprecation warnings that are not ours to mend: parts of their sentences, each with the release that it will go with.
OTHERS = (
    "The `timedout.frame` task result key is deprecated",
)  # 2.23; a test writes down all of a result that ansible-core made

# Why an ordinary user may pass a test over: as root, the stage `unit` runs it.
_ROOTS = "only root may "

# What says in an output which versions it came of, and each of them in it.
_RAN = re.compile(r"ran with (.*)")
_VERSION = re.compile(r"(ansible-core|Python|PostgreSQL|Synapse) (\d+(?:\.\d+)*)")


@dataclasses.dataclass(frozen=True)
class Release:
    """An end of the range of ansible-core: Debian's ``suite`` has the Python it runs on, ``demo`` if that is to run, too."""

    name: str
    suite: str
    demo: bool

    @property
    def requirements(self) -> str:
        return f"tests/requirements-{self.name}.txt"

    @property
    def variables(self) -> dict[str, str]:
        """The demonstration has the newest Synapse, so the tests take it from there."""
        return {"SYNAPSE_PYTHON": f"{TREE}/.demo/tools-synapse/bin/python"} if self.demo else {}


NEWEST = Release("newest", "trixie", demo=True)
OLDEST = Release("oldest", "bookworm", demo=False)


def check(release: Release) -> None:
    """Run what stands on ansible-core on a host of that release; Unable when a part of it fails, or warns of our files."""
    environment = hosts.ready(release.suite)
    hosts.remove(release.name, environment)
    try:
        host = Host(release, environment)
        host.make_ready()
        if release.demo:
            host.visit("make", "demo", timeout=400)
        host.visit("make", "plugins", timeout=1200)
        if release.demo:
            host.visit("make", "demo-stop", timeout=120)
        told = host.read(SHOWN)
        _nothing_passed_over(told)
        _nothing_deprecated(host.read(ANSIBLE_LOG))
        ran = set(_VERSION.findall(" ".join(_RAN.findall(told))))
        print(f"{release.name}: ran with {', '.join(map(' '.join, sorted(ran)))}.", flush=True)
        compare((machine.ROOT / "README.md").read_text(), ran, release.name)
    finally:
        hosts.remove(release.name, environment)


class Host:
    """A host of ``release``: a container with a systemd, which ends what loses its parent, and an ordinary user."""

    def __init__(self, release: Release, environment: dict) -> None:
        self.release, self.environment = release, environment
        self.name = f"synapse-postgres-{release.name}"

    def make_ready(self) -> None:
        """Start the host, and give its user this tree, and pip's settings where they differ from the ordinary ones."""
        words = ["--detach", "--name", self.name, "--label", f"synapse-postgres={self.release.name}", "--systemd=always"]
        settings = _of_the_network(sanity.pip_settings())
        bundle = hosts.authorities()
        if bundle:
            words.append(f"--volume={bundle}:{hosts.BUNDLE}:ro")
            settings["cert"] = hosts.BUNDLE
        self._podman("run", *words, f"{hosts.IMAGE}:{self.release.suite}", "/sbin/init")
        copy = machine.CACHE / self.name
        machine.copy(copy / "tree")
        sanity.write_pip_settings(settings, copy / "pip.conf")
        self._podman("exec", self.name, "useradd", "--create-home", "--shell", "/bin/bash", USER)
        self._podman("cp", copy / "tree", f"{self.name}:{TREE}")
        self._podman("cp", copy / "pip.conf", f"{self.name}:/etc/pip.conf")
        self._podman("exec", self.name, "chown", "-R", f"{USER}:", TREE)

    def visit(self, *words, timeout: int) -> None:
        """Run a program in the user's tree, as that user; what it says is shown and kept, and so is all that Ansible says."""
        variables = {
            "REQUIREMENTS": self.release.requirements,
            "ANSIBLE_LOG_PATH": ANSIBLE_LOG,
            "ANSIBLE_DEPRECATION_WARNINGS": "true",
            **self.release.variables,
        }
        given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        print(f"--- {' '.join(words)}, on Debian {self.release.suite} as the user {USER}", flush=True)
        both = ["bash", "-o", "pipefail", "-c", f'"$@" 2>&1 | tee -a {SHOWN}', "--", *words]
        words = ["podman", "exec", "--user", USER, "--workdir", TREE, *given, self.name, *both]
        machine.run(*words, timeout=timeout, env=self.environment)

    def read(self, path: pathlib.Path) -> str:
        """Return the text of a file of the host's."""
        return self._podman("exec", self.name, "cat", path)

    def _podman(self, *words) -> str:
        return machine.run("podman", *words, timeout=120, quiet=True, env=self.environment)


def _of_the_network(settings: dict[str, str]) -> dict[str, str]:
    """Return pip's ``settings`` without the files of this machine that they name: they are not on the host.

    That also leaves behind what holds releases back here, as a file of constraints does.
    """
    found = {
        option: " ".join(word for word in value.split() if not word.startswith(("/", "file:")))
        for option, value in settings.items()
    }
    return {option: value for option, value in found.items() if value}


def _nothing_passed_over(told: str) -> None:
    """Raise Unable when pytest passed tests over that only root can run nowhere else."""
    over = [line for line in told.splitlines() if line.startswith("SKIPPED") and _ROOTS not in line]
    if over:
        raise machine.Unable("Tests were passed over:\n" + "\n".join(over))


def _nothing_deprecated(log: str) -> None:
    """Raise Unable when Ansible warned of what will not work with a later release of it."""
    warnings = {line.split("[DEPRECATION WARNING]: ", 1)[1] for line in log.splitlines() if "[DEPRECATION WARNING]: " in line}
    ours = sorted(warning for warning in warnings if not any(part in warning for part in OTHERS))
    if ours:
        raise machine.Unable("ansible-core warns of what is deprecated; mend it:\n" + "\n".join(ours))


def compare(readme: str, ran: set[tuple[str, str]], name: str) -> None:
    """Raise Unable when the README's table of requirements does not name the versions that ``ran``: {(program, version)}.

    One that is newer than any in the table is only said: what is not pinned must not fail for having a new release.
    """
    table = readme.partition("\n## Requirements\n")[2].partition("\n## ")[0]
    named: dict[str, list] = {}
    silent = {"ansible-core", "Python", "PostgreSQL", "Synapse"} - {program for program, _version in ran}
    if silent:
        raise machine.Unable(f"Nothing told with which {' and '.join(sorted(silent))} {name} ran.")
    for program, version in _VERSION.findall(table):
        named.setdefault(program, []).append(_numbers(version))
    for program, version in sorted(ran):
        found = [numbers for numbers in named.get(program, []) if numbers == _numbers(version)[: len(numbers)]]
        if found:
            continue
        said = f"README's Requirements do not name {program} {version}, which {name} ran with"
        if not named.get(program) or _numbers(version) < max(named[program]):
            raise machine.Unable(f"{said}. Let the table say what runs.")
        print(f"{name}: {said} and which is newer. Add it to the table.", flush=True)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
