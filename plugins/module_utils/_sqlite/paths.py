# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file a path of a SQLite database leads to.

SQLite keeps the log of changes and the journal beside the name that it opens, after it has followed symbolic links
(unixFullPathname() in its os_unix.c). So a path is taken for that one name where it enters, once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from typing import Iterator

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal


def uri(path: str) -> str:
    """Return the URI by which SQLite opens the file at the absolute ``path`` to read it, whatever characters it has.

    The empty authority keeps a path that begins with two slashes from being one (https://www.sqlite.org/uri.html, section 3).
    """
    return f"file://{urllib.parse.quote(os.fsencode(path))}?mode=ro"


def require_absolute(path: str) -> None:
    """Raise Refusal unless ``path`` says where a file is by itself."""
    if not os.path.isabs(path):
        raise Refusal(
            f"The path {path} of the SQLite database is not absolute.",
            "Give the whole path; where Synapse's own folder matters, only Synapse knows which file it is.",
        )
    if "\0" in path:
        raise Refusal(f"The path {path!r} of the SQLite database has a NUL character.", "No file has such a path; correct it.")


def resolve(path: str) -> str:
    """Return the path of the file that SQLite opens when it is given ``path``: it names the files beside it by that.

    SQLite itself is asked. Where it cannot open the file, it is where the links lead to, and who reads it says what is wrong.
    Raises Refusal for a path that is not absolute.
    """
    require_absolute(path)
    actual = os.path.realpath(path)
    if os.path.isfile(actual):  # to open a pipe would wait for its writer
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri(path), uri=True)) as connection:
            connection.text_factory = bytes
            name = connection.execute("PRAGMA database_list").fetchone()[2]
            actual = os.path.realpath(os.fsdecode(name))  # older releases leave links to folders as they are
    return actual


@contextlib.contextmanager
def resolved_params(params: dict, *options: str) -> Iterator[dict]:
    """Yield a module's ``params`` with the paths of ``options`` as SQLite opens them, see resolve().

    A Refusal within the block that names such a path tells how it was given, too. Raises Refusal for one that is not absolute.
    """
    given = {option: params[option] for option in options if params[option] is not None}
    actual = {option: resolve(path) for option, path in given.items()}
    try:
        yield {**params, **actual}
    except Refusal as refusal:
        links = {_link(given[option], path) for option, path in actual.items() if path in str(refusal)}
        raise Refusal(" ".join([refusal.found, *sorted(links - {""})]), refusal.remedy, **refusal.facts) from refusal


def _link(given: str, actual: str) -> str:
    """Return the sentence that the path ``given`` leads to ``actual``, or nothing where they are the same."""
    return "" if given == actual else f"({given} leads to {actual}.)"
