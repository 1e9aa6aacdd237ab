# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every method and every way of TLS, on real servers: a log-in that works, and others that are refused.

PyPI's servers know no TLS, so what needs it runs on Debian's alone. Another address is one of the loopback interface's, which a
Link comes from; another operating system user is an account of this machine's, which takes root.
"""

import contextlib
import shutil
import subprocess

import psycopg2
import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _tls
from support import clusters, modules, needs
from support.link import Link

NAME, PASSWORD, SOMEBODY = "synapse", 'it\'s a "password" 50% \\ {{ x }}', "nobody"
CLIENT, STRANGER = "127.0.0.2", "127.0.0.3"

# Nobody but the superuser has a way in before our rules.
HBA = "local all admin scram-sha-256\nhost all admin 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture
def as_root():
    needs.root()


def _of(origin: str):
    """Return a mark for tests that need a server ``system``, which speaks TLS, or ``pypi``, which is built without it."""
    found = [one for one in clusters.installations() if one.origin == origin]
    named = [f"pg{one.major}-{one.origin}" for one in found]
    return pytest.mark.parametrize("server", found, ids=named, indirect=True, scope="module")


with_tls, without_tls = _of("system"), _of("pypi")


@pytest.fixture(scope="module", params=clusters.installations(), ids=lambda found: f"pg{found.major}-{found.origin}")
def server(request):
    """A cluster of its own, without a rule for Synapse; ``neighbour`` is another role with Synapse's password."""
    with clusters.running(request.param) as started:
        (started.data / "pg_hba.conf").write_text(HBA)
        started.rows("SELECT pg_reload_conf()")
        started.rows("CREATE ROLE neighbour LOGIN PASSWORD %s", PASSWORD)
        yield started


@pytest.fixture(scope="module")
def certificates(server, tmp_path_factory):
    """What the modules made for a server that speaks TLS: ``{ca, synapse: (crt, key), neighbour: …, foreign: …}``."""
    folder = str(server.folder / "tls")
    made = modules.run("postgres_certificate", {"folder": folder, "names": ["localhost", "127.0.0.1"]})
    assert made["changed"] and "failed" not in made, made
    if server.account:
        shutil.chown(made["key"], server.account)
    settings = {"ssl": True, "ssl_cert_file": made["certificate"], "ssl_key_file": made["key"], "ssl_ca_file": made["authority"]}
    set_up = modules.run("postgres_settings", {**server.login, "settings": settings})
    assert set_up["changed"] and not set_up["restart_required"], set_up
    found = {"ca": made["authority"]}
    for whose, home, role in ((NAME, folder, NAME), ("neighbour", folder, "neighbour"), ("foreign", folder + "-foreign", NAME)):
        made = modules.run("postgres_certificate", {"folder": home, "purpose": "client", "names": [role]})
        found[whose] = {"sslcert": made["certificate"], "sslkey": made["key"]}
    return found


def allow(server, run, method, **others):
    """Make Synapse's role, database and rules for ``method``; what it did is done once."""
    (server.data / "pg_hba.conf").write_text(HBA)
    options = {**server.login, "name": NAME, "user": NAME, "method": method, "clients": [f"{CLIENT}/32"], **others}
    if method in ("scram-sha-256", "md5"):
        options["password"] = PASSWORD
    done = run("synapse_database", options)
    assert "failed" not in done and done["changed"], done
    again = run("synapse_database", options)
    assert not again["changed"], again
    return done


@contextlib.contextmanager
def comes(server, source=CLIENT, **how):
    """Yield a connection as Synapse, or as ``how`` says, that comes from the address ``source``."""
    with Link(server.port, source=source) as link:
        keywords = {"host": "127.0.0.1", "port": link.port, "user": NAME, "dbname": NAME, "connect_timeout": 10, **how}
        with contextlib.closing(psycopg2.connect(**keywords)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)")
            yield cursor.fetchone()[0]


def require_only_synapse(server, encrypted, neighbour=None, **how):
    """Log in as Synapse, and fail to as another role, to another database, and from another address."""
    with comes(server, **how) as tls:
        assert tls == encrypted
    for words, source, other in (
        ("no pg_hba.conf entry", CLIENT, {"user": "neighbour", **(neighbour or {})}),
        ("no pg_hba.conf entry", CLIENT, {"dbname": "postgres"}),
        ("no pg_hba.conf entry", STRANGER, {}),
    ):
        with pytest.raises(psycopg2.OperationalError, match=words), comes(server, source, **{**how, **other}):
            pass


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
def test_a_password_without_tls(server, run, method):
    allow(server, run, method)
    require_only_synapse(server, False, password=PASSWORD, sslmode="disable")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        with comes(server, password=PASSWORD + "!"):
            pass


@with_tls
@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
def test_a_password_with_tls(server, certificates, run, method, sslmode):
    allow(server, run, method, tls=True)
    how = {"password": PASSWORD, "sslmode": sslmode, **({"sslrootcert": certificates["ca"]} if sslmode != "require" else {})}
    require_only_synapse(server, True, **how)
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        with comes(server, password=PASSWORD, sslmode="disable"):
            pass


@with_tls
def test_a_rule_without_tls_goes_when_tls_is_asked_for(server, certificates, run):
    allow(server, run, "scram-sha-256")
    with comes(server, password=PASSWORD, sslmode="disable"):
        pass
    options = {**server.login, "name": NAME, "user": NAME, "password": PASSWORD, "clients": [f"{CLIENT}/32"], "tls": True}
    assert run("synapse_database", options)["changed"] and not run("synapse_database", options)["changed"]
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        with comes(server, password=PASSWORD, sslmode="disable"):
            pass


@with_tls
def test_a_certificate_of_the_clients(server, certificates, run):
    allow(server, run, "cert")
    how = {"sslmode": "verify-full", "sslrootcert": certificates["ca"], **certificates[NAME]}
    require_only_synapse(server, True, certificates["neighbour"], **how)
    for words, wrong in (
        ("certificate authentication failed", certificates["neighbour"]),
        ("unknown ca", certificates["foreign"]),
        ("valid client certificate", {"sslcert": "/nowhere", "sslkey": "/nowhere"}),
    ):
        with pytest.raises(psycopg2.OperationalError, match=words), comes(server, password=PASSWORD, **{**how, **wrong}):
            pass


def test_trust_is_said_to_be_one(server, run):
    done = allow(server, run, "trust")
    assert f"Whoever can connect from {CLIENT}/32 is let in" in done["output"]
    require_only_synapse(server, False, sslmode="disable")


def come_as(server, account, **keywords):
    """Log in with psql as the operating system user ``account``; return what it said, empty when it was let in."""
    way = " ".join(f"{key}={value}" for key, value in keywords.items())
    words = [server.installation.programs / "psql", "--no-password", "--no-psqlrc", "--command=SELECT 1", way]
    return subprocess.run(words, user=account, capture_output=True, text=True, check=False, cwd="/").stderr


@pytest.mark.usefixtures("as_root")
def test_the_operating_system_user(server, run):
    ident = server.data / "pg_ident.conf"
    ident.write_text("# mine\r\nothers root neighbour")
    allow(server, run, "peer", clients=["local"], system_users=["root"])
    assert ident.read_text() == '# mine\nothers root neighbour\nsynapse "root" "synapse"\n'
    way = {"host": str(server.folder), "port": server.port, "user": NAME, "dbname": NAME}
    assert come_as(server, None, **way) == ""
    for words, account, other in (
        ("Peer authentication failed", SOMEBODY, {}),
        ("no pg_hba.conf entry", None, {"user": "neighbour"}),
        ("no pg_hba.conf entry", None, {"dbname": "postgres"}),
        ("no pg_hba.conf entry", None, {"host": "127.0.0.1"}),
    ):
        assert words in come_as(server, account, **{**way, **other})


@pytest.mark.usefixtures("as_root")
def test_a_line_that_the_server_rejects_is_refused_before_anything_is_touched(server, run):
    ident = server.data / "pg_ident.conf"
    ident.write_text("mine root\n")
    (server.data / "pg_hba.conf").write_text(HBA)
    options = {**server.login, "name": NAME, "user": NAME, "method": "peer", "clients": ["local"], "system_users": ["root"]}
    refused = run("synapse_database", options)
    assert refused["failed"] and "rejects line 1 of its pg_ident.conf" in refused["msg"]
    assert ident.read_text() == "mine root\n" and (server.data / "pg_hba.conf").read_text() == HBA


@with_tls
def test_a_renewed_certificate_is_shown_once_it_is_set(server, certificates, run):
    allow(server, run, "scram-sha-256", tls=True)
    renewed = {"folder": str(server.folder / "tls"), "names": ["localhost", "127.0.0.1", "new.example.org"]}
    made = run("postgres_certificate", renewed)
    if server.account:
        shutil.chown(made["key"], server.account)
    how = {"password": PASSWORD, "sslmode": "verify-full", "sslrootcert": certificates["ca"]}
    with comes(server, **how) as before:
        settings = {"ssl": True, "ssl_cert_file": made["certificate"], "ssl_key_file": made["key"]}
        applied = run("postgres_settings", {**server.login, "settings": {**settings, "ssl_ca_file": certificates["ca"]}})
        assert before and applied["changed"] and not applied["restart_required"]
        with comes(server, **how) as after:
            assert after
    assert "new.example.org" in _tls.shown_by_server("127.0.0.1", server.port, certificates["ca"])
    assert not run("postgres_certificate", renewed)["changed"]


@without_tls
def test_a_server_without_tls_is_told_to_be_one(server, run):
    for check in (True, False):
        refused = run("postgres_settings", {**server.login, "settings": {"ssl": True}}, check=check)
        assert refused["failed"] and "built without TLS" in refused["msg"]


@with_tls
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"login_host": "127.0.0.5"}, "does not carry the name 127.0.0.5; it carries localhost, 127.0.0.1"),
        ({"ca_cert": "/etc/ssl/certs/ca-certificates.crt"}, "certificate verify failed"),
        ({"ca_cert": "/nowhere"}, "/nowhere"),
    ],
    ids=["name", "authority", "no file"],
)
def test_a_server_that_is_not_the_one_is_refused_and_its_names_are_told(server, certificates, run, how, words):
    server.rows("ALTER SYSTEM SET listen_addresses = '127.0.0.1, 127.0.0.5'")
    server.stop()
    server.start()
    right = {**server.login, "ssl_mode": "verify-full", "ca_cert": certificates["ca"]}
    assert "failed" not in run("synapse_database_info", right)
    refused = run("synapse_database_info", {**right, **how})
    assert refused["failed"] and words in refused["msg"], refused["msg"]
