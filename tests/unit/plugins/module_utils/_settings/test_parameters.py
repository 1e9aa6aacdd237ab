# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values as the server reads them, the file that is written, and which of its lines count. The server itself is asked to
confirm the rules in tests/integration/test_postgres_settings.py."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import parameters


def row(name, vartype, setting, **columns):
    """Return a row of pg_settings as a server has it whose value comes from a file."""
    common = {"unit": None, "min_val": None, "max_val": None, "enumvals": None, "context": "user", "boot_val": setting}
    origin = {"source": "configuration file", "sourcefile": None, "pending_restart": False}
    return {"name": name, "vartype": vartype, "setting": setting, **common, **origin, **columns}


INT = {"min_val": "-1", "max_val": "2147483647"}
SHARED_BUFFERS = row("shared_buffers", "integer", "16384", unit="8kB", context="postmaster", min_val="16", max_val="1073741823")
WAL_BUFFERS = row("wal_buffers", "integer", "512", unit="8kB", context="postmaster", **{**INT, "boot_val": "-1"})
HUGE_PAGES = row("huge_pages", "enum", "try", enumvals=["off", "on", "try"], context="postmaster")
WAL_LEVEL = row("wal_level", "enum", "replica", enumvals=["minimal", "replica", "logical"], context="postmaster")
LOG_LEVEL = row("log_min_messages", "enum", "warning", enumvals=["debug2", "debug1", "notice", "log", "warning"])
AUTOVACUUM = row("autovacuum", "bool", "on")
COST = row("random_page_cost", "real", "4", min_val="0", max_val="1.79769e+308")
DATE_STYLE = row("DateStyle", "string", "ISO, MDY")
VERSION = row("server_version_num", "integer", "150006", context="internal", min_val="0", max_val="2147483647")
KNOWN = {
    known["name"].lower(): known
    for known in (SHARED_BUFFERS, WAL_BUFFERS, HUGE_PAGES, WAL_LEVEL, LOG_LEVEL, AUTOVACUUM, COST, DATE_STYLE, VERSION)
}


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("128", "8kB", 128),
        ("1MB", "8kB", 128),
        ("1 MB ", "8kB", 128),
        ("1.5GB", "MB", 1536),
        ("30.1GB", "MB", 30822),  # 30822.4, rounded to the next smaller unit
        ("30.1GB", "kB", 30822 * 1024),
        ("0.5kB", "B", 512),
        ("1TB", "kB", 1024**3),
        ("0x10MB", "kB", 16384),
        ("0x10B", "kB", 0x10B),  # C takes the B for a digit
        ("010", "kB", 8),
        ("1e2", "kB", 100),
        ("0x1.8p3", None, 12),
        (".5GB", "MB", 512),
        ("-1", "kB", -1),
        ("+5", None, 5),
        ("1d", "s", 86400),
        ("1.5h", "min", 90),
        ("2min", "ms", 120000),
        ("500us", "ms", 0.5),
        ("90s", "min", 1.5),
        ("\t7\n", None, 7),
    ],
)
def test_quantity(text, unit, expected):
    assert parameters.quantity(text, unit) == expected


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        ("", "kB", "not a number"),
        ("many", "kB", "not a number"),
        ("-.5", "kB", "not a number"),
        ("1e400", "kB", "not a number"),
        ("١", "kB", "not a number"),
        ("08", "kB", "'8' is not a unit"),
        ("128KB", "kB", "'KB' is not a unit of it; it has B, kB, MB, GB, TB"),
        ("128GiB", "kB", "'GiB' is not a unit"),
        ("1min30s", "s", "not a unit"),
        ("5min", "kB", "'min' is not a unit"),
        ("5MB", "ms", "it has us, ms, s, min, h, d"),
        ("5MB", None, "the parameter has none"),
        ("1,5GB", "kB", "not a unit"),
    ],
)
def test_no_quantity(text, unit, words):
    with pytest.raises(ValueError, match=words):
        parameters.quantity(text, unit)


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
    assert parameters.meaning(parameter, text) == expected


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
def test_wished(settings, expected):
    found = parameters.wished(KNOWN, settings)
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
        parameters.wished(KNOWN, settings)
    assert words in str(refused.value)


def test_the_file_that_is_written():
    settings = {"a.b": "it's a \\ and\nmore", "work_mem": "8MB"}
    comments = {"work_mem": "One line.\n\nAnother.", "other": "not set"}
    assert parameters.render(settings, comments) == (
        "# Ansible managed (matrixops.synapse_postgres)\n"
        "a.b = 'it''s a \\\\ and\\nmore'\n"
        "# One line.\n#\n# Another.\n"
        "work_mem = '8MB'\n"
    )
    assert parameters.render({}, {}) == "# Ansible managed (matrixops.synapse_postgres)\n"


@pytest.mark.parametrize(
    ("parameter", "text", "expected"),
    [
        (SHARED_BUFFERS, "128MB", False),
        (SHARED_BUFFERS, "131072 kB", False),
        (SHARED_BUFFERS, "129MB", True),
        (HUGE_PAGES, "TRY", False),
        (WAL_BUFFERS, "4MB", False),
        (WAL_BUFFERS, "-1", True),  # a file asked for 4MB: the server's own choice is another matter
        ({**WAL_BUFFERS, "source": "override"}, "-1", False),
        ({**WAL_BUFFERS, "source": "default"}, "-1", False),
        ({**WAL_BUFFERS, "source": "default"}, "8MB", True),
    ],
)
def test_differs(parameter, text, expected):
    assert parameters.differs(parameter, text) is expected


def places(order):
    """Return ``order`` as file:line, without the folders."""
    return [file.rsplit("/", 1)[1] + f":{line}" for file, line in order]


def test_reading_order(tmp_path):
    config, ours = tmp_path / "postgresql.conf", tmp_path / "conf.d" / "50-ours.conf"
    ours.parent.mkdir()
    (ours.parent / "10-before.conf").write_text("a")
    (ours.parent / "60-after.conf").write_text("a")
    (ours.parent / ".hidden.conf").write_text("a")
    (ours.parent / "60-other.txt").write_text("a")
    (tmp_path / "nested.conf").write_text("INCLUDE_DIR = 'conf.d' # ours\n")
    config.write_text("include_if_exists 'missing.conf'\n#include 'missing.conf'\ninclude nested.conf\nincluded = 1")
    expected = "postgresql.conf:1 postgresql.conf:2 postgresql.conf:3 nested.conf:1 10-before.conf:1 50-ours.conf:0"
    expected += " 60-after.conf:1 nested.conf:2 postgresql.conf:4"
    assert places(parameters.reading_order(str(config), str(ours))) == expected.split()
    ours.write_text("a\nb\n")
    assert places(parameters.reading_order(str(config), str(ours))) == expected.split()


def test_a_circle_of_includes_is_refused(tmp_path):
    config = tmp_path / "postgresql.conf"
    config.write_text("include 'postgresql.conf'\n")
    with pytest.raises(Refusal, match="circle"):
        parameters.reading_order(str(config), str(tmp_path / "x.conf"))


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


def test_secrets_are_hidden_and_nothing_else():
    known = {**KNOWN, "password_encryption": row("password_encryption", "enum", "md5", enumvals=["md5"])}
    text = (
        "# archive_command = 'x'\n#primary_conninfo='x'\n  restore_command 'x''\\n' # why\nmy.password = x\nDateStyle = 'iso'\n"
        "password_encryption = md5\ninclude 'x.conf'\nssl_passphrase_command =\n# A comment.\n"
    )
    assert parameters.hidden(known, text) == (
        "# archive_command = (not shown)\n#primary_conninfo=(not shown)\n  restore_command (not shown)\n"
        "my.password = (not shown)\nDateStyle = 'iso'\npassword_encryption = md5\ninclude 'x.conf'\n"
        "ssl_passphrase_command =\n# A comment.\n"
    )


def test_what_ansible_is_not_to_show():
    settings = {
        "primary_conninfo": "password=x",
        "my.token": 5,
        "work_mem": "4MB",
        "restore_command": "",
        "Password_Encryption": "md5",
    }
    assert parameters.secrets(settings) == {"password=x", "5"}
