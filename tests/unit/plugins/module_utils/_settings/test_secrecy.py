# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What people are not to see."""

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import secrecy
from support.pg_settings import from_file

DATE_STYLE = from_file("DateStyle", "string", "ISO, MDY")


def test_secrets_are_hidden_and_nothing_else():
    known = {"datestyle": DATE_STYLE, "password_encryption": from_file("password_encryption", "enum", "md5", enumvals=["md5"])}
    text = (
        "# archive_command = 'x'\n#primary_conninfo='x'\n  restore_command 'x''\\n' # why\nmy.password = x\nDateStyle = 'iso'\n"
        "password_encryption = md5\ninclude 'x.conf'\nssl_passphrase_command =\n# A comment.\n"
    )
    assert secrecy.masked(known, text) == (
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
    assert secrecy.secret_values(settings) == {"password=x", "5"}
