# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of settings on its host: written at once, checked by the server that reads it, put back if that refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import tempfile
from typing import TYPE_CHECKING, ContextManager, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _managed
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    change,
    conf_lines,
    conf_syntax,
    include_order,
    owned_file,
    parameters,
    requested,
    secrecy,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.change import Larger
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.conf_lines import Line
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

_FILE = os.path.join("conf.d", "90-synapse-postgres.conf")

# Modes of a new file, without and with a secret in it.
_PUBLIC, _PRIVATE = 0o644, 0o640

# What is kept of a file that did not exist.
_EMPTY = conf_syntax.render({}, {}).encode()


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is found before anything is done: the ``known`` parameters, all files' ``lines``, and what ours held ``before``.

    ``requests`` are spelt as in a file, and some may be ``kept`` larger by another file, see change.larger_elsewhere(). The
    server was ``started`` then, in seconds since the epoch; ``unloaded`` is whether it has not loaded our file as it is.
    """

    path: str
    known: dict[str, Parameter]
    lines: list[Line]
    requests: dict[str, str]
    kept: dict[str, Larger]
    comments: dict[str, object]
    before: bytes | None
    started: float
    unloaded: bool

    @property
    def config_file(self) -> str:
        return self.known["config_file"].setting

    @property
    def settings(self) -> dict[str, str]:
        """The requests that our file is to give."""
        return {name: text for name, text in self.requests.items() if name not in self.kept}

    @property
    def text(self) -> str:
        """What our file is to hold."""
        return conf_syntax.render(self.settings, self.comments)

    @property
    def after(self) -> bytes:
        return self.text.encode("utf-8", "surrogateescape")

    @property
    def differs(self) -> bool:
        """Whether our file has to be written."""
        return self.before != self.after

    @property
    def changed(self) -> bool:
        return self.differs or self.unloaded

    @property
    def needs_copy(self) -> bool:
        """Whether a copy is to be made of our file: it is what the server came up with, and there is none yet."""
        return self.differs and not _copied(self.path, self.started) and not self._pending()

    def reader(self) -> os.stat_result | None:
        """Return of whom a file with a secret of these settings has to be, None when there is no secret among them."""
        private = any(secrecy.is_secret(name, self.known.get(name.lower())) for name in self.settings)
        return os.stat(self.known["data_directory"].setting) if private else None

    def _pending(self) -> bool:
        """Tell whether our file, as it is, already waits for a restart: the server did not come up with what it holds."""
        concerned = change.affected(self.known, self.lines, [], self.path)
        return bool(change.awaiting_restart(self.known, change.texts_now(concerned, self.lines), self.unloaded))


@dataclasses.dataclass(frozen=True)
class _Applied:
    """What there is when it is done, or predicted: the ``known`` parameters and the files' ``lines``.

    ``order`` is the server's order of reading where our lines are still to come, ``copied`` whether a copy is made of our file.
    """

    known: dict[str, Parameter]
    lines: list[Line]
    order: list[tuple[str, int]] | None
    copied: bool
    reload_required: bool


def apply(module: AnsibleModule, cursor: Cursor) -> dict[str, object]:
    """Bring the file and the server to the requested state, or predict it; return the result of the module postgres_settings.

    Refusal when it cannot be had, and the file is as it was then.
    """
    found = _inspect(module, cursor)
    return _result(module, found, _apply(module, cursor, found))


def _inspect(module: AnsibleModule, cursor: Cursor) -> _Found:
    """Return what is found; Refusal when we are no superuser, or the settings cannot be as requested."""
    conf_lines.require_superuser(cursor)
    known = parameters.read(cursor)
    path = module.params["path"] or os.path.join(os.path.dirname(known["config_file"].setting), _FILE)
    requests = requested.requested(known, module.params["settings"])
    at_least = requested.numeric(known, module.params["at_least"])
    _require_folder(path)
    before, lines = owned_file.content(path), conf_lines.read_with_messages(cursor)
    _require_unmanaged(path, before)
    conf_lines.require_readable(lines, path)
    return _Found(
        path=path,
        known=known,
        lines=lines,
        requests=requests,
        kept=change.larger_elsewhere(known, lines, requests, at_least, path),
        before=before,
        comments=module.params["comments"],
        started=_connection.started(cursor),
        # A run that was interrupted between writing and reloading left a file newer than what the server has loaded.
        unloaded=before is not None and os.stat(path).st_mtime > _connection.loaded(cursor),
    )


def _apply(module: AnsibleModule, cursor: Cursor, found: _Found) -> _Applied:
    """Have the file and the server as requested, or predict it in check mode; Refusal when the server does not take it."""
    known, needs_copy, order = found.known, found.needs_copy, None
    if module.check_mode:
        lines, order = _predicted(cursor, found)
    elif found.changed:
        writing = _written(module, found, needs_copy) if found.differs else contextlib.nullcontext()
        lines = _loaded(cursor, found, writing)
        known = parameters.read(cursor)
    else:
        lines = _verified(cursor, found)
    return _Applied(known=known, lines=lines, order=order, copied=needs_copy, reload_required=module.check_mode and found.changed)


def _result(module: AnsibleModule, found: _Found, applied: _Applied) -> dict[str, object]:
    """Return the module's result, and remove the copy of the file that nothing waits for."""
    known, path = found.known, found.path
    overridden = conf_lines.overriding(applied.known, applied.lines, list(found.settings), path, applied.order)
    concerned = change.affected(known, found.lines, list(found.requests), path)
    texts = change.texts_to_come(concerned, applied.lines, found.settings, overridden, path)
    waiting = change.awaiting_restart(applied.known, texts, applied.reload_required)
    changes = change.changes(known, change.texts_now(concerned, found.lines), texts, waiting, found.unloaded)
    return {
        "changed": found.changed,
        "path": path,
        "previous": _previous(found, bool(waiting), applied.copied, module.check_mode),
        "restart_required": bool(waiting),
        "restart_parameters": waiting,
        "reload_required": applied.reload_required,
        "overridden": {name: other.place for name, other in overridden.items()},
        "kept": {name: dataclasses.asdict(larger) for name, larger in found.kept.items()},
        "not_permitted": [],
        "not_visible": [],
        "changes": [dataclasses.asdict(one) for one in changes],
        "table": change.table(changes, {}, found.comments),
        "settings_text": secrecy.masked(known, found.text),
        "diff": _difference(found),
    }


def _difference(found: _Found) -> dict[str, str]:
    before = (found.before or b"").decode("utf-8", "replace")
    texts = [secrecy.masked(found.known, text) for text in (before, found.text)]
    return {"before_header": found.path, "after_header": found.path, "before": texts[0], "after": texts[1]}


def _require_folder(path: str) -> None:
    """Raise Refusal when the file could not be written."""
    folder = os.path.dirname(path)
    if not os.path.isabs(path) or not os.path.isdir(folder):
        raise Refusal(
            f"There is no folder {folder or '.'} on this host for the file {path}.",
            "Run the task on the server's host, and make the folder or give another path.",
        )


def _require_unmanaged(path: str, before: bytes | None) -> None:
    """Raise Refusal where another manager writes the file at ``path``, which holds ``before``."""
    found = _managed.manager(os.path.realpath(path), before.decode("utf-8", "replace")) if before else None
    if found:
        raise Refusal(
            f"{path} is looked after by {found.name}: {found.sign}.",
            "Give another path, of a file that the server reads and nobody else writes.",
        )


def _verified(cursor: Cursor, found: _Found) -> list[Line]:
    """Return the lines that the server reads, ours among them and accepted; Refusal otherwise."""
    lines = conf_lines.read_with_messages(cursor)
    conf_lines.require_accepted(found.known, lines, found.path)
    if found.settings and not any(line.is_in(found.path) for line in lines):
        raise conf_lines.not_included(found.path, found.config_file)
    return lines


def _predicted(cursor: Cursor, found: _Found) -> tuple[list[Line], list[tuple[str, int]] | None]:
    """Return the lines that the server reads now and, when ours are to come, its order of reading; Refusal as in the run."""
    if not found.differs:
        return _verified(cursor, found), None
    order = include_order.reading_order(found.config_file, found.path)
    if found.settings and (found.path, 0) not in order:
        raise conf_lines.not_included(found.path, found.config_file)
    return conf_lines.read_with_messages(cursor), order


def _loaded(cursor: Cursor, found: _Found, writing: ContextManager[None]) -> list[Line]:
    """Have the file written, within ``writing``, and the server load it; return the lines that the server reads."""
    with writing:
        lines = _verified(cursor, found)
        if not _connection.reload(cursor):
            raise Refusal(
                f"The server did not load its configuration within {_connection.RELOAD_SECONDS} seconds.",
                "See the server's log for the reason; the file was put back as it was.",
            )
    return lines


@contextlib.contextmanager
def _written(module: AnsibleModule, found: _Found, needs_copy: bool) -> Iterator[None]:
    """Have our file as it is to be within the block, and for good unless that raises; copy first what ``needs_copy``."""
    path, before, reader = found.path, found.before, found.reader()
    like = os.stat(path) if before is not None else None
    if needs_copy:
        _keep(path, before)
    try:
        _write(module, path, found.after, reader)
        yield
    except BaseException:
        if owned_file.content(path) != before:
            owned_file.replace(module, path, before)
        if like is not None:
            _set_owner(path, like, stat.S_IMODE(like.st_mode))
        if needs_copy:
            os.unlink(_copy(path))
        raise


def _write(module: AnsibleModule, path: str, data: bytes, reader: os.stat_result | None) -> None:
    """Put ``data`` into the file at once; a new file is for everybody to read, like its siblings.

    One that holds a secret is for its ``reader`` alone, who owns this: the server, and its group. Who could read it as
    everybody could, as the server can a file of root's, has to own it then.
    """
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _set_owner(path, reader or os.stat(os.path.dirname(path)), _PRIVATE if reader else _PUBLIC)
    elif reader and os.stat(path).st_mode & 0o007:
        _set_owner(path, reader, stat.S_IMODE(os.stat(path).st_mode) & ~0o007)
    owned_file.replace(module, path, data)


def _set_owner(path: str, like: os.stat_result, mode: int) -> None:
    """Give the file the ``mode`` and, where we may, the owner of what is ``like`` this."""
    if os.geteuid() == 0:
        os.chown(path, like.st_uid, like.st_gid)
    os.chmod(path, mode)


def _copy(path: str) -> str:
    """Return where the file that the running server came up with is kept; include_dir reads no name that ends like this."""
    return f"{path}.before"


def _copied(path: str, started: float) -> bool:
    """Tell whether there is a copy that is of the server that ``started`` then: an older one is of its predecessor."""
    return os.path.exists(_copy(path)) and os.stat(_copy(path)).st_mtime > started


def _keep(path: str, before: bytes | None) -> None:
    """Keep a copy of the file, which holds ``before``, under the name of _copy(); at once, because it tells by being there."""
    folder = os.path.dirname(path)
    handle, draft = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with open(handle, "wb") as stream:
            stream.write(_EMPTY if before is None else before)
        like = os.stat(folder if before is None else path)
        _set_owner(draft, like, _PUBLIC if before is None else stat.S_IMODE(like.st_mode))
        os.replace(draft, _copy(path))
    except BaseException:
        os.unlink(draft)
        raise


def _previous(found: _Found, waiting: bool, will_be: bool, check_mode: bool) -> str:
    """Return the path of the copy that is the way back while a restart is ``waiting``, else none, and then remove it."""
    path = found.path
    if waiting and (_copied(path, found.started) or (check_mode and will_be)):
        return _copy(path)
    if not check_mode and os.path.exists(_copy(path)):
        os.unlink(_copy(path))
    return ""
