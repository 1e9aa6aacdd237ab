# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of settings on its host: written at once, checked by the server that reads it, put back if that refuses."""

from __future__ import annotations

import contextlib
import os
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _settings
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

_FILE = os.path.join("conf.d", "90-synapse-postgres.conf")


def _content(path: str) -> bytes | None:
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


def _write(module, path: str, data: bytes | None) -> None:
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
def _written(module, path: str, before: bytes | None, after: bytes):
    """Have ``after`` in the file within the block, and for good unless the block raises."""
    _write(module, path, after)
    try:
        yield
    except BaseException:
        _write(module, path, before)
        raise


def _verified(cursor, known: dict, settings: dict, path: str) -> list[dict]:
    """Return the lines that the server reads, ours among them and accepted; Refusal otherwise."""
    lines = _settings.file_lines(cursor)
    _settings.require_accepted(known, lines, path)
    if settings and not any(_settings.same_file(line["sourcefile"], path) for line in lines):
        raise _settings.not_included(path, known["config_file"]["setting"])
    return lines


def _foretold(cursor, known: dict, settings: dict, path: str, differs: bool) -> tuple[list[dict], list | None]:
    """Return the lines that the server reads now and, when ours are to come, its order of reading; Refusal as in the run."""
    if not differs:
        return _verified(cursor, known, settings, path), None
    config_file = known["config_file"]["setting"]
    order = _settings.reading_order(config_file, path)
    if settings and (path, 0) not in order:
        raise _settings.not_included(path, config_file)
    return _settings.file_lines(cursor), order


def _applied(module, cursor, known: dict, settings: dict, path: str, before: bytes | None, after: bytes) -> list[dict]:
    """Write the file if it differs, make the server load it, and return the lines that the server reads."""
    with _written(module, path, before, after) if before != after else contextlib.nullcontext():
        lines = _verified(cursor, known, settings, path)
        if not _connection.reload(cursor):
            raise Refusal(
                f"The server did not load its configuration within {_connection.RELOAD_SECONDS} seconds.",
                "See the server's log for the reason; the file was put back as it was.",
            )
    return lines


def step(module, cursor) -> dict:
    """Bring the file and the server to the wished state, or foretell it; return the result of the module postgres_settings."""
    _settings.require_superuser(cursor)
    known = _settings.parameters(cursor)
    path = module.params["path"] or os.path.join(os.path.dirname(known["config_file"]["setting"]), _FILE)
    settings = _settings.wished(known, module.params["settings"])
    text = _settings.render(settings, module.params["comments"])
    before, after = _content(path), text.encode("utf-8", "surrogateescape")
    _settings.require_readable(_settings.file_lines(cursor), path)
    # A run that was interrupted between writing and reloading left a file newer than what the server has loaded.
    changed = before != after or os.stat(path).st_mtime > _connection.loaded(cursor)
    order = None
    if module.check_mode:
        lines, order = _foretold(cursor, known, settings, path, before != after)
    elif changed:
        lines = _applied(module, cursor, known, settings, path, before, after)
        known = _settings.parameters(cursor)
    else:
        lines = _verified(cursor, known, settings, path)
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
