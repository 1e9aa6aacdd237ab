# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_database_config on real files: what it writes connects, what it leaves alone, refuses and never tells."""

import concurrent.futures
import contextlib
import ctypes
import functools
import json
import multiprocessing
import os
import pathlib
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import uuid
import venv

import psycopg2
import pytest
import yaml
from psycopg2 import sql

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _interpreter
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import section_file
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver.libpq import KEYWORDS, LIBPQ, SECRETS
from support import clusters

MODULE = "synapse_database_config"
ROOT = pathlib.Path(__file__).parents[2]
ARGS = {"user": "synapse", "password": "a-password-of-synapse", "dbname": "synapse", "host": "db.example.org"}
PASSWORDS = [
    "plain",
    'it\'s "quoted" \\ %s {{ x }} : @ # *',
    "päss wörd",
    "🐘🔑",
    "x" * 200,
    " spaces ",
    "12345",
    "no",
    "two\nlines\t",
    "\x85",
]
SQLITE = """\
# Synapse
server_name: example.org   # ours
database:
  name: sqlite3
  txn_limit: 10000
  args: {database: /data/homeserver.db}

# the rest
report_stats: false"""

# The release of libpq that a keyword came with, for those younger than the oldest supported one (14).
SINCE = {
    **dict.fromkeys(["gssdelegation", "load_balance_hosts", "require_auth", "sslcertmode"], 16),
    "sslnegotiation": 17,
    **dict.fromkeys(["oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"], 18),
    **dict.fromkeys(
        ["min_protocol_version", "max_protocol_version", "scram_client_key", "scram_server_key", "sslkeylogfile"], 18
    ),
}


@pytest.fixture
def conf(tmp_path):
    """A homeserver.yaml with SQLite's section, readable by its group."""
    path = tmp_path / "homeserver.yaml"
    path.write_text(SQLITE)
    path.chmod(0o640)
    return path


def options(path, **further):
    return {"path": str(path), "args": ARGS, **further}


def told(result):
    return {key: result[key] for key in ("changed", "path", "before", "after", "diff")}


def test_the_section_replaces_sqlites_and_nothing_else(run, conf):
    result = run(MODULE, options(conf))
    assert result["changed"] and "failed" not in result, result
    text = conf.read_text()
    head, tail = SQLITE.split("database:\n", maxsplit=1)[0], SQLITE[SQLITE.index("\n\n# the rest") :]
    assert text.startswith(head) and text.endswith(tail)
    assert yaml.safe_load(text)["database"] == {
        "name": "psycopg2",
        "txn_limit": 10000,
        "args": {
            **ARGS,
            "keepalives_idle": 10,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "cp_min": 5,
            "cp_max": 10,
        },
    }
    assert result["before"] == {"name": "sqlite3", "txn_limit": 10000, "args": {"database": "/data/homeserver.db"}}
    assert result["after"]["args"]["password"].strip("*") == ""


def test_check_mode_writes_nothing_and_tells_what_the_run_does(run, conf):
    foretold = run(MODULE, options(conf), check=True)
    assert conf.read_text() == SQLITE and list(conf.parent.iterdir()) == [conf]
    done = run(MODULE, options(conf))
    assert told(foretold) == told(done) and foretold["changed"]


@pytest.mark.parametrize("text", ["", SQLITE, SQLITE.replace("\n", "\r\n"), "\ufeff" + SQLITE, "{server_name: x}"])
def test_a_second_run_changes_nothing(run, conf, text):
    conf.write_bytes(text.encode())
    assert run(MODULE, options(conf))["changed"]
    content, files = conf.read_bytes(), sorted(conf.parent.iterdir())
    for check in (True, False):
        assert not run(MODULE, options(conf), check=check)["changed"]
    assert conf.read_bytes() == content and sorted(conf.parent.iterdir()) == files
    assert content.count(b"\r\n") == (content.count(b"\n") if "\r" in text else 0)


def test_an_equal_section_in_other_words_is_left_as_it_is(run, conf):
    run(MODULE, options(conf))
    section = yaml.safe_load(conf.read_text())["database"]
    conf.write_text("a: 1\n'database': " + json.dumps(section) + " # by hand\nb: 2")
    before = conf.read_bytes()
    assert not run(MODULE, options(conf))["changed"] and conf.read_bytes() == before


def test_owner_and_mode_are_kept_and_the_old_file_too(run, conf):
    conf.chmod(0o600)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(conf, nobody.pw_uid, nobody.pw_gid)
    before = conf.stat()
    copy = pathlib.Path(run(MODULE, options(conf))["backup_file"])
    assert copy.read_text() == SQLITE
    for found in (conf.stat(), copy.stat()):
        assert (found.st_mode, found.st_uid, found.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert sorted(conf.parent.iterdir()) == sorted([conf, copy])


def test_no_copy_when_none_is_wished(run, conf):
    result = run(MODULE, options(conf, backup=False))
    assert result["changed"] and "backup_file" not in result and list(conf.parent.iterdir()) == [conf]


def test_a_symbolic_link_is_followed(run, conf, tmp_path):
    link = tmp_path / "link.yaml"
    link.symlink_to(conf)
    assert run(MODULE, options(link))["changed"]
    assert link.is_symlink() and "psycopg2" in conf.read_text()
    assert not run(MODULE, options(conf))["changed"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_is_written_logs_in(any_cluster, run, conf, password):
    name = f"role {uuid.uuid4().hex}"
    with contextlib.closing(any_cluster.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password)))
        wished = {"user": name, "password": password, "dbname": "postgres", "host": "127.0.0.1", "port": str(any_cluster.port)}
        assert run(MODULE, options(conf, args=wished))["changed"]
        args = yaml.safe_load(conf.read_text())["database"]["args"]
        assert args["password"] == password
        # As synapse/storage/database.py, make_conn(), does.
        psycopg2.connect(**{key: value for key, value in args.items() if not key.startswith("cp_")}).close()
        cursor.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_no_secret_is_told_neither_new_nor_old(run, conf):
    secrets = ["s3cret-" + uuid.uuid4().hex for number in range(6)]
    names = ["password", "sslpassword"]
    old, new = dict(zip(names, secrets)), dict(zip(names, secrets[2:]))
    misplaced = {"name": "psycopg2", "pasword": secrets[4], "args": {"dbname": "d", **old, "dsn": f"password={secrets[5]}"}}
    conf.write_text(json.dumps({"database": misplaced}))
    for check in (True, False, False):
        result = run(MODULE, options(conf, args={**ARGS, **new}), check=check)
        assert "failed" not in result
        assert not [secret for secret in secrets if secret in result["output"]]
    assert new["password"] in conf.read_text()


def test_a_change_of_the_password_alone_shows_without_it(run, conf):
    run(MODULE, options(conf))
    result = run(MODULE, options(conf, args={**ARGS, "password": "another-password"}))
    assert result["changed"]
    before, after = (yaml.safe_load(result["diff"][side])["database"]["args"] for side in ("before", "after"))
    assert after.pop("password") == before.pop("password") + " (changed)"
    assert after == before


def test_args_pool_and_keepalives(run, conf):
    further = {"pool": {"max": 30}, "keepalives": {"idle": 60}, "allow_unsafe_locale": True}
    args = {**ARGS, "cp_min": 7, "cp_reconnect": False, "port": "5433", "sslmode": "verify-full", "sslsni": 0}
    run(MODULE, options(conf, args=args, **further))
    section = yaml.safe_load(conf.read_text())["database"]
    expected = {"cp_min": 7, "cp_max": 30, "cp_reconnect": False, "port": 5433, "keepalives_idle": 60, "keepalives_count": 3}
    assert section["args"] == {**section["args"], **expected, "sslmode": "verify-full", "sslsni": 0}
    assert section["allow_unsafe_locale"] is True
    run(MODULE, options(conf))
    section = yaml.safe_load(conf.read_text())["database"]
    assert "allow_unsafe_locale" not in section and "sslmode" not in section["args"]


def test_every_keyword_can_be_given(run, conf):
    samples = {"int": 1, "bool": True, "str": "7"}
    args = {keyword: option.get("choices", [samples[option["type"]]])[-1] for keyword, option in KEYWORDS.items()}
    assert run(MODULE, options(conf, args=args))["changed"]
    assert yaml.safe_load(conf.read_text())["database"]["args"] == {**args, "port": 7}


def libraries():
    """Every libpq to compare with: the one that psycopg2 is bound to, and those of the installed servers."""
    servers = [found.programs.parent / "lib" / "libpq.so.5" for found in clusters.installations()]
    return [psycopg2._psycopg.__file__, *(str(path) for path in servers if path.exists())]


class Option(ctypes.Structure):
    """PQconninfoOption of libpq-fe.h."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    ]


@pytest.mark.parametrize("library", libraries())
def test_the_keywords_are_those_of_libpq(library):
    libpq = ctypes.CDLL(library)
    libpq.PQconndefaults.restype = ctypes.POINTER(Option)
    defaults, known, hidden = libpq.PQconndefaults(), set(), set()
    for option in iter(lambda: defaults[len(known)], None):
        if not option.keyword:
            break
        known.add(option.keyword.decode())
        if option.dispchar == b"*":
            hidden.add(option.keyword.decode())
    release = libpq.PQlibVersion() // 10000
    assert {name for name in LIBPQ if SINCE.get(name, 0) <= release} == known - {"replication"}
    assert hidden <= SECRETS


def test_a_drop_in_is_made_for_its_readers_only(run, tmp_path):
    path = tmp_path / "database.yaml"
    foretold = run(MODULE, options(path, layout="drop-in"), check=True)
    assert foretold["changed"] and foretold["before"] is None and not path.exists()
    umask = os.umask(0o077)
    try:
        result = run(MODULE, options(path, layout="drop-in"))
    finally:
        os.umask(umask)
    assert told(result) == told(foretold) and "backup_file" not in result
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and list(tmp_path.iterdir()) == [path]
    assert list(yaml.safe_load(path.read_text())) == ["database"]
    assert not run(MODULE, options(path, layout="drop-in"))["changed"]
    path.write_text("# ours\n" + path.read_text().replace("db.example.org", "old.example.org"))
    assert run(MODULE, options(path, layout="drop-in"))["changed"]
    assert path.read_text().startswith("# ours\ndatabase:\n") and "db.example.org" in path.read_text()


def test_a_file_that_everybody_may_read_is_warned_of(run, conf):
    assert "warnings" not in run(MODULE, options(conf))
    conf.chmod(0o644)
    for password in ("first-password", "second-password", "second-password"):
        warned = run(MODULE, options(conf, args={**ARGS, "password": password}))
        assert f"chmod 640 {conf}" in str(warned["warnings"])
    assert stat.S_IMODE(conf.stat().st_mode) == 0o644
    assert "warnings" not in run(MODULE, options(conf, args={"user": "synapse", "dbname": "synapse"}))


@pytest.mark.parametrize(
    ("text", "further", "words"),
    [
        ("- a\n", {}, "not a mapping"),
        ("a: [\n", {}, "line 2, column 1"),
        ("databases: {}\n", {}, "several databases"),
        ("database: {}\ndatabase: {}\n", {}, "lines 1, 2"),
        ("database: &x {}\nb: *x\n", {}, "Line 2"),
        ("a: 1\n---\nb: 2\n", {}, "2 YAML documents"),
        ("a: 1\nb: \udcff\n", {}, "line 2 has the byte 0xff"),
        (SQLITE, {"layout": "drop-in"}, "other keys than database: server_name, report_stats"),
        (SQLITE, {"args": {"user": "u"}}, "names no database"),
        (SQLITE, {"args": {"dbname": "d", "password": ""}}, "args.password is empty"),
        (SQLITE, {"args": {"dbname": "d", "usr": "u"}}, "usr"),
        (SQLITE, {"args": {"dbname": "d", "sslmode": "maybe"}}, "maybe"),
        (SQLITE, {"args": {"dbname": "d", "port": "x"}}, "no TCP port"),
        (SQLITE, {"args": {"dbname": "d", "connect_timeout": "soon"}}, "connect_timeout"),
        (SQLITE, {"args": {"dbname": "d", "replication": "true"}}, "replication"),
        (SQLITE, {"pool": {"min": 11}}, "at least 11 and at most 10"),
        (SQLITE, {"pool": {"min": 0}}, "at least 0"),
        (SQLITE, {"pool": {"size": 3}}, "size"),
        (SQLITE, {"keepalives": {"idle": -1}}, "keepalives_idle is -1"),
        (SQLITE, {"path": "/nowhere/homeserver.yaml"}, "/nowhere does not exist"),
        (SQLITE, {"path": "/etc/no-such-homeserver.yaml"}, "/etc/no-such-homeserver.yaml does not exist"),
        (SQLITE, {"path": "/nowhere/database.yaml", "layout": "drop-in"}, "/nowhere does not exist"),
        (SQLITE, {"path": "/etc"}, "/etc is no file"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(run, conf, text, further, words):
    conf.write_bytes(text.encode(errors="surrogateescape"))
    before = conf.read_bytes(), conf.stat()
    for check in (True, False):
        refused = run(MODULE, options(conf, **further) if "path" not in further else {"args": ARGS, **further}, check=check)
        assert refused.get("failed") and words in refused["msg"], refused
    assert (conf.read_bytes(), conf.stat()) == before and list(conf.parent.iterdir()) == [conf]


@pytest.fixture
def open_folder():
    """A folder that every user can reach, which pytest's own are not."""
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def refusal_to_another(function, *arguments):
    """Return the words with which ``function`` refuses when it runs as an unprivileged user, "" when it does not.

    In a fork, because such a user need not be able to reach the Python that runs the tests.
    """
    account = clusters.unprivileged_account()
    drop = functools.partial(become, pwd.getpwnam(account)) if account else None
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=drop) as other:
        return other.submit(words_of, function, *arguments).result(timeout=60)


def become(user):
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def words_of(function, *arguments):
    try:
        function(*arguments)
    except Refusal as refusal:
        return str(refusal)
    return ""


def test_a_folder_that_may_not_be_written_to_is_refused(open_folder):
    path = str(open_folder / "x.yaml")
    assert f"{open_folder} may not be written to" in refusal_to_another(section_file.read, path, "drop-in")
    open_folder.chmod(0o777)
    assert refusal_to_another(section_file.read, path, "drop-in") == ""


def test_a_file_is_refused_to_who_cannot_keep_its_owner(open_folder):
    path = open_folder / "homeserver.yaml"
    open_folder.chmod(0o755)
    path.write_text(SQLITE)
    open_folder.chmod(0o555)
    assert f"{open_folder} may not be written to" in refusal_to_another(section_file.require_replaceable, str(path))
    open_folder.chmod(0o777)
    words = refusal_to_another(section_file.require_replaceable, str(path))
    # Without root's rights there is but one user, and the file is that one's.
    assert (f"{path} belongs to user 0" in words) if os.geteuid() == 0 else words == ""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has nothing but its standard library."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    assert subprocess.run([python, "-c", "import yaml"], capture_output=True, check=False).returncode
    return python


def by_ansible(python, **module_options):
    """Return the result of the module as Ansible runs it under ``python``."""
    program = pathlib.Path(sys.executable).with_name("ansible")
    interpreter = json.dumps({"ansible_python_interpreter": str(python)})
    words = ["-m", f"matrixops.synapse_postgres.{MODULE}", "-a", json.dumps(module_options), "-e", interpreter]
    done = subprocess.run(
        [program, "localhost", "-i", "localhost,", "-c", "local", *words],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache" / "collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.search(r"=> (\{.*\})", done.stdout + done.stderr, re.DOTALL)
    assert found, done.stdout + done.stderr
    return json.loads(found[1])


def test_without_pyyaml_the_module_goes_on_under_synapses_python(conf, bare_python):
    result = by_ansible(bare_python, **options(conf, synapse_python=sys.executable))
    assert result["changed"] and yaml.safe_load(conf.read_text())["database"]["args"]["password"] == ARGS["password"]
    assert not by_ansible(bare_python, **options(conf, synapse_python=sys.executable))["changed"]


def test_without_pyyaml_and_synapse_python_one_is_looked_for(conf, bare_python):
    known = [python for python in _interpreter.OTHERS if pathlib.Path(python).exists()]
    some = [
        python
        for python in known
        if not subprocess.run([python, "-c", "import yaml"], capture_output=True, check=False).returncode
    ]
    result = by_ansible(bare_python, **options(conf, synapse_python=str(bare_python)))
    assert bool(result.get("changed")) == ("psycopg2" in conf.read_text()) == bool(some)
    assert some or "python3-yaml" in result["msg"]


def test_without_pyyaml_anywhere_the_refusal_says_what_to_install(bare_python):
    package = "ansible_collections.matrixops.synapse_postgres.plugins.module_utils"
    program = f"""
from {package} import _errors
from {package}._homeserver import homeserver_yaml
try:
    homeserver_yaml.parse("a: 1")
except _errors.Refusal as refusal:
    print(refusal)
"""
    path = {"PYTHONPATH": str(ROOT / ".cache" / "collections")}
    words = subprocess.run([bare_python, "-c", program], env=path, capture_output=True, text=True, check=True).stdout
    assert str(bare_python) in words and "apt-get install python3-yaml" in words
