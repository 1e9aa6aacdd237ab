# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which settings may hold a password or a key, and how they are kept from people's eyes."""

from __future__ import annotations

import re
from typing import Mapping

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter

# Texts that may hold a password or a key: shell commands and connection strings of the server's, and extensions' own.
_SECRET = re.compile(r"conninfo|_command$|passw|passphrase|secret|token|credential|salt|getkey|(^|[._])key$", re.IGNORECASE)
NOT_SHOWN = "(not shown)"

# Parameters of the server's own whose names say so, and that are switches and choices.
_NO_SECRETS = ("password_encryption", "ssl_passphrase_command_supports_reload", "md5_password_warnings")


def is_secret(name: str, parameter: Parameter | None) -> bool:
    """Tell whether the value of the parameter ``name``, None for one that is unknown, must not be shown."""
    return (parameter is None or parameter.vartype == "string") and bool(_SECRET.search(name))


def secret_values(settings: Mapping[object, object]) -> set[str]:
    """Return the values of a task's ``settings`` that Ansible must not show, by their names: no server has been asked yet."""
    secrets = {str(name): value for name, value in settings.items() if is_secret(str(name), None)}
    return {str(value) for name, value in secrets.items() if value and name.lower() not in _NO_SECRETS}


def masked(known: dict[str, Parameter], text: str) -> str:
    """Return the configuration file ``text`` for people to see: without the values of secret parameters, commented or not."""

    def masked_line(line: re.Match[str]) -> str:
        name = line["name"]
        return f"{line['start']}{NOT_SHOWN}" if is_secret(name, known.get(name.lower())) else line[0]

    return re.sub(r"(?m)^(?P<start>[\t #]*(?P<name>[\w$.]+)(?:[\t ]*=[\t ]*|[\t ]+(?!=)))\S[^\n]*$", masked_line, text)
