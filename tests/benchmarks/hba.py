# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What it costs to place 50 rules in a pg_hba.conf of 200 and of 2 000, in time and in memory, the server's check included.

__main__.py runs this by an interpreter that has psycopg2.
"""

import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import measured
from support import clusters

RUNS = 3
LINES = (200, 2000)
RULES = 50

ADMIN = "host all admin 127.0.0.1/32 scram-sha-256\n"


def text(count: int) -> str:
    """Return a file of ``count`` rules; each one in ten is a general one, before which some of ours have to stand."""
    lines = [f"host db{number % 97} user{number} 10.{number % 200}.0.0/24 md5 # {number}\n" for number in range(count - 1)]
    lines[::10] = [f"host all all 10.{number % 200}.0.0/16 md5\n" for number in range(0, count - 1, 10)]
    return ADMIN + "".join(lines)


def rules() -> list[dict]:
    """Return RULES rules, for addresses all over the file."""
    addresses = [f"10.{4 * number}.1.0/24" for number in range(RULES)]
    return [{"type": "host", "database": "synapse", "user": "synapse", "address": address} for address in addresses]


def measure(cluster: clusters.Cluster, folder: pathlib.Path, count: int) -> None:
    """Print the figures of each step on a file of ``count`` rules."""
    steps = {"placed": "present", "nothing to do": "present", "removed": "absent"}
    found: dict[str, list[measured.Measured]] = {step: [] for step in steps}
    (cluster.data / "pg_hba.conf").write_text(text(count))
    for _again in range(RUNS):
        for step, state in steps.items():
            options = {**cluster.login, "rules": rules(), "state": state}
            done = measured.run("postgres_hba", options, folder, pathlib.Path("/nowhere/python"))
            if done.result["changed"] == (step == "nothing to do"):
                raise measured.Failed(f"The step {step!r} ended with changed={done.result['changed']}.")
            found[step].append(done)
    for step, runs in found.items():
        seconds = [run.seconds for run in runs]
        peak = max(run.memory["ours"] for run in runs) / (1 << 20)
        print(f"{count:>7} {step:16}{min(seconds):8.2f}{statistics.median(seconds):8.2f}{max(seconds):8.2f}{peak:12.0f}")


def main() -> int:
    installation = clusters.installations()[0]
    print(f"\n{RULES} rules in pg_hba.conf, PostgreSQL {installation.major}, {RUNS} runs each (seconds; MiB at the peak):")
    print(f"{'lines':>7} {'step':16}{'min':>8}{'median':>8}{'max':>8}{'memory':>12}")
    try:
        with clusters.running(installation) as cluster:
            for count in LINES:
                measure(cluster, pathlib.Path(sys.argv[1]), count)
    except measured.Failed as reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
