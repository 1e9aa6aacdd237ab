# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the installed Synapse decides about a move: asked of its own code, run by its own interpreter."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import tempfile

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _errors
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.port_config import PortConfig
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._move.target_schema import TargetSchema

# The options by which a module says how Synapse is called (doc fragment ``synapse``).
CALLED = dict(
    synapse_python=dict(type="path"),
    command=dict(type="list", elements="str"),
    python_command=dict(type="list", elements="str"),
)

# Synapse imports within two seconds and makes its schema within three; a small board on a slow network needs its time.
SECONDS = 180

# How the program below ends where a person has to act, rather than with a traceback; its last line says what it found.
_NO_SYNAPSE, _UNKNOWN_SYNAPSE, _NO_FILE = 3, 4, 5

# What runs under Synapse's interpreter, so neither Ansible nor this collection is at hand. Its arguments are the path of a JSON
# file with Synapse's ``database:`` section, or nothing, and the fingerprint of an earlier answer, or nothing. It writes one line
# of JSON.
#
# To import Synapse takes a second, which a homeserver that is stopped waits for; whether its files are those that have answered
# before, by their names, sizes and times, is seen at once.
#
# prepare_database() is what Synapse calls to make its schema. Every script that it runs begins with COMMIT
# (synapse/storage/engines/postgres.py, executescript), which is taken out here; and should some Synapse commit elsewhere, the
# transaction cannot: it holds two equal rows under a unique constraint that the server checks at the commit.
_PROGRAM = r"""
import hashlib, importlib.util, json, os, sys

answer, sys.stdout = sys.stdout, sys.stderr  # what Synapse may print on the way is not the answer
sys.path[:] = [folder for folder in sys.path if folder]  # not the folder that this happens to run in
section_path, known = sys.argv[1:3]


def told(status, words):
    print(" ".join(words.split()), file=sys.stderr)
    sys.exit(status)


def fingerprint():
    spec, found = importlib.util.find_spec("synapse"), []
    for place in (spec and spec.submodule_search_locations) or ():
        for folder, _folders, names in os.walk(place):
            for path in (os.path.join(folder, name) for name in names if name.endswith((".py", ".so"))):
                status = os.lstat(path)
                found.append((path, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()


made_of = fingerprint()
if made_of == known:
    print(json.dumps({"fingerprint": made_of}), file=answer)
    sys.exit()
try:
    import synapse
except ImportError:
    told(3, "it has no Synapse")
try:
    from synapse.util import SYNAPSE_VERSION as version
except ImportError:
    version = getattr(synapse, "__version__", "unknown")
try:
    from synapse._scripts import synapse_port_db as routine
    from synapse.storage import prepare_database, schema

    tables = {name: getattr(routine, name) for name in ("APPEND_ONLY_TABLES", "IGNORED_TABLES", "BOOLEAN_COLUMNS")}
    schema_version = schema.SCHEMA_VERSION
except (ImportError, AttributeError) as error:
    told(4, f"Synapse {version} lacks what is read here: {error}")

COLUMNS = '''
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    CASE WHEN a.atttypid IN (1042, 1043) AND a.atttypmod > 4 THEN a.atttypmod - 4 END,
    a.atthasdef OR a.attidentity <> '', a.attidentity = 'a' OR a.attgenerated <> ''
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> %s
    AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum'''
FOREIGN_KEYS = '''
SELECT c.relname, p.relname, k.conname,
    ARRAY(SELECT attname::text FROM unnest(k.conkey) WITH ORDINALITY n(attnum, i)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.attnum ORDER BY i),
    ARRAY(SELECT attname::text FROM unnest(k.confkey) WITH ORDINALITY n(attnum, i)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.attnum ORDER BY i)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1, 3'''
CHECKS = '''
SELECT c.relname, pg_get_expr(k.conbin, k.conrelid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.contype = 'c' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1, k.conname'''
UNIQUE = '''
SELECT c.relname,
    ARRAY(SELECT a.attname::text FROM unnest(i.indkey::smallint[]) WITH ORDINALITY n(attnum, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = n.attnum WHERE place <= i.indnkeyatts ORDER BY place),
    pg_get_expr(i.indpred, i.indrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE i.indisunique AND i.indexprs IS NULL AND c.relname <> %s AND c.relnamespace = current_schema()::regnamespace
ORDER BY 1, i.indexrelid'''
# What follows USING makes the index again on another table with these columns; a constraint's index depends on no column itself.
INDEXES = '''
SELECT c.relname, x.relname, substr(definition, strpos(definition, ' USING ') + 7),
    ARRAY(SELECT attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND (
        a.attnum = ANY (i.indkey::smallint[]) OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
            AND d.objid = x.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum)
    ) ORDER BY a.attnum)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid,
    pg_get_indexdef(x.oid) AS definition
WHERE c.relname <> %s AND c.relnamespace = current_schema()::regnamespace ORDER BY 1, 2'''
SEQUENCES = "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace ORDER BY 1"
GUARD = "synapse_postgres_is_never_committed"


def target(section):
    import inspect

    import psycopg2
    from synapse.storage.database import LoggingDatabaseConnection
    from synapse.storage.engines import PostgresEngine

    class Uncommitted:
        def __init__(self, cursor):
            self.cursor = cursor

        def execute(self, script):
            self.cursor.execute(script.replace("COMMIT; BEGIN TRANSACTION;", "", 1))

    class Engine(PostgresEngine):
        @staticmethod
        def executescript(cursor, script):
            PostgresEngine.executescript(Uncommitted(cursor), script)

    class Connection(LoggingDatabaseConnection):
        def commit(self):
            pass

    args = {key: value for key, value in section["args"].items() if not key.startswith("cp_")}
    raw = psycopg2.connect(**{"connect_timeout": 10, **args, "application_name": "matrixops.synapse_postgres look"})
    try:
        with raw.cursor() as cursor:
            cursor.execute("SET statement_timeout = '60s'; SET lock_timeout = '10s'")
            cursor.execute("SELECT current_schema()")
            if cursor.fetchone()[0] is None:
                raise RuntimeError("the role's search_path leads to no schema")
            cursor.execute("SELECT to_regclass(format('%I.schema_version', current_schema()))")
            made = cursor.fetchone()[0] is not None
            if made:
                cursor.execute("SELECT 1 FROM schema_version")
                made = cursor.fetchone() is not None
            if not made:
                cursor.execute(f"CREATE TABLE {GUARD} (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
                cursor.execute(f"INSERT INTO {GUARD} VALUES (1), (1)")
                words = {"conn": raw, "default_txn_name": "look", "server_name": "localhost"}
                words["engine"] = engine = Engine({**section, "allow_unsafe_locale": True})
                known = inspect.signature(LoggingDatabaseConnection.__init__).parameters
                wrapped = Connection(**{key: value for key, value in words.items() if key in known})
                prepare_database.prepare_database(wrapped, engine, config=None)
            return read(cursor, made)
    finally:
        raw.rollback()
        raw.close()


def read(cursor, made):
    columns, unique, partial, checks, indexes = {}, {}, {}, {}, {}
    cursor.execute(COLUMNS, (GUARD,))
    for table, column, kind, required, length, default, always in cursor.fetchall():
        found = {"type": kind, "required": required, "length": length, "default": default, "always": always}
        columns.setdefault(table, {})[column] = found
    cursor.execute(UNIQUE, (GUARD,))
    for table, names, where in cursor.fetchall():
        if where is None:
            unique.setdefault(table, []).append(names)
        else:
            partial.setdefault(table, []).append({"columns": names, "where": where})
    cursor.execute(CHECKS)
    for table, check in cursor.fetchall():
        checks.setdefault(table, []).append(check)
    cursor.execute(FOREIGN_KEYS)
    names = ("table", "parent", "name", "columns", "parent_columns")
    keys = [dict(zip(names, row)) for row in cursor.fetchall()]
    cursor.execute(INDEXES, (GUARD,))
    for table, name, using, names_of in cursor.fetchall():
        indexes.setdefault(table, []).append({"name": name, "using": using, "columns": names_of})
    cursor.execute("SELECT current_setting('block_size')::int")
    page = cursor.fetchone()[0]
    cursor.execute("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T') ORDER BY 1")
    reserved = [row[0] for row in cursor.fetchall()]
    cursor.execute(SEQUENCES)
    sequences = [row[0] for row in cursor.fetchall()]
    cursor.execute("SELECT max(version) FROM schema_version")
    version = cursor.fetchone()[0]
    found = {"columns": columns, "foreign_keys": keys, "unique": unique, "partial_unique": partial}
    found.update(indexes=indexes, page=page, reserved=reserved)
    return {"made": made, "schema_version": version, **found, "checks": checks, "sequences": sequences}



def carrying():
    import inspect

    try:
        names = ("setup_table", "handle_table", "handle_search_table", "_convert_rows")
        parts = [getattr(routine.Porter, name) for name in names]
        words = [" ".join(inspect.getsource(part).split()) for part in [*parts, routine.Store.insert_many_txn]]
    except (AttributeError, OSError, TypeError):
        return None
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


found = {
    "version": str(version).split(" ", 1)[0],  # a working copy's goes on with its branch
    "schema_version": schema_version,
    "append_only": sorted(tables["APPEND_ONLY_TABLES"]),
    "ignored": sorted(tables["IGNORED_TABLES"]),
    "boolean": {table: sorted(columns) for table, columns in tables["BOOLEAN_COLUMNS"].items()},
    "autoincrement": sorted(getattr(routine, "AUTOINCREMENT_TABLES", ())),
    "carrying": carrying(),
    "fingerprint": made_of,
}
if section_path:
    try:
        with open(section_path, encoding="utf-8") as stream:
            section = json.load(stream)
    except OSError as error:
        told(5, f"{error.filename}: {error.strerror}")
    found["target"] = found["refused"] = None
    try:
        found["target"] = target(section)
    except Exception as error:
        found["refused"] = " ".join(str(error).split()) or type(error).__name__
print(json.dumps(found), file=answer)
"""

# An answer to another program is no answer to this one.
_ASKED = hashlib.sha256(_PROGRAM.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the installed Synapse decides: its ``rules``, and the schema that it makes in the ``target``.

    That is None where nobody asked for it, or where Synapse ``refused``, in these words.
    """

    rules: Rules
    target: TargetSchema | None = None
    refused: str | None = None


def python_words(params: dict) -> list[str]:
    """Return how Synapse's interpreter is called, for a module's ``synapse_python``, ``command`` and ``python_command``.

    ``command`` is the port routine's own, so its last word names the routine: [docker, exec, synapse, synapse_port_db].
    """
    if params.get("synapse_python"):
        return [params["synapse_python"]]
    return params.get("python_command") or [*params["command"][:-1], "python3"]


def ask(python: list[str], known: Rules | None = None) -> Rules:
    """Return what the Synapse that ``python`` runs decides; ``known`` is an earlier answer, which stands if its files do.

    Raises Refusal when that does not run, has no Synapse or one that is too old, or takes longer than SECONDS.
    """
    fingerprint = known.fingerprint if known and known.asked == _ASKED else ""
    found = _answer([*python, "-c", _PROGRAM, "", fingerprint])
    return known if known and "version" not in found else Rules.from_json({**found, "asked": _ASKED})


def ask_with_target(python: list[str], config: PortConfig | None, folder: str | None = None) -> Answer:
    """Return what the Synapse that ``python`` runs decides, with the schema that it makes in the target database.

    ``config`` is Synapse's configuration with a psycopg2 ``database:`` section; without one the target is not looked at. Where
    the schema is not there, Synapse makes it in a transaction that is rolled back; its background updates, which add an index or
    a constraint later, are not run. A target that does not let itself be looked at does not hide the rules.

    The section goes by a file in a folder of mode 0700 within ``folder``, which must have the same path where ``python`` runs.
    Raises Refusal as ask() does.
    """
    found = _ask_with_section(python, config.section, folder) if config else _answer([*python, "-c", _PROGRAM, "", ""])
    target = found.get("target")
    return Answer(Rules.from_json(found), TargetSchema.from_json(target) if target else None, found.get("refused"))


def _ask_with_section(python: list[str], section: dict, folder: str | None) -> dict:
    """Return what the program says that is given ``section``, in a folder of its own within ``folder``."""
    private = tempfile.mkdtemp(prefix=".ask-", dir=folder)
    try:
        path = os.path.join(private, "database.json")
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
            json.dump(section, stream, default=str)
        return _answer([*python, "-c", _PROGRAM, path, ""])
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _answer(words: list[str]) -> dict:
    """Run ``words`` and return the JSON that they write."""
    shown = " ".join(words[: words.index("-c")])
    remedy = "Give the path of the interpreter that runs Synapse, or command and python_command."
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
        )
    except OSError as error:
        raise _errors.Refusal(f"Synapse's Python, {shown}, does not run: {error.strerror}.", remedy) from error
    except subprocess.TimeoutExpired as error:
        raise _errors.Refusal(
            f"Synapse's Python, {shown}, has not answered within {SECONDS} seconds.",
            "See what keeps it: the host's load, or a database that does not answer; then run this again.",
        ) from error
    last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1].strip()
    if done.returncode == _NO_SYNAPSE:
        raise _errors.Refusal(f"The interpreter {shown} has no Synapse.", remedy)
    if done.returncode == _UNKNOWN_SYNAPSE:
        raise _errors.Refusal(f"What {shown} runs cannot be asked: {last}.", "Upgrade Synapse first, then run this again.")
    if done.returncode == _NO_FILE:
        raise _errors.Refusal(
            f"Synapse's Python, {shown}, does not see the private file that was made for it: {last}.",
            "Let its container have that folder under the same path, and let its user read there.",
        )
    try:
        if done.returncode == 0:
            return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = "it does not answer as a Python would"
    raise _errors.Refusal(f"Synapse's Python, {shown}, ended with status {done.returncode}: {last}.", remedy)
