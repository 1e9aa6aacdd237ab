# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where Synapse answers, by the listeners that its configuration has."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import listeners

CLIENT = {"type": "http", "resources": [{"names": ["client", "federation"], "compress": False}]}
KEYS = {"type": "http", "resources": [{"names": ["federation", "keys"]}]}


@pytest.mark.parametrize(
    ("config", "address"),
    [
        ({}, None),
        ({"listeners": None}, None),
        ({"listeners": [{"type": "manhole", "port": 9000}]}, None),
        ({"listeners": [{**CLIENT, "port": 8008}]}, ("http://127.0.0.1:8008", None)),
        ({"listeners": [{**CLIENT, "port": 8008, "bind_addresses": ["::1"]}]}, ("http://[::1]:8008", None)),
        ({"listeners": [{**CLIENT, "port": 8008, "bind_addresses": ["::"]}]}, ("http://[::1]:8008", None)),
        ({"listeners": [{**CLIENT, "port": 8008, "bind_addresses": ["::1", "127.0.0.1"]}]}, ("http://127.0.0.1:8008", None)),
        ({"listeners": [{**CLIENT, "port": 8, "bind_addresses": ["10.0.0.5"]}]}, ("http://10.0.0.5:8", None)),
        ({"listeners": [{**CLIENT, "port": 8, "bind_address": "10.0.0.5"}]}, ("http://10.0.0.5:8", None)),
        ({"listeners": [{**CLIENT, "port": 8448, "tls": True}]}, ("https://127.0.0.1:8448", None)),
        (
            {"listeners": [{**CLIENT, "port": 8448, "tls": True}, {**KEYS, "port": 1}, {**CLIENT, "port": 2}]},
            ("http://127.0.0.1:2", None),
        ),
        (
            {"listeners": [{**CLIENT, "port": 8448, "tls": True}, {**CLIENT, "port": 2}], "no_tls": True},
            ("http://127.0.0.1:2", None),
        ),
        ({"listeners": [{**CLIENT, "path": "/run/main.sock"}]}, ("http://unix", "/run/main.sock")),
        ({"bind_port": 8448}, ("http://127.0.0.1:8048", None)),
        ({"bind_port": 8448, "unsecure_port": 0, "bind_host": "::1"}, ("https://[::1]:8448", None)),
        ({"listeners": [{**CLIENT, "port": 1}], "worker_app": "synapse.app.generic_worker"}, None),
        (
            {"worker_listeners": [{**CLIENT, "port": 8083}], "worker_app": "synapse.app.generic_worker"},
            ("http://127.0.0.1:8083", None),
        ),
    ],
)
def test_where_synapse_answers_follows_from_its_listeners(config, address):
    found = listeners.addresses(config)
    assert [(each.url, each.socket) for each in found[:1]] == ([address] if address else [])
    assert all(each.page == "/_matrix/client/versions" for each in found[:1])


def test_a_process_without_the_client_api_is_asked_for_its_health():
    assert listeners.addresses({"listeners": [{**KEYS, "port": 8448}]}) == [listeners.Address("http://127.0.0.1:8448", "/health")]
