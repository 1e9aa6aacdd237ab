# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names that a certificate of ours may carry; the certificates themselves are made in the integration tests."""

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _authority
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal


@pytest.mark.parametrize(
    ("purpose", "names"),
    [
        ("server", []),
        ("server", ["*.example.org"]),
        ("server", ["a b"]),
        ("server", ["a" * 64]),
        ("server", ["x.example.org, IP:10.0.0.1"]),
        ("client", ["one", "two"]),
        ("client", ["x" * 64]),
        ("client", ["a\nCN = b"]),
        ("client", ["${ENV::HOME}"]),
    ],
)
def test_names_that_no_certificate_should_carry_are_refused(purpose, names):
    with pytest.raises(Refusal):
        _authority.require_names(purpose, names)
