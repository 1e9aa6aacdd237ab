# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_postgres_sqlite_path against what the running Synapse has open: a file would be moved in its place."""

import subprocess

from support import synapse

CONFIG = "server_name: localhost\ndatabase: {{name: sqlite3, args: {{database: {}}}}}\n"


def test_an_older_file_is_not_taken_for_the_one_that_synapse_has(run, tmp_path):
    config, used, older = tmp_path / "homeserver.yaml", tmp_path / "homeserver.db", tmp_path / "older.db"
    config.write_text(CONFIG.format("homeserver.db"))
    (tmp_path / "synapse" / "app").mkdir(parents=True)
    for name in ("__init__.py", "app/__init__.py"):
        (tmp_path / "synapse" / name).touch()
    (tmp_path / "synapse" / "app" / "homeserver.py").write_text("print(flush=True); import time; time.sleep(60)")
    used.touch()
    older.touch()

    def look(given) -> dict:
        return run("synapse_config_info", {"path": str(config), "files": [str(config)], "sqlite_path": str(given)})

    words = [synapse.PYTHON, "-m", "synapse.app.homeserver", "-c", str(config)]
    with subprocess.Popen(words, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert look(used)["sqlite_path"] == str(used)
        refused = look(older)
        process.kill()
    assert f"process {process.pid} has another file as homeserver.db" in refused["msg"], refused
    assert f"on this host ({used})." in refused["msg"]
    # With nobody to ask, it is as the play says.
    assert look(older)["sqlite_path"] == str(older)
