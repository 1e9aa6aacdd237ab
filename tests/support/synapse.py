# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A real Synapse in a folder of its own: on SQLite at first, reached over loopback, without federation."""

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import time

from support import conversation

# Where the test stages put Synapse, see tests/stages; or SYNAPSE_PYTHON, for another release of it.
PYTHON = pathlib.Path(
    os.environ.get("SYNAPSE_PYTHON") or pathlib.Path(__file__).parents[2] / ".cache" / "synapse" / "bin" / "python"
)


class Homeserver:
    """A homeserver whose files are all in ``folder``, run by the interpreter ``python`` and Synapse's synctl."""

    def __init__(self, folder: pathlib.Path, port: int, python: pathlib.Path = PYTHON) -> None:
        self.folder, self.port, self.python = folder, port, python
        self.config = folder / "homeserver.yaml"
        self.database = folder / "homeserver.db"
        self.url = f"http://127.0.0.1:{port}"

    def generate(self, server_name: str = "localhost") -> None:
        """Let Synapse write its configuration and change what a homeserver without a network needs changed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["--server-name", server_name, "--config-path", str(self.config), "--report-stats", "no", "--generate-config"]
        self._run([str(self.python), "-m", "synapse.app.homeserver", *words])
        text = self.config.read_text().replace("port: 8008", f"port: {self.port}").replace("- ::1\n    ", "")
        text = text.replace('trusted_key_servers:\n  - server_name: "matrix.org"\n', "trusted_key_servers: []\n")
        text += "\nfederation_domain_whitelist: []\nrc_message: {per_second: 10000, burst_count: 10000}\n"
        text += "rc_joins: {local: {per_second: 10000, burst_count: 10000}}\n"
        text += "background_updates: {sleep_duration_ms: 1}\nbcrypt_rounds: 4\n"
        self.config.write_text(text)
        self.config.chmod(0o600)

    def start(self) -> None:
        """Start the homeserver and return when its client API answers."""
        self.synctl("start")
        conversation.wait_for(self.url)

    def stop(self) -> None:
        """Stop the homeserver, if it runs, and return when its process has ended."""
        self.synctl("stop")

    def synctl(self, action: str) -> None:
        self._run([str(self.python), "-m", "synapse._scripts.synctl", action, str(self.config)])

    def converse(self, users: int = 3, rooms: int = 2, messages: int = 30) -> dict:
        """Let users talk; return the record of it, for conversation.check()."""
        return conversation.hold(self.url, conversation.secret_of(self.config), users, rooms, messages)

    def settle(self, seconds: float = 120) -> None:
        """Return when Synapse has finished its background updates; TimeoutError when it does not within ``seconds``."""
        deadline = time.monotonic() + seconds
        while self._pending():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Synapse has not finished its background updates within {seconds} s")
            time.sleep(0.2)

    def _pending(self) -> int:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM background_updates").fetchone()[0]

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
