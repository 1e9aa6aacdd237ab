# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a change of the files brings, as values and as a table, by lines of files as the server lists them."""

import dataclasses

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import change
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.change import Change, Larger
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.conf_lines import Line
from support.pg_settings import parameter

OURS, OTHER, AUTO = "/etc/pg/conf.d/90-ours.conf", "/etc/pg/postgresql.conf", "/var/pg/postgresql.auto.conf"


INT = {"min_val": "-1", "max_val": "2147483647"}
SHARED_BUFFERS = parameter("shared_buffers", "integer", "16384", unit="8kB", context="postmaster", shown="128MB", **INT)
MAX_CONNECTIONS = parameter("max_connections", "integer", "100", context="postmaster", **INT)
WORK_MEM = parameter("work_mem", "integer", "4096", unit="kB", shown="4MB", **INT)
COST = parameter("random_page_cost", "real", "4", min_val="-1", max_val="1.79769e+308")
DATE_STYLE = parameter("DateStyle", "string", "ISO, MDY", context="user")
CONNINFO = parameter("primary_conninfo", "string", "password=x", source="configuration file", sourcefile=OTHER)
KNOWN = {one.name.lower(): one for one in (SHARED_BUFFERS, MAX_CONNECTIONS, WORK_MEM, COST, DATE_STYLE, CONNINFO)}


def lines(*given):
    """Return lines of files, given as (file, name, text), in the order of reading."""
    return [
        Line(number, file, number, name, text, applied=True, error=None) for number, (file, name, text) in enumerate(given, 1)
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], Larger("100", "the built-in default")),
        ([(OTHER, "max_connections", "130")], Larger("130", f"{OTHER}, line 1")),
        ([(OTHER, "Max_Connections", "0x82"), (OURS, "max_connections", "10")], Larger("0x82", f"{OTHER}, line 1")),
        ([(OTHER, "max_connections", "130"), (AUTO, "max_connections", "95")], Larger("95", f"{AUTO}, line 2")),
        ([(OTHER, "max_connections", "130"), (AUTO, "max_connections", "80")], None),
        ([(OTHER, "max_connections", "90")], None),
        (
            [(OTHER, "max_connections", "many"), (OURS, "max_connections", "500")],
            Larger("100", "the built-in default"),
        ),
    ],
)
def test_larger_elsewhere(found, expected):
    kept = change.larger_elsewhere(KNOWN, lines(*found), {"max_connections": "90"}, {"max_connections"}, OURS)
    assert kept == ({"max_connections": expected} if expected else {})
    assert not change.larger_elsewhere(KNOWN, lines(*found), {"max_connections": "90"}, set(), OURS)


def test_where_no_lines_are_seen_the_running_value_counts_unless_it_is_ours():
    def larger(**columns):
        known = {"max_connections": dataclasses.replace(MAX_CONNECTIONS, setting="200", shown="200", **columns)}
        return change.larger_elsewhere(known, None, {"max_connections": "150"}, {"max_connections"}, AUTO)

    assert larger(source="configuration file") == {"max_connections": Larger("200", "the running server")}
    assert larger(source="configuration file", sourcefile=AUTO) == {}
    assert larger(source="command line")["max_connections"].place == "the server's command line"


def test_units_are_compared_as_the_server_does():
    found = lines((OTHER, "work_mem", "8MB"))
    for text, larger in (("8191kB", True), ("8192", False), ("8MB", False), ("8193", False), ("0.001GB", True)):
        assert bool(change.larger_elsewhere(KNOWN, found, {"work_mem": text}, {"work_mem"}, OURS)) is larger, text


def test_what_a_file_can_change():
    known = {**KNOWN, "shared_buffers": dataclasses.replace(SHARED_BUFFERS, sourcefile=OURS)}
    found = lines((OTHER, "primary_conninfo", "x"), (OURS, "WORK_MEM", "9MB"), (OURS, "my.own", "1"))
    rows = change.affected(known, found, ["random_page_cost"], OURS)
    assert sorted(rows) == ["my.own", "random_page_cost", "shared_buffers", "work_mem"]
    assert rows["my.own"] is None and rows["work_mem"] is WORK_MEM
    assert change.texts_now(rows, found) == {
        "my.own": "1",
        "random_page_cost": None,
        "shared_buffers": None,
        "work_mem": "9MB",
    }
    assert change.texts_to_come(rows, found, {"work_mem": "1MB"}, {}, OURS) == {
        "my.own": None,
        "random_page_cost": None,
        "shared_buffers": None,
        "work_mem": "1MB",
    }


def changed(name, before, after, unloaded=False, waiting=(), **columns):
    """Return (old, new) of the parameter's change from one text to another, None for no change."""
    known = {name.lower(): dataclasses.replace(KNOWN[name.lower()], **columns)} if name.lower() in KNOWN else {}
    found = change.changes(known, {name: before}, {name: after}, list(waiting), unloaded)
    return (found[0].old, found[0].new) if found else None


def test_changes():
    assert changed("work_mem", None, "8192") == ("4MB", "8MB")
    assert changed("work_mem", None, "4MB") is None
    assert changed("work_mem", "4096", "4 MB") is None
    assert changed("work_mem", "8MB", None, source="configuration file", setting="8192", shown="8MB") == ("8MB", "4MB")
    # Another spelling of what is loaded is no change, nor is what the server spells in its own way.
    assert changed("DateStyle", "german", "german", setting="German, DMY", shown="German, DMY") is None
    assert changed("DateStyle", "german", "iso", setting="German, DMY", shown="German, DMY") == ("German, DMY", "iso")
    # What was written and not loaded changes by being loaded.
    assert changed("work_mem", "8MB", "8MB") is None
    assert changed("work_mem", "8MB", "8MB", unloaded=True) == ("4MB", "8MB")
    # A session's own value is not what the files give to the others.
    assert changed("work_mem", "8MB", "9MB", source="database", setting="9216", shown="9MB") == ("8MB", "9MB")
    assert changed("work_mem", None, "9MB", source="command line") is None
    # What waits is shown although nothing changes, and what goes back to the value in force is not.
    assert changed("shared_buffers", "1GB", "1GB", waiting=["shared_buffers"]) == ("128MB", "1GB")
    assert changed("shared_buffers", "1GB", "128MB") is None
    assert changed("my.own", "1", "2") == ("1", "2")
    assert changed("my.own", "2", "2") is None
    assert changed("primary_conninfo", "password=x", "password=y") == ("(not shown)", "(not shown)")
    assert changed("my.secret", None, "y") == ("(not shown)", "(not shown)")


@pytest.mark.parametrize(
    ("found", "text", "expected"),
    [
        (SHARED_BUFFERS, "16384", "128MB"),
        (SHARED_BUFFERS, "131072", "1GB"),
        (SHARED_BUFFERS, "1", "8kB"),
        (SHARED_BUFFERS, "128 MB", "128 MB"),
        (WORK_MEM, "0", "0"),
        (WORK_MEM, "-1", "-1"),
        (WORK_MEM, "1025", "1025kB"),
        (parameter("deadlock_timeout", "integer", "1", unit="ms", **INT), "90000", "90s"),
        (parameter("checkpoint_timeout", "integer", "1", unit="s", **INT), "300", "5min"),
        (MAX_CONNECTIONS, "100", "100"),
        (COST, "1.1", "1.1"),
        (None, "7", "7"),
        (None, None, ""),
    ],
)
def test_readable(found, text, expected):
    assert change.readable(found, text) == expected


def test_the_table():
    changes = [
        Change("shared_buffers", "128MB", "1GB", waits=True),
        Change("log_line_prefix", "", "x" * 200, waits=False),
        Change("work_mem", "4MB", "8MB", waits=False),
    ]
    table = change.table(changes, {"work_mem": "not permitted"}, {"work_mem": "For sorts.\nAnd more.", "geqo": "x"})
    assert table == [
        "parameter        old    new                               needs          reason",
        "shared_buffers   128MB  1GB                               restart",
        f"log_line_prefix  ''     {'x' * 29}...",
        "work_mem         4MB    8MB                               not permitted  For sorts.",
    ]
    assert change.table([], {}, {}) == []
    wide = change.table(changes, {}, {"work_mem": "word " * 100})
    assert max(map(len, wide)) <= 150 and wide[3].endswith("...")
