# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a process of Synapse's answers HTTP, by the listeners of its configuration: synapse/config/server.py and workers.py."""

from __future__ import annotations

import dataclasses
from typing import Any

# Addresses that stand for every address of the host, and what reaches them from there.
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclasses.dataclass(frozen=True)
class Address:
    """Where Synapse answers: the ``url`` before the ``page`` to ask for, and the path of the Unix ``socket``, None for TCP.

    At a socket the host in the URL is no more than a word.
    """

    url: str
    page: str
    socket: str | None = None


def addresses(config: dict[Any, Any]) -> list[Address]:
    """Return where a process with this ``config`` answers HTTP, the best one first.

    Best is the client API, without TLS, on the loopback interface. Where only other resources are served, the page that each
    listener has, ``/health``, is to ask for.
    """
    found: list[tuple[bool, bool, int, Address]] = []
    for listener in _listeners(config):
        resources = [each for each in listener.get("resources") or [] if isinstance(each, dict)]
        client = any("client" in (each.get("names") or []) for each in resources)
        page = "/_matrix/client/versions" if client else "/health"
        if isinstance(listener.get("path"), str):
            found.append((not client, False, 1, Address("http://unix", page, listener["path"])))
        elif isinstance(listener.get("port"), int):
            bound, tls = _reachable_address(listener), bool(listener.get("tls"))
            host = f"[{bound}]" if ":" in bound else bound
            url = f"{'https' if tls else 'http'}://{host}:{listener['port']}"
            found.append((not client, tls, 0 if bound in ("127.0.0.1", "localhost", "::1") else 2, Address(url, page)))
    return [address for *_order, address in sorted(found, key=lambda each: each[:-1])]


def _listeners(config: dict[Any, Any]) -> list[dict[str, Any]]:
    """Return the HTTP listeners: the main process's, by its older keys where those are used, or a worker's."""
    if config.get("worker_app", "synapse.app.homeserver") != "synapse.app.homeserver":
        listed = config.get("worker_listeners")
    elif config.get("bind_port"):
        shared = {"type": "http", "bind_address": config.get("bind_host", ""), "resources": [{"names": ["client", "federation"]}]}
        plain = config.get("unsecure_port", config["bind_port"] - 400)
        listed = [{**shared, "port": config["bind_port"], "tls": True}]
        listed += [{**shared, "port": plain}] if plain else []
    else:
        listed = config.get("listeners")
    found = [each for each in listed or [] if isinstance(each, dict) and each.get("type") == "http"]
    return [each for each in found if not (config.get("no_tls") and each.get("tls"))]


def _reachable_address(listener: dict[str, Any]) -> str:
    """Return an address that the ``listener`` is reached at from its own host."""
    listed = [*(listener.get("bind_addresses") or []), *filter(None, [listener.get("bind_address")])]
    reached = [_ANY.get(str(each), str(each)) for each in listed] or ["127.0.0.1"]
    return next((each for each in ("127.0.0.1", "localhost", "::1") if each in reached), reached[0])
