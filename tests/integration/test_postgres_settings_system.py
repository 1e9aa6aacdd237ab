# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_settings by ALTER SYSTEM against real servers, as a superuser and as roles that providers hand out."""

import contextlib

import psycopg2
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import alter_system, parameters
from support import clusters

LOGIN = {"login_user": "granted", "login_password": "granted"}
KEYS = ("changed", "restart_parameters", "table", "changes", "kept", "not_permitted", "not_visible", "overridden", "diff")


def auto(cluster):
    """Return the lines of ALTER SYSTEM's file, without its comments."""
    return [line for line in (cluster.data / "postgresql.auto.conf").read_text().splitlines() if not line.startswith("#")]


@pytest.fixture
def apply(cluster, run):
    """``apply(settings, check=False, **options)`` -> the module's result; the server is as it was afterwards."""

    def with_settings(settings, check=False, **options):
        return run("postgres_settings", {**cluster.login, "settings": settings, "method": "alter_system", **options}, check=check)

    conf = cluster.data / "postgresql.conf"
    content = conf.read_bytes()
    yield with_settings
    conf.write_bytes(content)
    cluster.reload()
    cluster.rows("ALTER SYSTEM RESET ALL")
    cluster.reload()
    if cluster.rows("SELECT name FROM pg_settings WHERE pending_restart"):
        cluster.restart()


@pytest.fixture
def granted(cluster):
    """``granted(privileges...)``: the role ``granted``, which is no superuser, gets each, such as 'pg_monitor'."""
    cluster.rows("CREATE ROLE granted LOGIN PASSWORD 'granted'")
    yield lambda *privileges: [cluster.rows(f"GRANT {privilege} TO granted") for privilege in privileges]
    cluster.rows("DROP OWNED BY granted; DROP ROLE granted")


def test_a_superuser_sets_everything_once(cluster, apply):
    settings = {"work_mem": "12 MB", "shared_buffers": "64MB", "enable_seqscan": False, "random_page_cost": 4}
    before = auto(cluster)
    foretold = apply(settings, check=True)
    assert auto(cluster) == before and foretold["reload_required"]
    done = apply(settings)
    assert [foretold[key] for key in KEYS] == [done[key] for key in KEYS]
    assert done["changed"] and done["restart_parameters"] == ["shared_buffers"] and not done["reload_required"]
    assert (done["path"], done["previous"], done["not_permitted"]) == ("", "", [])
    assert sorted(auto(cluster)) == ["enable_seqscan = 'off'", "shared_buffers = '64MB'", "work_mem = '12 MB'"]
    assert cluster.rows("SHOW work_mem") == [("12MB",)]
    assert {one["name"]: (one["old"], one["new"], one["waits"]) for one in done["changes"]} == {
        "enable_seqscan": ("on", "off", False),
        "shared_buffers": ("128MB", "64MB", True),
        "work_mem": ("4MB", "12 MB", False),
    }
    for check in (True, False):
        again = apply(settings, check=check)
        assert (again["changed"], again["restart_parameters"], len(again["table"])) == (False, ["shared_buffers"], 2), again
    cluster.restart()
    last = apply(settings)
    assert (last["changed"], last["restart_required"], last["table"]) == (False, False, [])


def test_a_role_sets_what_it_was_granted_and_the_rest_is_told(cluster, apply, granted):
    granted("ALTER SYSTEM ON PARAMETER work_mem, shared_buffers", "EXECUTE ON FUNCTION pg_reload_conf()")
    settings = {"work_mem": "6MB", "shared_buffers": "64MB", "max_connections": 90, "shared_preload_libraries": "plpgsql"}
    options = {**LOGIN, "comments": {"max_connections": "For the workers."}}
    foretold, done = apply(settings, check=True, **options), apply(settings, **options)
    assert [foretold[key] for key in KEYS] == [done[key] for key in KEYS]
    assert done["changed"] and done["not_permitted"] == ["max_connections", "shared_preload_libraries"], done
    assert done["restart_parameters"] == ["shared_buffers"] and not done["reload_required"]
    assert cluster.rows("SHOW work_mem") == [("6MB",)]
    assert "# For the workers.\nmax_connections = '90'" in done["settings_text"]
    assert "shared_preload_libraries = 'plpgsql'" in done["settings_text"]
    marked = [line.split()[:5] for line in done["table"] if "not permitted" in line]
    assert marked[0] == ["max_connections", "100", "90", "not", "permitted"] and len(marked) == 2
    assert any("provider's console" in str(warning) and "max_connections" in str(warning) for warning in done["warnings"])
    again = apply(settings, **options)
    assert not again["changed"] and again["restart_parameters"] == again["not_visible"] == ["shared_buffers"]
    assert any("shared_buffers" in str(warning) and "restart" in str(warning) for warning in again["warnings"])
    cluster.restart()
    last = apply({"work_mem": "6MB", "shared_buffers": "64MB", "max_connections": 100}, **options)
    assert not any(last[key] for key in ("changed", "not_permitted", "not_visible", "restart_required", "table")), last


def test_a_bad_value_of_what_the_role_may_not_see_is_refused_before_anything_is_set(cluster, apply, granted):
    granted("ALTER SYSTEM ON PARAMETER work_mem")
    before = auto(cluster)
    for check in (True, False):
        refused = apply({"work_mem": "6MB", "shared_preload_libraries": ["plpgsql"]}, check=check, **LOGIN)
        assert refused.get("failed") and "list for a value" in refused["msg"] and auto(cluster) == before, refused


def test_an_error_in_a_file_that_stops_every_reload_is_named(cluster, apply):
    broken = cluster.data / "conf.d" / "20-broken.conf"
    broken.write_text("\nwork_mem = 1 2\n")
    try:
        for check in (True, False):
            refused = apply({"work_mem": "6MB"}, check=check)
            assert refused.get("failed") and f"{broken}, line 2: syntax error" in refused["msg"] and auto(cluster) == []
    finally:
        broken.unlink()


def test_a_role_that_may_not_reload_says_that_it_is_required(cluster, apply, granted):
    granted("ALTER SYSTEM ON PARAMETER work_mem, shared_buffers")
    result = apply({"work_mem": "6MB", "shared_buffers": "64MB"}, **LOGIN)
    assert result["changed"] and result["reload_required"] and result["restart_parameters"] == ["shared_buffers"]
    assert cluster.rows("SHOW work_mem") == [("4MB",)]
    cluster.reload()
    result = apply({"work_mem": "6MB", "shared_buffers": "64MB"}, **LOGIN)
    assert not result["changed"] and not result["reload_required"] and cluster.rows("SHOW work_mem") == [("6MB",)]


def test_a_role_that_sees_the_files_needs_no_restart_to_compare(cluster, apply, granted):
    granted(
        "ALTER SYSTEM ON PARAMETER shared_buffers, max_connections",
        "SELECT ON pg_file_settings",
        "EXECUTE ON FUNCTION pg_show_all_file_settings()",
    )
    assert apply({"shared_buffers": "64MB", "max_connections": 90}, **LOGIN)["reload_required"]
    cluster.reload()
    result = apply({"shared_buffers": "64MB", "max_connections": 90}, **LOGIN)
    assert (result["changed"], result["not_visible"]) == (False, [])
    assert result["restart_parameters"] == ["max_connections", "shared_buffers"]
    changed = apply({"shared_buffers": "96MB", "max_connections": 90}, **LOGIN)
    assert changed["changed"] and "shared_buffers = '64MB'" in changed["diff"]["before"], changed


def test_a_role_that_was_granted_nothing_fails_nothing(cluster, apply, granted):
    before = auto(cluster)
    for check in (True, False):
        result = apply({"work_mem": "6MB", "geqo": True, "ssl_passphrase_command": "swordfish"}, check=check, **LOGIN)
        assert not result["changed"] and result["not_permitted"] == ["ssl_passphrase_command", "work_mem"], result
        told = {key: value for key, value in result.items() if key not in ("invocation", "output")}
        assert "swordfish" not in str(told)
    assert auto(cluster) == before
    refused = apply({"work_mem": "6MiB"}, **LOGIN)
    assert refused.get("failed") and "'MiB' is not a unit" in refused["msg"]
    refused = apply({"work_men": "6MB"}, **LOGIN)
    assert refused.get("failed") and "Did you mean work_mem?" in refused["msg"]


@pytest.mark.parametrize(
    "cluster",
    [one for one in clusters.installations() if one.major >= 17],
    indirect=True,
    ids=lambda one: f"pg{one.major}-{one.origin}",
)
def test_a_server_that_lets_nobody_use_it(cluster, apply):
    with (cluster.data / "postgresql.conf").open("a") as stream:
        stream.write("allow_alter_system = off\n")
    cluster.reload()
    for check in (True, False):
        result = apply({"work_mem": "6MB"}, check=check)
        assert (result["changed"], result["not_permitted"]) == (False, ["work_mem"]), result


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"work_mem": "7MB", "geqo": False, "timezone": "Nowhere"}, 'invalid value for parameter "TimeZone"'),
        ({"data_directory": "/", "bgwriter_delay": "1s", "max_connections": 90}, "cannot be changed"),
        ({"bgwriter_delay": "1s", "primary_conninfo": "swordfish =", "temp_buffers": "1MB", "timezone": "No"}, "TimeZone"),
        ({"bgwriter_delay": "1s", "shared_preload_libraries": ""}, "cannot give shared_preload_libraries an empty list"),
    ],
)
def test_what_only_the_server_can_judge_is_put_back_in_its_words(cluster, apply, settings, words):
    with (cluster.data / "postgresql.conf").open("a") as stream:
        stream.write("shared_preload_libraries = 'plpgsql'\n")
    cluster.rows("ALTER SYSTEM SET work_mem = '5MB'")
    cluster.rows("ALTER SYSTEM SET shared_preload_libraries = 'plpgsql'")
    cluster.rows("ALTER SYSTEM SET search_path = 'Some, thing', 'public'")
    cluster.reload()
    before = sorted(auto(cluster))
    refused = apply({"search_path": "x", **settings})
    assert refused.get("failed") and words in refused["msg"] and "swordfish" not in refused["msg"], refused
    assert sorted(auto(cluster)) == before


def test_lists_arrive_as_lists(cluster, apply):
    settings = {
        "search_path": '"$user", Public, "Wide, name"',
        "shared_preload_libraries": "plpgsql,plpgsql",
        "listen_addresses": "127.0.0.1, localhost",
        "DateStyle": "ISO, DMY",
        "log_line_prefix": "it's \\ 'x' \"y\" %m ä,",
    }
    assert apply(settings)["changed"] and not apply(settings)["changed"]
    cluster.reload()
    assert cluster.rows("SHOW search_path") == [('"$user", public, "Wide, name"',)]
    assert cluster.rows("SHOW log_line_prefix") == [(settings["log_line_prefix"],)]
    cluster.restart()
    assert cluster.rows("SHOW shared_preload_libraries") == [("plpgsql, plpgsql",)]
    assert cluster.rows("SHOW listen_addresses") == [("127.0.0.1, localhost",)]
    result = apply(settings)
    assert (result["changed"], result["restart_required"]) == (False, False)


def test_every_text_is_stored_as_it_is_meant(cluster, apply):
    """The lists that the server writes with quotes are those that we know, and our statement for any text is taken whole."""
    quoted = set()
    with contextlib.closing(cluster.connect()) as connection, connection.cursor() as cursor:
        known = parameters.read(cursor)
        for row in known.values():
            if row.vartype != "string" or row.context == "internal":
                continue
            with contextlib.suppress(psycopg2.Error):
                cursor.execute(f"ALTER SYSTEM SET {row.name} = 'iso, dmy'")
                quoted.update(row.name for line in auto(cluster) if line == f"{row.name} = '\"iso, dmy\"'")
        try:
            for name in sorted(quoted):
                cursor.execute(alter_system._statement(name, 'one, "Two, 2" ,three'))
                assert f"{name} = 'one, \"Two, 2\", three'" in auto(cluster)
        finally:
            cursor.execute("ALTER SYSTEM RESET ALL")
    assert quoted == {name for name in parameters.LISTS if name in known}


def test_what_other_files_have_larger_stays(cluster, apply, granted):
    with (cluster.data / "postgresql.conf").open("a") as stream:
        stream.write("max_connections = 130\n")
    cluster.rows("ALTER SYSTEM SET max_connections = 110")
    cluster.rows("ALTER SYSTEM SET max_wal_size = '8GB'")
    cluster.reload()
    settings = {"max_connections": 120, "max_wal_size": "2GB", "max_worker_processes": 4}
    options = {"at_least": ["max_connections", "max_wal_size", "max_worker_processes"]}
    foretold, done = apply(settings, check=True, **options), apply(settings, **options)
    assert [foretold[key] for key in KEYS] == [done[key] for key in KEYS]
    assert (
        done["kept"]["max_connections"]["value"] == "130" and "postgresql.conf, line" in done["kept"]["max_connections"]["place"]
    )
    assert done["kept"]["max_worker_processes"] == {"value": "8", "place": "the built-in default"}
    assert done["restart_parameters"] == ["max_connections"] and auto(cluster) == ["max_wal_size = '2GB'"]
    assert not apply(settings, **options)["changed"]
    cluster.restart()
    granted("ALTER SYSTEM ON PARAMETER max_connections, max_wal_size")
    result = apply({"max_connections": 120, "max_wal_size": "1GB"}, at_least=["max_connections", "max_wal_size"], **LOGIN)
    assert result["kept"] == {
        "max_connections": {"value": "130", "place": "the running server"},
        "max_wal_size": {"value": "2GB", "place": "the running server"},
    }
    granted("pg_read_all_settings")
    result = apply({"max_wal_size": "1536MB"}, at_least=["max_wal_size"], **LOGIN)
    assert not result["kept"] and result["changed"] and auto(cluster) == ["max_wal_size = '1536MB'"], "it was ours"


def test_an_extensions_parameter_that_the_server_does_not_know(cluster, apply):
    for check, changed in ((True, True), (False, True), (True, False), (False, False)):
        result = apply({"nobody.knows": "it's"}, check=check)
        assert result["changed"] == changed, result
    assert cluster.rows("SHOW nobody.knows") == [("it's",)]


def test_what_was_set_but_never_loaded_is_loaded(cluster, apply):
    apply({"work_mem": "6MB", "DateStyle": "german"})
    cluster.rows("ALTER SYSTEM SET work_mem = '7MB'")
    foretold = apply({"work_mem": "7MB"}, check=True)
    assert foretold["changed"] and foretold["reload_required"] and cluster.rows("SHOW work_mem") == [("6MB",)]
    result = apply({"work_mem": "7MB"})
    assert result["changed"] and cluster.rows("SHOW work_mem") == [("7MB",)]
    assert result["changes"] == foretold["changes"] == [{"name": "work_mem", "old": "6MB", "new": "7MB", "waits": False}]
    assert not apply({"work_mem": "7MB", "DateStyle": "german"})["changed"]


def test_an_empty_list_is_the_default_of_some_parameters(cluster, apply):
    cluster.rows("ALTER SYSTEM SET session_preload_libraries = 'plpgsql'")
    cluster.reload()
    assert apply({"session_preload_libraries": ""})["changed"] and auto(cluster) == []
    assert not apply({"session_preload_libraries": ""})["changed"]
    assert cluster.rows("SHOW session_preload_libraries") == [("",)]


def test_the_command_line_wins_and_is_named(cluster, apply):
    cluster.stop()
    with contextlib.ExitStack() as after:
        after.callback(cluster.restart)
        cluster.start("-c max_connections=140")
        for check, changed in ((True, True), (False, True), (False, False)):
            result = apply({"max_connections": 120}, check=check)
            assert result["overridden"] == {"max_connections": "the server's command line"} and result["changed"] == changed
            assert not result["restart_required"] and not result["table"]


def test_the_statement_with_a_secret_stays_out_of_the_log(cluster, apply):
    cluster.set("log_statement", "ddl")
    logged = len(cluster.log())
    assert apply({"archive_command": "swordfish", "work_mem": "6MB"})["changed"]
    assert "ALTER SYSTEM" not in cluster.log()[logged:], "the server's own words on loading a new value are not ours"
    assert apply({"work_mem": "7MB"})["changed"]
    assert "ALTER SYSTEM" in cluster.log()[logged:]
