# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a task may ask for, and how that is written."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import requested
from support.pg_settings import from_file

INT = {"min_val": "-1", "max_val": "2147483647"}
SHARED_BUFFERS = from_file(
    "shared_buffers", "integer", "16384", unit="8kB", context="postmaster", min_val="16", max_val="1073741823"
)
WAL_BUFFERS = from_file("wal_buffers", "integer", "512", unit="8kB", context="postmaster", **{**INT, "boot_val": "-1"})
HUGE_PAGES = from_file("huge_pages", "enum", "try", enumvals=["off", "on", "try"], context="postmaster")
WAL_LEVEL = from_file("wal_level", "enum", "replica", enumvals=["minimal", "replica", "logical"], context="postmaster")
LOG_LEVEL = from_file("log_min_messages", "enum", "warning", enumvals=["debug2", "debug1", "notice", "log", "warning"])
AUTOVACUUM = from_file("autovacuum", "bool", "on")
COST = from_file("random_page_cost", "real", "4", min_val="0", max_val="1.79769e+308")
WORK_MEM = from_file("work_mem", "integer", "4096", unit="kB", **INT)
DATE_STYLE = from_file("DateStyle", "string", "ISO, MDY")
VERSION = from_file("server_version_num", "integer", "150006", context="internal", min_val="0", max_val="2147483647")
KNOWN = {
    known.name.lower(): known
    for known in (SHARED_BUFFERS, WAL_BUFFERS, HUGE_PAGES, WAL_LEVEL, LOG_LEVEL, AUTOVACUUM, COST, WORK_MEM, DATE_STYLE, VERSION)
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"random_page_cost": 1.1, "AUTOVACUUM": True}, {"autovacuum": "on", "random_page_cost": "1.1"}),
        ({"autovacuum": "True"}, {"autovacuum": "on"}),
        ({"autovacuum": False}, {"autovacuum": "off"}),
        ({"huge_pages": True}, {"huge_pages": "on"}),
        ({"huge_pages": "False"}, {"huge_pages": "off"}),
        ({"shared_buffers": "1 GB", "datestyle": "german"}, {"DateStyle": "german", "shared_buffers": "1 GB"}),
        ({"shared_buffers": 16384}, {"shared_buffers": "16384"}),
        ({"pg_stat_statements.track": "all", "a.b": True}, {"a.b": "on", "pg_stat_statements.track": "all"}),
    ],
)
def test_requested(settings, expected):
    found = requested.requested(KNOWN, settings)
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shared_bufers": "1GB"}, "no parameter 'shared_bufers'. Did you mean shared_buffers?"),
        ({"include": "x"}, "no parameter 'include'. Compare with the view pg_settings."),
        ({"a.b = 1\nfsync": "off"}, "no parameter"),
        ({"a.": "off"}, "no parameter"),
        ({"server_version_num": 1}, "server_version_num shows what the server"),
        ({"shared_buffers": "1GB", "Shared_Buffers": "2GB"}, "shared_buffers twice"),
        ({"shared_buffers": "1GiB"}, "shared_buffers cannot be '1GiB': 'GiB' is not a unit"),
        ({"shared_buffers": 8}, "shared_buffers cannot be '8': 8, in units of 8kB, is outside 16 to 1073741823"),
        ({"shared_buffers": "17TB"}, "shared_buffers cannot be '17TB': it is too large"),
        ({"shared_buffers": True}, "shared_buffers cannot be 'on': it is not a number"),
        ({"random_page_cost": -1}, "random_page_cost cannot be '-1': -1 is outside 0 to"),
        ({"random_page_cost": "inf"}, "outside"),
        ({"random_page_cost": "nan"}, "not a number"),
        ({"autovacuum": "o"}, "autovacuum cannot be 'o': it is not a boolean"),
        ({"autovacuum": "on "}, "not a boolean"),
        ({"huge_pages": "maybe"}, "huge_pages cannot be 'maybe': allowed are off, on, try"),
        ({"wal_level": "off"}, "wal_level cannot be 'off': allowed are minimal, replica, logical"),
        ({"DateStyle": False}, "Put the value in quotes"),
        ({"DateStyle": None}, "has NoneType for a value"),
        ({"DateStyle": ["ISO"]}, "has list for a value"),
        ({"DateStyle": "a\0b"}, "NUL"),
    ],
)
def test_what_the_server_would_not_take_is_refused(settings, words):
    with pytest.raises(Refusal) as refused:
        requested.requested(KNOWN, settings)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DateStyle", "DateStyle of at_least is no number"),
        ("my.own", "my.own of at_least"),
        ("workmem", "Did you mean work_mem?"),
    ],
)
def test_only_numbers_are_raised(name, words):
    with pytest.raises(Refusal) as refused:
        requested.numeric(KNOWN, ["WORK_MEM", name])
    assert words in str(refused.value)
    assert requested.numeric(KNOWN, ["WORK_MEM", "random_page_cost"]) == {"work_mem", "random_page_cost"}
