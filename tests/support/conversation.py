# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hold a conversation on a homeserver through its client API, note it in a file, and later read every word of it back.

    python3 conversation.py hold  --url http://localhost:8008 --record FILE --config /etc/matrix-synapse/homeserver.yaml
    python3 conversation.py check --url http://localhost:8008 --record FILE [--meanwhile FILE]

Between the two, somebody can talk until he is ended, and what was acknowledged is noted; or the main process and a worker be
heard to know of each other's messages:

    python3 conversation.py talk   --url http://localhost:8008 --record FILE --meanwhile FILE
    python3 conversation.py across --url http://localhost:8008 --record FILE --worker http://localhost:8083

Only Python's standard library is used, so that it runs on the homeserver's host as it is.
"""

import argparse
import contextlib
import hashlib
import hmac
import http.client
import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

CLIENT = "/_matrix/client/v3"
WORD = "harbour"
SAYINGS = ["plain", 'it\'s "quoted" \\ %s {{ x }}', "päss wörd \u00a0\u2168", "🐘🔑 𝔘𝔫𝔦", "two\nlines\tand a tab", "x" * 5000]


class Unlike(Exception):
    """The homeserver answered otherwise than it should; the sentence says what."""


class Homeserver:
    """The client API at ``url``, as the user whose access token it is given."""

    def __init__(self, url: str, token: str = ""):
        self.url, self.token = url, token

    def ask(self, method: str, path: str, body=None, raw: bool = False):
        """Return the answer to a request, parsed unless ``raw``; ``body`` is sent as JSON, or as it is if bytes."""
        sent = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {"Content-Type": kind, **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(self.url + path, data=sent, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content = answer.read()
            return content if raw else json.loads(content)
        except urllib.error.HTTPError as error:
            raise Unlike(f"{method} {path} answered {error.code}: {error.read().decode(errors='replace')}") from None
        except (http.client.HTTPException, ValueError) as error:
            # A Synapse that is stopped within an answer leaves half of it.
            raise Unlike(f"{method} {path} was answered in part: {error}") from None

    def logged_in(self, user: str, password: str) -> "Homeserver":
        """Return the API as a user, by a password login."""
        identifier = {"type": "m.id.user", "user": user}
        login = {"type": "m.login.password", "identifier": identifier, "password": password}
        return Homeserver(self.url, self.ask("POST", f"{CLIENT}/login", login)["access_token"])

    def registered(self, name: str, password: str, secret: str, admin: bool = False) -> str:
        """Register a user, or an ``admin``, by the shared secret; return the user's full id."""
        nonce = self.ask("GET", "/_synapse/admin/v1/register")["nonce"]
        mac = hmac.new(
            secret.encode(), "\0".join([nonce, name, password, "admin" if admin else "notadmin"]).encode(), hashlib.sha1
        ).hexdigest()
        body = {"nonce": nonce, "username": name, "password": password, "admin": admin, "mac": mac}
        return self.ask("POST", "/_synapse/admin/v1/register", body)["user_id"]


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def require_found(url: str, said: dict, seconds: float = 60) -> None:
    """Wait until the search for users finds one of those who ``said`` something to another; Unlike if it does not in time."""
    (user, noted), (other, _noted) = list(said["users"].items())[:2]
    person, deadline = Homeserver(url).logged_in(user, noted["password"]), time.monotonic() + seconds
    wanted = {"search_term": other.split(":")[0].lstrip("@")}
    while other not in {found["user_id"] for found in person.ask("POST", f"{CLIENT}/user_directory/search", wanted)["results"]}:
        if time.monotonic() > deadline:
            raise Unlike(f"{other} is not found after {seconds:.0f} s")
        time.sleep(0.5)


def wait_for(url: str, seconds: float = 120) -> None:
    """Wait until the homeserver answers; Unlike if it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            Homeserver(url).ask("GET", "/_matrix/client/versions")
            return
        except (OSError, Unlike) as error:
            if time.monotonic() > deadline:
                raise Unlike(f"{url} does not answer after {seconds:.0f} s: {error}") from None
        time.sleep(0.5)


def hold(url: str, secret: str, users: int, rooms: int, messages: int) -> dict:
    """Register ``users``, let all of them talk in ``rooms``, ``messages`` in each; return the record of it."""
    record = {"users": {}, "rooms": {}, "media": {}}
    people = {}
    for number in range(users):
        password = f"the word's %{{ }}\" of {number}"
        user = Homeserver(url).registered(f"person{number}", password, secret)
        people[user] = Homeserver(url).logged_in(user, password)
        record["users"][user] = {"password": password, "displayname": f"Pérson {number} 🐘"}
        path = f"{CLIENT}/profile/{quoted(user)}/displayname"
        people[user].ask("PUT", path, {"displayname": record["users"][user]["displayname"]})
    for number in range(rooms):
        room, held = _talk(people, f"Room {number}", messages)
        record["rooms"][room] = held
    content = bytes(range(256)) * 64
    uri = next(iter(people.values())).ask("POST", "/_matrix/media/v3/upload?filename=bytes.bin", content)["content_uri"]
    record["media"][uri] = hashlib.sha256(content).hexdigest()
    return record


def _talk(people: dict, name: str, messages: int) -> "tuple[str, dict]":
    """Make a room with everybody in it, and let them say ``messages`` in turn; return its id and the record of it."""
    first, *others = people
    made = people[first].ask("POST", f"{CLIENT}/createRoom", {"preset": "private_chat", "name": name, "invite": others})
    room = made["room_id"]
    for user in others:
        people[user].ask("POST", f"{CLIENT}/join/{quoted(room)}", {})
    said = {}
    for number in range(messages):
        user = list(people)[number % len(people)]
        body = f"{number} {WORD} {SAYINGS[number % len(SAYINGS)]}"
        said[say(people[user], room, f"talk{number}", body)] = [user, body]
    return room, {"name": name, "members": list(people), "messages": said}


def say(person: Homeserver, room: str, transaction: str, body: str) -> str:
    """Send a message to a room; return its event id."""
    path = f"{CLIENT}/rooms/{quoted(room)}/send/m.room.message/{transaction}"
    return person.ask("PUT", path, {"msgtype": "m.text", "body": body})["event_id"]


def talk(url: str, record: dict, meanwhile: pathlib.Path) -> None:
    """Say something ten times a second in the first room, whether the homeserver answers or not, until the process is ended.

    Each acknowledged message is noted in ``meanwhile``, as a line of JSON: room, event id, sender and words.
    """
    user, noted = next(iter(record["users"].items()))
    person, room = Homeserver(url).logged_in(user, noted["password"]), next(iter(record["rooms"]))
    with meanwhile.open("a") as notes:
        while True:
            now = time.time_ns()
            body = f"meanwhile {now}"
            with contextlib.suppress(OSError, Unlike):
                event = say(person, room, f"meanwhile{now}", body)
                print(json.dumps([room, event, user, body]), file=notes, flush=True)
            time.sleep(0.1)


def across(url: str, worker: str, record: dict) -> str:
    """Let one say something through each of the two processes and another hear it through the other; return a sentence."""
    room, noted = next(iter(record["rooms"].items()))
    speaker, hearer = noted["members"][:2]
    for spoken, heard in ((url, worker), (worker, url)):
        speaks = Homeserver(spoken).logged_in(speaker, record["users"][speaker]["password"])
        hears = Homeserver(heard).logged_in(hearer, record["users"][hearer]["password"])
        since = hears.ask("GET", f"{CLIENT}/sync?timeout=0")["next_batch"]
        body = f"From {spoken} to {heard}"
        event = say(speaks, room, f"across{time.time_ns()}", body)
        _same(f"what {heard} hears of a message to {spoken}", _heard(hears, room, event, since), [speaker, body])
    return f"{url} and {worker} know of each other's messages."


def _heard(person: Homeserver, room: str, event: str, since: str, seconds: float = 30) -> "list | None":
    """Return sender and words of an event as soon as the person's /sync after ``since`` brings it, or None."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = person.ask("GET", f"{CLIENT}/sync?timeout=5000&since={quoted(since)}")
        since = answer["next_batch"]
        rooms = answer.get("rooms", {}).get("join", {})
        for found in rooms.get(room, {}).get("timeline", {}).get("events", []):
            if found["event_id"] == event:
                return [found["sender"], found["content"]["body"]]
    return None


def read_messages(person: Homeserver, room: str) -> dict:
    """Return all messages of a room, as {event id: [sender, body]}, read page by page from the newest."""
    found, start = {}, ""
    while True:
        page = person.ask("GET", f"{CLIENT}/rooms/{quoted(room)}/messages?dir=b&limit=50{start}")
        for event in page["chunk"]:
            if event["type"] == "m.room.message":
                found[event["event_id"]] = [event["sender"], event["content"]["body"]]
        if not page["chunk"] or "end" not in page:
            return found
        start = f"&from={quoted(page['end'])}"


def check(url: str, record: dict) -> str:
    """Read everything of ``record`` back and say one thing more; return a sentence on it. Unlike tells a difference."""
    people = {user: Homeserver(url).logged_in(user, noted["password"]) for user, noted in record["users"].items()}
    for user, noted in record["users"].items():
        found = people[user].ask("GET", f"{CLIENT}/profile/{quoted(user)}")["displayname"]
        _same(f"the display name of {user}", found, noted["displayname"])
    for room, noted in record["rooms"].items():
        _check_room(people, room, noted)
    for uri, digest in record["media"].items():
        path = f"/_matrix/client/v1/media/download/{uri[len('mxc://') :]}"
        content = next(iter(people.values())).ask("GET", path, raw=True)
        _same(f"the content of {uri}", hashlib.sha256(content).hexdigest(), digest)
    number = sum(len(noted["messages"]) + len(noted.get("meanwhile", {})) for noted in record["rooms"].values())
    return f"{len(people)} users logged in; {number} messages in {len(record['rooms'])} rooms were read back word for word."


def _check_room(people: dict, room: str, noted: dict) -> None:
    """Compare a room with what was noted of it, find it by search, and say something new in it."""
    first = people[noted["members"][0]]
    _same(f"the name of {room}", first.ask("GET", f"{CLIENT}/rooms/{quoted(room)}/state/m.room.name")["name"], noted["name"])
    joined = first.ask("GET", f"{CLIENT}/rooms/{quoted(room)}/joined_members")["joined"]
    _same(f"the members of {room}", sorted(joined), sorted(noted["members"]))
    found = read_messages(first, room)
    for event, message in {**noted["messages"], **noted.get("meanwhile", {})}.items():
        _same(f"the message {event} of {room}", found.get(event), message)
    criteria = {"search_term": WORD, "filter": {"rooms": [room], "limit": 1}}
    hits = first.ask("POST", f"{CLIENT}/search", {"search_categories": {"room_events": criteria}})
    _same(
        f"how many messages of {room} a search finds", hits["search_categories"]["room_events"]["count"], len(noted["messages"])
    )
    for number, user in enumerate(noted["members"]):
        body = f"Still here: {user} 🐘"
        event = say(people[user], room, f"again{number}-{time.time_ns()}", body)
        _same(f"a new message of {room}", read_messages(first, room).get(event), [user, body])


def with_meanwhile(record: dict, meanwhile: pathlib.Path) -> dict:
    """Return ``record`` with what talk() noted: each room's ``meanwhile``, as {event id: [sender, words]}."""
    rooms = {room: {**noted, "meanwhile": {}} for room, noted in record["rooms"].items()}
    for line in meanwhile.read_text().splitlines():
        room, event, *message = json.loads(line)
        rooms[room]["meanwhile"][event] = message
    return {**record, "rooms": rooms}


def _same(what: str, found, noted) -> None:
    if found != noted:
        raise Unlike(f"Not the same: {what} is {found!r}, and was {noted!r}.")


def secret_of(config: pathlib.Path) -> str:
    """Return the registration secret of a homeserver.yaml as Synapse generates it: double-quoted, on a line of its own."""
    found = re.search(r'^registration_shared_secret: "(.*)"$', config.read_text(), re.MULTILINE)
    if not found:
        raise Unlike(f"{config} has no line registration_shared_secret with a double-quoted value.")
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["hold", "check", "talk", "across"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--worker", help="where a worker's client API answers")
    parser.add_argument("--record", required=True, type=pathlib.Path)
    parser.add_argument("--meanwhile", type=pathlib.Path, help="where talk notes what was acknowledged")
    parser.add_argument("--config", type=pathlib.Path)
    for name, number in (("users", 3), ("rooms", 2), ("messages", 60)):
        parser.add_argument(f"--{name}", type=int, default=number)
    words = parser.parse_args()
    try:
        wait_for(words.url)
        if words.what == "hold":
            record = hold(words.url, secret_of(words.config), words.users, words.rooms, words.messages)
            words.record.write_text(json.dumps(record, indent=1))
            print(f"{words.users} users said {words.rooms * words.messages} things in {words.rooms} rooms.")
            return 0
        record = json.loads(words.record.read_text())
        if words.what == "talk":
            talk(words.url, record, words.meanwhile)
        elif words.what == "across":
            print(across(words.url, words.worker, record))
        else:
            print(check(words.url, with_meanwhile(record, words.meanwhile) if words.meanwhile else record))
    except (Unlike, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
