# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both sides of a comparison, each as it is at one moment, and who looks at them: several processes, or this one alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from typing import Any, Callable, Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _workers
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare import unmatched
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite import file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._sqlite.source import Source
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._target import Target
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor, only_row


@dataclasses.dataclass(frozen=True)
class Sides:
    """A connection to the ``source``, ``sqlite``, and one to the ``target``, its cursor; each is in a transaction."""

    source: Source
    target: Target
    sqlite: sqlite3.Connection

    @property
    def postgres(self) -> Cursor:
        return self.target.cursor


# What does tasks: it is given the function that does one of them with Sides, and the two that _workers.work() takes.
Work = Callable[[Callable[[Sides, Any], Any], Callable[[], Any], Callable[[Any, Any], None]], None]


@contextlib.contextmanager
def both(source: Source, target: Target, writing: bool) -> Iterator[Sides]:
    """Yield the Sides as they are at one moment; what is written to PostgreSQL is kept if the block ends well.

    Without ``writing`` nothing can be.
    """
    with _temporary_beside(source), source.reading() as sqlite:
        sides = Sides(source, target, sqlite)
        with _one_moment(sides, writing):
            yield sides


def in_workers(sides: Sides) -> Work:
    """Return what does tasks in several processes, each with connections of its own.

    They see PostgreSQL as it is at the moment of ``sides``, and a SQLite file that nobody writes to is the same at any.
    """
    sides.postgres.execute("SELECT pg_export_snapshot()")
    snapshot = only_row(sides.postgres)[0]

    def work(inspect: Callable, tasks: Callable, done: Callable) -> None:
        _workers.work(lambda: _inspecting(sides, snapshot, inspect), tasks, done, sides.target.workers())

    return work


def in_this_process(sides: Sides) -> Work:
    """Return what does tasks one after the other, and sees what the transaction of ``sides`` has written."""

    def work(inspect: Callable, tasks: Callable, done: Callable) -> None:
        for task in iter(tasks, None):
            done(task, inspect(sides, task))

    return work


@contextlib.contextmanager
def _inspecting(sides: Sides, snapshot: str, inspect: Callable) -> Iterator[Callable]:
    """Yield, in a worker, the function that gives a task to ``inspect``, with the worker's own Sides as of ``snapshot``."""
    with sides.source.reading() as sqlite, sides.target.connected("synapse_port_verify") as cursor:
        own = Sides(sides.source, dataclasses.replace(sides.target, cursor=cursor), sqlite)
        with _one_moment(own, writing=False, snapshot=snapshot):
            yield lambda task: inspect(own, task)


@contextlib.contextmanager
def _one_moment(sides: Sides, writing: bool, snapshot: str | None = None) -> Iterator[Sides]:
    unmatched.prepare(sides.sqlite)
    file.require_utf8(sides.sqlite)
    sides.sqlite.execute("BEGIN")
    sides.sqlite.execute("SELECT count(*) FROM sqlite_master").fetchone()
    cursor = sides.postgres
    cursor.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ {'WRITE' if writing else 'ONLY'}")
    if snapshot:
        cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))
    try:
        # Nothing here lives long enough for compiled queries to pay.
        cursor.execute("SET LOCAL jit = off")
        yield sides
    except BaseException:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")


@contextlib.contextmanager
def _temporary_beside(source: Source) -> Iterator[None]:
    """Let SQLite keep its temporary files in the folder of the source, which is a disk; /tmp may be memory."""
    before = os.environ.get("SQLITE_TMPDIR")
    if os.access(source.folder, os.W_OK | os.X_OK):
        os.environ["SQLITE_TMPDIR"] = source.folder
    try:
        yield
    finally:
        os.environ.pop("SQLITE_TMPDIR", None)
        if before is not None:
            os.environ["SQLITE_TMPDIR"] = before
