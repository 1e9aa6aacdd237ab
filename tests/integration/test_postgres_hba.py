# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_hba against real servers: who may log in before and after, what is refused, what stays byte for byte."""

import contextlib
import ipaddress
import os
import pathlib
import time

import psycopg2
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba_file_rules, server_file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba import parse
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

ADMIN = "host all admin 127.0.0.1/32 scram-sha-256\n"
IDENT = "host all all ::1/128 ident\nhost all all 127.0.0.1/32 ident\n"
RULE = {"type": "host", "database": "postgres", "user": "synapse", "address": "127.0.0.1/32"}
LINE = "host    postgres        synapse         127.0.0.1/32            scram-sha-256\n"


class Hba:
    """The pg_hba.conf of a cluster, and what its server makes of it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.path = cluster.data / "pg_hba.conf"

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    def load(self, content: bytes) -> None:
        """Write ``content``, in which the server must find nothing to reject, and return when it has loaded it."""
        self.path.write_bytes(content)
        assert self.cluster.rows("SELECT line_number FROM pg_hba_file_rules WHERE type IS NULL") == []
        with contextlib.closing(self.cluster.connect()) as connection, connection.cursor() as cursor:
            assert _connection.reload(cursor)

    def login(self) -> str:
        """Return "in" when Synapse's role gets in with its password, or the server's words."""
        try:
            self.cluster.connect(user="synapse", password="secret").close()
        except psycopg2.OperationalError as error:
            return str(error)
        return "in"

    def reloads(self) -> int:
        return self.cluster.log().count("received SIGHUP")


@pytest.fixture
def hba(cluster):
    """The cluster's pg_hba.conf with a role ``synapse`` that has a SCRAM password; all is put back afterwards."""
    found = Hba(cluster)
    before = found.content
    cluster.rows("CREATE ROLE synapse LOGIN PASSWORD 'secret'")
    try:
        yield found
    finally:
        found.path.write_bytes(ADMIN.encode() + before)
        found.load(before)
        cluster.rows("DROP ROLE synapse")


def told(result) -> str:
    """Return the warnings of a module's result, which ansible-core hands over as text or, since 2.19, with more about each."""
    return " ".join(map(str, result.get("warnings", [])))


def options(hba, *rules, **others):
    return {**hba.cluster.login, "rules": list(rules or [RULE]), **others}


@pytest.mark.parametrize(
    "blocker",
    [
        IDENT,
        "host all all 127.0.0.1/32 reject\n",
        "hostnossl sameuser,postgres +synapse samehost reject\n",
        'host "postgres" all 127.0.0.0 255.0.0.0 \\\n  ident map=a\n',
        "hostssl all synapse 127.0.0.1/32 reject\n" + IDENT,
    ],
)
def test_the_password_logs_in_after_the_module_ran_and_not_before(hba, run, blocker):
    hba.load((ADMIN + blocker).encode())
    words = hba.login()
    assert "Ident authentication failed" in words or "rejects connection" in words
    result = run("postgres_hba", options(hba))
    assert result["changed"] and result["placed"][0]["action"] == "inserted", result
    assert hba.login() == "in"
    (row,) = hba.cluster.rows(
        "SELECT user_name FROM pg_hba_file_rules WHERE line_number = %s AND auth_method = 'scram-sha-256'",
        result["placed"][0]["line"],
    )
    assert row == (["synapse"],)
    assert hba.content.decode().replace(LINE, "", 1) == ADMIN + blocker


def test_a_rule_that_stands_too_late_is_moved(hba, run):
    hba.load((ADMIN + IDENT + "# Synapse:\n" + LINE).encode())
    assert "Ident authentication failed" in hba.login()
    result = run("postgres_hba", options(hba))
    assert result["placed"][0]["action"] == "moved" and hba.login() == "in"
    assert hba.content.decode() == ADMIN + IDENT.replace("host all all 127", LINE + "host all all 127") + "# Synapse:\n"


def test_md5_becomes_scram_in_place(hba, run):
    hba.load((ADMIN + "host postgres synapse 127.0.0.1/32 md5 # from 2014\n" + IDENT).encode())
    hba.cluster.rows("SET password_encryption = md5; ALTER ROLE synapse PASSWORD 'secret'")
    assert hba.login() == "in"
    result = run("postgres_hba", options(hba))
    assert result["placed"] == [{"rule": LINE.strip(), "line": 2, "action": "replaced"}]
    assert hba.content.decode() == ADMIN + "host postgres synapse 127.0.0.1/32 scram-sha-256 # from 2014\n" + IDENT
    assert "password authentication failed" in hba.login(), "an MD5 password must not do any more"
    hba.cluster.rows("ALTER ROLE synapse PASSWORD 'secret'")
    assert hba.login() == "in"


def test_a_second_run_changes_nothing_and_reloads_nothing(hba, run):
    hba.load((ADMIN + IDENT).encode())
    rules = [{**RULE, "type": "local", "address": None}, RULE, {**RULE, "address": "::1/128"}]
    assert run("postgres_hba", options(hba, *rules))["changed"]
    content, stood, reloads = hba.content, hba.path.stat(), hba.reloads()
    again = run("postgres_hba", options(hba, *rules))
    assert not again["changed"] and {item["action"] for item in again["placed"]} == {"present"}
    assert (hba.content, hba.path.stat().st_ino, hba.path.stat().st_mtime) == (content, stood.st_ino, stood.st_mtime)
    assert hba.reloads() == reloads > 0


def test_check_mode_tells_what_the_run_does_and_does_nothing(hba, run):
    hba.load((ADMIN + IDENT).encode())
    content, reloads = hba.content, hba.reloads()
    for state in ("present", "absent"):
        foretold = run("postgres_hba", options(hba, state=state), check=True)
        assert foretold["changed"] and hba.content == content and hba.reloads() == reloads
        done = run("postgres_hba", options(hba, state=state))
        keys = ("changed", "path", "placed", "diff")
        assert [foretold[key] for key in keys] == [done[key] for key in keys]
        assert done["diff"]["before"] == content.decode() and done["diff"]["after"] == hba.content.decode() != content.decode()
        assert not run("postgres_hba", options(hba, state=state), check=True)["changed"]
        content, reloads = hba.content, hba.reloads()


def test_absent_locks_out(hba, run):
    hba.load((ADMIN + LINE + IDENT + LINE.replace("scram-sha-256", "trust")).encode())
    assert hba.login() == "in"
    kept = run("postgres_hba", options(hba, {**RULE, "method": "md5"}, state="absent"))
    assert not kept["changed"] and kept["placed"][0]["action"] == "absent"
    result = run("postgres_hba", options(hba, state="absent"))
    assert result["placed"][0]["line"] == 2 and hba.content.decode() == ADMIN + IDENT
    assert "Ident authentication failed" in hba.login()


def test_owner_mode_and_odd_bytes_stay_and_a_backup_is_kept(hba, run):
    before = b"# \xff\xfe caf\xe9\r\n" + ADMIN.encode() + b"host caf\xe9 all 127.0.0.1/32 md5\r\n" + IDENT.encode()[:-1]
    hba.load(before)
    hba.path.chmod(0o640)
    stood = hba.path.stat()
    result = run("postgres_hba", options(hba, backup=True))
    assert hba.content == before.replace(b"host all all 127", LINE.encode() + b"host all all 127")
    now = hba.path.stat()
    assert (now.st_uid, now.st_gid, now.st_mode) == (stood.st_uid, stood.st_gid, stood.st_mode)
    backup = pathlib.Path(result["backup_file"])
    assert backup.read_bytes() == before and backup.stat().st_mode == stood.st_mode
    assert "backup_file" not in run("postgres_hba", options(hba, backup=True))
    backup.unlink()
    hba.path.chmod(0o600)


def test_a_link_stays_a_link(hba, run, tmp_path):
    hba.load((ADMIN + IDENT).encode())
    link = tmp_path / "pg_hba.conf"
    link.symlink_to(hba.path)
    result = run("postgres_hba", options(hba, path=str(link)))
    assert result["changed"] and link.is_symlink() and hba.login() == "in" and result["path"] == str(hba.path.resolve())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({**RULE, "options": {"clientcert": "verify-full"}}, "clientcert"),
        ({**RULE, "method": "peer"}, "peer authentication is only supported on local sockets"),
        ({**RULE, "options": {"colour": "blue"}}, "colour"),
        ({**RULE, "database": "@nowhere"}, "nowhere"),
    ],
)
def test_a_line_that_the_server_rejects_is_taken_back(hba, run, rule, words):
    hba.load((ADMIN + IDENT).encode())
    before, reloads, folder = hba.content, hba.reloads(), set(hba.path.parent.iterdir())
    stood = hba.path.stat()
    refused = run("postgres_hba", options(hba, rule, backup=True))
    assert refused["failed"] and "rejects line 3 of the new" in refused["msg"] and words in refused["msg"], refused
    now = hba.path.stat()
    assert hba.content == before and (now.st_uid, now.st_mode) == (stood.st_uid, stood.st_mode)
    assert hba.reloads() == reloads and set(hba.path.parent.iterdir()) == folder


def test_a_line_that_was_wrong_before_is_named_and_nothing_touched(hba, run):
    wrong = (ADMIN + IDENT + "# \xe9\nhost all all 10.0.0.0/40 md5\n").encode("latin-1")
    hba.path.write_bytes(wrong)
    for check in (True, False):
        for rules in ([RULE], [{**RULE, "user": "nobody", "method": "ident", "address": "192.0.2.1/32"}]):
            refused = run("postgres_hba", options(hba, *rules), check=check)
            assert refused["failed"] and "rejects line 5 of" in refused["msg"] and "/40" in refused["msg"], refused
    assert hba.content == wrong
    hba.path.write_bytes(ADMIN.encode() + b"host caf\xe9\n")
    assert "rejects line 2 of" in run("postgres_hba", options(hba))["msg"]


def test_a_wrong_line_of_ours_is_mended(hba, run):
    hba.path.write_text(ADMIN + LINE.replace("\n", " colour=blue\n") + IDENT)
    result = run("postgres_hba", options(hba))
    assert result["placed"][0]["action"] == "replaced" and hba.content.decode() == ADMIN + LINE + IDENT
    assert hba.login() == "in"


def test_a_file_that_the_server_includes(hba, run):
    other = hba.path.with_name("synapse_hba.conf")
    other.write_text("# here\n" + IDENT)
    hba.path.write_text(ADMIN + "include synapse_hba.conf\n")
    try:
        in_main, in_other = run("postgres_hba", options(hba), check=True), run("postgres_hba", options(hba, path=str(other)))
        if hba.cluster.major < 16:
            assert "rejects line 2" in in_main["msg"] and in_other["changed"] and "does not read" in told(in_other)
        else:
            assert in_main["placed"][0]["line"] == 2, "the included file could match first"
            assert in_other["placed"][0]["line"] == 3 and not told(in_other) and hba.login() == "in"
            assert not run("postgres_hba", options(hba, path=str(other)))["changed"]
            hba.path.write_text(ADMIN + "host all a all md5\n" + IDENT + "include synapse_hba.conf\n")
            behind = run("postgres_hba", options(hba, path=str(other)))
            assert told(behind).count("comes before") == 1 and f"Line 4 of {hba.path} comes before {other}" in told(behind)
    finally:
        other.unlink()


def test_a_file_of_nobodys_is_written_with_a_warning_only(hba, run, tmp_path):
    other = tmp_path / "pg_hba.conf"
    other.write_text(IDENT)
    reloads = hba.reloads()
    result = run("postgres_hba", options(hba, path=str(other)))
    assert result["changed"] and "does not read" in told(result) and hba.reloads() == reloads
    assert other.read_text() == IDENT.replace("host all all 127", LINE + "host all all 127")


def test_warnings_reach_the_user(hba, run):
    hba.load(("host postgres synapse 127.0.0.1/32 reject\n" + ADMIN + IDENT).encode())
    rules = [{**RULE, "user": "all", "method": "trust"}, {**RULE, "type": "hostssl", "address": "192.0.2.0/24"}]
    warnings = told(run("postgres_hba", options(hba, *rules)))
    for words in ("without any proof", "Line 1 (host postgres synapse 127.0.0.1/32 reject)", "hostssl record cannot match"):
        assert words in warnings
    assert "rejects connection" in hba.login(), "the administrator's exception still counts"


def test_a_whole_file_is_written_once_and_checked_like_any_other(hba, run):
    hba.load((ADMIN + IDENT + "# theirs\nhost all all 10.0.0.0/8 trust\n").encode())
    before, whole = hba.content, options(hba, content="# all of it\n" + ADMIN + "host all all all ident\n")
    foretold = run("postgres_hba", whole, check=True)
    assert foretold["changed"] and hba.content == before
    done = run("postgres_hba", whole)
    assert (
        done["diff"] == foretold["diff"] and hba.content.decode() == "# all of it\n" + ADMIN + LINE + "host all all all ident\n"
    )
    assert hba.login() == "in"
    again = run("postgres_hba", whole)
    assert not again["changed"] and again["placed"] == [{**done["placed"][0], "action": "present"}]
    refused = run("postgres_hba", options(hba, content=ADMIN + "host all all 10.0.0.0/40 md5\n"))
    assert refused["failed"] and "rejects line 3 of the new" in refused["msg"] and hba.login() == "in"
    hba.path.write_bytes(hba.content + b"host nobody\n")
    assert run("postgres_hba", {**whole, "rules": []})["changed"], "a line that was wrong is no obstacle when it goes"
    assert "Ident authentication failed" in hba.login()
    assert "one of the following is required: content, rules" in run("postgres_hba", hba.cluster.login)["msg"]


def test_secrets_of_other_lines_are_not_told(hba, run):
    other = 'host all eve 10.0.0.0/8 ldap ldapserver=x ldapbasedn="o=x" ldapbinddn=y ldapbindpasswd=hunter2\n'
    radius = "host all adam 10.0.0.0/8 radius radiusservers=127.0.0.1 radiussecrets=hunter2\n"
    hba.path.write_text(ADMIN + "# " + other + radius + IDENT)
    result = run("postgres_hba", options(hba))
    assert result["changed"] and "hunter2" not in result["output"] and b"hunter2" in hba.content


def test_who_may_ask_the_server(hba, run):
    hba.load(ADMIN.encode() + b"host all keeper 127.0.0.1/32 scram-sha-256\n" + IDENT.encode())
    rows = hba.cluster.rows
    rows("CREATE ROLE keeper LOGIN PASSWORD 'keeper'")
    try:
        keeper = options(hba, login_user="keeper", login_password="keeper")
        before = hba.content
        refused = run("postgres_hba", keeper)
        assert refused["failed"] and "superuser" in refused["msg"] and hba.content == before
        rows("GRANT pg_read_all_settings TO keeper; GRANT SELECT ON pg_hba_file_rules TO keeper")
        rows("GRANT EXECUTE ON FUNCTION pg_hba_file_rules(), pg_reload_conf() TO keeper")
        assert run("postgres_hba", keeper)["changed"] and hba.login() == "in"
    finally:
        rows("DROP OWNED BY keeper; DROP ROLE keeper")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rules": [{**RULE, "address": None}]}, "no address"),
        ({"rules": [RULE, {**RULE, "address": "10.0.0.0/33"}]}, "Rule 2 has the address"),
        ({"rules": [RULE, {**RULE, "user": "a\nhost all all all trust"}]}, "line end"),
        ({"rules": [RULE, {**RULE, "method": "md5"}]}, "would never be used"),
        ({"rules": [{**RULE, "method": "scram"}]}, "value of method must be one of"),
        ({"rules": [{**RULE, "type": "tcp"}]}, "value of type must be one of"),
        ({"path": "/nowhere/pg_hba.conf"}, "/nowhere/pg_hba.conf: No such file or directory"),
        ({"login_password": "wrong"}, "Check login_user and login_password"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(hba, run, change, words):
    hba.load((ADMIN + IDENT).encode())
    before = hba.content
    for check in (True, False):
        refused = run("postgres_hba", {**options(hba), **change}, check=check)
        assert refused.get("failed") and words in refused["msg"], refused
    assert hba.content == before


def test_a_file_that_is_not_the_servers_is_recognised(hba):
    hba.load((ADMIN + IDENT).encode())
    path = str(hba.path.resolve())
    with contextlib.closing(hba.cluster.connect()) as connection, connection.cursor() as cursor:
        rows = hba_file_rules.rows(cursor)
    hba_file_rules.require_same_file(rows, path, ADMIN + IDENT, "here")
    for text in (ADMIN, ADMIN + IDENT + LINE, "\n" + ADMIN + IDENT, (ADMIN + IDENT).replace("ident", "md5")):
        with pytest.raises(Refusal, match="the server's own host"):
            hba_file_rules.require_same_file(rows, path, text, "here")


def test_a_file_of_somebody_elses_would_change_hands_and_is_refused():
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(Refusal, match="belongs to the user with the number 0"):
            server_file.require_owner("/etc/passwd")
    finally:
        if root:
            os.seteuid(0)
    server_file.require_owner(__file__)


# What the columns may hold, written in every way that the manual's section 21.1 and hba.c allow.
ODD = r"""# a comment that goes on \
host all all all trust
local all all ident{tab}# peer, in fact
local all \
  all \
{tab}peer map=a
"local" a"ll", "b""c" "+x",+"y z" md5#close
local a,b , c peer
local "",d,,e all,f peer
local "a b" "c,d" md5
host all all 127.1 255.0.0.0 md5
host all all 010.0.0.1/32 md5
host all all fe80::1/64 md5
host all all ::ffff:1.2.3.4/128 reject
host all all "samehost" md5
host all all .Example.org md5
host samerole,samegroup /^x samenet trust
hostnossl replication all all ident map="a, b"
host all all 10.0.0.0{tab}255.0.255.0{tab}md5
host all all 127.0.0.1/32 reject
""".replace("{tab}", "\t")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_our_reading_of_a_file_is_the_servers(hba, newline):
    text = (ADMIN + ODD + "# the end is a backslash \\").replace("\n", newline)
    hba.path.write_bytes(text.encode())
    query = "SELECT line_number, type, database, user_name, address, netmask, auth_method, error FROM pg_hba_file_rules"
    theirs = hba.cluster.rows(query)
    assert [row for row in theirs if row[7]] == []
    assert [row[:7] for row in theirs] == [read(line) for line in parse(text) if line.fields]


def read(line) -> tuple:
    """Return our reading of a line in the shape of the server's: names and address without their quotes."""
    rule = line.rule
    names = [[token.text for token in field] for field in line.fields[1:3]]
    address = mask = None
    if rule.address and rule.address.kind == "net":
        make = ipaddress.IPv4Address if rule.address.mask < 2**32 else ipaddress.IPv6Address
        numeric = line.fields[3][0].text.partition("/")[0]
        address = {"127.1": "127.0.0.1", "010.0.0.1": "8.0.0.1"}.get(numeric, numeric)
        assert rule.address.base == int(make(address)) & rule.address.mask
        mask = str(make(rule.address.mask))
    elif rule.address:
        address = rule.address.text
    method = "peer" if (rule.type, rule.method) == ("local", "ident") else rule.method
    return line.number, rule.type, *names, address, mask, method


def test_a_reload_is_waited_for(hba):
    hba.path.write_text(ADMIN + LINE + IDENT)
    with contextlib.closing(hba.cluster.connect()) as connection, connection.cursor() as cursor:
        began = time.monotonic()
        assert _connection.reload(cursor)
    assert hba.login() == "in" and time.monotonic() - began < _connection.RELOAD_SECONDS
