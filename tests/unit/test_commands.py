# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every command that a message gives is run by a test against the state that the message is about, or it is said why not."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]

# The beginning of a command, with {} for what is put in -> the test that runs it, of tests/integration/test_remedies.py.
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
    "REVOKE ALL ON DATABASE {} FROM PUBLIC": (
        "test_rights_that_the_task_may_not_take_away_are_taken_by_the_commands_that_are_told"
    ),
    "sqlite3 {} 'PRAGMA auto_vacuum=off; VACUUM'": "test_a_sqlite_database_is_made_fit_to_move_by_the_command_that_is_told",
    "sqlite3 {} 'PRAGMA journal_mode=WAL'": "test_a_journal_that_keeps_synapse_from_writing_is_changed",
}

# What no test may run: it would take memory from the whole machine.
NOT_RUN = {"sysctl -w vm.nr_hugepages={}"}


def skeletons() -> set[str]:
    """Return the commands between backticks in the strings of the plugins, with {} for what is put in."""
    found = set()
    for path in (ROOT / "plugins").glob("module*/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.update(re.findall("(?<!`)`([^`]+)`(?!`)", "".join(parts)))
    return found - {"{}"}


def test_every_command_of_a_message_is_run_by_a_test():
    tested = set(RUN) | NOT_RUN
    assert not {command for command in skeletons() if not any(command.startswith(known) for known in tested)}


def test_the_tests_that_run_them_are_there():
    there = (ROOT / "tests/integration/test_remedies.py").read_text()
    assert not {name for name in RUN.values() if f"def {name}(" not in there}
