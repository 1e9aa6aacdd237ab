# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The whole path on this machine: a real Synapse on SQLite, moved to a private PostgreSQL by the collection's playbooks.

    make demo                                           a homeserver made for the occasion
    make demo SQLITE=homeserver.db CONFIG=homeserver.yaml   a copy of yours; the files themselves are only read
    make demo-stop                                      stop what the last one started, and remove it

Only the standard library is used here; what the demonstration needs it installs into its own folder. It runs as an ordinary
user: started by root, it hands itself to one, since PostgreSQL refuses to run as root.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from demo import account, show


def main() -> int:
    if sys.version_info < (3, 11):
        show.fail(
            f"The demonstration needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try make demo PYTHON=python3.12."
        )
    wish = sys.argv[1] if len(sys.argv) > 1 else "start"
    sqlite, config = os.environ.get("SQLITE", ""), os.environ.get("CONFIG", "")
    if bool(sqlite) != bool(config):
        show.fail("SQLITE and CONFIG belong together. Give the database and the homeserver.yaml that goes with it.")
    return account.run(wish, sqlite, config)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        show.fail("Interrupted. Run make demo-stop to stop and remove what was started.")
