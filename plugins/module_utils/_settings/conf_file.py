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

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _managed
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import change, parameters

_FILE = os.path.join("conf.d", "90-synapse-postgres.conf")

# Modes of a new file, without and with a secret in it.
_PUBLIC, _PRIVATE = 0o644, 0o640

# What is kept of a file that did not exist.
_EMPTY = parameters.render({}, {}).encode()


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is found before anything is done: the ``known`` parameters, all files' ``lines``, and what ours held ``before``.

    ``wishes`` are spelt as in a file, and some may be ``kept`` larger by another file, see larger_elsewhere(). The server was
    ``started`` then, in seconds since the epoch; ``unloaded`` is whether it has not loaded our file as it is.
    """

    path: str
    known: dict
    lines: list[dict]
    wishes: dict[str, str]
    kept: dict[str, dict]
    comments: dict[str, str]
    before: bytes | None
    started: float
    unloaded: bool

    @property
    def settings(self) -> dict[str, str]:
        """The wishes that our file is to give."""
        return {name: text for name, text in self.wishes.items() if name not in self.kept}

    @property
    def text(self) -> str:
        """What our file is to hold."""
        return parameters.render(self.settings, self.comments)

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

    def reader(self) -> os.stat_result | None:
        """Return of whom a file with a secret of these settings has to be, None when there is no secret among them."""
        private = any(parameters.secret(name, self.known.get(name.lower())) for name in self.settings)
        return os.stat(self.known["data_directory"]["setting"]) if private else None


@dataclasses.dataclass(frozen=True)
class _Done:
    """What there is when it is done, or foretold: the ``known`` parameters and the files' ``lines``.

    ``order`` is the server's order of reading where our lines are still to come, ``keep`` whether a copy is made of our file.
    """

    known: dict
    lines: list[dict]
    order: list[tuple[str, int]] | None
    keep: bool
    reload_required: bool


def _require_unmanaged(path: str, before: bytes | None) -> None:
    """Raise Refusal where another manager writes the file at ``path``, which holds ``before``."""
    found = before and _managed.manager(os.path.realpath(path), before.decode("utf-8", "replace"))
    if found:
        raise Refusal(
            f"{path} is looked after by {found.name}: {found.sign}.",
            "Give another path, of a file that the server reads and nobody else writes.",
        )


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


def _write(module, path: str, data: bytes | None, reader: os.stat_result | None = None) -> None:
    """Put ``data`` into the file at once, or remove it for None; a new file is for everybody to read, like its siblings.

    One that holds a secret is for its ``reader`` alone, who owns this: the server, and its group. Who could read it as
    everybody could, as the server can a file of root's, has to own it then.
    """
    if data is None:
        os.unlink(path)
        return
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _give(path, reader or os.stat(os.path.dirname(path)), _PRIVATE if reader else _PUBLIC)
    elif reader and os.stat(path).st_mode & 0o007:
        _give(path, reader, stat.S_IMODE(os.stat(path).st_mode) & ~0o007)
    handle, draft = tempfile.mkstemp(dir=module.tmpdir)
    with open(handle, "wb") as stream:
        stream.write(data)
    module.atomic_move(draft, path)


def _give(path: str, like: os.stat_result, mode: int) -> None:
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
        _give(draft, like, _PUBLIC if before is None else stat.S_IMODE(like.st_mode))
        os.replace(draft, _copy(path))
    except BaseException:
        os.unlink(draft)
        raise


@contextlib.contextmanager
def _written(module, path: str, before: bytes | None, after: bytes, reader: os.stat_result | None, keep: bool):
    """Have ``after`` in the file within the block, and for good unless the block raises; ``keep`` a copy of ``before``."""
    like = os.stat(path) if before is not None else None
    if keep:
        _keep(path, before)
    try:
        _write(module, path, after, reader)
        yield
    except BaseException:
        if _content(path) != before:
            _write(module, path, before)
        if like is not None:
            _give(path, like, stat.S_IMODE(like.st_mode))
        if keep:
            os.unlink(_copy(path))
        raise


def _verified(cursor, known: dict, settings: dict, path: str) -> list[dict]:
    """Return the lines that the server reads, ours among them and accepted; Refusal otherwise."""
    lines = parameters.file_lines(cursor)
    parameters.require_accepted(known, lines, path)
    if settings and not any(parameters.same_file(line["sourcefile"], path) for line in lines):
        raise parameters.not_included(path, known["config_file"]["setting"])
    return lines


def _foretold(cursor, known: dict, settings: dict, path: str, differs: bool) -> tuple[list[dict], list | None]:
    """Return the lines that the server reads now and, when ours are to come, its order of reading; Refusal as in the run."""
    if not differs:
        return _verified(cursor, known, settings, path), None
    config_file = known["config_file"]["setting"]
    order = parameters.reading_order(config_file, path)
    if settings and (path, 0) not in order:
        raise parameters.not_included(path, config_file)
    return parameters.file_lines(cursor), order


def _loaded(cursor, known: dict, settings: dict, path: str, writing) -> list[dict]:
    """Have the file written, within ``writing``, and the server load it; return the lines that the server reads."""
    with writing:
        lines = _verified(cursor, known, settings, path)
        if not _connection.reload(cursor):
            raise Refusal(
                f"The server did not load its configuration within {_connection.RELOAD_SECONDS} seconds.",
                "See the server's log for the reason; the file was put back as it was.",
            )
    return lines


def _pending(known: dict, lines: list[dict], path: str, unloaded: bool) -> bool:
    """Tell whether the file, as it is, already waits for a restart: the server did not come up with what it holds."""
    rows = change.concerned(known, lines, [], path)
    return bool(change.awaiting_restart(known, change.presents(rows, lines), unloaded))


def _previous(path: str, started: float, waiting: bool, will_be: bool, check_mode: bool) -> str:
    """Return the path of the copy that is the way back while a restart is ``waiting``, else none, and then remove it."""
    if waiting and (_copied(path, started) or (check_mode and will_be)):
        return _copy(path)
    if not check_mode and os.path.exists(_copy(path)):
        os.unlink(_copy(path))
    return ""


def step(module, cursor) -> dict:
    """Bring the file and the server to the wished state, or foretell it; return the result of the module postgres_settings."""
    found = _looked(module, cursor)
    return _told(module, found, _done(module, cursor, found))


def _looked(module, cursor) -> _Found:
    """Return what is found; Refusal when we are no superuser, or the settings cannot be as wished."""
    parameters.require_superuser(cursor)
    known = parameters.parameters(cursor)
    path = module.params["path"] or os.path.join(os.path.dirname(known["config_file"]["setting"]), _FILE)
    wishes = parameters.wished(known, module.params["settings"])
    at_least = change.only_raised(known, module.params["at_least"])
    before, present = _content(path), parameters.file_lines(cursor)
    _require_unmanaged(path, before)
    parameters.require_readable(present, path)
    kept = change.larger_elsewhere(known, present, wishes, at_least, path)
    return _Found(
        path=path,
        known=known,
        lines=present,
        wishes=wishes,
        kept=kept,
        before=before,
        comments=module.params["comments"],
        started=_connection.started(cursor),
        # A run that was interrupted between writing and reloading left a file newer than what the server has loaded.
        unloaded=before is not None and os.stat(path).st_mtime > _connection.loaded(cursor),
    )


def _done(module, cursor, found: _Found) -> _Done:
    """Have the file and the server as wished, or foretell it in check mode; Refusal when the server does not take it."""
    known, path, order = found.known, found.path, None
    keep = found.differs and not _copied(path, found.started) and not _pending(known, found.lines, path, found.unloaded)
    if module.check_mode:
        lines, order = _foretold(cursor, known, found.settings, path, found.differs)
    elif found.changed:
        writing = _written(module, path, found.before, found.after, found.reader(), keep)
        lines = _loaded(cursor, known, found.settings, path, writing if found.differs else contextlib.nullcontext())
        known = parameters.parameters(cursor)
    else:
        lines = _verified(cursor, known, found.settings, path)
    return _Done(known=known, lines=lines, order=order, keep=keep, reload_required=module.check_mode and found.changed)


def _told(module, found: _Found, done: _Done) -> dict:
    """Return the module's result, and remove the copy of the file that nothing waits for."""
    known, path = found.known, found.path
    overridden = parameters.overriding(done.known, done.lines, list(found.settings), path, done.order)
    rows = change.concerned(known, found.lines, list(found.wishes), path)
    texts = change.futures(rows, done.lines, found.settings, overridden, path)
    waiting = change.awaiting_restart(done.known, texts, done.reload_required)
    presents = change.presents(rows, found.lines)
    changes = change.changes(known, presents, texts, waiting, found.unloaded)
    return {
        "changed": found.changed,
        "path": path,
        "previous": _previous(path, found.started, bool(waiting), done.keep, module.check_mode),
        "restart_required": bool(waiting),
        "restart_parameters": waiting,
        "reload_required": done.reload_required,
        "overridden": {name: other["place"] for name, other in overridden.items()},
        "kept": found.kept,
        "not_permitted": [],
        "not_visible": [],
        "changes": changes,
        "table": change.table(changes, {}, found.comments),
        "settings_text": parameters.hidden(known, found.text),
        "diff": _difference(found),
    }


def _difference(found: _Found) -> dict:
    before = (found.before or b"").decode("utf-8", "replace")
    texts = [parameters.hidden(found.known, text) for text in (before, found.text)]
    return {"before_header": found.path, "after_header": found.path, "before": texts[0], "after": texts[1]}
