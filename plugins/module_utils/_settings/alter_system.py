# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings by ALTER SYSTEM, for servers whose files are out of reach: what the role may set, and a way back from each.

A role that is no superuser may set single parameters since PostgreSQL 15 (GRANT ALTER SYSTEM ON PARAMETER), and the roles that
providers hand out as administrators may often set none. What it may not do is left to people, and nothing fails because of it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Mapping

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    change,
    conf_lines,
    conf_syntax,
    parameters,
    requested,
    role_view,
    secrecy,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.change import Change, Larger
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.parameters import Parameter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings.role_view import Rights, View
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._types import Cursor

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    pass

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# ALTER SYSTEM for parameters that the server does not know is there from 17 on.
_UNKNOWN_ALLOWED = 170000

NOT_PERMITTED = "not permitted"


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is found before anything is done: our ``rights``, the ``view`` of the server, and what is to be done.

    ``requests`` are spelt as in a file, and some may be ``kept`` larger by one; the server keeps the parameters of ``denied``
    from our role. Of the ``wanted`` values, None for a reset, the ``actions`` are those that our role may set. ``unloaded`` is
    whether the server has not loaded what was set before.
    """

    rights: Rights
    view: View
    requests: dict[str, str]
    denied: dict[str, str]
    kept: dict[str, Larger]
    wanted: dict[str, str | None]
    actions: dict[str, str | None]
    unloaded: bool

    @property
    def changed(self) -> bool:
        return bool(self.actions) or (self.unloaded and self.rights.reload)

    @property
    def not_permitted(self) -> list[str]:
        return sorted([name for name in self.wanted if name not in self.actions] + list(self.denied))

    def text(self, comments: Mapping[str, object]) -> str:
        """Return the settings as a file would give them, for people to set them by."""
        texts = {**self.requests, **self.denied}
        return conf_syntax.render({name: text for name, text in sorted(texts.items()) if name not in self.kept}, comments)


def apply(module: AnsibleModule, cursor: Cursor) -> dict[str, object]:
    """Bring the server to the requested state, or predict it; return the result of the module postgres_settings.

    Refusal when it cannot be had, and every parameter has the value then that it had.
    """
    found = _inspect(module, cursor)
    now = found.view.known
    if found.changed and not module.check_mode:
        _apply(cursor, found)
        now = parameters.read(cursor)
    return _result(module, found, now)


def _inspect(module: AnsibleModule, cursor: Cursor) -> _Found:
    """Return what is found; Refusal when the settings cannot be as requested."""
    rights, known = role_view.read_rights(cursor), parameters.read(cursor)
    given = {str(name): value for name, value in module.params["settings"].items()}
    denied, undeclared = role_view.unlisted(cursor, known, list(given))
    requests = requested.requested(known, {name: value for name, value in given.items() if name not in denied})
    at_least = requested.numeric(known, module.params["at_least"])
    view = role_view.read(cursor, rights, known, undeclared)
    kept = change.larger_elsewhere(known, view.lines, requests, at_least, view.path)
    wanted = _wanted(view, requests, kept)
    permitted = role_view.permitted(cursor, rights, list(wanted))
    return _Found(
        rights=rights,
        view=view,
        requests=requests,
        denied={name: requested.as_written(name, None, given[name]) for name in denied},
        kept=kept,
        wanted=wanted,
        actions={name: text for name, text in wanted.items() if name in permitted},
        unloaded=_unloaded(cursor, rights, view, requests),
    )


def _apply(cursor: Cursor, found: _Found) -> None:
    """Set what is to be set and have the server load it; when it does not, put everything back, and Refusal."""
    rights, view, actions = found.rights, found.view, found.actions
    if rights.superuser and any(secrecy.is_secret(name, view.parameter(name)) for name in actions):
        _keep_out_of_log(cursor)
    _alter(cursor, view, actions)
    if rights.reload and not _connection.reload(cursor):
        outcome = _put_back(cursor, view, list(actions))
        raise Refusal(
            f"The server did not load its configuration within {_connection.RELOAD_SECONDS} seconds.",
            f"See the server's log for the reason; {outcome}.",
        )


def _result(module: AnsibleModule, found: _Found, now: dict[str, Parameter]) -> dict[str, object]:
    """Return the module's result; ``now`` are the parameters as they are when it is done."""
    view, comments, not_permitted = found.view, module.params["comments"], found.not_permitted
    reload_required = (bool(found.actions) or found.unloaded) and (module.check_mode or not found.rights.reload)
    before = {name: view.text(name) for name in found.requests}
    after = _after(found, before)
    waiting = _awaiting_restart(found, now, after, reload_required)
    changes = change.changes(view.known, before, after, waiting, found.unloaded)
    shown = {one.name: one for one in changes + _left_to_people(found)}
    set_here = [name for name in found.requests if name not in found.kept]
    return {
        "changed": found.changed,
        "path": "",
        "previous": "",
        "restart_required": bool(waiting),
        "restart_parameters": waiting,
        "reload_required": reload_required,
        "overridden": {name: conf_lines.COMMAND_LINE for name in set_here if view.on_command_line(name)},
        "kept": {name: dataclasses.asdict(larger) for name, larger in found.kept.items()},
        "not_permitted": not_permitted,
        "not_visible": sorted(name for name in set_here if view.concealed(name)),
        "changes": [dataclasses.asdict(one) for one in changes],
        "table": change.table([shown[name] for name in sorted(shown)], dict.fromkeys(not_permitted, NOT_PERMITTED), comments),
        "settings_text": secrecy.masked(view.known, found.text(comments)),
        "diff": _difference(view, found.actions),
    }


def _wanted(view: View, requests: dict[str, str], kept: dict[str, Larger]) -> dict[str, str | None]:
    """Return ``{name: text}`` for what has to be set to be as requested, and None for what has to be reset.

    A parameter that is ``kept`` larger by another file has to lose what ALTER SYSTEM gives it.
    """
    found: dict[str, str | None] = {}
    for name, text in requests.items():
        if name in kept:
            if _hides_another_file(view, name):
                found[name] = None
        elif not view.concealed(name) and not view.is_set(name, text):
            empty = name in parameters.LISTS and not parameters.elements(name, text)
            if empty:
                _require_empty_by_reset(view, name)
            found[name] = None if empty else text
    return found


def _hides_another_file(view: View, name: str) -> bool:
    """Tell whether ALTER SYSTEM gives the parameter another value than the other files do."""
    if view.lines is None:
        return view.runs_altered(name)
    altered = view.altered(name)
    return altered is not None and not parameters.same_meaning(view.parameter(name), altered, view.without_alter(name))


def _require_empty_by_reset(view: View, name: str) -> None:
    """Raise Refusal unless the list ``name`` is empty once ALTER SYSTEM no longer sets it."""
    parameter = view.parameter(name)
    if view.lines is None or view.without_alter(name) or (parameter and parameter.boot_val):
        raise Refusal(
            f"ALTER SYSTEM cannot give {name} an empty list: the server would write a list of one empty name.",
            "Leave it out of the settings, and remove its value from the configuration file.",
        )


def _statement(name: str, text: str | None) -> sql.Composed:
    """Return the ALTER SYSTEM that sets the parameter to ``text``, or resets it.

    The server puts quotes around each value for a parameter of LISTS: a list in one value would be a list of one name.
    """
    if text is None:
        return sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name))
    values = parameters.elements(name, text) if name in parameters.LISTS else [text]
    return sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, values)))


def _keep_out_of_log(cursor: Cursor) -> None:
    """Keep the statements of this session out of the server's log and statistics; for superusers."""
    cursor.execute(
        "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = 'panic';"
        " SET log_duration = off; SET log_min_duration_sample = -1; SET log_transaction_sample_rate = 0;"
        " SELECT set_config('pg_stat_statements.track_utility', 'off', false)"
    )


def _alter(cursor: Cursor, view: View, actions: dict[str, str | None]) -> None:
    """Carry ``actions`` out; when the server refuses one, put the others back, and Refusal in its words."""
    done: list[str] = []
    try:
        for name, text in actions.items():
            done.append(name)
            if view.parameter(name) is None and text is not None and cursor.connection.server_version < _UNKNOWN_ALLOWED:
                # A session that has the parameter may set it for all.
                cursor.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(text)))
            cursor.execute(_statement(name, text))
    except psycopg2.Error as error:
        outcome = _put_back(cursor, view, done[:-1])
        message = _message(error)
        if text and secrecy.is_secret(name, view.parameter(name)):
            text, message = secrecy.NOT_SHOWN, message.replace(text, secrecy.NOT_SHOWN)
        raise Refusal(
            f"The server does not take ALTER SYSTEM for the parameter {name} with the value {text!r}: {message}.",
            f"Correct the value; {outcome}.",
        ) from error
    except BaseException:
        _put_back(cursor, view, done)
        raise


def _message(error: psycopg2.Error) -> str:
    """Return what the server says in a psycopg2 ``error``, without the statement that it may quote."""
    report = error.diag
    detail = f" ({report.message_detail})" if report.message_detail else ""
    return f"{report.message_primary or ' '.join(str(error).split())}{detail}"


def _put_back(cursor: Cursor, view: View, done: list[str]) -> str:
    """Give the parameters that are ``done`` the value back that ALTER SYSTEM had for them; return how that went."""
    failed = []
    for name in reversed(done):
        try:
            cursor.execute(_statement(name, view.altered(name)))
        except (psycopg2.Error, ValueError):
            failed.append(name)
    return f"these parameters keep their new value: {', '.join(failed)}" if failed else "nothing was changed"


def _unloaded(cursor: Cursor, rights: Rights, view: View, requests: dict[str, str]) -> bool:
    """Tell whether a run that was interrupted set one of ``requests``, and the server has not loaded it.

    The file's age is in whole seconds, and so younger than it seems: the values have a say too.
    """
    if view.lines is None or not rights.age:
        return False
    cursor.execute(
        "SELECT (pg_catalog.pg_stat_file(%s, true)).modification >= date_trunc('second', pg_catalog.pg_conf_load_time())",
        (role_view.AUTO_CONF,),
    )
    return bool(cursor.fetchall()[0][0]) and any(_is_unloaded(view, name) for name in requests)


def _is_unloaded(view: View, name: str) -> bool:
    """Tell whether the parameter runs with another value than the files give it, and a reload would change that."""
    parameter, text = view.parameter(name), view.text(name)
    if parameter is None or parameter.on_command_line or parameter.of_session or parameter.pending_restart:
        return False
    text = parameter.boot_val if text is None else text
    return text is not None and parameter.differs(text)


def _after(found: _Found, before: dict[str, str | None]) -> dict[str, str | None]:
    """Return what the files give to the requested parameters, ``before``, as it is once ALTER SYSTEM has been used."""
    view = found.view
    set_now = {name: view.without_alter(name) if text is None else text for name, text in found.actions.items()}
    # What waits and is not seen is most likely ours, of the run before.
    unseen = {name: text for name, text in found.requests.items() if _waits_unseen(view, name)}
    return {**before, **set_now, **unseen}


def _awaiting_restart(found: _Found, now: dict[str, Parameter], after: dict[str, str | None], predicted: bool) -> list[str]:
    """Return the requested parameters, sorted, that wait for a restart: what we set, and what others had set before."""
    set_now = {name: text for name, text in after.items() if name in found.actions}
    others = {name: text for name, text in after.items() if name not in found.actions}
    waiting = set(change.awaiting_restart(now, set_now, predicted))
    waiting.update(change.awaiting_restart(now, others, False))
    waiting.update(name for name in found.requests if _waits_unseen(found.view, name))
    return sorted(waiting)


def _waits_unseen(view: View, name: str) -> bool:
    """Tell whether the parameter waits for a restart with a value that our role cannot see."""
    parameter = view.parameter(name)
    return parameter is not None and view.concealed(name) and parameter.pending_restart


def _left_to_people(found: _Found) -> list[Change]:
    """Return as changes what people have to set, since our role may not."""
    view, values = found.view, {**found.wanted, **found.denied}
    shown = []
    for name in found.not_permitted:
        one = change.change(name, view.parameter(name), view.text(name), values[name])
        shown.append(one if view.parameter(name) else dataclasses.replace(one, old=secrecy.NOT_SHOWN))
    return shown


def _difference(view: View, actions: dict[str, str | None]) -> dict[str, str]:
    """Return the diff of what ALTER SYSTEM has for the parameters of ``actions``; the running value where that is not seen."""
    before = {name: view.altered(name) if view.lines is not None else view.text(name) for name in actions}
    texts = [
        secrecy.masked(view.known, conf_syntax.assignments({name: text for name, text in side.items() if text is not None}, {}))
        for side in (before, actions)
    ]
    return {"before_header": "ALTER SYSTEM", "after_header": "ALTER SYSTEM", "before": texts[0], "after": texts[1]}
