# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The first match: which line of the files decides about a connection. Held against real servers in tests/integration."""

import dataclasses
import ipaddress
import re

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_match
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

HOST = "/etc/pg/pg_hba.conf"
OWN = tuple(map(ipaddress.ip_interface, ("127.0.0.1/8", "10.1.2.3/24", "fe80::1/64")))
TLS = hba_match.Connection("tls", "synapse", "synapse", frozenset({"synapse", "staff"}), "10.1.2.9", "a.example.org", OWN)


def files(texts, version=160000):
    """Return how to read ``texts``: one, or several by path."""
    texts = {HOST: texts} if isinstance(texts, str) else texts

    def read(path):
        if path not in texts:
            raise FileNotFoundError(path)
        return texts[path]

    return hba_match.Files(
        version, read, lambda folder: [path[len(folder) + 1 :] for path in texts if path.startswith(f"{folder}/")]
    )


def decides(texts, version=160000, **change):
    """Return (path, line) of what decides about TLS, changed; None for nothing, and a minus where it is not sure."""
    connection = dataclasses.replace(TLS, **change)
    search = (lambda pattern, text: bool(re.search(pattern, text))) if version >= 160000 else None
    found = hba_match.first_match(hba_match.entries(HOST, files(texts, version)), connection, search)
    return found and (found.path, found.line.number if found.sure else -found.line.number)


@pytest.mark.parametrize(
    ("line", "change", "matches"),
    [
        ("local all all peer", {}, False),
        ("local all all peer", {"kind": "socket", "address": ""}, True),
        ("host all all all md5", {"kind": "socket", "address": ""}, False),
        ("hostssl all all all md5", {}, True),
        ("hostssl all all all md5", {"kind": "plain"}, False),
        ("hostssl all all all md5", {"kind": "gss"}, False),
        ("hostnossl all all all md5", {"kind": "gss"}, True),
        ("hostgssenc all all all md5", {}, False),
        ("hostgssenc all all all md5", {"kind": "gss"}, True),
        ("hostnogssenc all all all md5", {}, True),
        ("hostnogssenc all all all md5", {"kind": "gss"}, False),
        ("host synapse,a synapse all md5", {}, True),
        ("host a, synapse synapse all md5", {}, True),
        ("host Synapse all all md5", {}, False),
        ('host "all" all all md5', {}, False),
        ('host "all" all all md5', {"database": "all"}, True),
        ("host sameuser all all md5", {}, True),
        ("host sameuser all all md5", {"user": "eve"}, False),
        ("host samerole all all md5", {"database": "staff"}, True),
        ("host samegroup all all md5", {"database": "crew"}, False),
        ("host all all all md5", {"database": None}, False),
        ("host replication all all md5", {"database": None}, True),
        ("host replication all all md5", {"database": "replication"}, False),
        ('host "replication" all all md5', {"database": "replication"}, True),
        ("host /^syn,/x all all md5", {}, True),
        ("host /^s$ all all md5", {}, False),
        ('host all "/na" all md5', {}, True),
        ("host all +staff all md5", {}, True),
        ("host all +crew,+synapse all md5", {}, True),
        ("host all +crew all md5", {}, False),
        ('host all "+staff" all md5', {}, False),
        ("host all +synapse all md5", {"roles": frozenset()}, False),
        ("host all all 10.1.2.9/32 md5", {}, True),
        ("host all all 10.1.2.8/31 md5", {}, True),
        ("host all all 10.1.2.8/32 md5", {}, False),
        ("host all all 10.0.2.0 255.0.255.0 md5", {}, True),
        ("host all all ::/0 md5", {}, False),
        ("host all all 0.0.0.0/0 md5", {"address": "::1"}, False),
        ("host all all fe80::/10 md5", {"address": "fe80::2%eth0"}, True),
        ("host all all samehost md5", {}, False),
        ("host all all samehost md5", {"address": "10.1.2.3"}, True),
        ("host all all samenet md5", {}, True),
        ("host all all samenet md5", {"address": "10.1.3.9"}, False),
        ("host all all samenet md5", {"address": "10.1.3.9", "networks": None}, None),
        ("host all all A.Example.ORG md5", {}, True),
        ("host all all .example.org md5", {}, True),
        ("host all all .a.example.org md5", {}, False),
        ("host all all example.org md5", {}, False),
        ("host all all a.example.org md5", {"name": ""}, False),
        ("host all all a.example.org md5", {"name": None}, None),
        ("host all eve a.example.org md5", {"name": None}, False),
    ],
)
def test_whom_a_line_matches(line, change, matches):
    """``matches`` is None where that is not known."""
    assert decides(line, **change) == {True: (HOST, 1), False: None, None: (HOST, -1)}[matches]


def test_the_first_match_decides_and_what_is_no_line_does_not():
    text = "# all\n\nhost all \\\n eve all trust\nhost all\n# \\\nhost all all all trust\n"
    text += "host all synapse all reject # x\nhost all all all md5"
    assert decides(text) == (HOST, 8)
    assert decides(text, user="ann") == (HOST, 9)
    assert decides(text, kind="socket") is None
    assert decides("") is None


def test_before_16_a_slash_and_an_include_are_nothing_special():
    assert decides("host all /na all md5", version=150000) is None
    assert decides("host all /na all md5", version=150000, user="/na") == (HOST, 1)
    assert decides("include x\nhost all all all md5\n", version=150000) == (HOST, 2)


@pytest.mark.parametrize(
    ("line", "decided"),
    [
        ("include more.conf", ("/etc/pg/more.conf", 2)),
        ('"include" "/etc/pg/more.conf"', ("/etc/pg/more.conf", 2)),
        ("include_if_exists ../pg/more.conf", ("/etc/pg/more.conf", 2)),
        ("include_if_exists nowhere.conf", (HOST, 2)),
        ("include_dir conf.d", ("/etc/pg/conf.d/2.conf", 1)),
        ("include nested", ("/etc/pg/conf.d/2.conf", 1)),
    ],
)
def test_included_files_stand_where_they_are_named(line, decided):
    texts = {
        HOST: f"{line}\nhost all all all md5\n",
        "/etc/pg/more.conf": "# a\nhost all synapse all scram-sha-256\n",
        "/etc/pg/conf.d/.0.conf": "host all all all trust\n",
        "/etc/pg/conf.d/10.conf": "local all all peer\n",
        "/etc/pg/conf.d/2.conf": "host all synapse all reject\n",
        "/etc/pg/conf.d/1.old": "host all all all trust\n",
        "/etc/pg/nested": "include conf.d/2.conf\n",
    }
    assert decides(texts) == decided
    assert decides(texts, user="ann")[0] == HOST


@pytest.mark.parametrize(
    ("line", "matches"),
    [
        ("host @names all all md5", True),
        ("host all @names all md5", True),
        ('host "@names" all all md5', False),
        ("host all a,@conf.d/names,b all md5", True),
        ("host all @empty all md5", False),
        ("host all @empty,synapse all md5", True),
        ("@kind all all all md5", True),
    ],
)
def test_names_in_a_file_stand_where_the_file_is_named(line, matches):
    texts = {
        HOST: line,
        "/etc/pg/names": 'a, b # c\n\n"synapse" d\n',
        "/etc/pg/conf.d/names": "@../names\n",
        "/etc/pg/empty": "# nobody\n",
        "/etc/pg/kind": "host",
    }
    assert decides(texts) == ((HOST, 1) if matches else None)


def test_a_file_that_is_not_there_and_files_without_an_end_are_refused():
    with pytest.raises(FileNotFoundError):
        decides("include nowhere.conf")
    for line in ("include pg_hba.conf", "host all @pg_hba.conf all md5"):
        with pytest.raises(Refusal, match="include each other"):
            decides(line)
