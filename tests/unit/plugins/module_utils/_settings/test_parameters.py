# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the server understands by a text; it is asked to confirm the rules in tests/integration/test_postgres_settings.py."""

import dataclasses

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import parameters
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
DATE_STYLE = from_file("DateStyle", "string", "ISO, MDY")


@pytest.mark.parametrize(
    ("parameter", "text", "expected"),
    [
        (SHARED_BUFFERS, "128MB", 16384),
        (SHARED_BUFFERS, "0.125GB", 16384),
        (SHARED_BUFFERS, "134217728B", 16384),
        (SHARED_BUFFERS, "20.5", 20),  # halves to even, as C's rint()
        (SHARED_BUFFERS, "21.5", 22),
        (COST, "1.10", 1.1),
        (COST, "11e-1", 1.1),
        (COST, "1.1000001", 1.1),  # pg_settings shows six digits
        (AUTOVACUUM, "T", True),
        (AUTOVACUUM, "of", False),
        (AUTOVACUUM, "False", False),
        (HUGE_PAGES, "TRY", "try"),
        (HUGE_PAGES, "True", "on"),
        (HUGE_PAGES, "0", "off"),
        (WAL_LEVEL, "hot_standby", "replica"),
        (LOG_LEVEL, "debug", "debug2"),
        (DATE_STYLE, "german", "german"),
    ],
)
def test_meaning(parameter, text, expected):
    assert parameter.meaning(text) == expected


@pytest.mark.parametrize(
    ("parameter", "text", "expected"),
    [
        (SHARED_BUFFERS, "128MB", False),
        (SHARED_BUFFERS, "131072 kB", False),
        (SHARED_BUFFERS, "129MB", True),
        (HUGE_PAGES, "TRY", False),
        (WAL_BUFFERS, "4MB", False),
        (WAL_BUFFERS, "-1", True),  # a file asked for 4MB: the server's own choice is another matter
        (dataclasses.replace(WAL_BUFFERS, source="override"), "-1", False),
        (dataclasses.replace(WAL_BUFFERS, source="default"), "-1", False),
        (dataclasses.replace(WAL_BUFFERS, source="default"), "8MB", True),
    ],
)
def test_differs(parameter, text, expected):
    assert parameter.differs(text) is expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("search_path", '"$user", Public', ["$user", "public"]),
        ("search_path", '"Wide, name" ,"a""b"', ["Wide, name", 'a"b']),
        ("search_path", "", []),
        ("shared_preload_libraries", " a,b ,\tc ", ["a", "b", "c"]),
        ("unix_socket_directories", "/var/run, /tmp/My folder", ["/var/run", "/tmp/My folder"]),
        ("unix_socket_directories", '""', [""]),
    ],
)
def test_elements(name, text, expected):
    assert parameters.elements(name, text) == expected


@pytest.mark.parametrize("text", ["a,", ",a", "a,,b", '"a', '"a"b', "a b"])
def test_no_list(text):
    with pytest.raises(ValueError, match="not a list"):
        parameters.elements("search_path", text)
