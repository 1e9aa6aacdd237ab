# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Each check against a real database that was broken in its very way: found, alone, and mended by the printed command."""

import contextlib
import subprocess
import sys
import threading
import time

import pytest
import yaml

from support import move as moves

# By the check: how the database is broken, how bad that is, and what is left for a limit that a test cannot wait for.
BROKEN = {
    "ownership": (["CREATE ROLE {name}_other", "ALTER TABLE events OWNER TO {name}_other"], "critical", {}),
    "password": (["ALTER ROLE synapse VALID UNTIL '2020-01-01'"], "critical", {}),
    "connection_limit": (["ALTER DATABASE {name} CONNECTION LIMIT 3"], "critical", {}),
    "search_path": (["ALTER ROLE synapse IN DATABASE {name} SET search_path = '$user', other"], "critical", {}),
    "dead_rows": (
        [
            "DO $$ BEGIN INSERT INTO user_ips SELECT '@a:a', 't', 'd', i::text, 'a', i FROM generate_series(1, 60000) i;"
            " ROLLBACK; END $$",
            "SELECT pg_stat_force_next_flush(), pg_sleep(0.5)",
        ],
        "warning",
        {},
    ),
    "unvalidated_constraints": (
        ["ALTER TABLE users ADD CONSTRAINT named CHECK (name IS NOT NULL) NOT VALID"],
        "warning",
        {},
    ),
    "autovacuum": (["ALTER TABLE events SET (autovacuum_enabled = off)"], "warning", {}),
    "statistics": (["DELETE FROM pg_statistic WHERE starelid = 'event_json'::regclass"], "warning", {}),
    "sequences": (
        ["INSERT INTO stream_positions VALUES ('receipts', 'writer', 4000) ON CONFLICT DO NOTHING"],
        "critical",
        {},
    ),
    "indexes": (
        ["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'events_ts'::regclass"],
        "warning",
        {},
    ),
    "replication_slots": (["SELECT pg_create_physical_replication_slot('{name}', true)"], "warning", {}),
}


@pytest.mark.parametrize("check", BROKEN)
def test_what_was_broken_is_found_alone_and_mended_by_the_printed_command(ward, check):
    statements, severity, limits = BROKEN[check]
    try:
        ward.break_(*(statement.replace("{name}", ward.move.name) for statement in statements))
        findings = ward.only(check, limits=limits)
        assert findings[0]["severity"] == severity, findings
        for finding in findings:
            ward.heal(finding["remedy"])
        ward.healthy(limits=limits)
    finally:
        ward.cluster.rows("ALTER ROLE synapse VALID UNTIL 'infinity'")
        ward.cluster.rows("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        with contextlib.suppress(Exception):
            ward.move.rows(f"DROP OWNED BY {ward.move.name}_other; DROP ROLE {ward.move.name}_other")


@pytest.mark.parametrize(
    ("name", "value", "check", "severity"),
    [("full_page_writes", "off", "durability", "critical"), ("autovacuum", "off", "autovacuum", "warning")],
)
def test_a_setting_of_the_whole_server_is_found_and_set_back(ward, name, value, check, severity):
    ward.cluster.set(name, value)
    try:
        skip = [] if check != "durability" else ["autovacuum"]
        found = [one for one in ward.examine(skip=skip)["findings"] if name in one["found"]]
        assert [(one["check"], one["severity"]) for one in found] == [(check, severity)]
        ward.heal(found[0]["remedy"])
        deadline = time.monotonic() + 10
        while ward.cluster.rows(f"SHOW {name}") != [("on",)] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [one for one in ward.examine(skip=skip)["findings"] if name in one["found"]]
    finally:
        ward.cluster.set(name, "")


@pytest.mark.parametrize("whose", ["ROLE synapse IN DATABASE {name}", "ROLE synapse", "DATABASE {name}", "ROLE ALL", "SYSTEM"])
def test_a_default_that_keeps_synapse_from_writing_is_found_wherever_it_stands(ward, whose):
    whose = whose.replace("{name}", ward.move.name)
    try:
        ward.cluster.rows(f"ALTER {whose} SET default_transaction_read_only = 'YES'")
        ward.cluster.reload()
        time.sleep(0.2)
        [finding] = ward.only("read_only")
        ward.heal(finding["remedy"])
        time.sleep(0.2)
        ward.healthy()
    finally:
        for one in (f"ALTER {whose} RESET default_transaction_read_only", "ALTER SYSTEM RESET default_transaction_read_only"):
            ward.cluster.rows(one, options="-c default_transaction_read_only=off")
        ward.cluster.reload()


def test_a_role_that_may_write_where_its_database_says_otherwise_is_no_finding(ward):
    ward.break_(
        f"ALTER ROLE synapse IN DATABASE {ward.move.name} SET default_transaction_read_only = off",
        f"ALTER DATABASE {ward.move.name} SET default_transaction_read_only = on",
    )
    ward.healthy()


def test_a_setting_that_waits_for_a_restart_is_found(ward):
    ward.cluster.rows("ALTER SYSTEM SET max_connections = 90")
    try:
        ward.cluster.reload()
        time.sleep(0.2)
        [finding] = ward.only("pending_restart")
        assert "max_connections" in finding["found"]
    finally:
        ward.cluster.rows("ALTER SYSTEM RESET max_connections")
        ward.cluster.reload()
    ward.healthy()


@pytest.mark.parametrize(("file", "check"), [("conf.d/broken.conf", "invalid_settings"), ("pg_hba.conf", "invalid_hba_lines")])
def test_a_line_that_the_server_rejects_is_found_where_it_stands(ward, file, check):
    path = ward.cluster.data / file
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + "\nno such thing at all\n")
    path.chmod(0o644)
    try:
        [finding] = ward.only(check)
        assert str(path) in finding["found"] and f"line {len(path.read_text().splitlines())} of" in finding["found"]
    finally:
        path.unlink() if before is None else path.write_text(before)
    ward.heal(finding["remedy"])
    ward.healthy()


def test_a_wrong_locale_is_found_and_the_commands_make_the_database_anew(ward):
    name = ward.move.name
    ward.cluster.rows(f"ALTER DATABASE {name} RENAME TO {name}_c")
    template = f"CREATE DATABASE {name} OWNER synapse ENCODING UTF8 LOCALE 'C.UTF-8' TEMPLATE template0"
    ward.cluster.rows(template)
    try:
        [finding] = ward.only("locale")
        assert finding["severity"] == "critical" and "C.UTF-8" in finding["found"].replace("utf8", "UTF-8")
        ward.heal(finding["remedy"])
        ward.healthy()
    finally:
        ward.cluster.rows(f"DROP DATABASE {name}_c WITH (FORCE)")
        ward.cluster.rows(f"DROP DATABASE IF EXISTS {name}_before WITH (FORCE)")


def test_a_switch_for_a_wrong_locale_that_is_no_longer_needed_is_found(ward):
    text = ward.move.config.read_text()
    ward.move.config.write_text(text.replace("database:\n", "database:\n  allow_unsafe_locale: true\n", 1))
    [finding] = ward.only("unsafe_locale_allowed")
    ward.heal(finding["remedy"])
    ward.healthy()
    assert ward.move.config.read_text() == text


def edited(ward, **args) -> None:
    """Change the keywords of the configuration's section."""
    config = yaml.safe_load(ward.move.config.read_text())
    config["database"]["args"].update(args)
    ward.move.config.write_text(yaml.safe_dump(config))


def test_a_connection_across_a_network_that_is_not_encrypted_is_found(ward):
    alive = {"keepalives_idle": 10, "keepalives_interval": 10, "keepalives_count": 3}
    for mode, severity in (("prefer", "warning"), ("require", "notice")):
        edited(ward, host="192.0.2.1", sslmode=mode, **alive)
        [finding] = ward.only("encryption")
        assert finding["severity"] == severity and "192.0.2.1" in finding["found"]
    edited(ward, sslmode="verify-full")
    ward.healthy()


def test_missing_keepalives_across_a_network_are_found(ward):
    edited(ward, host="192.0.2.1", sslmode="verify-full", keepalives_idle=5)
    [finding] = ward.only("keepalives")
    assert "lacks keepalives_interval, keepalives_count" in finding["found"]


def test_a_configuration_that_synapse_cannot_read_and_two_sections_are_found(ward):
    second = ward.move.folder / "second.yaml"
    second.write_text(yaml.safe_dump({"database": yaml.safe_load(ward.move.config.read_text())["database"]}))
    [finding] = ward.only("configuration", config=[str(ward.move.config), str(second)])
    assert finding["severity"] == "notice" and str(second) in finding["found"]
    second.write_text("database: [")
    [finding] = ward.only("configuration", config=[str(ward.move.config), str(second)])
    assert finding["severity"] == "critical" and str(second) in finding["found"]


def test_a_python_without_the_client_library_is_found(ward):
    folder = ward.move.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [finding] = ward.only("client_library", synapse_python=str(folder / "bin" / "python"))
    assert "No module named 'psycopg2'" in finding["found"] and "-m pip install 'matrix-synapse[postgres]'" in finding["remedy"]


def test_tables_of_a_newer_and_of_an_older_synapse_are_found(ward):
    ward.break_("UPDATE schema_version SET version = version - 1")
    [finding] = ward.only("schema_version")
    assert finding["severity"] == "notice"
    ward.break_("UPDATE schema_version SET version = 9999", "UPDATE schema_compat_version SET compat_version = 9998")
    [finding] = ward.only("schema_version")
    assert finding["severity"] == "critical" and "9998" in finding["found"]


def test_a_file_system_that_is_almost_full_is_found(ward):
    findings = ward.only("disk_space", limits={"disk_space": {"warning": 100}})
    assert "% left" in findings[0]["found"]
    ward.heal(findings[0]["remedy"])


def test_rows_that_a_unique_index_should_keep_apart_are_found_and_listed(ward):
    row = "INSERT INTO blocked_rooms VALUES ('!twice:localhost', '@a:localhost')"
    state = "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = 'blocked_rooms_idx'::regclass"
    ward.break_(row, state.format("false"), row, state.format("true"))
    [finding] = ward.only("duplicates")
    assert finding["severity"] == "critical" and "blocked_rooms_idx" in finding["found"] and "!twice" not in str(finding)
    ward.heal(finding["remedy"])
    ward.break_("SET enable_indexscan = off; DELETE FROM blocked_rooms", "REINDEX TABLE blocked_rooms")
    ward.healthy()


def test_background_updates_that_are_pending_are_named(ward):
    ward.break_("INSERT INTO background_updates VALUES ('an_update', '{}', NULL, 0)")
    [finding] = ward.only("background_updates")
    assert "an_update" in finding["found"] and finding["severity"] == "notice"


def test_a_user_directory_that_a_move_left_empty_is_found_and_synapse_makes_it_after_the_command(ward):
    ward.break_("TRUNCATE user_directory, user_directory_search", "UPDATE user_directory_stream_pos SET stream_id = NULL")
    [finding] = ward.only("user_directory")
    ward.heal(finding["remedy"])
    with ward.move.synapse():
        ward.move.settle()
    assert ward.move.rows("SELECT count(*) > 0 FROM user_directory") == [(True,)]
    ward.break_("ANALYZE")
    ward.healthy()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("host all synapse 127.0.0.1/32 reject", "rejects it"),
        ("host {name} synapse samehost ident", "asks for ident"),
        ("hostnossl all +synapse 127.0.0.0/8 scram-sha-256", ""),
    ],
)
def test_the_line_that_keeps_synapse_out_is_found_where_it_stands(ward, line, words):
    path = ward.cluster.data / "pg_hba.conf"
    before = path.read_text()
    path.write_text(f"{line.format(name=ward.move.name)}\n{before}")
    try:
        ward.cluster.reload()
        if words:
            [finding] = ward.only("hba_rule")
            assert f"Line 1 of {path}" in finding["found"] and words in finding["found"] and "Put the rule" in finding["remedy"]
    finally:
        path.write_text(before)
        ward.cluster.reload()
    ward.healthy()


def test_a_password_that_is_stored_for_another_method_is_found(ward):
    ward.cluster.rows(
        f"SET password_encryption = 'md5'; ALTER ROLE synapse PASSWORD '{moves.PASSWORD.replace(chr(39), chr(39) * 2)}'"
    )
    try:
        [finding] = ward.only("hba_rule")
        assert "md5" in finding["found"] and "scram-sha-256" in finding["found"] and "Set the password" in finding["remedy"]
    finally:
        ward.cluster.rows("ALTER ROLE synapse PASSWORD %s", moves.PASSWORD)
    ward.healthy()


def test_tables_that_hide_synapses_are_found(ward):
    ward.break_("CREATE SCHEMA AUTHORIZATION synapse", "CREATE VIEW synapse.users AS SELECT 1 AS a")
    [finding] = ward.only("search_path")
    assert "'synapse', in which" in finding["found"]
    ward.heal(finding["remedy"])
    ward.healthy()


def test_what_a_move_and_a_repair_left_is_found_and_taken_away_by_the_commands(ward):
    name, limits = ward.move.name, {"leftovers": {"notice": 1}}
    ward.cluster.rows(f"CREATE DATABASE {name}_before")
    try:
        comment = (
            f"COMMENT ON DATABASE {name}_before IS 'matrixops.synapse_postgres: kept as it was until 2020-01-01, when it was'"
        )
        ward.cluster.rows(comment)
        ward.break_(
            "CREATE TABLE IF NOT EXISTS port_from_sqlite3 (a int)",
            "CREATE SCHEMA synapse_postgres AUTHORIZATION synapse"
            " CREATE TABLE sums (a int) CREATE TABLE move (status text, ported_at timestamptz)",
            "INSERT INTO synapse_postgres.move VALUES ('ported', '2020-01-01')",
        )
        findings = ward.only("leftovers", limits=limits)
        assert len(findings) == 2 and f"{name}_before" in findings[0]["found"] and "port_from_sqlite3" in findings[1]["found"]
        for finding in findings:
            ward.heal(finding["remedy"])
        ward.healthy(limits=limits)
    finally:
        ward.cluster.rows(f"DROP DATABASE IF EXISTS {name}_before")


def test_old_rows_are_found_and_frozen_by_the_command(ward):
    limits = {"wraparound": {"warning": 5000}}
    for _round in range(60):
        ward.break_("DO $$ BEGIN FOR i IN 1..100 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$")
    [finding] = ward.only("wraparound", limits=limits)
    assert finding["severity"] == "warning" and "transactions old" in finding["found"]
    ward.heal(finding["remedy"])
    ward.healthy(limits=limits)


def test_a_transaction_that_is_left_open_is_found_and_ended(ward):
    limits = {"idle_in_transaction": {"warning": 0}}
    with contextlib.closing(ward.move.connect()) as connection:
        connection.autocommit = False
        connection.cursor().execute("SELECT 1")
        [finding] = ward.only("idle_in_transaction", limits=limits)
        assert "SELECT 1" not in str(finding)
        ward.heal(finding["remedy"])
        ward.healthy(limits=limits)


def test_a_session_that_waits_for_a_lock_is_found_and_freed(ward):
    limits = {"blocked_sessions": {"warning": 0}}
    with contextlib.closing(ward.move.connect()) as holder, contextlib.closing(ward.move.connect()) as waiting:
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE events")
        thread = threading.Thread(target=lambda: waiting.cursor().execute("SELECT count(*) FROM events"))
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while not ward.move.rows("SELECT 1 FROM pg_locks WHERE waitstart IS NOT NULL") and time.monotonic() < deadline:
                time.sleep(0.05)
            [finding] = ward.only("blocked_sessions", limits=limits, skip=["durability", "statistics"])
            assert str(holder.info.backend_pid) in finding["found"]
            ward.heal(finding["remedy"])
        finally:
            with contextlib.suppress(Exception):  # the command has ended it
                holder.rollback()
            thread.join(20)
    ward.healthy(limits=limits)


def test_what_synapses_role_may_not_see_is_named_and_no_finding(ward):
    result = ward.examine(ward.synapse)
    assert result["findings"] == [] and "idle_in_transaction" in result["unseen"]
    assert f"{moves.USER!r} is neither" in result["unseen"]["idle_in_transaction"]


def test_a_release_whose_support_ends_is_found(ward):
    [finding] = ward.only("server_version", limits={"server_version": {"warning": 10000}})
    assert (
        f"PostgreSQL {ward.cluster.major}, whose support ends on" in finding["found"] and "pg_upgradecluster" in finding["remedy"]
    )
