# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who the demonstration runs as, and where. Root hands it, with copies of what it needs, to an ordinary user."""

import contextlib
import os
import pathlib
import pwd
import shutil
import sqlite3

from demo import path, show
from support import ordinary


def run(wish: str, sqlite: str, config: str) -> int:
    """Start or stop (``wish``) the demonstration as an ordinary user; return its exit status."""
    try:
        if os.geteuid() != 0:
            return _ours(wish, sqlite, config)
        return _handed_on(wish, sqlite, config)
    except ordinary.Unable as reason:
        show.fail(str(reason))
        return 1


def _ours(wish: str, sqlite: str, config: str) -> int:
    """Start or stop the demonstration as the one who runs this."""
    chosen = os.environ.get("DEMO_FOLDER")
    folder = pathlib.Path(chosen or ordinary.ROOT / ".demo").absolute()
    if wish == "start":
        ordinary.own_folder(folder, "DEMO_FOLDER")
        _copy_theirs(folder, sqlite, config)
        return path.start(folder, ordinary.ROOT)
    # The one who called sudo make demo may stop it without sudo.
    places = [folder] if chosen else [folder, _by_root(pwd.getpwuid(os.geteuid()))]
    mine = [place for place in places if place.is_dir() and place.stat().st_uid == os.geteuid()]
    for place in mine:
        path.stop(place)
    if not mine:
        show.tell(f"There is no demonstration of yours in {' or '.join(map(str, places))}.")
    return 0


def _handed_on(wish: str, sqlite: str, config: str) -> int:
    """Have the one who called sudo, or nobody, start or stop the demonstration; as root."""
    owner = ordinary.user()
    folder = pathlib.Path(os.environ.get("DEMO_FOLDER") or _by_root(owner)).absolute()
    if wish == "stop" and not folder.exists():
        show.tell(f"There is no demonstration in {folder}.")
        return 0
    ordinary.make_folder(folder, owner, "DEMO_FOLDER")
    ordinary.copy_sources(folder)
    if wish == "start":
        _copy_theirs(folder, sqlite, config)
    for name in ("source", "theirs"):
        ordinary.give(folder / name, owner)
    show.tell(f"Started by root, it runs as the user {owner.pw_name}, in {folder}.")
    return ordinary.run("tests/demo", [wish], folder, owner, DEMO_FOLDER=str(folder))


def _by_root(owner: pwd.struct_passwd) -> pathlib.Path:
    """Return the folder of the demonstration that root starts for ``owner``."""
    return pathlib.Path(f"/var/tmp/synapse-postgres-demo-{owner.pw_name}")


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
