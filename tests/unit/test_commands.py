# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every command that a message gives is run by a test against the state that the message is about, or it is said why not."""

import ast
import pathlib
import re

import yaml

DOCUMENTS = {"DOCUMENTATION", "EXAMPLES", "RETURN"}
ROOT = pathlib.Path(__file__).parents[2]

# The beginning of a command, with {} for what is put in -> the test that runs it.
RUN = {
    "sed -i '{}s/{}/{}/' {}": "test_a_section_half_edited_by_hand_was_taken_for_another_postgresql_database",
    "sed -i '{},{}s/^/{}/' {}": "test_the_keys_of_an_unindented_section_stayed_at_top_level_with_the_old_password",
    "sed -i '{}' {}": "test_keys_that_an_earlier_run_left_at_top_level_are_told_and_removed",
    "umask 077 && iconv -f {} -t UTF-8 {}": "test_a_file_in_another_encoding_is_converted_by_the_command_that_is_told",
    "LC_ALL=C sed -i '{}s/{}/{}/g' {}": "test_a_byte_order_mark_was_quoted_and_not_seen",
    "chattr -{} {}": "test_a_file_that_is_protected_by_an_attribute_is_told_with_the_command_that_helps",
    "chmod 640 {}": "test_a_password_that_everybody_may_read_is_told_with_the_command_that_helps",
    "ALTER ROLE {} VALID UNTIL 'infinity'": "test_a_password_that_has_expired_is_told_with_the_command_that_helps",
    "GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {}": "test_the_rights_that_settings_need_are_granted_by_what_is_told",
    "GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO {}": (
        "test_the_rights_that_settings_need_are_granted_by_what_is_told"
    ),
    "ALTER DATABASE {} OWNER TO {}": "test_alter_database_was_the_remedy_for_a_dropped_schema",
    "CREATE SCHEMA public AUTHORIZATION {}": "test_alter_database_was_the_remedy_for_a_dropped_schema",
    "GRANT USAGE, CREATE ON SCHEMA public TO {}": "test_alter_database_was_the_remedy_for_a_dropped_schema",
    "GRANT USAGE, CREATE ON SCHEMA public TO {}; REVOKE": (
        "test_rights_that_the_task_may_not_take_away_are_taken_by_the_commands_that_are_told"
    ),
    "{}; REVOKE CREATE ON SCHEMA public FROM PUBLIC": (
        "test_rights_that_the_task_may_not_take_away_are_taken_by_the_commands_that_are_told"
    ),
    "sed -i '/^ *allow_unsafe_locale: *true *$/d' {}": ("test_a_switch_for_a_wrong_locale_that_is_no_longer_needed_is_found"),
    "ALTER DATABASE {} RENAME TO {}": "test_the_old_database_is_put_back_by_the_command_that_is_told_where_the_new_one_is_gone",
    "REVOKE ALL ON DATABASE {} FROM PUBLIC": (
        "test_rights_that_the_task_may_not_take_away_are_taken_by_the_commands_that_are_told"
    ),
    "GRANT CONNECT ON DATABASE {} TO {}": "test_who_was_not_let_in_is_let_in_by_the_command_that_is_told",
    "ALTER DATABASE {} ALLOW_CONNECTIONS true": "test_who_was_not_let_in_is_let_in_by_the_command_that_is_told",
    "ALTER ROLE {} LOGIN": "test_who_was_not_let_in_is_let_in_by_the_command_that_is_told",
    "ALTER ROLE {} RESET {}": "test_a_default_that_the_role_may_not_leave_is_refused_and_the_remedy_helps",
    "ALTER ROLE {} IN DATABASE {} SET search_path = public": "test_a_role_of_another_schema_works_in_public_by_what_is_told",
    "ALTER {} {} CONNECTION LIMIT {}": "test_a_role_with_too_few_sessions_is_told_and_one_with_few_is_enough",
    "GRANT TEMPORARY ON DATABASE {} TO {}": "test_a_role_with_too_few_sessions_is_told_and_one_with_few_is_enough",
    "psql -X -1 -d {} -c {}": "test_all_that_look_say_whose_the_tables_are_and_what_they_print_helps",
    "cp {} {}": "test_the_section_that_synapse_reads_is_the_one_that_is_looked_at_changed_and_put_back",
    "sqlite3 {} 'PRAGMA quick_check'": "test_a_transaction_that_was_cut_off_is_taken_back_by_the_command_that_is_told",
    "sqlite3 {} {}": "test_rows_that_no_move_carries_were_to_be_deleted_by_a_command_with_dots_for_their_ids",
    "sqlite3 {} 'PRAGMA auto_vacuum=off; VACUUM'": "test_a_sqlite_database_is_made_fit_to_move_by_the_command_that_is_told",
    "sqlite3 {} 'PRAGMA journal_mode=WAL'": "test_a_journal_that_keeps_synapse_from_writing_is_changed",
}

# What no test may run: it would take memory from the whole machine, change its packages, or act on its own servers.
NOT_RUN = {"sysctl -w vm.nr_hugepages={}", "apt-get install ", "pg_upgradecluster ", "systemctl restart postgresql"}


def messages() -> set[str]:
    """Return the strings of the plugins' code, and those of the roles, with {} for what is put in."""
    found = set()
    for path in (ROOT / "plugins").glob("module*/**/*.py"):
        tree = ast.parse(path.read_text())
        joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        pieces = {part for node in joined for part in node.values}
        documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
        documentation |= {node.value for node in assigned if ast.unparse(node.targets[0]) in DOCUMENTS}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in pieces | documentation:
                found.add(re.sub(r"\{\w*\}", "{}", node.value))
        for node in joined:
            found.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
    for path in (ROOT / "roles").glob("*/*/*.yml"):
        if path.parent.name in ("tasks", "vars", "handlers"):
            found.update(re.sub(r"\{\{.*?\}\}", "{}", text) for text in texts(yaml.safe_load(path.read_text())))
    return found


def texts(value: object) -> list[str]:
    """Return all texts in a ``value`` of YAML's."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for one in inside for text in texts(one)]


def skeletons() -> set[str]:
    """Return the commands between backticks in all messages."""
    return {command for text in messages() for command in re.findall("(?<!`)`([^`]+)`(?!`)", text)} - {"{}"}


def test_every_command_of_a_message_is_run_by_a_test():
    tested = set(RUN) | NOT_RUN
    assert not {command for command in skeletons() if not any(command.startswith(known) for known in tested)}


def test_the_tests_that_run_them_are_there():
    there = "".join(path.read_text() for path in (ROOT / "tests/integration").rglob("*.py"))
    assert not {name for name in RUN.values() if f"def {name}(" not in there}
