# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_certificate and postgres_certificate_info with the real openssl: what is made, when anew, what is refused."""

import stat
import subprocess

import pytest

NAMES = ["db.example.org", "10.1.2.3", "::1"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tls"


def options(folder, **others):
    return {"folder": str(folder), "names": NAMES, **others}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def looked(run, made, **others):
    return run("postgres_certificate_info", {"certificate": made["certificate"], "key": made["key"], **others})


def test_it_is_made_once_as_foretold(run, folder):
    foretold = run("postgres_certificate", options(folder), check=True)
    assert foretold["changed"] and not folder.exists()
    made = run("postgres_certificate", options(folder))
    told = ("certificate", "key", "authority", "reason", "diff")
    assert "failed" not in made and [made[key] for key in told] == [foretold[key] for key in told]
    assert set(content(folder)) == {"ca.crt", "ca.key", "server-1.crt", "server-1.key"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server-1.crt": 0o644, "server-1.key": 0o600}
    assert made["authority_text"] == (folder / "ca.crt").read_text()
    assert "PRIVATE KEY" not in made["output"]
    before = content(folder)
    for check in (True, False):
        assert not run("postgres_certificate", options(folder, names=NAMES[:1]), check=check)["changed"]
    assert content(folder) == before


def test_openssl_and_the_other_module_take_it(run, folder):
    made = run("postgres_certificate", options(folder))
    found = looked(run, made, names=NAMES)
    assert found["names"] == NAMES and found["problems"] == []
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", NAMES[0]]
    subprocess.run([*words, "-CAfile", made["authority"], made["certificate"]], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"names": [*NAMES, "other.example.org"]}, "it does not carry other.example.org"),
        ({"days": 1095, "renew_days": 1094}, ""),
        ({"days": 2000, "renew_days": 1096}, "it expires in less than 1096 days"),
    ],
    ids=["name", "not yet", "soon"],
)
def test_it_is_made_anew_when_it_has_to_be(run, folder, others, reason):
    first = run("postgres_certificate", options(folder))
    authority = content(folder)["ca.crt"]
    again = run("postgres_certificate", options(folder, **others))
    assert again["reason"] == reason and again["changed"] == bool(reason)
    assert (again["certificate"] != first["certificate"]) == bool(reason)
    assert content(folder)["ca.crt"] == authority
    assert not run("postgres_certificate", options(folder, **others))["changed"]


def test_only_the_last_two_are_kept(run, folder):
    for number in range(1, 5):
        run("postgres_certificate", options(folder, names=[f"host{number}"]))
    assert sorted(name for name in content(folder) if name.endswith(".key")) == ["ca.key", "server-3.key", "server-4.key"]


@pytest.mark.parametrize("lost", ["ca.crt", "ca.key", "server-1.crt", "server-1.key"])
def test_what_was_lost_is_made_anew(run, folder, lost):
    run("postgres_certificate", options(folder))
    (folder / lost).unlink()
    made = run("postgres_certificate", options(folder))
    assert made["changed"] and looked(run, made, names=NAMES)["problems"] == []
    assert not run("postgres_certificate", options(folder))["changed"]


def test_a_clients_certificate_carries_the_role(run, folder):
    server = run("postgres_certificate", options(folder))
    made = run("postgres_certificate", {"folder": str(folder), "purpose": "client", "names": ["synapse"]})
    assert made["certificate"].endswith("/client-1.crt") and made["authority_text"] == server["authority_text"]
    assert looked(run, made, names=["synapse"])["problems"] == []
    words = ["openssl", "verify", "-x509_strict", "-CAfile", made["authority"], "-purpose"]
    subprocess.run([*words, "sslclient", made["certificate"]], check=True, capture_output=True)
    assert subprocess.run([*words, "sslserver", made["certificate"]], check=False, capture_output=True).returncode
    assert not run("postgres_certificate", options(folder))["changed"]
    assert not run("postgres_certificate", {"folder": str(folder), "purpose": "client", "names": ["synapse"]})["changed"]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"purpose": "client"}, "cannot be the common name"),
        ({"purpose": "client", "names": ["a/CN=b"]}, "cannot be the common name"),
        ({"names": []}, "would carry no name"),
        ({"names": ["not a name"]}, "'not a name' is no host name"),
        ({"names": ["a,DNS:b"]}, "is no host name"),
        ({"folder": "here"}, "no absolute path"),
        ({"days": 10, "renew_days": 10}, "cannot be renewed 10 days before"),
        ({"folder": "/nowhere/at/all"}, "/nowhere/at is no folder"),
    ],
)
def test_bad_input_is_refused(run, folder, others, words):
    for check in (True, False):
        refused = run("postgres_certificate", {**options(folder), **others}, check=check)
        assert refused["failed"] and words in refused["msg"] and not folder.exists()


def test_what_server_and_clients_would_not_take_is_told(run, folder, tmp_path):
    made = run("postgres_certificate", options(folder))
    other = run("postgres_certificate", options(tmp_path / "other"))
    wrong = looked(run, made, names=["elsewhere.example.org"])["problems"]
    assert (
        len(wrong) == 1 and "does not carry the name elsewhere.example.org; it carries db.example.org, 10.1.2.3, ::1" in wrong[0]
    )
    assert "is not the key of" in looked(run, {**made, "key": other["key"]})["problems"][0]
    assert "is not named" in looked(run, {**made, "key": ""})["problems"][0]
    (folder / "server-1.key").chmod(0o644)
    assert "Others may read" in looked(run, made)["problems"][0]
    assert "failed" in looked(run, {**made, "certificate": made["key"]})
