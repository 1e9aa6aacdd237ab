# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings by ALTER SYSTEM, for servers whose files are out of reach: what the role may set, and a way back from each.

A role that is no superuser may set single parameters since PostgreSQL 15 (GRANT ALTER SYSTEM ON PARAMETER), and the roles that
providers hand out as administrators may often set none. What it may not do is left to people, and nothing fails because of it.
"""

from __future__ import annotations

import dataclasses
import os

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import change, parameters

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

# Where the server keeps what ALTER SYSTEM sets: in its data directory.
_AUTO = "postgresql.auto.conf"

# has_parameter_privilege() is there from 15 on, and ALTER SYSTEM for parameters that the server does not know from 17 on.
_PRIVILEGES, _UNKNOWN_ALLOWED = 150000, 170000

_DENIED = "42501"

NOT_PERMITTED = "not permitted"


@dataclasses.dataclass(frozen=True)
class _Rights:
    """What our role may do: be a ``superuser``, ``reload`` the server, read pg_file_settings (``files``) and a file's ``age``.

    ``allowed`` is whether the server lets anybody use ALTER SYSTEM (allow_alter_system, 17 and later).
    """

    superuser: bool
    reload: bool
    files: bool
    age: bool
    allowed: bool


@dataclasses.dataclass(frozen=True)
class _View:
    """What is seen of the server: the ``known`` parameters, its files' ``lines``, None where our role may not see them.

    ``path`` is the file of ALTER SYSTEM, empty where it is not seen or sets nothing.
    """

    known: dict
    lines: list | None
    path: str
    unknown: dict

    def row(self, name: str) -> dict | None:
        return self.known.get(name.lower())

    def text(self, name: str) -> str | None:
        """Return what the files give to the parameter; where they are not seen, its running value."""
        row = self.row(name)
        if self.lines is None:
            return row["setting"] if row else self.unknown.get(name)
        line = parameters.elsewhere(row or {"name": name}, self.lines, None)
        return line["setting"] if line else None

    def own(self, name: str) -> str | None:
        """Return what ALTER SYSTEM has set the parameter to, valid or not; None for nothing, or nothing that is seen."""
        ours = [line for line in self.lines or [] if self.path and parameters.same_file(line["sourcefile"], self.path)]
        found = [line["setting"] for line in ours if (line["name"] or "").lower() == name.lower()]
        return found[-1] if found else None

    def beneath(self, name: str) -> str | None:
        """Return what the files other than ALTER SYSTEM's give to the parameter, None for nothing, or nothing that is seen."""
        line = parameters.elsewhere(self.row(name) or {"name": name}, self.lines or [], self.path)
        return line["setting"] if line else None

    def fixed(self, name: str) -> bool:
        """Tell whether the server's command line gives the parameter its value."""
        row = self.row(name)
        return row is not None and row["source"] == "command line"

    def concealed(self, name: str) -> bool:
        """Tell whether our role cannot see what the files give to the parameter, because another value runs here."""
        row = self.row(name)
        if self.lines is not None or row is None:
            return False
        return row["pending_restart"] or self.fixed(name) or row["source"] in change.OF_SESSIONS

    def met(self, name: str, text: str) -> bool:
        """Tell whether the files already give ``text`` to the parameter; None of them do where the default does."""
        row, now = self.row(name), self.text(name)
        if self.lines is not None and now is None and row is not None:
            return change.alike(row, row["boot_val"], text) or (row["source"] == "default" and not parameters.differs(row, text))
        if self.lines is None and row is not None:
            return not parameters.differs(row, text)
        return change.alike(row, now, text)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is found before anything is done: our ``rights``, the ``view`` of the server, and what is to be done.

    ``wishes`` are spelt as in a file, and some may be ``kept`` larger by one; the server keeps the parameters of ``secluded``
    from our role. Of the ``wanted`` values, None for a reset, the ``actions`` are those that our role may set. ``unloaded`` is
    whether the server has not loaded what was set before.
    """

    rights: _Rights
    view: _View
    wishes: dict[str, str]
    secluded: dict[str, str]
    kept: dict[str, dict]
    wanted: dict[str, str | None]
    actions: dict[str, str | None]
    unloaded: bool

    @property
    def changed(self) -> bool:
        return bool(self.actions) or (self.unloaded and self.rights.reload)

    @property
    def not_permitted(self) -> list[str]:
        return sorted([name for name in self.wanted if name not in self.actions] + list(self.secluded))

    def text(self, comments: dict) -> str:
        """Return the settings as a file would give them, for people to set them by."""
        texts = {**self.wishes, **self.secluded}
        return parameters.render({name: text for name, text in sorted(texts.items()) if name not in self.kept}, comments)


def _rights(cursor) -> _Rights:
    cursor.execute(
        "SELECT rolsuper, has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE'),"
        " has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')"
        " AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE'),"
        " has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'EXECUTE'),"
        " coalesce(current_setting('allow_alter_system', true), 'on') = 'on'"
        " FROM pg_catalog.pg_roles WHERE rolname = current_user"
    )
    return _Rights(*cursor.fetchone())


def _permitted(cursor, rights: _Rights, names: list[str]) -> set[str]:
    """Return those of ``names`` that our role may set by ALTER SYSTEM."""
    if rights.superuser or not rights.allowed:
        return set(names if rights.allowed else ())
    if cursor.connection.server_version < _PRIVILEGES:
        return set()
    cursor.execute(
        "SELECT name FROM unnest(%s::text[]) AS name WHERE has_parameter_privilege(current_user, name, 'ALTER SYSTEM')",
        (list(names),),
    )
    return {name for (name,) in cursor.fetchall()}


def _secluded(cursor, known: dict, names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return those of ``names`` that the server has and keeps from our role, and the values of those that it shows by name only.

    The latter are parameters that no loaded extension has declared, of which pg_settings does not tell.
    """
    kept_away, unknown = [], {}
    for name in names:
        if name.lower() in known or "\0" in name:
            continue
        try:
            cursor.execute("SELECT current_setting(%s, true)", (name,))
            (value,) = cursor.fetchone()
        except psycopg2.Error as error:
            if error.pgcode == _DENIED:
                kept_away.append(name)
            continue
        if value is not None:
            unknown[name] = value
    return kept_away, unknown


def _view(rights: _Rights, cursor, known: dict, unknown: dict) -> _View:
    lines = parameters.lines_alone(cursor) if rights.files else None
    places = [row["sourcefile"] for row in known.values()] + [line["sourcefile"] for line in lines or []]
    path = next((place for place in places if place and os.path.basename(place) == _AUTO), "")
    if lines is not None:
        parameters.require_readable(lines, "")
    return _View(known, lines, path, unknown)


def _actions(view: _View, wishes: dict, kept: dict) -> dict[str, str | None]:
    """Return ``{name: text}`` for what has to be set to be as wished, and None for what has to be reset.

    A parameter that is ``kept`` larger by another file has to lose what ALTER SYSTEM gives it.
    """
    found = {}
    for name, text in wishes.items():
        row = view.row(name)
        if name in kept:
            ours = view.own(name) is not None if view.lines is not None else _from(row, view.path)
            if ours and (view.lines is None or not change.alike(row, view.own(name), view.beneath(name))):
                found[name] = None
        elif not view.concealed(name) and not view.met(name, text):
            empty = name in parameters.LISTS and not parameters.elements(name, text)
            found[name] = None if empty else text
            if empty and (view.lines is None or view.beneath(name) or row["boot_val"]):
                raise Refusal(
                    f"ALTER SYSTEM cannot give {name} an empty list: the server would write a list of one empty name.",
                    "Leave it out of the settings, and remove its value from the configuration file.",
                )
    return found


def _from(row: dict, path: str) -> bool:
    return bool(path) and parameters.same_file(row["sourcefile"], path)


def _statement(name: str, text: str | None):
    """Return the ALTER SYSTEM that sets the parameter to ``text``, or resets it.

    The server puts quotes around each value for a parameter of LISTS: a list in one value would be a list of one name.
    """
    if text is None:
        return sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name))
    values = parameters.elements(name, text) if name in parameters.LISTS else [text]
    return sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, values)))


def _hush(cursor) -> None:
    """Keep the statements of this session out of the server's log and statistics; for superusers."""
    cursor.execute(
        "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = 'panic';"
        " SET log_duration = off; SET log_min_duration_sample = -1; SET log_transaction_sample_rate = 0;"
        " SELECT set_config('pg_stat_statements.track_utility', 'off', false)"
    )


def _alter(cursor, view: _View, actions: dict[str, str | None]) -> None:
    """Carry ``actions`` out; when the server refuses one, put the others back, and Refusal in its words."""
    done: list[str] = []
    try:
        for name, text in actions.items():
            done.append(name)
            if view.row(name) is None and text is not None and cursor.connection.server_version < _UNKNOWN_ALLOWED:
                # A session that has the parameter may set it for all.
                cursor.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(text)))
            cursor.execute(_statement(name, text))
    except psycopg2.Error as error:
        left = _put_back(cursor, view, done[:-1])
        words = _words(error)
        if text and parameters.secret(name, view.row(name)):
            text, words = parameters.NOT_SHOWN, words.replace(text, parameters.NOT_SHOWN)
        raise Refusal(
            f"The server does not take ALTER SYSTEM for the parameter {name} with the value {text!r}: {words}.",
            f"Correct the value; {left}.",
        ) from error
    except BaseException:
        _put_back(cursor, view, done)
        raise


def _words(error) -> str:
    """Return what the server says in a psycopg2 ``error``, without the statement that it may quote."""
    report = error.diag
    detail = f" ({report.message_detail})" if report.message_detail else ""
    return f"{report.message_primary or ' '.join(str(error).split())}{detail}"


def _put_back(cursor, view: _View, done: list[str]) -> str:
    """Give the parameters that are ``done`` the value back that ALTER SYSTEM had for them; tell how that went."""
    failed = []
    for name in reversed(done):
        try:
            cursor.execute(_statement(name, view.own(name)))
        except (psycopg2.Error, ValueError):
            failed.append(name)
    return f"these parameters keep their new value: {', '.join(failed)}" if failed else "nothing was changed"


def _unloaded(cursor, rights: _Rights, view: _View, wishes: dict) -> bool:
    """Tell whether a run that was interrupted set one of ``wishes``, and the server has not loaded it.

    The file's age is in whole seconds, and so younger than it seems: the values have a say too.
    """
    if view.lines is None or not rights.age:
        return False
    cursor.execute(
        "SELECT (pg_catalog.pg_stat_file(%s, true)).modification >= date_trunc('second', pg_catalog.pg_conf_load_time())",
        (_AUTO,),
    )
    if not cursor.fetchone()[0]:
        return False
    for name in wishes:
        row, text = view.row(name), view.text(name)
        text = row["boot_val"] if row and text is None else text
        hidden = row is None or view.fixed(name) or row["source"] in change.OF_SESSIONS
        if not hidden and text is not None and not row["pending_restart"] and parameters.differs(row, text):
            return True
    return False


def _carried_out(cursor, rights: _Rights, view: _View, actions: dict) -> None:
    if rights.superuser and any(parameters.secret(name, view.row(name)) for name in actions):
        _hush(cursor)
    _alter(cursor, view, actions)
    if rights.reload and not _connection.reload(cursor):
        left = _put_back(cursor, view, list(actions))
        raise Refusal(
            f"The server did not load its configuration within {_connection.RELOAD_SECONDS} seconds.",
            f"See the server's log for the reason; {left}.",
        )


def _awaiting(view: _View, now: dict, wishes: dict, after: dict, actions: dict, foretold: bool) -> list[str]:
    """Return the parameters of ``wishes``, sorted, that wait for a restart: what we set, and what others had set before."""
    set_now = {name: text for name, text in after.items() if name in actions}
    others = {name: text for name, text in after.items() if name not in actions}
    found = set(change.awaiting_restart(now, set_now, foretold))
    found.update(change.awaiting_restart(now, others, False))
    found.update(name for name in wishes if view.concealed(name) and view.row(name)["pending_restart"])
    return sorted(found)


def _difference(view: _View, actions: dict[str, str | None]) -> dict:
    """Return the diff of what ALTER SYSTEM has for the parameters of ``actions``; the running value where that is not seen."""
    before = {name: view.own(name) if view.lines is not None else view.text(name) for name in actions}
    texts = [
        parameters.hidden(view.known, parameters.assignments({name: text for name, text in side.items() if text is not None}, {}))
        for side in (before, actions)
    ]
    return {"before_header": "ALTER SYSTEM", "after_header": "ALTER SYSTEM", "before": texts[0], "after": texts[1]}


def step(module, cursor) -> dict:
    """Bring the server to the wished state, or foretell it; return the result of the module postgres_settings."""
    found = _looked(module, cursor)
    now = found.view.known
    if found.changed and not module.check_mode:
        _carried_out(cursor, found.rights, found.view, found.actions)
        now = parameters.parameters(cursor)
    return _told(module, found, now)


def _looked(module, cursor) -> _Found:
    """Return what is found; Refusal when the settings cannot be as wished."""
    rights, known = _rights(cursor), parameters.parameters(cursor)
    given = {str(name): value for name, value in module.params["settings"].items()}
    kept_away, unknown = _secluded(cursor, known, list(given))
    wishes = parameters.wished(known, {name: value for name, value in given.items() if name not in kept_away})
    at_least = change.only_raised(known, module.params["at_least"])
    view = _view(rights, cursor, known, unknown)
    kept = change.larger_elsewhere(known, view.lines, wishes, at_least, view.path)
    wanted = _actions(view, wishes, kept)
    permitted = _permitted(cursor, rights, list(wanted))
    return _Found(
        rights=rights,
        view=view,
        wishes=wishes,
        secluded={name: parameters.spelt(name, None, given[name]) for name in kept_away},
        kept=kept,
        wanted=wanted,
        actions={name: text for name, text in wanted.items() if name in permitted},
        unloaded=_unloaded(cursor, rights, view, wishes),
    )


def _told(module, found: _Found, now: dict) -> dict:
    """Return the module's result; ``now`` are the parameters as they are when it is done."""
    view, comments, denied = found.view, module.params["comments"], found.not_permitted
    reload_required = (bool(found.actions) or found.unloaded) and (module.check_mode or not found.rights.reload)
    before = {name: view.text(name) for name in found.wishes}
    after = _after(found, before)
    waiting = _awaiting(view, now, found.wishes, after, found.actions, reload_required)
    changes = change.changes(view.known, before, after, waiting, found.unloaded)
    shown = {one["name"]: one for one in changes + _denied(view, denied, {**found.wanted, **found.secluded})}
    rows = [shown[name] for name in sorted(shown)]
    own = [name for name in found.wishes if name not in found.kept]
    return {
        "changed": found.changed,
        "path": "",
        "previous": "",
        "restart_required": bool(waiting),
        "restart_parameters": waiting,
        "reload_required": reload_required,
        "overridden": {name: parameters.COMMAND_LINE for name in own if view.fixed(name)},
        "kept": found.kept,
        "not_permitted": denied,
        "not_visible": sorted(name for name in own if view.concealed(name)),
        "changes": changes,
        "table": change.table(rows, dict.fromkeys(denied, NOT_PERMITTED), comments),
        "settings_text": parameters.hidden(view.known, found.text(comments)),
        "diff": _difference(view, found.actions),
    }


def _after(found: _Found, before: dict[str, str | None]) -> dict[str, str | None]:
    """Return what the files give to the wished parameters, ``before``, as it is once ALTER SYSTEM has been used."""
    view = found.view
    set_now = {name: view.beneath(name) if text is None else text for name, text in found.actions.items()}
    # What waits and is not seen is most likely ours, of the run before.
    unseen = {name: text for name, text in found.wishes.items() if view.concealed(name) and view.row(name)["pending_restart"]}
    return {**before, **set_now, **unseen}


def _denied(view: _View, names: list[str], wanted: dict) -> list[dict]:
    """Return what people have to set, as changes() does: the ``wanted`` values of ``names``, which we may not set."""
    found = [change.change(name, view.row(name), view.text(name), wanted[name], False) for name in names]
    return [one if view.row(one["name"]) else {**one, "old": parameters.NOT_SHOWN} for one in found]
