# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_settings against real servers: what is in force, what waits for a restart, what is refused and put back."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import conf_lines, conf_syntax, parameters

# Spellings whose reading by us and by the server is compared: numbers, units, booleans, choices, and near misses of each.
SPELLINGS = [
    "128", "128kB", "128 kB", " 128kB ", "128 KB", "1.5GB", "30.1GB", "0.5kB", "0x10", "0x10MB", "0x1.8p3", "010", "08",
    "1e2", "1e2kB", "1e", "+5", "-1", "-1kB", ".5GB", "-.5", "5.5", "2.5", "3.5", "1d", "1h", "1 min", "1min30s", "90s",
    "100ms", "500us", "1.5s", "1us", "2147483647", "2147483648", "9999999999999999999999", "1e400", "inf", "nan", "on", "ON",
    "of", "o", "off", "tru", "t", "yes", "y", "n", "0", "1", "2", "True", "False", "debug", "info", "fatal", "archive",
    "hot_standby", "replica", "none", "all", "try", "0.9", "1.0", "0.123456789", "12345678.9", "1TB", "1B", "8192B", "1kB kB",
    "1_000", "1,5", "100%", "", "  ", "1\t", "\x0b3", "٣",
]  # fmt: skip

# One parameter for each unit and type of number that a reload changes and that cannot harm the test.
NUMBERS = [
    "log_parameter_max_length", "work_mem", "maintenance_work_mem", "backend_flush_after", "bgwriter_flush_after",
    "max_wal_size", "bgwriter_delay", "wal_writer_delay", "checkpoint_timeout", "archive_timeout", "log_rotation_age",
    "log_autovacuum_min_duration", "vacuum_cost_limit", "effective_cache_size", "autovacuum_vacuum_cost_delay",
    "random_page_cost", "autovacuum_vacuum_scale_factor", "geqo_threshold",
]  # fmt: skip

MEMORY = ["512MB", "1GB", "2GB", "4GB", "8GB", "16GB", "32GB", "64GB", "256GB", "1TB"]


# Runs the module as support/modules.py does, and dies before its n-th step in the folder of settings.
KILLED = """
import os, runpy, signal, sys
from ansible.module_utils import basic
folder, left = sys.argv[1], int(sys.argv[2])
def dying(call):
    def step(*words, **keywords):
        global left
        if any(folder in os.fsdecode(word) for word in words if isinstance(word, (str, bytes))):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*words, **keywords)
    return step
for name in ("open", "replace", "rename", "chmod", "chown", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
runpy.run_module("ansible_collections.matrixops.synapse_postgres.plugins.modules.postgres_settings", run_name="__main__")
"""


def killed(cluster, settings, steps):
    """Run the module and kill it before its step number ``steps``; tell whether it had one."""
    arguments = {"ANSIBLE_MODULE_ARGS": {**cluster.login, "settings": settings}}
    collections = pathlib.Path(__file__).parents[2] / ".cache" / "collections"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(cluster.data / "conf.d"), str(steps)],
        input=json.dumps(arguments).encode(),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(collections)},
        check=False,
    )
    return done.returncode == -signal.SIGKILL


@pytest.fixture
def file(cluster):
    """The module's file by default, absent; removed afterwards, and the server as it was."""
    path = cluster.data / "conf.d" / "90-synapse-postgres.conf"
    main, auto = cluster.data / "postgresql.conf", cluster.data / "postgresql.auto.conf"
    kept = [(other, other.read_bytes()) for other in (main, auto)]
    yield path
    for other in path.parent.iterdir():
        other.unlink()
    for other, content in kept:
        other.write_bytes(content)
    cluster.reload()
    if cluster.rows("SELECT name FROM pg_settings WHERE pending_restart"):
        cluster.restart()


@pytest.fixture
def apply(cluster, run, file):
    """``apply(settings, check=False, **options)`` -> the module's result."""

    def with_settings(settings, check=False, **options):
        return run("postgres_settings", {**cluster.login, "settings": settings, **options}, check=check)

    return with_settings


def test_what_a_reload_brings_is_in_force_and_not_written_again(cluster, apply, file):
    settings = {"work_mem": "12 MB", "log_min_duration_statement": 5000, "enable_seqscan": False, "random_page_cost": 1.1}
    result = apply(settings, comments={"work_mem": "For sorts."})
    assert result["changed"] and result["path"] == str(file), result
    assert (result["restart_required"], result["restart_parameters"], result["reload_required"]) == (False, [], False)
    shown = cluster.rows(
        "SELECT current_setting('work_mem'), current_setting('log_min_duration_statement'), current_setting('enable_seqscan')"
    )
    assert shown == [("12MB", "5s", "off")]
    assert file.read_text() == result["diff"]["after"]
    assert "# For sorts.\nwork_mem = '12 MB'\n" in file.read_text()
    written = file.stat()
    again = apply(settings, comments={"work_mem": "For sorts."})
    assert not again["changed"] and again["diff"]["before"] == again["diff"]["after"]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (written.st_mtime_ns, written.st_ino)


def test_the_file_is_for_everybody_to_read_and_belongs_to_the_folders_owner(apply, file):
    apply({"work_mem": "8MB"})
    found, folder = file.stat(), file.parent.stat()
    assert stat.S_IMODE(found.st_mode) == 0o644 and (found.st_uid, found.st_gid) == (folder.st_uid, folder.st_gid)
    file.chmod(0o640)
    assert apply({"work_mem": "9MB"})["changed"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640 and file.stat().st_uid == folder.st_uid


def test_a_restart_is_required_until_it_happened(cluster, apply):
    settings = {"shared_buffers": "64MB", "max_connections": 90, "work_mem": "8MB"}
    foretold = apply(settings, check=True)
    done = apply(settings)
    again, checked = apply(settings), apply(settings, check=True)
    for result in (foretold, done, again, checked):
        assert result["restart_required"] and result["restart_parameters"] == ["max_connections", "shared_buffers"], result
    assert (foretold["changed"], done["changed"], again["changed"], checked["changed"]) == (True, True, False, False)
    cluster.restart()
    result = apply(settings)
    assert (result["changed"], result["restart_required"], result["restart_parameters"]) == (False, False, [])
    assert cluster.rows("SHOW shared_buffers") == [("64MB",)]


def test_another_spelling_of_the_running_value_needs_no_restart(apply):
    # postgresql.conf, by initdb, has shared_buffers = 128MB; wal_buffers = -1 is the server's own choice.
    same = {
        "shared_buffers": "0.125 GB",
        "huge_pages": "TRY",
        "wal_buffers": -1,
        "max_connections": "0x64",
        "wal_level": "archive",
    }
    assert apply(same, check=True)["restart_parameters"] == []
    result = apply(same)
    assert result["changed"] and result["restart_parameters"] == [], result
    assert apply({"shared_buffers": 16384})["restart_parameters"] == []
    assert apply({"wal_buffers": "1MB"}, check=True)["restart_parameters"] == ["wal_buffers"]
    assert apply({"wal_buffers": "1MB"})["restart_parameters"] == ["wal_buffers"]


def test_a_value_that_the_server_respells_at_its_start_does_not_ask_for_restarts_for_ever(cluster, apply):
    assert apply({"cluster_name": "Zürich"})["restart_parameters"] == ["cluster_name"]
    cluster.restart()
    assert cluster.rows("SHOW cluster_name") != [("Zürich",)]
    assert apply({"cluster_name": "Zürich"})["restart_parameters"] == []
    assert apply({"cluster_name": "Bern"})["restart_parameters"] == ["cluster_name"]


def test_settings_taken_away_are_reset_and_wait_for_a_restart_where_they_need_one(cluster, apply, file):
    apply({"shared_buffers": "64MB", "work_mem": "8MB"})
    cluster.restart()
    foretold = apply({}, check=True)
    done = apply({})
    again = apply({})
    assert (foretold["changed"], done["changed"], again["changed"]) == (True, True, False)
    for result in (foretold, done, again):
        assert result["restart_parameters"] == ["shared_buffers"], result
    assert "=" not in file.read_text() and cluster.rows("SHOW work_mem") == [("4MB",)]
    cluster.restart()
    assert not apply({})["restart_required"] and cluster.rows("SHOW shared_buffers") == [("128MB",)]


def test_check_mode_foretells_and_touches_nothing(cluster, apply, file):
    settings = {"shared_buffers": "64MB", "work_mem": "8MB"}
    loaded = cluster.rows("SELECT pg_conf_load_time()")
    foretold = apply(settings, check=True)
    assert foretold["changed"] and foretold["reload_required"] and not file.exists()
    assert cluster.rows("SELECT pg_conf_load_time()") == loaded
    done = apply(settings)
    keys = ("changed", "path", "diff", "restart_required", "restart_parameters", "overridden")
    assert [foretold[key] for key in keys] == [done[key] for key in keys]
    assert apply({"work_mem": "9MB"}, check=True)["changed"] and "8MB" in file.read_text()
    unchanged = apply(settings, check=True)
    assert not unchanged["changed"] and not unchanged["reload_required"]


def test_alter_system_is_named_and_does_not_ask_for_a_restart_that_would_not_help(cluster, apply):
    cluster.rows("ALTER SYSTEM SET work_mem = '5MB'")
    cluster.rows("ALTER SYSTEM SET shared_buffers = '128MB'")
    settings = {"work_mem": "6MB", "shared_buffers": "64MB", "max_wal_size": "2GB"}
    for check in (True, False, True, False):
        result = apply(settings, check=check)
        assert sorted(result["overridden"]) == ["shared_buffers", "work_mem"] and not result["restart_required"], result
        place = result["overridden"]["work_mem"]
        assert place == f"{cluster.data / 'postgresql.auto.conf'}, line 3"
        assert any("work_mem" in str(warning) and place in str(warning) for warning in result["warnings"])
    cluster.rows("ALTER SYSTEM RESET ALL")
    cluster.reload()
    result = apply(settings)
    assert not result["overridden"] and result["restart_parameters"] == ["shared_buffers"]


def test_a_later_file_or_line_is_named_and_an_earlier_one_is_not(cluster, apply, file):
    (file.parent / "10-before.conf").write_text("work_mem = 5MB\ngeqo = off\n")
    (file.parent / "95-after.conf").write_text("\nWORK_MEM = 7MB\njit = 'neither'\n")
    with (cluster.data / "postgresql.conf").open("a") as stream:
        stream.write("max_wal_size = 3GB\n")
    number = len((cluster.data / "postgresql.conf").read_text().splitlines())
    expected = {
        "work_mem": f"{file.parent / '95-after.conf'}, line 2",
        "max_wal_size": f"{cluster.data / 'postgresql.conf'}, line {number}",
    }
    for check in (True, False, True, False):
        result = apply({"work_mem": "6MB", "geqo": True, "max_wal_size": "2GB", "jit": False}, check=check)
        assert result["overridden"] == expected, result


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shared_bufers": "1GB"}, "Did you mean shared_buffers?"),
        ({"include_dir": "x"}, "no parameter 'include_dir'"),
        ({"work_mem": "8MiB"}, "work_mem cannot be '8MiB': 'MiB' is not a unit of it; it has B, kB, MB, GB, TB"),
        ({"work_mem": "1kB"}, "work_mem cannot be '1kB': 1, in units of kB, is outside 64 to 2147483647"),
        ({"huge_pages": "maybe"}, "huge_pages cannot be 'maybe': allowed are off, on, try"),
        ({"random_page_cost": -2}, "is outside 0 to"),
        ({"fsync": "maybe"}, "it is not a boolean"),
        ({"block_size": 8192}, "block_size shows what the server or its cluster was built with"),
        ({"work_mem": None}, "NoneType"),
    ],
)
def test_bad_settings_are_refused_before_the_file_is_touched(apply, file, settings, words):
    apply({"work_mem": "6MB"})
    before = (file.read_bytes(), file.stat().st_ino)
    for check in (True, False):
        refused = apply({"geqo": False, **settings}, check=check)
        assert refused.get("failed") and words in refused["msg"], refused
    assert (file.read_bytes(), file.stat().st_ino) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timezone": "Nowhere/Never"}, 'invalid value for parameter "TimeZone": "Nowhere/Never"'),
        (
            {"default_text_search_config": "pg_catalog.klingon", "shared_buffers": "64MB"},
            'invalid value for parameter "default_te',
        ),
        ({"recovery_target": "x", "shared_buffers": "64MB"}, 'invalid value for parameter "recovery_target"'),
    ],
)
def test_what_only_the_server_can_judge_is_put_back_in_its_words(cluster, apply, file, settings, words):
    refused = apply(settings)
    assert refused.get("failed") and words in refused["msg"] and not file.exists(), refused
    apply({"work_mem": "6MB"})
    before = file.read_bytes()
    assert apply(settings)["failed"] and file.read_bytes() == before
    assert cluster.rows("SHOW work_mem") == [("6MB",)]


def test_an_extensions_parameter_may_be_unknown_to_the_server(cluster, apply):
    assert apply({"nobody.knows": "it"})["changed"]
    assert cluster.rows("SHOW nobody.knows") == [("it",)]
    assert not apply({"nobody.knows": "it"})["changed"]


def test_strings_arrive_as_they_were_given(cluster, apply):
    prefix = "it's \\ 'x' # \"y\" = %m \t ä\n\\n\r|"
    apply({"log_line_prefix": prefix})
    assert cluster.rows("SHOW log_line_prefix") == [(prefix,)]
    assert not apply({"log_line_prefix": prefix})["changed"]


def test_without_include_dir_it_is_refused_and_the_file_is_gone(cluster, apply, file):
    conf = cluster.data / "postgresql.conf"
    conf.write_text(conf.read_text().replace("include_dir = 'conf.d'", "#include_dir = 'conf.d'"))
    for check in (True, False):
        refused = apply({"work_mem": "6MB"}, check=check)
        assert refused.get("failed") and not file.exists(), refused
        assert "include_dir = 'conf.d'" in refused["msg"] and str(conf) in refused["msg"]
    file.write_text("# Ansible managed (matrixops.synapse_postgres)\nwork_mem = '6MB'\n")
    refused = apply({"work_mem": "6MB"})
    assert refused.get("failed") and file.exists(), "an unchanged file that the server does not read was passed over"


def test_a_file_of_ones_own_choice(cluster, apply, file):
    other = cluster.data / "conf.d" / "50-other.conf"
    assert apply({"work_mem": "6MB"}, path=str(other))["path"] == str(other)
    assert cluster.rows("SHOW work_mem") == [("6MB",)] and not file.exists()
    for path in (str(cluster.data / "conf.d" / "unread.txt"), str(cluster.data / "nowhere" / "x.conf")):
        for check in (True, False):
            refused = apply({"work_mem": "6MB"}, path=path, check=check)
            assert refused.get("failed") and not pathlib.Path(path).exists(), refused


def test_an_error_in_another_file_that_stops_every_reload_is_named(cluster, apply, file):
    broken = cluster.data / "conf.d" / "20-broken.conf"
    broken.write_text("\nwork_mem = 1 2\n")
    for check in (True, False):
        refused = apply({"work_mem": "6MB"}, check=check)
        assert refused.get("failed") and f"{broken}, line 2: syntax error" in refused["msg"], refused
        assert not file.exists()


def test_an_error_in_our_own_file_is_written_over(cluster, apply, file):
    file.write_text("work_mem = 1 2\nunknown = 1\n")
    assert apply({"work_mem": "6MB"})["changed"] and cluster.rows("SHOW work_mem") == [("6MB",)]


def test_a_file_that_was_written_but_never_loaded_is_loaded(cluster, apply, file):
    apply({"work_mem": "6MB"})
    text = file.read_text()
    file.write_text(text.replace("6MB", "7MB"))
    assert cluster.rows("SHOW work_mem") == [("6MB",)]
    foretold = apply({"work_mem": "7MB"}, check=True)
    assert foretold["changed"] and foretold["reload_required"] and cluster.rows("SHOW work_mem") == [("6MB",)]
    assert apply({"work_mem": "7MB"})["changed"] and cluster.rows("SHOW work_mem") == [("7MB",)]
    assert not apply({"work_mem": "7MB"})["changed"]


def test_who_is_no_superuser_is_told_what_to_do(cluster, apply, file):
    cluster.rows("CREATE ROLE watcher LOGIN PASSWORD 'watcher'; GRANT pg_monitor TO watcher")
    try:
        for check in (True, False):
            refused = apply({"work_mem": "6MB"}, check=check, login_user="watcher", login_password="watcher")
            assert refused.get("failed") and "become_user=postgres" in refused["msg"] and not file.exists(), refused
    finally:
        cluster.rows("DROP ROLE watcher")


def test_the_server_reads_every_spelling_as_we_do(cluster, file):
    """For every number, boolean and choice of the server: taken or refused alike; a hook's DETAIL is its own judgement."""
    with contextlib.closing(cluster.connect()) as connection, connection.cursor() as cursor:
        known = parameters.read(cursor)
        set_later = {line.name for line in conf_lines.read_with_messages(cursor)}
        names = [
            row.name
            for row in known.values()
            if row.vartype != "string" and row.context != "internal" and row.name not in set_later
        ]
        names.remove("client_min_messages")  # would take away the words that this test reads
        assert len(names) > 200
        for spelling in SPELLINGS:
            file.write_text(conf_syntax.render(dict.fromkeys(names, spelling), {}))
            lines = {line.name: line for line in conf_lines.read_with_messages(cursor) if line.sourcefile == str(file)}
            assert set(lines) == set(names)
            for name, line in lines.items():
                refused = line.message.startswith("invalid value") or "is outside the valid range" in line.message
                refused = refused or "requires a" in line.message
                if "DETAIL" not in line.message:
                    assert refused != known[name.lower()].accepts(spelling), (name, spelling, line.message)


def test_the_server_gives_numbers_the_value_that_we_do(cluster, file):
    with contextlib.closing(cluster.connect()) as connection, connection.cursor() as cursor:
        known = {name: row for name, row in parameters.read(cursor).items() if name in NUMBERS}
    assert len(known) == len(NUMBERS) and {row.unit for row in known.values()} >= {
        "B",
        "kB",
        "8kB",
        "MB",
        "ms",
        "s",
        "min",
        None,
    }
    compared = 0
    for spelling in SPELLINGS:
        wished = {name: spelling for name, row in known.items() if row.accepts(spelling)}
        file.write_text(conf_syntax.render(wished, {}))
        cluster.reload()
        for name, setting, source in cluster.rows(
            "SELECT name, setting, sourcefile FROM pg_settings WHERE name = ANY(%s)", NUMBERS
        ):
            if name in wished and source == str(file):
                assert known[name].meaning(setting) == known[name].meaning(spelling), (name, spelling)
                compared += 1
    assert compared > 300


@pytest.mark.parametrize("memory", MEMORY)
def test_every_server_takes_what_the_model_proposes(cluster, apply, run, memory):
    # A small board has memory for few connections, and the model refuses more.
    connections = 20 if memory == MEMORY[0] else 100
    options = {"memory": memory, "cpus": 12, "connections": connections, "server_version": cluster.major}
    tuning = run("postgres_tuning_info", options)
    result = apply(tuning["settings"], comments=tuning["comments"])
    assert result.get("changed") and not result["overridden"], result
    contexts = dict(cluster.rows("SELECT name, context FROM pg_settings WHERE name = ANY(%s)", list(tuning["settings"])))
    waits = {name: reason["context"] == "restart" for name, reason in tuning["reasons"].items()}
    assert waits == {name: context == "postmaster" for name, context in contexts.items()}
    assert not apply(tuning["settings"], comments=tuning["comments"])["changed"]


def test_a_server_starts_with_what_the_model_proposes(cluster, apply, run):
    tuning = run("postgres_tuning_info", {"memory": "1GB", "cpus": 12, "connections": 100, "server_version": cluster.major})
    assert apply(tuning["settings"])["restart_required"]
    cluster.restart()
    result = apply(tuning["settings"])
    assert (result["changed"], result["restart_required"]) == (False, False)
    for name, value in tuning["settings"].items():
        assert cluster.rows(f"SHOW {name}") == [(value,)]


def test_the_table_shows_old_and_new_values_with_their_reasons_until_the_restart(cluster, apply):
    settings = {"shared_buffers": "64MB", "work_mem": 8192, "max_wal_size": "1 GB", "bgwriter_delay": "200ms"}
    comments = {"shared_buffers": "A quarter.\nAnd more.", "work_mem": "For sorts, " * 30}
    foretold, done = apply(settings, check=True, comments=comments), apply(settings, comments=comments)
    assert done["table"][0].split() == ["parameter", "old", "new", "needs", "reason"]
    assert done["table"][1].split() == ["shared_buffers", "128MB", "64MB", "restart", "A", "quarter."]
    assert done["table"][2].split()[:6] == ["work_mem", "4MB", "8MB", "For", "sorts,", "For"]
    assert [len(line) for line in done["table"]][2] == 150 and done["table"][2].endswith("...")
    assert done["changes"] == [
        {"name": "shared_buffers", "old": "128MB", "new": "64MB", "waits": True},
        {"name": "work_mem", "old": "4MB", "new": "8MB", "waits": False},
    ]
    assert [foretold[key] for key in ("table", "changes")] == [done[key] for key in ("table", "changes")]
    for check in (True, False):
        assert [one["name"] for one in apply(settings, check=check, comments=comments)["changes"]] == ["shared_buffers"]
    cluster.restart()
    assert apply(settings, comments=comments)["table"] == []
    for check in (True, False):
        back = {one["name"]: (one["old"], one["new"], one["waits"]) for one in apply({}, check=check)["changes"]}
        assert back == {"shared_buffers": ("64MB", "128MB", True), "work_mem": ("8MB", "4MB", False)}


def test_a_value_that_sessions_have_of_their_own_is_not_taken_for_the_servers(cluster, apply):
    cluster.rows("ALTER DATABASE postgres SET work_mem = '33MB'")
    try:
        for check in (True, False):
            changes = apply({"work_mem": "8MB", "DateStyle": "german"}, check=check)["changes"]
            assert [(one["name"], one["old"], one["new"]) for one in changes] == [
                ("DateStyle", "ISO, MDY", "german"),
                ("work_mem", "4MB", "8MB"),
            ]
        assert apply({"work_mem": "8MB", "DateStyle": "german"})["changes"] == []
    finally:
        cluster.rows("ALTER DATABASE postgres RESET work_mem")


def test_secrets_are_shown_nowhere_and_not_for_everybody_to_read(cluster, apply, file):
    file.write_text("#archive_command = 'swordfish 1'\nprimary_conninfo = 'password=swordfish2'\n")
    cluster.reload()
    settings = {
        "primary_conninfo": "password=swordfish3",
        "restore_command": "swordfish4",
        "my.secret": "swordfish5",
        "geqo": True,
    }
    for check in (True, False):
        result = apply(settings, check=check)
        # The options of a task are its author's, and Ansible's own to show or hide.
        told = {key: value for key, value in result.items() if key not in ("invocation", "output")}
        assert "swordfish" not in str(told) and "primary_conninfo = (not shown)" in result["diff"]["after"], told
        assert {one["name"]: one["new"] for one in result["changes"]}["primary_conninfo"] == "(not shown)"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640 and "swordfish3" in file.read_text()
    file.unlink()
    assert apply(settings)["changed"] and stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o644)
    refused = apply({**settings, "primary_conninfo": "changed", "timezone": "Nowhere"})
    assert refused.get("failed") and stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "swordfish3" in file.read_text()


def test_a_file_with_a_secret_is_for_the_server_to_read_whoever_made_it(cluster, apply, file):
    server, settings = cluster.data.stat(), {"primary_conninfo": "password=swordfish"}
    file.write_text("# by an administrator\n")
    file.chmod(0o644)
    maker = file.stat()
    refused = apply({**settings, "timezone": "Nowhere"})
    assert refused.get("failed") and "Nowhere" in refused["msg"], refused
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (maker.st_mode, maker.st_uid, maker.st_gid)
    assert file.read_text() == "# by an administrator\n"
    assert apply(settings)["changed"] and not apply(settings)["changed"]
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_uid) == (0o640, server.st_uid)
    file.unlink()
    # A folder that is not the server's own.
    other = cluster.folder / "more.d" / "50-other.conf"
    other.parent.mkdir()
    with (cluster.data / "postgresql.conf").open("a") as stream:
        stream.write(f"include_if_exists = '{other}'\n")
    try:
        assert apply(settings, path=str(other)).get("changed")
        assert (stat.S_IMODE(other.stat().st_mode), other.stat().st_uid) == (0o640, server.st_uid)
    finally:
        shutil.rmtree(other.parent)


def test_lists_are_compared_by_their_elements(cluster, apply):
    assert apply({"shared_preload_libraries": "plpgsql"})["restart_required"]
    cluster.restart()
    for same in ("plpgsql", ' "plpgsql" '):
        assert apply({"shared_preload_libraries": same})["restart_parameters"] == []
    for wrong in ("a,,b", '"a', "a,"):
        refused = apply({"shared_preload_libraries": wrong})
        assert refused.get("failed") and "it is not a list" in refused["msg"]


def test_what_is_larger_elsewhere_stays(cluster, apply, file):
    with (cluster.data / "postgresql.conf").open("a") as stream:
        stream.write("max_connections = 130\nmax_wal_size = 3GB\n")
    cluster.reload()
    number = len((cluster.data / "postgresql.conf").read_text().splitlines())
    settings = {"max_connections": 120, "max_wal_size": "2048MB", "max_worker_processes": 4, "work_mem": "1MB"}
    options = {"at_least": ["max_connections", "MAX_WAL_SIZE", "max_worker_processes", "temp_buffers"]}
    expected = {
        "max_connections": {"value": "130", "place": f"{cluster.data / 'postgresql.conf'}, line {number - 1}"},
        "max_wal_size": {"value": "3GB", "place": f"{cluster.data / 'postgresql.conf'}, line {number}"},
        "max_worker_processes": {"value": "8", "place": "the built-in default"},
    }
    for check, changed in ((True, True), (False, True), (True, False), (False, False)):
        result = apply(settings, check=check, **options)
        assert (result["kept"], result["changed"], result["overridden"]) == (expected, changed, {}), result
        assert "max" not in result["settings_text"]
    assert "max" not in file.read_text()
    cluster.rows("ALTER SYSTEM SET max_worker_processes = 5")
    cluster.reload()
    for check in (True, False):
        result = apply({"max_wal_size": "4GB", "max_worker_processes": 4}, check=check, **options)
        assert list(result["kept"]) == ["max_worker_processes"] and result["kept"]["max_worker_processes"]["value"] == "5"
        assert result["changed"] and "max_wal_size = '4GB'" in result["diff"]["after"]


def test_what_the_command_line_gives_counts_as_elsewhere(cluster, apply):
    cluster.stop()
    with contextlib.ExitStack() as after:
        after.callback(cluster.restart)
        cluster.start("-c max_connections=140")
        for check in (True, False):
            result = apply({"max_connections": 120}, check=check, at_least=["max_connections"])
            assert result["kept"] == {"max_connections": {"value": "140", "place": "the server's command line"}}
            assert result["overridden"] == {}
        result = apply({"max_connections": 150}, at_least=["max_connections"])
        assert result["overridden"] and not result["kept"] and not result["table"]


@pytest.mark.parametrize("names", [["geqo"], ["DateStyle"], ["max_conections"], ["an.extensions"]])
def test_only_numbers_can_be_raised(apply, file, names):
    for check in (True, False):
        refused = apply({"work_mem": "6MB"}, check=check, at_least=names)
        assert refused.get("failed") and not file.exists()
        assert ("no number" in refused["msg"]) == (names != ["max_conections"]) and names[0] in refused["msg"]


def test_the_file_that_the_server_came_up_with_is_kept_until_nothing_waits(cluster, apply, file):
    copy = file.parent / f"{file.name}.before"
    assert apply({"work_mem": "6MB"})["previous"] == "" and not copy.exists()
    cluster.restart()
    came_up_with = file.read_bytes()
    file.chmod(0o640)
    assert apply({"work_mem": "6MB", "shared_buffers": "64MB"}, check=True)["previous"] == str(copy) and not copy.exists()
    first = apply({"work_mem": "6MB", "shared_buffers": "64MB"})
    assert first["previous"] == str(copy) and copy.read_bytes() == came_up_with
    mine, theirs = copy.stat(), file.stat()
    assert (mine.st_mode, mine.st_uid, mine.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)
    for check in (True, False):
        second = apply({"work_mem": "7MB", "shared_buffers": "96MB"}, check=check)
        assert second["previous"] == str(copy) and copy.read_bytes() == came_up_with, "there is one way back: to the start"
    for check in (True, False):
        again = apply({"work_mem": "7MB", "shared_buffers": "96MB"}, check=check)
        assert (again["changed"], again["previous"]) == (False, str(copy))
        assert again["diff"]["before"] == again["diff"]["after"]
    refused = apply({"timezone": "Nowhere", "shared_buffers": "80MB"})
    assert refused.get("failed") and copy.read_bytes() == came_up_with
    assert apply({"work_mem": "6MB"}, check=True)["previous"] == "" and copy.exists()
    assert apply({"work_mem": "6MB"})["previous"] == "" and not copy.exists()
    assert file.read_bytes() == came_up_with


def test_a_copy_of_an_earlier_start_is_stale(cluster, apply, file):
    copy = file.parent / f"{file.name}.before"
    apply({"shared_buffers": "64MB"})
    assert copy.read_text() == "# Ansible managed (matrixops.synapse_postgres)\n", "there was no file"
    cluster.restart()
    came_up_with = file.read_bytes()
    for check in (True, False):
        assert apply({"shared_buffers": "96MB"}, check=check)["previous"] == str(copy)
    assert copy.read_bytes() == came_up_with
    cluster.restart()
    unchanged = apply({"shared_buffers": "96MB"})
    assert (unchanged["changed"], unchanged["previous"]) == (False, "") and not copy.exists()
    refused = apply({"timezone": "Nowhere", "shared_buffers": "80MB"})
    assert refused.get("failed") and sorted(path.name for path in file.parent.iterdir()) == [file.name]


def test_a_run_that_was_killed_leaves_a_copy_that_is_right(cluster, apply, file):
    """Between the copy and the file, and between the file and the server's reading of it."""
    copy = file.parent / f"{file.name}.before"
    apply({"shared_buffers": "64MB"})
    cluster.restart()
    came_up_with, ownership = file.read_bytes(), file.stat()
    copy.write_bytes(came_up_with)
    assert apply({"shared_buffers": "96MB"})["previous"] == str(copy) and copy.read_bytes() == came_up_with
    apply({"shared_buffers": "64MB"})
    copy.write_bytes(came_up_with)
    file.write_bytes(came_up_with.replace(b"64MB", b"80MB"))
    assert apply({"shared_buffers": "80MB"})["previous"] == str(copy) and copy.read_bytes() == came_up_with
    # Who deletes the copy has no way back: what waits is not what the server came up with.
    copy.unlink()
    for check in (True, False):
        assert apply({"shared_buffers": "96MB"}, check=check)["previous"] == ""
    assert file.stat().st_uid == ownership.st_uid


def test_wherever_a_run_is_killed_the_way_back_is_there(cluster, apply, file):
    copy = file.parent / f"{file.name}.before"
    apply({"shared_buffers": "64MB"})
    cluster.restart()
    apply({"shared_buffers": "64MB"})
    came_up_with, steps = file.read_bytes(), 1
    while killed(cluster, {"shared_buffers": "96MB"}, steps):
        assert came_up_with in (file.read_bytes(), copy.exists() and copy.read_bytes()), steps
        assert not copy.exists() or copy.read_bytes() == came_up_with
        assert apply({"shared_buffers": "80MB"})["previous"] == str(copy) and copy.read_bytes() == came_up_with, steps
        assert apply({"shared_buffers": "64MB"})["previous"] == "" and not copy.exists(), steps
        steps += 1
    assert steps > 5 and copy.read_bytes() == came_up_with != file.read_bytes()


def test_a_server_that_does_not_start_comes_back_with_the_copy(cluster, apply, file):
    result = apply({"shared_buffers": "6TB"})
    assert result["restart_parameters"] == ["shared_buffers"] and result["previous"]
    cluster.stop()
    try:
        with pytest.raises(RuntimeError):
            cluster.start()
    finally:
        pathlib.Path(result["path"]).write_bytes(pathlib.Path(result["previous"]).read_bytes())
        cluster.start()
    assert cluster.rows("SHOW shared_buffers") == [("128MB",)]
    result = apply({})
    assert not result["restart_required"] and result["previous"] == ""
    assert [path.name for path in file.parent.iterdir()] == [file.name]
