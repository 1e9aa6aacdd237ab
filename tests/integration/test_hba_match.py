# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Our first match against the server's own: random files, random people at the door, and what the server's log says of each.

The server names the line that decided, whether the password was right or not, unless that line rejects. Clients come from
several addresses of the loopback interface.
"""

import contextlib
import dataclasses
import pathlib
import random
import re
import shutil
import subprocess

import psycopg2
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_match, hba_server, host_addresses
from support import link

FILES = 30
CONNECTIONS = 12

ADMIN = "host all admin 127.0.0.1/32 scram-sha-256\n"
SOURCES = ["127.0.0.1", "127.0.0.2", "127.0.0.5", "127.9.0.1"]

# Who there is, and whose groups they are in.
GROUPS = {"ann": [], "bob": ["staff"], "eve": ["crew"], "all": [], "a b": ["staff"]}
USERS = [*GROUPS, "nobody"]
DATABASES = ["ann", "bob", "staff", "all", "a b", "replication", "postgres", None]

# What stands in the columns of random files.
DATABASE = ["all", '"all"', "ann", 'a"nn"', "sameuser", "samerole", "samegroup", "replication", '"replication"', "staff"]
DATABASE += ["@lists/bases", "ann, \tbob", 'ann,"a b"', "/^a", '"/[bf]$"', "all,replication", '"sameuser"', "/b,@lists/bases"]
USER = [
    "all",
    "ann",
    "bob",
    '"all"',
    "+staff",
    '"+staff"',
    "+crew,ann",
    "@lists/people",
    "/e",
    '"/^a b$"',
    "+",
    "@lists/none,eve",
]
ADDRESS = ["all", "127.0.0.1/32", "127.0.0.0/8", "127.0.0.4/30", "127.0.0.5 255.0.0.255", "127.9.1.1\t255.255.0.0", "0.0.0.0/0"]
ADDRESS += ["samehost", "samenet", "::/0", "10.0.0.0/8", '"127.0.0.2/32"', "127.0.0.1/31"]
METHOD = ["scram-sha-256"] * 4 + ["md5", "password", "trust", "reject", "reject", '"md5"']
LISTS = {
    "bases": "bob, # and\n\n  staff\n@more\n",
    "more": '"all" replication\n',
    "people": "+crew\n@none\n'x' eve,ann\n",
    "none": "# nobody\n",
}


@dataclasses.dataclass(frozen=True)
class Door:
    """A server, the ports by which one comes to it from each of SOURCES, and the kinds of connection it can have."""

    cluster: object
    ports: dict[str, int]
    kinds: list[str]

    @property
    def folder(self) -> pathlib.Path:
        return self.cluster.data

    def load(self, text: str) -> None:
        """Have the server load ``text``, in which it must find nothing to reject."""
        (self.folder / "pg_hba.conf").write_bytes(text.encode())
        with contextlib.closing(self.cluster.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT line_number, error FROM pg_hba_file_rules WHERE type IS NULL")
            assert cursor.fetchall() == [], text
            assert _connection.reload(cursor)

    def knock(self, connection: hba_match.Connection, password: str) -> tuple[str, int] | str:
        """Log in; return the file and the number of the line that decided, or reject, none or trust where it is not told."""
        log = self.cluster.folder / "log"
        start, words = log.stat().st_size, ""
        socket = connection.kind == "socket"
        try:
            psycopg2.connect(
                host=str(self.cluster.folder) if socket else "127.0.0.1",
                port=self.cluster.port if socket else self.ports[connection.address],
                user=connection.user,
                dbname=connection.database or "postgres",
                password=password,
                sslmode="require" if connection.kind == "tls" else "disable",
                **({} if connection.database else {"replication": "true"}),
            ).close()
        except psycopg2.Error as error:
            words = str(error)
        with log.open("rb") as stream:
            stream.seek(start)
            said = stream.read().decode()
        authenticated = re.search(r"connection authenticated: .*\((.+):(\d+)\)$", said, re.M)
        refused = re.search(r'Connection matched (?:pg_hba\.conf|file "(.+?)") line (\d+):', said)
        if authenticated or refused:
            path, line = (authenticated or refused).groups()
            return str(path or self.folder / "pg_hba.conf"), int(line)
        if "no pg_hba.conf entry" in words or "pg_hba.conf rejects" in words:
            return "none" if "no pg_hba" in words else "reject"
        return "trust"


@pytest.fixture
def door(cluster):
    """A Door with roles, lists of names and files to include; all of it is taken away afterwards."""
    before = (cluster.data / "pg_hba.conf").read_bytes()
    people = " ".join(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret';" for name in GROUPS)
    groups = " ".join(f'GRANT {group} TO "{name}";' for name, of in GROUPS.items() for group in of)
    cluster.rows(f"CREATE ROLE staff; CREATE ROLE crew IN ROLE staff; {people} {groups}")
    cluster.rows("CREATE DATABASE ann")
    cluster.set("log_connections", "on")
    # A list is looked for beside the file that names it, and says something else there.
    for folder, change in (("lists", str), ("hba.d/lists", lambda text: text.replace("eve", "bob"))):
        (cluster.data / folder).mkdir(parents=True)
        for name, text in LISTS.items():
            (cluster.data / folder / name).write_text(change(text))
    with contextlib.ExitStack() as stack:
        ports = {source: stack.enter_context(link.Link(cluster.port, source=source)).port for source in SOURCES}
        kinds = ["socket", "plain", *(["tls"] if encrypted(cluster) else [])]
        yield Door(cluster, ports, kinds)
    (cluster.data / "pg_hba.conf").write_bytes(before)
    for name in ["log_connections", *(["ssl"] if "tls" in kinds else [])]:
        cluster.set(name, "")
    for name in ("lists", "hba.d"):
        shutil.rmtree(cluster.data / name, ignore_errors=True)
    cluster.rows("DROP DATABASE ann")
    cluster.rows("DROP ROLE staff, crew, " + ", ".join(f'"{name}"' for name in GROUPS))


def encrypted(cluster) -> bool:
    """Have the server offer TLS with a certificate of its own; tell whether it was built to."""
    if not cluster.rows("SELECT 1 FROM pg_config WHERE setting LIKE '%%--with-%%ssl%%'"):
        return False
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    words += ["-keyout", "server.key", "-out", "server.crt"]
    subprocess.run(words, cwd=cluster.data, check=True, capture_output=True)
    (cluster.data / "server.key").chmod(0o600)
    if cluster.account:
        shutil.chown(cluster.data / "server.key", cluster.account)
    cluster.set("ssl", "on")
    return True


def line(chance: random.Random) -> str:
    """Return a random line that every server accepts, spelled in one of the ways there are."""
    kind = chance.choice(["local", "host", "host", "host", "hostnossl", "hostssl", "hostgssenc", "hostnogssenc"])
    columns = [DATABASE, USER, *([ADDRESS] if kind != "local" else [])]
    fields = [kind, *("all" if chance.random() < 0.4 else chance.choice(column) for column in columns), chance.choice(METHOD)]
    return chance.choice([" ", "\t", "  , ", " \\\n "]).join(fields) + chance.choice(["", "", " # why", "\r"]) + "\n"


def files(chance: random.Random, includes: bool) -> dict[str, str]:
    """Return random texts by path from the data directory: pg_hba.conf, and where ``includes`` what it includes."""
    lines, found = [line(chance) for _again in range(chance.randint(4, 20))], {}
    if includes and chance.random() < 0.6:
        more = ["hba.d/1.conf", "hba.d/2.conf", "hba.d/3.text", "hba.d/one"]
        found.update({path: line(chance) + line(chance) for path in more})
        found["hba.d/one"] += chance.choice(["", "include 3.text\n"])
        named = chance.choice(['include "hba.d/one"\n', "include_if_exists hba.d/nowhere\n", "include_dir\thba.d # all\n"])
        lines.insert(chance.randint(0, len(lines)), named)
    return {**found, "pg_hba.conf": ADMIN + "".join(lines)}


def someone(chance: random.Random, kinds: list[str], networks) -> hba_match.Connection:
    kind = chance.choice(kinds)
    address = "" if kind == "socket" else chance.choice(SOURCES)
    return hba_match.Connection(kind, chance.choice(DATABASES), chance.choice(USERS), address=address, name="", networks=networks)


def test_our_first_match_is_the_servers(door):
    told: dict[str, int] = dict.fromkeys(["line", "reject", "none", "trust"], 0)
    networks = host_addresses.networks()
    for number in range(FILES):
        chance = random.Random(f"{number} {door.cluster.major}")
        texts = files(chance, door.cluster.major >= 16)
        for path, text in texts.items():
            (door.folder / path).write_bytes(text.encode())
        door.load(texts["pg_hba.conf"])
        people = [someone(chance, door.kinds, networks) for _again in range(CONNECTIONS)]
        with contextlib.closing(door.cluster.connect()) as admin, admin.cursor() as cursor:
            ours = [expected(cursor, door, connection) for connection in people]
        for connection, (entry, said) in zip(people, ours):
            found = door.knock(connection, chance.choice(["secret", "secret", "wrong"]))
            assert said == found, (number, connection, texts, entry)
            told[found if isinstance(found, str) else "line"] += 1
    assert sum(told.values()) > 300 and told["line"] > 100 and min(told["reject"], told["none"]) > 5, told


def expected(cursor, door: Door, connection: hba_match.Connection):
    """Return the entry that decides by our reading, and what knock() must then return."""
    connection = dataclasses.replace(connection, roles=hba_server.roles(cursor, connection.user))
    entries = hba_match.entries(str(door.folder / "pg_hba.conf"), hba_server.files(cursor))
    entry = hba_match.first_match(entries, connection, hba_server.regex_search(cursor))
    if entry is None:
        return None, "none"
    assert entry.sure
    if entry.rule.method == "reject":
        return entry, "reject"
    # Servers before 17 do not say which line lets in without proof.
    named = entry.rule.method != "trust" or door.cluster.major >= 17
    return entry, (entry.path, entry.line.number) if named else "trust"


def test_a_host_name_counts_when_it_leads_to_the_client_and_back(door):
    """Where nobody knows the client's name, the line is one that may have decided."""
    name = host_addresses.client_name("127.0.0.1")
    assert name, "this machine has no name for its loopback address, as in /etc/hosts"
    door.load(ADMIN + f"host all eve {name.upper()} md5\nhost all all .example.org reject\nhost all ann 127.0.0.1/32 md5\n")
    ann, eve = (hba_match.Connection("plain", "ann", user, address="127.0.0.1") for user in ("ann", "eve"))
    with contextlib.closing(door.cluster.connect()) as admin, admin.cursor() as cursor:
        for connection, line_number in ((eve, 2), (ann, 4)):
            told = expected(cursor, door, dataclasses.replace(connection, name=name))[1]
            assert told == door.knock(connection, "secret") == (str(door.folder / "pg_hba.conf"), line_number)
        entries = hba_match.entries(str(door.folder / "pg_hba.conf"), hba_server.files(cursor))
        unsure = hba_match.first_match(entries, eve, hba_server.regex_search(cursor))
    assert (unsure.line.number, unsure.sure) == (2, False)


def test_this_hosts_own_addresses():
    assert "127.0.0.1/8" in map(str, host_addresses.networks())
