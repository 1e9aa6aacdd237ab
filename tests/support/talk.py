# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user who talks on a homeserver while plays run on it, and whether every word that was acknowledged is there."""

import contextlib
import sqlite3
import threading
import time

import yaml

from support import conversation


class Talk:
    """A user who says something again and again, whether Synapse answers or not; the answered ones are noted."""

    def __init__(self, url: str, said: dict) -> None:
        user, noted = next(iter(said["users"].items()))
        self.person = conversation.Homeserver(url).logged_in(user, noted["password"])
        self.room, self.acknowledged, self.ended = next(iter(said["rooms"])), [], threading.Event()
        self.thread = threading.Thread(target=self._talk)

    def __enter__(self) -> "Talk":
        self.thread.start()
        return self

    def __exit__(self, *_reason) -> None:
        self.ended.set()
        self.thread.join()

    def _talk(self) -> None:
        while not self.ended.wait(0.4):
            with contextlib.suppress(OSError, conversation.Unlike):
                self.acknowledged.append(conversation.say(self.person, self.room, f"busy{time.time_ns()}", "meanwhile"))


def lives_on(site) -> str:
    """Return the engine that homeserver.yaml names."""
    return yaml.safe_load(site.server.config.read_text())["database"]["name"]


def events_on_sqlite(site) -> set:
    """Return the ids of the events that Synapse's SQLite database holds."""
    with contextlib.closing(sqlite3.connect(site.server.database)) as connection:
        return {row[0] for row in connection.execute("SELECT event_id FROM events")}


def require_all_there(site, said: dict, acknowledged: list) -> None:
    """Fail unless Synapse answers on PostgreSQL, with all that was said and every event that SQLite had."""
    assert lives_on(site) == "psycopg2"
    conversation.check(site.server.url, said)
    had = events_on_sqlite(site)
    has = {row[0] for row in site.rows("SELECT event_id FROM events")}
    assert had and had <= has and set(acknowledged) <= has
