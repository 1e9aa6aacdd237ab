# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The demonstration on a copy of somebody's own homeserver: nothing of theirs is written to, and nobody outside hears of it."""

import pathlib
import secrets
import shutil
import subprocess

from demo import show
from support import conversation
from support.synapse import Homeserver

# How many of their rooms, the largest ones, are read before and after the move.
_ROOMS = 20


def adopt(server: Homeserver, folder: pathlib.Path) -> dict:
    """Start Synapse on the copied database in ``folder`` under its own name; return what its rooms hold, for check().

    Of their configuration only the server's name is taken: keys, federation, modules, bridges and mail stay out of it.
    """
    show.step("Starting Synapse on the copy of your database, without federation, mail, modules or bridges")
    server.generate(_server_name(server, folder / "homeserver.yaml"))
    shutil.copy(folder / "homeserver.db", server.database)
    server.start()
    show.step("Waiting until Synapse has finished its background updates on the copy")
    server.settle(3600)
    name, password = f"demo-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    conversation.Homeserver(server.url).registered(name, password, conversation.secret_of(server.config), admin=True)
    admin = conversation.Homeserver(server.url).logged_in(name, password)
    rooms = admin.ask("GET", f"/_synapse/admin/v1/rooms?limit={_ROOMS}&order_by=state_events")["rooms"]
    noted = {room["room_id"]: _events(admin, room["room_id"]) for room in rooms}
    show.tell(f"{sum(map(len, noted.values()))} events in {len(noted)} rooms were read, to be compared after the move.")
    return {"name": name, "password": password, "rooms": noted}


def check(url: str, said: dict) -> str:
    """Read the rooms again and compare; return a sentence. Unlike tells a difference."""
    admin = conversation.Homeserver(url).logged_in(said["name"], said["password"])
    for room, noted in said["rooms"].items():
        if _events(admin, room) != noted:
            raise conversation.Unlike(f"The events of {room} are not the same.")
    return f"All {sum(map(len, said['rooms'].values()))} events of {len(said['rooms'])} rooms were read back, each the same."


def _events(admin: conversation.Homeserver, room: str) -> dict:
    """Return every event of a room by its id, read page by page through the administrators' API, as type and content."""
    found, start = {}, ""
    while True:
        page = admin.ask("GET", f"/_synapse/admin/v1/rooms/{conversation.quoted(room)}/messages?dir=b&limit=200{start}")
        found.update({event["event_id"]: (event["type"], event["content"]) for event in page["chunk"]})
        if not page["chunk"] or "end" not in page:
            return found
        start = f"&from={conversation.quoted(page['end'])}"


def _server_name(server: Homeserver, config: pathlib.Path) -> str:
    words = "import sys, yaml; print(yaml.safe_load(open(sys.argv[1], encoding='utf-8'))['server_name'])"
    done = subprocess.run([server.python, "-c", words, config], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        show.fail("CONFIG has no server_name, or is not YAML. Give the file that has it.")
    return done.stdout.strip()
