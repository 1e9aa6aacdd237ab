# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Merging, against what Synapse's own code makes of the same files."""

import json
import subprocess

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._homeserver import merging
from support import synapse

# Synapse's own answer: the files, and what they come to.
_SYNAPSE = """
import contextlib, io, json, sys
from synapse.config import _base
with contextlib.redirect_stdout(io.StringIO()):
    files = _base.find_config_files(sys.argv[1:])
    merged = _base.read_config_files(files)
print(json.dumps([files, merged]))
"""


def test_files_are_found_and_merged_as_by_synapse(tmp_path):
    texts = {
        "homeserver.yaml": "server_name: one\nreport_stats: false\nlisteners: [{port: 1}]\nx: 1\nx: 2\n",
        "conf.d/b.yaml": "x: {b: 1}\n",
        "conf.d/a.yaml": "x: {a: 1}\ndatabase: {name: sqlite3}\n",
        "conf.d/.hidden.yaml": "hidden: yes\nserver_name: two\n",
        "conf.d/[c]*.yaml": "listeners:\n",
        "conf.d/Z.yaml": "# nothing but words\n",
        "conf.d/c.yml": "x: not read\n",
        "conf.d/c.yaml~": "x: not read\n",
        "conf.d/more.yaml/d.yaml": "x: not read\n",
        "empty/readme.txt": "",
        "last.conf": "\ufeffdatabase:\n  name: psycopg2\n  args: {<<: &a {user: u}}\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "linked").symlink_to("conf.d")
    (tmp_path / "conf.d" / "link.yaml").symlink_to("../homeserver.yaml")
    (tmp_path / "conf.d" / "lost.yaml").symlink_to("nowhere")
    (tmp_path / "empty" / "sub.yaml").mkdir()
    for names in (
        ["homeserver.yaml"],
        ["homeserver.yaml", "conf.d", "last.conf"],
        ["conf.d/", "homeserver.yaml"],
        ["linked", "empty", "homeserver.yaml", "last.conf", "conf.d/a.yaml"],
    ):
        paths = [str(tmp_path / name) for name in names]
        done = subprocess.run([synapse.PYTHON, "-c", _SYNAPSE, *paths], capture_output=True, text=True, check=True)
        files, config = json.loads(done.stdout)
        found = merging.read(paths)
        assert [found.files, found.config] == [[str(tmp_path / name) if name in names else name for name in files], config]
        holders = {key: [path for path in files if key in merging.read([path]).config] for key in config}
        assert found.holders == holders
