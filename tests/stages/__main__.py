# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run stages of the test: python3 tests/stages lint sanity unit integration newest oldest molecule; see the Makefile.

Each stage does its own set-up and is bounded in time. All that are asked for run, whatever the earlier ones came to;
a table of their times and one line with the count close the output. The exit status tells whether all passed.
"""

import os
import signal
import sys
import time

import hosts
import machine
import releases
import sanity

STAGES = {}

# The tests that run on every ansible-core: all that its way of running plugins and of showing results can break.
PLUGINS = (
    "tests/integration/test_looks.py",
    "tests/integration/test_progress.py",
    "tests/integration/test_playbooks.py::test_each_role_serves_a_play_of_the_users",
    "tests/integration/test_playbooks.py::test_a_server_that_others_run_is_tuned_as_far_as_they_let_us",
    "tests/integration/test_playbooks.py::test_a_homeserver_that_is_not_there_is_refused",
)

# Prints what the tests run with; the first PostgreSQL is the one that most of them take.
_VERSIONS = """
import importlib.metadata, platform, subprocess, sys
sys.path.insert(0, "tests")
from support import clusters, synapse
words = [synapse.PYTHON, "-c", "import importlib.metadata as found; print(found.version('matrix-synapse'))"]
homeserver = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
print("ansible-core", importlib.metadata.version("ansible-core"), "Python", platform.python_version(), end=" ")
print("PostgreSQL", clusters.installations()[0].major, "Synapse", homeserver)
"""


# Much of what has a server waits for it to start and to end, so more workers than processors are done sooner.
_SIDE_BY_SIDE = ("-n", len(os.sched_getaffinity(0)) + 1, "--dist", "worksteal")


def stage(function):
    STAGES[function.__name__] = function
    return function


@stage
def setup() -> None:
    """What the stages and `make demo` and `make bench` need, made now."""
    machine.servers()


@stage
def lint() -> None:
    """The Python, its types, who imports whom, the YAML, the roles and the changelog's fragments, as their linters see them."""
    machine.run("ruff", "check", timeout=120)
    machine.run("ruff", "format", "--check", timeout=120)
    collections = {**machine.environment(), "PYTHONPATH": str(machine.COLLECTIONS)}
    machine.run("lint-imports", "--no-cache", timeout=120, env=collections)
    knowledge = "ansible_collections.matrixops.synapse_postgres.plugins.module_utils"
    machine.run("mypy", "-p", knowledge, timeout=300, env={**machine.environment(), "MYPYPATH": str(machine.COLLECTIONS)})
    machine.run("antsibull-changelog", "lint", timeout=120)
    machine.run("ansible-lint", "--offline", "--profile", "production", timeout=600)


@stage
def unit() -> None:
    """The knowledge in plugins/module_utils, with no server."""
    machine.run("pytest", "tests/unit", timeout=600)


@stage
def integration() -> None:
    """The modules against real servers."""
    machine.servers()
    few = ("-k", "not (doctor and pypi)")  # the stage doctor has every server
    machine.run("pytest", *_SIDE_BY_SIDE, "--durations", "20", *few, "tests/integration", timeout=3300)
    oldest = {**machine.environment(), "SYNAPSE_PYTHON": str(machine.OLDEST_SYNAPSE / "bin" / "python")}
    machine.run("pytest", "tests/integration/test_engines.py", "-k", "built_to_hurt", timeout=600, env=oldest)


@stage
def faults() -> None:
    """What may befall a move, at 20 random moments for each kind; the stage integration has a few of each."""
    machine.servers()
    tests = [f"tests/integration/test_{name}.py" for name in ("faults", "engines", "killed_modules", "database_rebuild")]
    many = {**machine.environment(), "FAULTS": "20"}
    machine.run("pytest", *_SIDE_BY_SIDE, "--durations", "20", *tests, timeout=3600, env=many)


@stage
def doctor() -> None:
    """The doctor's checks on every server; the stage integration has them on the system's."""
    machine.servers()
    machine.run("pytest", *_SIDE_BY_SIDE, "tests/integration/doctor", timeout=1800)


@stage
def plugins() -> None:
    """What stands on ansible-core: the unit tests, and the action plugins and roles in plays; with REQUIREMENTS' release."""
    machine.postgresql()
    if not os.environ.get("SYNAPSE_PYTHON"):
        machine.virtualenv(machine.SYNAPSE, machine.ROOT / "tests" / "requirements-synapse.txt")
    machine.run("pytest", *_SIDE_BY_SIDE, "--durations", "10", "tests/unit", *PLUGINS, timeout=900)
    print(f"plugins: ran with {machine.run('python', '-c', _VERSIONS, timeout=60, quiet=True).strip()}", flush=True)


@stage
def newest() -> None:
    """The newest ansible-core on the newest Debian: the demonstration, and the stage plugins."""
    releases.check(releases.NEWEST)


@stage
def oldest() -> None:
    """The oldest ansible-core that is promised: the stage plugins."""
    releases.check(releases.OLDEST)


@stage
def molecule() -> None:
    """The roles and playbooks on real hosts, in the scenario that SCENARIO names."""
    hosts.scenario(os.environ.get("SCENARIO", "default"))


STAGES["sanity"] = sanity.sanity


def passed(name: str) -> tuple[bool, float]:
    """Run one stage after its set-up; tell whether it passed and the seconds it took."""
    print(f"=== {name}: started", flush=True)
    start = time.monotonic()
    try:
        machine.setup()
        STAGES[name]()
        good = True
    except machine.Unable as error:
        print(f"{name}: {error}", flush=True)
        good = False
    seconds = time.monotonic() - start
    print(f"=== {name}: {'passed' if good else 'FAILED'} after {seconds:.0f} s", flush=True)
    return good, seconds


def _end_in_order() -> None:
    """Have Ctrl-C and a request to end, which a shell may have told us to ignore, end the stage under way and all it started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(STAGES))
    if unknown or not names:
        print(f"No stage {' '.join(unknown) or 'is named'}; there are: {' '.join(STAGES)}.", file=sys.stderr)
        return 2
    _end_in_order()
    results = {}
    try:
        for name in names:
            results[name] = (False, 0.0)
            results[name] = passed(name)
    finally:
        print("\nstage          seconds  result")
        for name, (good, seconds) in results.items():
            print(f"{name:<14} {seconds:>7.0f}  {'passed' if good else 'FAILED'}")
        good = sum(result[0] for result in results.values())
        print(f"stages: {good} passed, {len(names) - good} failed", flush=True)
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; what the stage had started was ended.")
