# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""make bench: figures, side by side in one run, on this machine. Nothing here passes or fails.

It runs as an ordinary user, as the demonstration does (see tests/demo).
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import no_op
from support import ordinary


def main() -> int:
    folder = os.environ.get("BENCH_FOLDER")
    if os.geteuid() != 0:
        folder = pathlib.Path(folder or ordinary.ROOT / ".cache" / "bench").absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        no_op.measure(folder, ordinary.ROOT)
        return 0
    owner = ordinary.user()
    folder = pathlib.Path(folder or f"/var/tmp/synapse-postgres-bench-{owner.pw_name}").absolute()
    try:
        ordinary.make_folder(folder, owner)
        ordinary.copy_sources(folder)
        ordinary.give(folder / "source", owner)
        return ordinary.run("tests/benchmarks", [], folder, owner, BENCH_FOLDER=str(folder))
    except ordinary.Unable as reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
