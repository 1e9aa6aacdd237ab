# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_hba.conf: changed no further than asked, and rules placed where they count."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba, hba_match, hba_option, hba_placing
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

LOCAL = {"type": "local", "database": "synapse", "user": "synapse"}
HOST = {"type": "host", "database": "synapse", "user": "synapse", "address": "127.0.0.1/32"}
SIX = {**HOST, "address": "::1/128"}
TLS = {**HOST, "type": "hostssl"}
WIDE = {"type": "host", "address": "10.0.0.0/8"}

L = "local   synapse         synapse                                 scram-sha-256\n"
H = "host    synapse         synapse         127.0.0.1/32            scram-sha-256\n"
S = "host    synapse         synapse         ::1/128                 scram-sha-256\n"
T = "hostssl synapse         synapse         127.0.0.1/32            scram-sha-256\n"
W = "host    all             all             10.0.0.0/8              scram-sha-256\n"
E5 = "host all eve 10.0.0.5/32"
IDENT = "host all all 127.0.0.1/32 ident\n"
FEDORA = "# TYPE DATABASE\nlocal all all peer\n# IPv4:\nhost all all 127.0.0.1/32 ident\n# IPv6:\nhost all all ::1/128 ident\n"


def case(name, before, rules, after, *actions):
    return pytest.param(before, rules, after, list(actions), id=name)


PRESENT = [
    case("empty file", "", [HOST], H, "inserted"),
    case("only comments", "# a\n\n# b\n", [HOST], "# a\n\n# b\n" + H, "inserted"),
    case("no final newline", "# a", [HOST], "# a\n" + H, "inserted"),
    case("no final newline stays", "host all all all md5", [HOST], H + "host all all all md5", "inserted"),
    case("before the ident line", "# a\n" + IDENT, [HOST], "# a\n" + H + IDENT, "inserted"),
    case(
        "not before other addresses",
        "host all all ::1/128 ident\n" + IDENT,
        [HOST],
        f"host all all ::1/128 ident\n{H}{IDENT}",
        "inserted",
    ),
    case(
        "three for one role",
        FEDORA,
        [LOCAL, HOST, SIX],
        FEDORA.replace("local", L + "local")
        .replace("host all all 1", H + "host all all 1")
        .replace("host all all :", S + "host all all :"),
        "inserted",
        "inserted",
        "inserted",
    ),
    case("given order is kept", FEDORA, [SIX, HOST, LOCAL], FEDORA.replace("local", S + H + L + "local"), *["inserted"] * 3),
    case("given order at the end", "# a\n", [SIX, LOCAL, HOST], "# a\n" + S + L + H, *["inserted"] * 3),
    case("present, other spacing", "host\tsynapse   synapse 127.0.0.1/32\tscram-sha-256 # x\n" + IDENT, [HOST], None, "present"),
    case("present, mask of its own", "host synapse synapse 127.0.0.1 255.255.255.255 scram-sha-256\n", [HOST], None, "present"),
    case("present, in quotes", 'host "synapse" syn"apse" "127.0.0.1/32" scram-sha-256\n', [HOST], None, "present"),
    case("present, continued", "host synapse \\\n synapse 127.0.0.1/32\\\n scram-sha-256\n" + IDENT, [HOST], None, "present"),
    case(
        "present, list in other order",
        "host b,a synapse ::1/128 md5",
        [{**SIX, "database": "a, b", "method": "md5"}],
        None,
        "present",
    ),
    case("present, host bits", "host all all 10.1.2.3/8 scram-sha-256\n", [WIDE], None, "present"),
    case("present, ident on a socket is peer", "local synapse synapse ident\n", [{**LOCAL, "method": "peer"}], None, "present"),
    case("duplicates behind stay", H + IDENT + H, [HOST], None, "present"),
    case("same effect before is no obstacle", "host all all all scram-sha-256\n" + H + IDENT, [HOST], None, "present"),
    case(
        "shadowed is moved with its comment", f"{IDENT}{H[:-1]} # mine\n# z\n", [HOST], f"{H[:-1]} # mine\n{IDENT}# z\n", "moved"
    ),
    case("shadowed twice", IDENT + H + "# z\n" + H, [HOST], H + IDENT + "# z\n", "moved"),
    case("shadowed, last without newline", IDENT + H[:-1], [HOST], H + IDENT, "moved"),
    case(
        "shadowed and old",
        IDENT + "host synapse synapse 127.0.0.1/32 md5 # x\n",
        [HOST],
        "host synapse synapse 127.0.0.1/32 scram-sha-256 # x\n" + IDENT,
        "moved",
    ),
    case(
        "md5 to scram in place",
        "host synapse synapse 127.0.0.1/32   md5   # x\n" + IDENT,
        [HOST],
        "host synapse synapse 127.0.0.1/32   scram-sha-256   # x\n" + IDENT,
        "replaced",
    ),
    case(
        "options go in place",
        "local synapse synapse peer map=a  user=b#x",
        [LOCAL],
        "local synapse synapse scram-sha-256#x",
        "replaced",
    ),
    case(
        "options come in place",
        "local synapse synapse peer\n",
        [{**LOCAL, "method": "peer", "options": {"map": "a b"}}],
        'local synapse synapse peer map="a b"\n',
        "replaced",
    ),
    case(
        "in place takes the copy behind",
        "host synapse synapse 127.0.0.1/32 md5\n" + H,
        [HOST],
        "host synapse synapse 127.0.0.1/32 scram-sha-256\n",
        "replaced",
    ),
    case(
        "method on a continuation",
        "local synapse synapse \\\n  md5\\\n # x\n",
        [LOCAL],
        "local synapse synapse \\\n  scram-sha-256\\\n # x\n",
        "replaced",
    ),
    case(
        "reject of a part stays in front",
        "host synapse synapse 127.0.0.1/32 reject\n" + IDENT,
        [{**HOST, "address": "127.0.0.0/8"}],
        "host synapse synapse 127.0.0.1/32 reject\n" + H.replace("0.1/32", "0.0/8 ") + IDENT,
        "inserted",
    ),
    case(
        "reject of as much does not",
        "host all all 127.0.0.1/32 reject\n",
        [HOST],
        H + "host all all 127.0.0.1/32 reject\n",
        "inserted",
    ),
    case(
        "narrower but no reject does not",
        "host synapse synapse 10.0.0.1/32 md5\n",
        [WIDE],
        W + "host synapse synapse 10.0.0.1/32 md5\n",
        "inserted",
    ),
    case(
        "order does not pass a guard",
        "local all all peer\nhost all eve 10.0.0.1/32 reject\n",
        [WIDE, LOCAL],
        f"{L}local all all peer\nhost all eve 10.0.0.1/32 reject\n{W}",
        "inserted",
        "inserted",
    ),
    case(
        "before an include", "# x\ninclude other.conf\n" + IDENT, [HOST], "# x\n" + H + "include other.conf\n" + IDENT, "inserted"
    ),
    case("before a regex", "host /^syn all 127.0.0.1/32 md5\n", [HOST], H + "host /^syn all 127.0.0.1/32 md5\n", "inserted"),
    case(
        "before a quoted regex",
        'host "/^syn" all 127.0.0.1/32 md5\n',
        [HOST],
        H + 'host "/^syn" all 127.0.0.1/32 md5\n',
        "inserted",
    ),
    case("before a group", "host all +staff 127.0.0.1/32 md5\n", [HOST], H + "host all +staff 127.0.0.1/32 md5\n", "inserted"),
    case(
        "not before a role named like a group",
        'host all "+staff" 127.0.0.1/32 md5\n',
        [HOST],
        'host all "+staff" 127.0.0.1/32 md5\n' + H,
        "inserted",
    ),
    case(
        "before names in a file", "host @dbs all 127.0.0.1/32 md5\n", [HOST], H + "host @dbs all 127.0.0.1/32 md5\n", "inserted"
    ),
    case("before a host name", "host all all db.example.org md5\n", [HOST], H + "host all all db.example.org md5\n", "inserted"),
    case("before samenet", "host sameuser all samenet md5\n", [HOST], H + "host sameuser all samenet md5\n", "inserted"),
    case("before what nobody can read", "host all\n", [HOST], H + "host all\n", "inserted"),
    case(
        "host names apart",
        "host all all a.example.org md5\n",
        [{**HOST, "address": "b.example.org"}],
        "host all all a.example.org md5\n" + H.replace("127.0.0.1/32 ", "b.example.org"),
        "inserted",
    ),
    case(
        "host name in a domain",
        "host all all .Example.org md5\n",
        [{**HOST, "address": "b.example.org"}],
        H.replace("127.0.0.1/32 ", "b.example.org") + "host all all .Example.org md5\n",
        "inserted",
    ),
    case(
        "replication is no database",
        "host replication all all md5\n",
        [{**HOST, "database": "all"}],
        "host replication all all md5\n" + H.replace("synapse ", "all     ", 1),
        "inserted",
    ),
    case(
        "a database named replication",
        'host "replication" all all md5\n',
        [HOST],
        'host "replication" all all md5\n' + H,
        "inserted",
    ),
    case(
        "a database named all",
        'host "all" all all md5\n',
        [{**HOST, "database": '"all"'}],
        'host    "all"           synapse         127.0.0.1/32            scram-sha-256\nhost "all" all all md5\n',
        "inserted",
    ),
    case(
        "TLS and GSSAPI exclude each other", "hostgssenc all all all gss\n", [TLS], "hostgssenc all all all gss\n" + T, "inserted"
    ),
    case(
        "TLS and no TLS exclude each other",
        "hostnossl all all all reject\n",
        [TLS],
        "hostnossl all all all reject\n" + T,
        "inserted",
    ),
    case("host meets hostssl", "hostssl all all all cert\n", [HOST], H + "hostssl all all all cert\n", "inserted"),
    case(
        "sockets meet sockets only",
        "host all all all md5\nlocal all all peer\n",
        [LOCAL],
        "host all all all md5\n" + L + "local all all peer\n",
        "inserted",
    ),
    case("CRLF", "# a\r\n" + IDENT.replace("\n", "\r\n"), [HOST], "# a\r\n" + (H + IDENT).replace("\n", "\r\n"), "inserted"),
    case("a continued comment hides the next line", "# a \\\n" + IDENT, [HOST], "# a \\\n" + IDENT + H, "inserted"),
    case("a continuation that never comes", "# a \\", [HOST], "# a \\\n\n" + H, "inserted"),
    case(
        "odd bytes",
        "# \udcff\nhost all all all md5 # \x0b\u2028 \udcfe\n",
        [HOST],
        "# \udcff\n" + H + "host all all all md5 # \x0b\u2028 \udcfe\n",
        "inserted",
    ),
    case(
        "names with blanks, commas, quotes",
        "",
        [{**LOCAL, "database": 'my db, "a,b",c"d', "user": "+my group,@a file,#x"}],
        'local   "my db","a,b","c""d" +"my group",@"a file","#x"                         scram-sha-256\n',
        "inserted",
    ),
    case("given twice", "", [HOST, HOST], H, "inserted", "inserted"),
    case("tabs", "host\tall\tall\t127.0.0.1/32\tident\n", [HOST], H + "host\tall\tall\t127.0.0.1/32\tident\n", "inserted"),
    case(
        "a mask in its own column",
        "host all all 127.0.0.0 255.0.0.0 ident\n",
        [HOST],
        H + "host all all 127.0.0.0 255.0.0.0 ident\n",
        "inserted",
    ),
    case(
        "a mask that leaves it out",
        "host all all 127.0.0.2 255.255.255.254 ident\n" + IDENT,
        [HOST],
        "host all all 127.0.0.2 255.255.255.254 ident\n" + H + IDENT,
        "inserted",
    ),
    case(
        "a mask with a hole",
        "host all all 127.0.9.1 255.255.0.255 ident\n",
        [HOST],
        H + "host all all 127.0.9.1 255.255.0.255 ident\n",
        "inserted",
    ),
    case("a list that names it", "host a, synapse all all md5\n", [HOST], H + "host a, synapse all all md5\n", "inserted"),
    case("a list that does not", "host a,b all all md5\n", [HOST], "host a,b all all md5\n" + H, "inserted"),
    case("a list of users", "host all a,b,synapse all md5\n", [HOST], H + "host all a,b,synapse all md5\n", "inserted"),
    case(
        "the second blocker only",
        "host all a all md5\nhost b all all md5\nhost all all all md5\n",
        [HOST],
        "host all a all md5\nhost b all all md5\n" + H + "host all all all md5\n",
        "inserted",
    ),
    case(
        "below a comment of the blocker's",
        "local all all peer\n# everybody:\nhost all all all md5\n",
        [HOST],
        "local all all peer\n# everybody:\n" + H + "host all all all md5\n",
        "inserted",
    ),
    case(
        "before a blocker that is continued",
        "host all \\\n all all \\\n md5\n",
        [HOST],
        H + "host all \\\n all all \\\n md5\n",
        "inserted",
    ),
    case("sameuser may be it", "host sameuser all all md5\n", [HOST], H + "host sameuser all all md5\n", "inserted"),
    case(
        "sameuser is not it for another name",
        "host sameuser all all md5\n",
        [{**HOST, "user": "matrix"}],
        "host sameuser all all md5\n" + H.replace("synapse         127", "matrix          127"),
        "inserted",
    ),
    case("samerole may be it", "host samerole all all md5\n", [HOST], H + "host samerole all all md5\n", "inserted"),
    case("samehost may be it", "host all all samehost md5\n", [HOST], H + "host all all samehost md5\n", "inserted"),
    case(
        "quoted sameuser is a name",
        'host "sameuser" all all md5\n',
        [HOST],
        'host "sameuser" all all md5\n' + H,
        "inserted",
    ),
    case("quoted all is a name", 'host all "all" all md5\n', [HOST], 'host all "all" all md5\n' + H, "inserted"),
    case("quoted @ is a name", 'host "@dbs" all all md5\n', [HOST], 'host "@dbs" all all md5\n' + H, "inserted"),
    case("a list with a file", "host a,@dbs all all md5\n", [HOST], H + "host a,@dbs all all md5\n", "inserted"),
    case("a regex among users", "host all a,/^s all md5\n", [HOST], H + "host all a,/^s all md5\n", "inserted"),
    case("IPv4 is not IPv6", "host all all 0.0.0.0/0 md5\n", [SIX], "host all all 0.0.0.0/0 md5\n" + S, "inserted"),
    case("all addresses are both", "host all all all md5\n", [SIX], S + "host all all all md5\n", "inserted"),
    case(
        "IPv6 written long",
        "host all all 0:0:0:0:0:0:0:1/128 md5\n",
        [SIX],
        S + "host all all 0:0:0:0:0:0:0:1/128 md5\n",
        "inserted",
    ),
    case("before include_if_exists", "include_if_exists x\n", [HOST], H + "include_if_exists x\n", "inserted"),
    case(
        "before include_dir",
        'host a a all md5\n"include_dir" x\n',
        [HOST],
        "host a a all md5\n" + H + '"include_dir" x\n',
        "inserted",
    ),
    case("moved before an include", "include x\n# ours\n" + H, [HOST], H + "include x\n# ours\n", "moved"),
    case(
        "a name that looks like an include",
        "host include all all md5\n",
        [HOST],
        "host include all all md5\n" + H,
        "inserted",
    ),
    case("gss is not TLS", "hostgssenc all all all gss\n", [TLS], "hostgssenc all all all gss\n" + T, "inserted"),
    case("not gss may be TLS", "hostnogssenc all all all md5\n", [TLS], T + "hostnogssenc all all all md5\n", "inserted"),
    case(
        "types side by side",
        "hostssl synapse synapse 127.0.0.1/32 cert\n" + IDENT,
        [{**HOST, "type": "hostnossl"}],
        "hostssl synapse synapse 127.0.0.1/32 cert\nhostnossl synapse         synapse         127.0.0.1/32            "
        "scram-sha-256\n" + IDENT,
        "inserted",
    ),
    case(
        "addresses side by side",
        H + "host all all all ident\n",
        [HOST, {**HOST, "address": "10.0.0.5/32"}],
        H + H.replace("127.0.0.1/32", "10.0.0.5/32 ") + "host all all all ident\n",
        "present",
        "inserted",
    ),
    case(
        "another effect by an option",
        "host synapse synapse 127.0.0.1/32 md5 clientcert=verify-ca\n",
        [{**HOST, "method": "md5"}],
        "host synapse synapse 127.0.0.1/32 md5\n",
        "replaced",
    ),
    case(
        "a general reject comes after it",
        "host all all 0.0.0.0/0 reject\n",
        [HOST],
        H + "host all all 0.0.0.0/0 reject\n",
        "inserted",
    ),
    case(
        "a reject of a part by type stays in front",
        "hostnossl synapse synapse 127.0.0.1/32 reject\nhost all all all md5\n",
        [HOST],
        "hostnossl synapse synapse 127.0.0.1/32 reject\n" + H + "host all all all md5\n",
        "inserted",
    ),
    case(
        "behind a reject of a part, where its rival is taken by another one",
        f"{E5[:-4]}4/30 reject\n{E5} ident\n{E5[:-4]}9/32 reject\nhost all all all md5\n",
        [WIDE],
        f"{E5[:-4]}4/30 reject\n{E5} ident\n{E5[:-4]}9/32 reject\n{W}host all all all md5\n",
        "inserted",
    ),
    case(
        "behind a reject of a part, where what its rival could take has the rule's effect already",
        f"host all all 10.0.0.5/32 scram-sha-256\n{E5} ident\n{E5[:-4]}6/32 reject\nhost all all all md5\n",
        [WIDE],
        f"host all all 10.0.0.5/32 scram-sha-256\n{E5} ident\n{E5[:-4]}6/32 reject\n{W}host all all all md5\n",
        "inserted",
    ),
    case(
        "before a reject of a part that only a rival's place would spare",
        f"host all all 10.0.0.5/32 ident\n{E5[:-4]}6/32 reject\n",
        [WIDE],
        f"{W}host all all 10.0.0.5/32 ident\n{E5[:-4]}6/32 reject\n",
        "inserted",
    ),
    case(
        "narrow reject given first",
        IDENT,
        [{**HOST, "method": "reject"}, {**HOST, "user": "all"}],
        "host    synapse         synapse         127.0.0.1/32            reject\n"
        + H.replace("synapse  ", "all      ").replace("all     ", "synapse ", 1)
        + IDENT,
        "inserted",
        "inserted",
    ),
]

ABSENT = [
    case("every method", "# a\n" + H + "host synapse synapse 127.0.0.1/32 md5\n" + IDENT, [HOST], "# a\n" + IDENT, "removed"),
    case("one method", H + "host synapse synapse 127.0.0.1/32 md5\n", [{**HOST, "method": "md5"}], H, "removed"),
    case(
        "one option",
        "local a a peer map=x\nlocal a a peer\n",
        [{**LOCAL, "database": "a", "user": "a", "options": {"map": "x"}}],
        "local a a peer\n",
        "removed",
    ),
    case("none", IDENT + L, [HOST, TLS], IDENT + L, "absent", "absent"),
    case(
        "the last, without newline",
        IDENT + "host synapse synapse 127.0.0.1/32 \\\n md5",
        [HOST, LOCAL],
        IDENT,
        "removed",
        "absent",
    ),
    case(
        "only the very same address",
        "host synapse synapse 127.0.0.0/8 md5\n",
        [HOST],
        "host synapse synapse 127.0.0.0/8 md5\n",
        "absent",
    ),
]


def wished(rules, complete=True):
    return [hba_option.rule(rule, position, complete) for position, rule in enumerate(rules, 1)]


@pytest.mark.parametrize(("before", "rules", "after", "actions"), PRESENT)
def test_place(before, rules, after, actions):
    outcome = hba_placing.place(before, wished(rules))
    assert outcome.text == (before if after is None else after)
    assert [item.action for item in outcome.placed] == actions
    again = hba_placing.place(outcome.text, wished(rules))
    assert again.text == outcome.text and {item.action for item in again.placed} == {"present"}
    assert [item.line for item in again.placed] == [item.line for item in outcome.placed]


def test_the_expected_place_is_known_for_many_files():
    assert len({(case.values[0], str(case.values[1])) for case in PRESENT}) >= 80


@pytest.mark.parametrize(("before", "rules", "after", "actions"), ABSENT)
def test_remove(before, rules, after, actions):
    outcome = hba_placing.remove(before, wished(rules, complete=False))
    assert (outcome.text, [item.action for item in outcome.placed]) == (after, actions)
    assert hba_placing.remove(outcome.text, wished(rules, complete=False)).text == outcome.text


@pytest.mark.parametrize(
    ("text", "rules", "words"),
    [
        ("", [{**HOST, "method": "trust"}], ["without any proof"]),
        (H.replace("scram-sha-256", "trust"), [{**HOST, "method": "trust"}], ["without any proof"]),
        ("host all eve 10.0.0.1/32 reject\n", [WIDE], ["Line 1 (host all eve 10.0.0.1/32 reject) rejects a part"]),
        ("# x\nhost all eve 10.0.0.1/32 md5\n", [WIDE], ["Line 3 (host all eve 10.0.0.1/32 md5) is out of use"]),
        ("host all eve all reject\n", [WIDE], ["Line 2 (host all eve all reject) may have rejected"]),
        ("host all all all reject\n", [WIDE], []),
        (
            f"host all all 10.0.0.5/32 ident\n{E5} reject\n{E5[:-4]}6/32 reject\n",
            [WIDE],
            [
                "Line 2 (host all all 10.0.0.5/32 ident) is out of use",
                "Line 4 (host all eve 10.0.0.6/32 reject) may have rejected",
            ],
        ),
        (
            f"{E5[:-4]}4/30 reject\n{E5} ident\n{E5[:-4]}9/32 reject\nhost all all all md5\n",
            [WIDE],
            [
                "Line 1 (host all eve 10.0.0.4/30 reject) rejects a part",
                "Line 3 (host all eve 10.0.0.9/32 reject) rejects a part",
            ],
        ),
        (IDENT, [HOST], []),
    ],
)
def test_warnings(text, rules, words):
    found = hba_placing.place(text, wished(rules)).warnings
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found))


def test_a_rule_that_another_one_hides_is_refused():
    with pytest.raises(Refusal, match=r"Rule 2 .* never be used: rule 1 "):
        hba_placing.place("", wished([{**HOST, "user": "all"}, {**HOST, "method": "reject"}]))
    with pytest.raises(Refusal, match="never be used"):
        hba_placing.place("", wished([HOST, {**HOST, "method": "md5"}]))


def test_a_nul_in_the_file_is_refused_with_its_line():
    with pytest.raises(Refusal, match="Line 2 "):
        hba_placing.place("a\nb\0c\n", wished([HOST]))


# A busy machine takes its time for one example or another.
at_leisure = settings(deadline=None)

# Files: lines made of what the field's lines are made of, and any bytes at all.
DATABASES = ["all", "synapse", "a", '"all"', "replication", "sameuser", "samerole", "/^s", "a,synapse", "b,/^a", "@f"]
USERS = ["all", "synapse", "a", "+g", '"+g"', "a,synapse", "/x", '"/^a"']
ADDRESSES = [
    "all",
    "127.0.0.1/32",
    "127.0.0.0/8",
    "10.0.0.1 255.0.255.0",
    "10.0.0.0/8",
    "::1/128",
    "::/0",
    "samehost",
    "samenet",
    "a.b.c",
    ".b.c",
]
KINDS = ["host", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"]
METHODS = ["md5", "scram-sha-256", "reject", "trust", "peer map=x"]
lines = st.one_of(
    st.builds(" ".join, st.tuples(st.just("local"), *map(st.sampled_from, (DATABASES, USERS, METHODS)))),
    st.builds(
        " ".join,
        st.tuples(*map(st.sampled_from, (KINDS, DATABASES, USERS, ADDRESSES, METHODS))),
    ),
    st.sampled_from(["include f", "include_if_exists nowhere", "include_dir d"]),
    st.sampled_from(["", "# c", "host all", "# c \\", '"', "local synapse \\\n synapse md5 # x"]),
)
files = st.builds(
    lambda ended, last: "".join(line + end for line, end in ended) + last,
    st.lists(st.tuples(lines, st.sampled_from(["\n", "\n", "\r\n", " \\\n"])), max_size=8),
    st.one_of(st.just(""), lines),
)
single = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("local"),
            "database": st.sampled_from(DATABASES),
            "user": st.sampled_from(USERS),
            "method": st.sampled_from(["md5", "reject", "trust"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["host", "hostssl", "hostnossl"]),
            "database": st.sampled_from(DATABASES),
            "user": st.sampled_from(USERS),
            "address": st.sampled_from([address for address in ADDRESSES if " " not in address]),
            "method": st.sampled_from(["md5", "scram-sha-256", "reject"]),
        }
    ),
)


@at_leisure
@given(files, st.lists(single, min_size=1, max_size=3))
def test_placing_twice_is_placing_once_and_no_other_line_is_touched(text, rules):
    try:
        rules = wished(rules)
        outcome = hba_placing.place(text, rules)
    except Refusal as refusal:
        assert "would never be used" in str(refusal)
        return
    again = hba_placing.place(outcome.text, rules)
    assert again.text == outcome.text and {item.action for item in again.placed} == {"present"}
    selectors = [rule.selector for rule in rules]

    def others(content):
        return [
            line.raw.strip()
            for line in hba.parse(content)
            if line.raw.strip() and not (line.rule and line.rule.selector in selectors)
        ]

    assert others(outcome.text) == others(text)


# People at the door, and what else the lines above name: an included file, a list of names.
PEOPLE = [
    hba_match.Connection(kind, database, user, frozenset({user, "g"} if user == "a" else {user}), address, name, ())
    for kind, address, name in (("socket", "", ""), ("tls", "127.0.0.1", "a.b.c"), ("plain", "10.9.0.1", ""), ("gss", "::1", ""))
    for database in ("synapse", "a", "all", None)
    for user in ("synapse", "a", "x")
]


def decider(text, connection):
    """Return the entry that decides about ``connection``."""
    texts = {
        "/pg/hba": text,
        "/pg/f": "host all a 10.0.0.0/8 reject\nlocal all all trust\n",
        "/pg/d/1.conf": "host all x all md5",
    }

    def read(path):
        if path not in texts:
            raise FileNotFoundError(path)
        return texts[path]

    entries = hba_match.entries("/pg/hba", hba_match.Files(160000, read, lambda folder: ["0", "1.conf"]))
    return hba_match.first_match(entries, connection, lambda pattern, found: bool(re.search(pattern, found)))


@at_leisure
@given(files, single)
def test_a_placed_rule_decides_as_it_says_for_its_connections_and_changes_nothing_for_others(text, rule):
    """Save for exceptions, that is narrower rejects."""
    (rule,) = wished([rule])
    text = text.replace("@f", "f")
    after = hba_placing.place(text, [rule]).text
    for connection in PEOPLE:
        then, now = decider(text, connection), decider(after, connection)
        if decider(hba.rule_text(rule), connection) is None:
            assert (then and then.line.raw.strip()) == (now and now.line.raw.strip())
        elif now.rule.effect != rule.effect:
            assert now.rule.method == "reject" and rule.covers(now.rule) and not now.rule.covers(rule)
            assert then.line.raw.strip() == now.line.raw.strip()


@at_leisure
@given(files, single)
def test_a_rule_is_put_in_no_earlier_than_needed(text, rule):
    """The next line after it could take a connection from it, or the one before it is an exception to it."""
    (rule,) = wished([rule])
    outcome = hba_placing.place(text, [rule])
    (placed,) = outcome.placed
    lines = [line for line in hba.parse(outcome.text) if line.fields]
    at = next(index for index, line in enumerate(lines) if line.number >= placed.line)
    if placed.action != "inserted" or at + 1 == len(lines):
        return
    before, after = (line.rule for line in (lines[at - 1], lines[at + 1]))
    rival = after is None or (rule.overlaps(after) and after.effect != rule.effect)
    exception = at and before.method == "reject" and rule.covers(before)
    assert rival or exception


@at_leisure
@given(files, single)
def test_removing_undoes_placing_where_there_was_nothing_before(text, rule):
    (placed,) = wished([rule])
    cleared = hba_placing.remove(text, wished([{**rule, "method": None}], complete=False)).text
    back = hba_placing.remove(hba_placing.place(cleared, [placed]).text, [placed]).text
    assert back in (cleared, cleared + "\n", cleared + "\n\n", cleared + "\r\n", cleared + "\r\n\r\n")


@at_leisure
@given(files, single)
def test_a_written_rule_reads_as_it_was_meant(text, rule):
    (rule,) = wished([rule])
    (line,) = hba.parse(hba.rule_text(rule))
    assert (line.rule.selector, line.rule.effect) == (rule.selector, rule.effect)
