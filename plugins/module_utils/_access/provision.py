# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one Synapse needs of a server: its role, its database, who else may use that, and the rules that let the role in.

All of it is looked at before any of it is touched.
"""

from __future__ import annotations

from typing import Callable

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _connection, _words
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import (
    database,
    hba_file,
    hba_option,
    ident,
    ownership,
    privileges,
    role,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import Rule
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.server import Server, connected
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

WITH_PASSWORD = ("scram-sha-256", "md5")

# Does its part, or in check mode looks at it alone; returns its result: ``{changed, diff, ...}``.
Step = Callable[[bool], dict]


def apply(module: AnsibleModule, params: dict) -> dict[str, dict]:
    """Inspect every part, and then change those that differ; return their results by what each is about: see _steps().

    ``params`` are the module synapse_database's. Raises Refusal for what cannot be meant, before anything is touched.
    """
    _require_possible(params)
    wanted, unwanted = _rules(params)
    with connected(params, "synapse_database") as server:
        _require_password(server, params)
        steps = {**_steps(module, server, params), **_hba_steps(module, server, params, wanted, unwanted)}
        results = {subject: step(True) for subject, step in steps.items()}
        for subject, step in steps.items():
            if results[subject]["changed"] and not module.check_mode:
                results[subject] = step(False)
        warnings = results["role"]["warnings"]
        warnings += role.expiry_warnings(server.cursor, params["user"])
        if params["connections"]:
            limit = results["role"]["role"]["connection_limit"]
            warnings += role.connection_warnings(server.cursor, params["connections"], limit)
    return results


def _steps(module: AnsibleModule, server: Server, params: dict) -> dict[str, Step]:
    """Return the steps for what is not in pg_hba.conf, in their order."""
    name, user = params["name"], params["user"]
    of_role = role.Desired(user, params["password"], connection_limit=params["connection_limit"])
    of_database = database.Desired(name, user, allow_unsafe_locale=params["allow_unsafe_locale"])
    steps: dict[str, Step] = {
        "role": lambda check: role.present(server, of_role, check),
        "database": lambda check: database.present(server, of_database, check),
        "rights": lambda check: privileges.restrict(server, name, user, check),
        "ownership": lambda check: ownership.present(server, name, user, params["adopt_from"], check),
    }
    if params["method"] == "peer":
        steps["map"] = lambda check: ident.apply(module, server.cursor, params["system_users"], user, check)
    return steps


def _hba_steps(module: AnsibleModule, server: Server, params: dict, wanted: list[Rule], unwanted: list[Rule]) -> dict[str, Step]:
    """Return the steps for pg_hba.conf: the rules that let in, and those that are to go."""
    content, managed = params["hba_content"], params["allow_managed_file"]
    present = hba_file.Desired(wanted, content=content, allow_managed_file=managed)
    absent = hba_file.Desired(unwanted, "absent", allow_managed_file=managed)
    steps: dict[str, Step] = {}
    if wanted or content is not None:
        steps["rules"] = lambda check: hba_file.apply(module, server, present, check)
    if unwanted and content is None:  # a file that is wholly ours never has them
        steps["rules without TLS"] = lambda check: hba_file.apply(module, server, absent, check)
    return steps


def _rules(params: dict) -> tuple[list[Rule], list[Rule]]:
    """Return the rules that let the role in, and those that are to go since they let the same connections in without TLS."""
    # Names are quoted, so that a database called all, or a role with a comma, means itself.
    names = {"database": _words.identifier(params["name"]), "user": _words.identifier(params["user"])}
    addresses = [{**names, "address": client} for client in params["clients"] if client != "local"]
    local = [{"type": "local", **names}] if "local" in params["clients"] else []
    tls = params["tls"] or params["method"] == "cert"
    how = {"method": params["method"], "options": {"map": ident.MAP} if params["method"] == "peer" else None}
    given = local + [{"type": "hostssl" if tls else "host", **address} for address in addresses]
    wanted = hba_option.rules([{**rule, **how} for rule in given] + params["rules"])
    unwanted = [{"type": "host", **address} for address in addresses] if tls else []
    return wanted, hba_option.rules(unwanted, "absent")


def _require_possible(params: dict) -> None:
    """Raise Refusal for what cannot be meant."""
    method, addresses = params["method"], [client for client in params["clients"] if client != "local"]
    role.Desired(params["user"], params["password"]).require_possible()
    _connection.require_name("database", params["name"])
    if method == "peer":
        ident.require_possible(params["system_users"], params["user"])
        if addresses:
            raise Refusal(
                f"The method peer is for the Unix socket; {addresses[0]} is an address.", "Give local alone in clients."
            )
    if method == "cert" and len(addresses) < len(params["clients"]):
        raise Refusal("The method cert is for TLS, which the Unix socket has not.", "Give addresses alone in clients.")


def _require_password(server: Server, params: dict) -> None:
    """Raise Refusal for a role that could not log in; one that is there may have a password that only Synapse is told."""
    method = params["method"]
    if method in WITH_PASSWORD and params["password"] is None and role.find(server.cursor, params["user"]) is None:
        raise Refusal(f"The method {method} needs a password, and there is none.", "Give one, or another method.")
