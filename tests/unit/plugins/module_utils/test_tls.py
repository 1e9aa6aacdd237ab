# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names of certificates, as libpq compares them; the certificates themselves are made in the integration tests."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _tls


@pytest.mark.parametrize(
    ("names", "wanted", "carried"),
    [
        (["db.example.org"], "db.example.org", True),
        (["DB.example.org"], "db.Example.org", True),
        (["db.example.org"], "example.org", False),
        (["*.example.org"], "db.example.org", True),
        (["*.example.org"], "a.db.example.org", False),
        (["*.example.org"], "example.org", False),
        (["*.1.2.3"], "10.1.2.3", False),
        (["10.1.2.3"], "10.1.2.3", True),
        (["localhost"], "127.0.0.1", False),
        ([], "localhost", False),
    ],
)
def test_a_name_is_carried_as_libpq_sees_it(names, wanted, carried):
    assert _tls.carries(names, wanted) == carried


def test_a_refusal_names_what_is_carried():
    told = str(_tls.refuse_name("db", ["one.example.org", "10.1.2.3"]))
    assert "carry the name db" in told and "it carries one.example.org, 10.1.2.3." in told
