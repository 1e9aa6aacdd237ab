#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_hba
short_description: Rules of pg_hba.conf that are in force
description:
  - Makes rules of C(pg_hba.conf) effective, or removes them. The first line that matches a connection decides, so a rule is
    effective when it stands before every line that could match one of its connections and treat it differently. It is put
    directly before the first such line, or at the end of the file when there is none.
  - A line for exactly the same connections with another method or other options is rewritten where it stands, and moved when
    it stands too late. A line that is already effective is left as it is, however it is spaced.
  - A line that rejects a part of a rule's connections was put there on purpose; where it stands in front it stays there, and a
    warning names it.
  - Whatever depends on more than the file shows, such as an included file, a list of names in a file, a role's members, a
    regular expression or a host name, is taken for a match.
  - Every other byte of the file stays as it is. The server is asked whether it accepts the new file; when it does not, the
    old one is put back. The server reloads its configuration only when the file was changed.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  path:
    description:
      - The file, on the host that the task runs on. Without it, it is the one that the server names as its C(hba_file).
      - A file that the server reads neither as its C(hba_file) nor by way of it is written all the same, with a warning, and
        without asking the server.
    type: path
  rules:
    description:
      - The rules. With O(state=present), new ones are put in in the given order, and of two that could match the same
        connection the first one stays first.
    type: list
    elements: dict
    required: true
    suboptions:
      type:
        description:
          - The kind of connection.
        type: str
        required: true
        choices: [local, host, hostssl, hostnossl, hostgssenc, hostnogssenc]
      database:
        description:
          - Names of databases, separated by commas. The keywords V(all), V(sameuser), V(samerole) and V(replication), a
            leading V(@) and a leading V(/) mean what they mean in the file.
          - A name in double quotes is just a name, so that V("all") is the database called all. Names with blanks and the like
            need no quotes here; one that holds a comma does.
        type: str
        default: all
      user:
        description:
          - Names of roles, separated by commas and written as in O(rules[].database). The keyword is V(all), and a leading
            V(+) means the members of a role.
        type: str
        default: all
      address:
        description:
          - The client's address, such as V(10.0.0.0/8), V(::1/128), V(db.example.org), V(.example.org), V(samehost), V(samenet)
            or V(all). Required unless O(rules[].type=local), which has none.
        type: str
      method:
        description:
          - How the client proves who it is. With O(state=present) it is V(scram-sha-256) unless given.
          - With O(state=absent), lines of any method are removed unless it is given.
        type: str
        choices:
          - scram-sha-256
          - md5
          - password
          - peer
          - ident
          - cert
          - trust
          - reject
          - gss
          - sspi
          - ldap
          - radius
          - pam
          - bsd
          - oauth
      options:
        description:
          - Options of the method. With O(state=absent), lines with any options are removed unless they are given.
          - The options C(ldapbindpasswd) and C(radiussecrets) are refused, since Ansible logs what a task is given.
        type: dict
  state:
    description:
      - Whether the rules are effective, or gone. Those that are to be gone are told by type, database, user and address.
    type: str
    choices: [present, absent]
    default: present
  backup:
    description:
      - Keep a copy of the file as it was, beside it, when it is changed.
    type: bool
    default: false
notes:
  - The role that connects must be a superuser, or be a member of C(pg_read_all_settings) and have been granted C(SELECT) on
    C(pg_hba_file_rules), and C(EXECUTE) on C(pg_hba_file_rules()) and C(pg_reload_conf()).
  - The task runs on the server's host, as the user that owns the file or as root.
  - A server takes a reload up after it was told to, not at once. The module waits up to 10 seconds for that.
  - A rule's V(hostssl) cannot match while the server has C(ssl) off; that is told as a warning.
"""

EXAMPLES = r"""
- name: Synapse logs in with its password
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_hba:
    rules:
      - {type: local, database: synapse, user: synapse}
      - {type: host, database: synapse, user: synapse, address: 127.0.0.1/32}
      - {type: host, database: synapse, user: synapse, address: "::1/128"}
    backup: true

- name: The old host of Synapse has no business here any more
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_hba:
    rules:
      - {type: hostssl, database: synapse, user: synapse, address: 192.0.2.7/32}
    state: absent
"""

RETURN = r"""
path:
  description: The file, with symbolic links followed.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/pg_hba.conf
placed:
  description:
    - For each of the rules, in their order, the rule as a line, the number of its line and what was done, or would be.
    - With O(state=present), C(action) is V(present), V(inserted), V(moved) or V(replaced). With O(state=absent) it is
      V(removed), with the number the first removed line had, or V(absent), without a number.
  returned: success
  type: list
  elements: dict
  sample:
    - rule: "host    synapse         synapse         127.0.0.1/32            scram-sha-256"
      line: 97
      action: inserted
backup_file:
  description: The copy of the file as it was.
  returned: when O(backup=true) and the file was changed
  type: str
  sample: /etc/postgresql/17/main/pg_hba.conf.4711.2026-01-31@12:00:00~
"""

import os
import pathlib
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _hba
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to

# pg_hba_file_rules tells the file of a line since this server; before, there is only one file.
INCLUDES = 160000

RELOAD_SECONDS = 10


def require_reader(cursor, server: str) -> None:
    """Raise Refusal unless the connected role may ask which file the server reads and how, and make it reload."""
    cursor.execute(
        "SELECT has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')"
        " AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')"
        " AND has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')"
        " AND pg_has_role('pg_read_all_settings', 'USAGE'), current_user"
    )
    allowed, role = cursor.fetchone()
    if not allowed:
        raise Refusal(
            f"The role {role!r} at {server} may not read pg_hba_file_rules and hba_file or reload the server.",
            "Connect as a superuser: run the task with become_user=postgres and without login_host, or set login_user.",
        )


def server_rows(cursor) -> list[dict]:
    """Return what the server reads in its files right now: ``{file, line, type, method, error}``; type None when rejected.

    The error may quote bytes of the file that are no text in the database's encoding, hence its way as bytes.
    """
    file = "file_name" if cursor.connection.server_version >= INCLUDES else "current_setting('hba_file')"
    cursor.execute(f"SELECT {file}, line_number, type, auth_method, textsend(error) FROM pg_catalog.pg_hba_file_rules")
    return [
        {
            "file": os.path.realpath(file),
            "line": line,
            "type": kind,
            "method": method,
            "error": error if error is None else bytes(error).decode("utf-8", "replace"),
        }
        for file, line, kind, method, error in cursor.fetchall()
    ]


def require_accepted(rows: list[dict], path: str, gone: set[int]) -> None:
    """Raise Refusal when the server rejects a line, other than those of ``path`` that will be ``gone``."""
    for row in rows:
        if row["error"] and row["type"] is None and not (row["file"] == path and row["line"] in gone):
            raise Refusal(
                f"The server rejects line {row['line']} of {row['file']}: {row['error']}. "
                "It does not load a file with such a line, so no new rule would come into force.",
                "Correct or remove that line first.",
            )


def require_same_file(rows: list[dict], path: str, text: str, server: str) -> None:
    """Raise Refusal when what the server reads at ``path`` is not the ``text`` that stands there on this host."""
    theirs = {row["line"]: row for row in rows if row["file"] == path}
    ours = _hba.server_view(text)
    for line in sorted({*theirs, *ours}):
        row = theirs.get(line)
        known = ours.get(line)
        if row is None or line not in ours or (known and row["type"] and known != (row["type"], row["method"])):
            raise Refusal(
                f"Line {line} of {path} is not on this host what the server at {server} reads there.",
                "Run the task on the server's own host, and give the path of that server's file or none.",
            )


def require_owner(path: str) -> None:
    """Raise Refusal unless a file put in the place of ``path`` can have its owner: we are root or that owner."""
    owner = pathlib.Path(path).stat().st_uid
    if os.geteuid() not in (0, owner):
        raise Refusal(
            f"The file {path} belongs to the user with the number {owner}, and the task runs as number {os.geteuid()}.",
            "Run the task as its owner (become_user=postgres) or as root.",
        )


def write(module, path: str, text: str) -> None:
    """Put ``text`` in the place of the file at once, keeping owner and mode."""
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as stream:
        stream.write(_hba.encode(text))
    module.atomic_move(temporary, path)


def replace(
    module, cursor, server: str, path: str, before: str, outcome: _hba.Outcome, is_own: bool
) -> tuple[list[dict], str | None]:
    """Write the file and have the server check it; return its reading and the backup's path. A failure puts all back."""
    backup = module.backup_local(path) if module.params["backup"] else None
    try:
        write(module, path, outcome.text)
        rows = server_rows(cursor)
        if is_own or any(row["file"] == path for row in rows):
            require_new_accepted(rows, path, outcome.text)
            require_same_file(rows, path, outcome.text, server)
    except BaseException:
        if pathlib.Path(path).read_bytes() != _hba.encode(before):
            write(module, path, before)
        if backup:
            pathlib.Path(backup).unlink()
        raise
    return rows, backup


def require_new_accepted(rows: list[dict], path: str, text: str) -> None:
    """Raise Refusal when the server rejects a line of a file just written; before, it rejected none that is still there."""
    lines = {(path, line.number): line.raw for line in _hba.parse(text)}
    for row in rows:
        if row["error"] and row["type"] is None:
            line = _hba.shown(lines.get((row["file"], row["line"]), "")).strip()
            raise Refusal(
                f"The server rejects line {row['line']} of the new {row['file']} ({line}): {row['error']}.",
                "The file is as it was. Correct the rule.",
            )


def reload(cursor) -> bool:
    """Make the server load its files; tell whether it was seen to. Who connects after that meets the new rules.

    The postmaster, which signals the sessions and then loads the rules, accepts no connection before it is done with both.
    """
    cursor.execute("SELECT pg_conf_load_time()")
    before = cursor.fetchone()
    cursor.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + RELOAD_SECONDS
    while time.monotonic() < deadline:
        cursor.execute("SELECT pg_conf_load_time()")
        if cursor.fetchone() != before:
            return True
        time.sleep(0.05)
    return False


def server_warnings(rows: list[dict], path: str, placed: list[dict]) -> list[str]:
    """Return what the server remarks on our lines that it accepts, such as a hostssl line while ssl is off."""
    ours = {item["line"] for item in placed if item["action"] not in ("removed", "absent")}
    return [
        f"The server says of line {row['line']} of {path}: {row['error']}."
        for row in rows
        if row["error"] and row["type"] and row["file"] == path and row["line"] in ours
    ]


def step(module, cursor, rules: list[_hba.Rule]) -> dict:
    """Bring the file to its wished state; return the module's result, with its warnings."""
    params = module.params
    server = _connection.place(_connection.keywords(params))
    require_reader(cursor, server)
    cursor.execute("SELECT current_setting('hba_file')")
    own = os.path.realpath(cursor.fetchone()[0])
    path = os.path.realpath(params["path"] or own)
    before = _hba.decode(pathlib.Path(path).read_bytes())
    outcome = (_hba.place if params["state"] == "present" else _hba.remove)(before, rules)
    rows, backup = server_rows(cursor), None
    if path == own or any(row["file"] == path for row in rows):
        require_accepted(rows, path, outcome.gone)
        require_same_file(rows, path, before, server)
    changed = outcome.text != before
    if changed:
        require_owner(path)
    warnings = list(outcome.warnings)
    if changed and not module.check_mode:
        rows, backup = replace(module, cursor, server, path, before, outcome, path == own)
    in_use = path == own or any(row["file"] == path for row in rows)
    if not in_use:
        warnings.append(f"The server at {server} does not read {path}, so its rules are not in force there.")
    if in_use and changed and not module.check_mode and not reload(cursor):
        warnings.append(f"The server was told to reload, and {RELOAD_SECONDS} seconds later had not yet done so.")
    result = {"changed": changed, "path": path, "placed": outcome.placed, "warnings": warnings}
    if not (changed and module.check_mode):
        result["warnings"] += server_warnings(rows, path, outcome.placed)
    header = {"before_header": path, "after_header": path}
    result["diff"] = {"before": _hba.shown(before), "after": _hba.shown(outcome.text), **header}
    return {**result, "backup_file": backup} if backup else result


def main() -> None:
    rule = dict(
        type=dict(type="str", required=True, choices=list(_hba.TYPES)),
        database=dict(type="str", default="all"),
        user=dict(type="str", default="all"),
        address=dict(type="str"),
        method=dict(type="str", choices=_hba.METHODS),
        options=dict(type="dict"),
    )
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            path=dict(type="path"),
            rules=dict(type="list", elements="dict", required=True, options=rule),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            backup=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    params = module.params
    with told_to(module):
        complete = params["state"] == "present"
        rules = [_hba.wished(given, position, complete) for position, given in enumerate(params["rules"], 1)]
        with _connection.session(params, autocommit=True, what="postgres_hba") as connection, connection.cursor() as cursor:
            result = step(module, cursor, rules)
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
