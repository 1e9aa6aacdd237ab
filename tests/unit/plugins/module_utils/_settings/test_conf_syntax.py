# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file that is written."""

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import conf_syntax


def test_the_file_that_is_written():
    settings = {"a.b": "it's a \\ and\nmore", "work_mem": "8MB"}
    comments = {"work_mem": "One line.\n\nAnother.", "other": "not set"}
    assert conf_syntax.render(settings, comments) == (
        "# Ansible managed (matrixops.synapse_postgres)\n"
        "a.b = 'it''s a \\\\ and\\nmore'\n"
        "# One line.\n#\n# Another.\n"
        "work_mem = '8MB'\n"
    )
    assert conf_syntax.render({}, {}) == "# Ansible managed (matrixops.synapse_postgres)\n"
