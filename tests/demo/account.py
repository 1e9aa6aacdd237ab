# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who the demonstration runs as, and where. Root hands it, with copies of what it needs, to an ordinary user."""

import contextlib
import os
import pathlib
import shutil
import sqlite3

from demo import path, show
from support import ordinary


def run(wish: str, sqlite: str, config: str) -> int:
    """Start or stop (``wish``) the demonstration as an ordinary user; return its exit status."""
    chosen = os.environ.get("DEMO_FOLDER")
    if os.geteuid() != 0:
        folder = pathlib.Path(chosen or ordinary.ROOT / ".demo").absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wish == "start":
            _copy_theirs(folder, sqlite, config)
        return path.stop(folder) if wish == "stop" else path.start(folder, ordinary.ROOT)
    owner = ordinary.user()
    folder = pathlib.Path(chosen or f"/var/tmp/synapse-postgres-demo-{owner.pw_name}").absolute()
    try:
        ordinary.make_folder(folder, owner)
        ordinary.copy_sources(folder)
        if wish == "start":
            _copy_theirs(folder, sqlite, config)
        for name in ("source", "theirs"):
            ordinary.give(folder / name, owner)
        show.tell(f"Started by root, it runs as the user {owner.pw_name}, in {folder}.")
        return ordinary.run("tests/demo", [wish], folder, owner, DEMO_FOLDER=str(folder))
    except ordinary.Unable as reason:
        show.fail(str(reason))
        return 1


def _copy_theirs(folder: pathlib.Path, sqlite: str, config: str) -> None:
    """Copy the user's own database, in use or not, and configuration into ``folder``/theirs; they are only read.

    Without any, nothing is left there of an earlier demonstration's.
    """
    shutil.rmtree(folder / "theirs", ignore_errors=True)
    if not sqlite:
        return
    show.step(f"Copying {sqlite} and {config}; the files themselves are only read")
    target = folder / "theirs"
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
