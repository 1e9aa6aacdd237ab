# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Certificates as openssl tells of them, and their names, as libpq compares these."""

import time

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


def test_a_subject_that_looks_like_the_end_of_validity_is_not_taken_for_it(tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "crt"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    _tls.openssl("req", "-x509", *kind, "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=notAfter=never")
    found = _tls.read(str(certificate))
    assert found.names == ["notAfter=never"]
    assert 0 < found.not_after - time.time() < 3 * 86400
