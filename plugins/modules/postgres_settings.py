#!/usr/bin/python

# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_settings
short_description: PostgreSQL's parameters, in a configuration file of their own
description:
  - Writes the given parameters, and no others, to one file of the server's C(conf.d) folder and makes the server reload.
  - Every value is checked before anything is written, with the server's own list of parameters and by the server's own
    rules for units, ranges and choices. Afterwards the server is asked what it makes of the file; when it objects, or does
    not read the file at all, the file is put back as it was and the task fails with the server's words.
  - Tells which parameters wait for a restart. The module never restarts the server.
version_added: 0.1.0
author: The matrixops.synapse_postgres contributors (@matrixops)
extends_documentation_fragment:
  - matrixops.synapse_postgres.connection
  - matrixops.synapse_postgres.attributes.step
options:
  settings:
    description:
      - Parameters and their values, as the configuration file has them. V({}) empties the file.
      - A boolean is written as V(on) or V(off); a number without a unit counts in the parameter's own unit, as in the
        file.
      - Parameters of extensions, which have a dot in the name, may be unknown to the server.
    type: dict
    required: true
  path:
    description:
      - The configuration file. It belongs to this module as a whole, and everybody may read it.
      - Without it, the file is C(conf.d/90-synapse-postgres.conf) beside the server's C(postgresql.conf).
    type: path
  comments:
    description:
      - Texts to write above parameters, by name. Those for parameters that are not in O(settings) are left out.
    type: dict
    default: {}
notes:
  - Run it on the server's host, as root or as the operating system user of the server; the role must be a superuser.
"""

EXAMPLES = r"""
- name: What this host's PostgreSQL is to be set to
  matrixops.synapse_postgres.postgres_tuning_info:
    synapse_on_host: true
  register: tuning

- name: Set it
  become: true
  become_user: postgres
  matrixops.synapse_postgres.postgres_settings:
    settings: "{{ tuning.settings | combine({'log_min_duration_statement': '5s'}) }}"
    comments: "{{ tuning.comments }}"
  register: settings

- name: Restart the server when a parameter needs it
  become: true
  ansible.builtin.service:
    name: postgresql
    state: restarted
  when: settings.restart_required
"""

RETURN = r"""
path:
  description: The configuration file.
  returned: always
  type: str
  sample: /etc/postgresql/15/main/conf.d/90-synapse-postgres.conf
restart_required:
  description:
    - Whether a parameter waits for a restart of the server, or would. It stays true, on runs that change nothing too,
      until the server was restarted.
  returned: always
  type: bool
restart_parameters:
  description: The parameters that wait for a restart, whose value by the files means another one than the running one.
  returned: always
  type: list
  elements: str
  sample: [shared_buffers]
reload_required:
  description: In check mode, whether the run would make the server reload. Otherwise false, because that was done.
  returned: always
  type: bool
overridden:
  description: Parameters of O(settings) whose value comes from elsewhere, and from which file and line.
  returned: always
  type: dict
  sample:
    work_mem: /var/lib/postgresql/15/main/postgresql.auto.conf, line 3
"""

import contextlib
import os
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _settings
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, told_to

FILE = os.path.join("conf.d", "90-synapse-postgres.conf")
LONGEST_RELOAD = 10


def content(path: str) -> bytes | None:
    """Return what the file holds, None when there is none; Refusal when it could not be written."""
    folder = os.path.dirname(path)
    if not os.path.isabs(path) or not os.path.isdir(folder):
        raise Refusal(
            f"There is no folder {folder or '.'} on this host for the file {path}.",
            "Run the task on the server's host, and make the folder or give another path.",
        )
    if not os.path.exists(path):
        return None
    with open(path, "rb") as stream:
        return stream.read()


def write(module: AnsibleModule, path: str, data: bytes | None) -> None:
    """Put ``data`` into the file at once, or remove it for None; a new file is for everybody to read, like its siblings."""
    if data is None:
        os.unlink(path)
        return
    fresh = not os.path.exists(path)
    handle, draft = tempfile.mkstemp(dir=module.tmpdir)
    with open(handle, "wb") as stream:
        stream.write(data)
    module.atomic_move(draft, path)
    if fresh:
        os.chmod(path, 0o644)
        folder = os.stat(os.path.dirname(path))
        if os.geteuid() == 0:
            os.chown(path, folder.st_uid, folder.st_gid)


@contextlib.contextmanager
def written(module: AnsibleModule, path: str, before: bytes | None, after: bytes):
    """Have ``after`` in the file within the block, and for good unless the block raises."""
    write(module, path, after)
    try:
        yield
    except BaseException:
        write(module, path, before)
        raise


def loaded(cursor) -> float:
    """Return when the server last loaded its configuration, in seconds since the epoch."""
    cursor.execute("SELECT extract(epoch FROM pg_conf_load_time())")
    return float(cursor.fetchone()[0])


def reload(cursor) -> None:
    """Make the server load its configuration and wait until it has."""
    before, deadline = loaded(cursor), time.monotonic() + LONGEST_RELOAD
    cursor.execute("SELECT pg_reload_conf()")
    while loaded(cursor) == before:
        if time.monotonic() > deadline:
            raise Refusal(
                f"The server did not load its configuration within {LONGEST_RELOAD} seconds.",
                "See the server's log for the reason; the file was put back as it was.",
            )
        time.sleep(0.02)


def verified(cursor, known: dict, settings: dict, path: str) -> list[dict]:
    """Return the lines that the server reads, ours among them and accepted; Refusal otherwise."""
    lines = _settings.file_lines(cursor)
    _settings.require_accepted(known, lines, path)
    if settings and not any(_settings.same_file(line["sourcefile"], path) for line in lines):
        raise _settings.not_included(path, known["config_file"]["setting"])
    return lines


def foretold(cursor, known: dict, settings: dict, path: str, differs: bool) -> tuple[list[dict], list | None]:
    """Return the lines that the server reads now and, when ours are to come, its order of reading; Refusal as in the run."""
    if not differs:
        return verified(cursor, known, settings, path), None
    config_file = known["config_file"]["setting"]
    order = _settings.reading_order(config_file, path)
    if settings and (path, 0) not in order:
        raise _settings.not_included(path, config_file)
    return _settings.file_lines(cursor), order


def applied(
    module: AnsibleModule, cursor, known: dict, settings: dict, path: str, before: bytes | None, after: bytes
) -> list[dict]:
    """Write the file if it differs, make the server load it, and return the lines that the server reads."""
    with written(module, path, before, after) if before != after else contextlib.nullcontext():
        lines = verified(cursor, known, settings, path)
        reload(cursor)
    return lines


def step(module: AnsibleModule, cursor) -> dict:
    """Bring the file and the server to the wished state, or foretell it; return the result."""
    _settings.require_superuser(cursor)
    known = _settings.parameters(cursor)
    path = module.params["path"] or os.path.join(os.path.dirname(known["config_file"]["setting"]), FILE)
    settings = _settings.wished(known, module.params["settings"])
    text = _settings.render(settings, module.params["comments"])
    before, after = content(path), text.encode("utf-8", "surrogateescape")
    _settings.require_readable(_settings.file_lines(cursor), path)
    # A run that was interrupted between writing and reloading left a file newer than what the server has loaded.
    changed = before != after or os.stat(path).st_mtime > loaded(cursor)
    order = None
    if module.check_mode:
        lines, order = foretold(cursor, known, settings, path, before != after)
    elif changed:
        lines = applied(module, cursor, known, settings, path, before, after)
        known = _settings.parameters(cursor)
    else:
        lines = verified(cursor, known, settings, path)
    overridden = _settings.overriding(known, lines, list(settings), path, order)
    reload_required = module.check_mode and changed
    waiting = _settings.awaiting_restart(known, lines, settings, overridden, path, reload_required)
    return {
        "changed": changed,
        "path": path,
        "restart_required": bool(waiting),
        "restart_parameters": waiting,
        "reload_required": reload_required,
        "overridden": {name: other["place"] for name, other in overridden.items()},
        "diff": {
            "before_header": path,
            "after_header": path,
            "before": (before or b"").decode("utf-8", "replace"),
            "after": text,
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=_connection.connection_spec(
            settings=dict(type="dict", required=True),
            path=dict(type="path"),
            comments=dict(type="dict", default={}),
        ),
        supports_check_mode=True,
    )
    with told_to(module):
        with _connection.session(module.params, autocommit=True, what="postgres_settings") as connection:
            result = step(module, connection.cursor())
    for name, place in result["overridden"].items():
        module.warn(f"The parameter {name} of {result['path']} has no effect: {place} overrides it.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
