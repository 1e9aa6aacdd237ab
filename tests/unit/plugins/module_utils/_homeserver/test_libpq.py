# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The keywords under args of the section; tests/integration has the server's own libpq tell them."""

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import libpq


def test_the_secrets_are_those_that_libpq_hides():
    # PQconndefaults() of PostgreSQL 18: the fields with dispchar "*", and two for middleware that it does not show at all.
    assert {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"} == libpq.SECRETS
