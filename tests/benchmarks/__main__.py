# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""make bench: figures, side by side in one run, on this machine. Nothing here passes or fails.

    make bench                                     all of it
    make bench ONLY=no_op                          a play that finds nothing to do
    make bench ONLY=hba                            rules placed in a long pg_hba.conf
    make bench ONLY=move                           the move from SQLite, at three sizes
    make bench ONLY="move --sizes 1 5 --runs 3"    sizes in 100 000 rows; how often each step runs
    make bench ONLY="rebuild --sizes 20 --runs 3"  a database in a wrong locale made anew, of 20 x 100 000 rows
    make bench ONLY=tuning                         Synapse's load with PostgreSQL's defaults and with our settings
    make bench ONLY="tuning --memory 1 4 --seconds 50 --rounds 2 --scale 1"
                                                   GB of memory; how long and how often; 1 is some 2 GB of data

It runs as an ordinary user, as the demonstration does (see tests/demo). Started by root, it limits the memory of a server, too.
"""

import argparse
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import groups, no_op, tools
from support import ordinary


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="?", choices=["no_op", "hba", "move", "rebuild", "tuning"])
    parser.add_argument("--sizes", nargs="+", type=int, metavar="SIZE", default=[1, 5, 20])
    parser.add_argument("--runs", type=int, metavar="RUNS", default=3, help="how often each step runs")
    parser.add_argument("--memory", nargs="+", type=int, metavar="GB", default=[1, 4])
    parser.add_argument("--seconds", type=int, metavar="SECONDS", default=50, help="how long a run of the load is")
    parser.add_argument("--rounds", type=int, metavar="ROUNDS", default=2, help="how often the load runs with each settings")
    parser.add_argument("--scale", type=float, metavar="SCALE", default=1.0, help="how large the load's homeserver is")
    wish = parser.parse_args()
    folder = os.environ.get("BENCH_FOLDER")
    try:
        if os.geteuid() != 0:
            folder = pathlib.Path(folder or ordinary.ROOT / ".cache" / "bench").absolute()
            ordinary.own_folder(folder, "BENCH_FOLDER")
            return measure(folder, wish)
        owner = ordinary.user()
        folder = pathlib.Path(folder or f"/var/tmp/synapse-postgres-bench-{owner.pw_name}").absolute()
        ordinary.make_folder(folder, owner, "BENCH_FOLDER")
        ordinary.copy_sources(folder)
        ordinary.give(folder / "source", owner)
        with groups.given_to(owner.pw_uid) as group:
            variables = {"BENCH_FOLDER": str(folder), "BENCH_GROUP": group}
            return ordinary.run("tests/benchmarks", sys.argv[1:], folder, owner, **variables)
    except ordinary.Unable as reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        words = " ".join(map(str, failed.cmd))
        print(f"make bench: {words} ended with {failed.returncode}; what it said stands above.", file=sys.stderr)
        return 1


def measure(folder: pathlib.Path, wish: argparse.Namespace) -> int:
    """Run what is wished for, in ``folder``; return an exit status."""
    programs = tools.ansible(folder, ordinary.ROOT)
    if wish.only in (None, "no_op"):
        no_op.measure(folder, programs)
    # The others need psycopg2, so they run by the interpreter that has it.
    status = 0
    if wish.only in (None, "hba"):
        status = _by(programs, "hba.py", folder)
    if wish.only in (None, "move"):
        words = ["--sizes", *map(str, wish.sizes), "--runs", str(wish.runs)]
        status |= _by(programs, "move.py", folder, tools.synapse(folder, ordinary.ROOT), *words)
    if wish.only in (None, "rebuild"):
        words = ["--size", str(max(wish.sizes)), "--runs", str(wish.runs)]
        status |= _by(programs, "rebuild.py", folder, tools.synapse(folder, ordinary.ROOT), *words)
    if wish.only in (None, "tuning"):
        words = ["--memory", *map(str, wish.memory), "--rounds", str(wish.rounds)]
        words += ["--seconds", str(wish.seconds), "--scale", str(wish.scale)]
        status |= _by(programs, "tuning.py", folder, tools.synapse(folder, ordinary.ROOT), *words)
    return status


def _by(programs: pathlib.Path, script: str, *words) -> int:
    """Run a script beside this one by the interpreter among ``programs``; return its exit status."""
    command = [programs / "python", "-u", pathlib.Path(__file__).with_name(script), *words]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
