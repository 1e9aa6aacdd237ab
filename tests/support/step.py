# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A single module, run by the ansible-playbook that belongs to the interpreter of the tests: in a pipe or in a terminal."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import yaml

from support import playbooks

_COLLECTIONS = pathlib.Path(__file__).parents[2] / ".cache" / "collections"


class Play:
    """A play of one module on the host ``here``, or on several: run in a pipe or in a terminal of 100 columns.

    ``more`` are further variables of the environment.
    """

    def __init__(self, folder: pathlib.Path, module: str, options: dict, hosts: tuple = ("here",), **keywords) -> None:
        self.folder, self.output, self.jobs, self.more = folder, "", folder / "jobs", {}
        self.temporary.mkdir(exist_ok=True)
        task = {"name": "The step", f"matrixops.synapse_postgres.{module}": options, "register": "result", **keywords}
        keep = {"path": str(folder / "result-{{ inventory_hostname }}.json"), "text": "{{ result | to_json }}"}
        write = {"name": "Keep", "ansible.builtin.copy": {"dest": keep["path"], "content": keep["text"], "mode": "0600"}}
        play = {"name": "Play", "hosts": "all", "gather_facts": False, "tasks": [task, {**write, "check_mode": False}]}
        # Of the hosts alone: on the controller, ansible-core 2.21 has a socket in it, whose path has to be short.
        play["environment"] = {"TMPDIR": str(self.temporary)}
        (folder / "play.yml").write_text(yaml.safe_dump([play]))
        self.variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_async_dir": str(self.jobs),
            "synapse_postgres_progress_interval": 1,
        }
        self.hosts = hosts

    def words(self, *more: str) -> list[str]:
        inventory = self.folder / "inventory.yml"
        inventory.write_text(yaml.safe_dump({"all": {"vars": self.variables, "hosts": {host: None for host in self.hosts}}}))
        command = pathlib.Path(sys.executable).with_name("ansible-playbook")
        return [str(command), "-i", str(inventory), str(self.folder / "play.yml"), *more]

    @property
    def environment(self) -> dict:
        return {
            **os.environ,
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_REMOTE_TMP": str(self.folder / "ansible" / "tmp"),
            "ANSIBLE_COLLECTIONS_PATH": str(_COLLECTIONS),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_DEPRECATION_WARNINGS": "true",
            "ANSIBLE_INJECT_INVOCATION": "true",  # ansible-core 2.21 leaves it out otherwise
            **self.more,
        }

    @property
    def temporary(self) -> pathlib.Path:
        """Where modules are unpacked: one that is killed leaves that behind, and pytest takes it away with the test's folder."""
        return self.folder / "tmp"

    @property
    def enough(self) -> pathlib.Path:
        """The file that is made when the output has what is waited for; a slow step ends then."""
        return self.folder / "enough"

    def piped(self, *more: str, enough=lambda _output: False) -> int:
        """Run the play to its end with its output in a pipe; return its exit status. ``enough(output)`` ends a slow step."""
        words = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.output, deadline = "", time.monotonic() + 240
        with subprocess.Popen(self.words(*more), env=self.environment, **words) as process:
            while select.select([process.stdout], [], [], deadline - time.monotonic())[0]:
                heard = os.read(process.stdout.fileno(), 65536)
                if not heard:
                    break
                self.output += heard.decode()
                if enough(self.output):
                    self.enough.touch()
            else:
                process.kill()
        self._require_clean()
        return process.returncode

    def killed(self, reached):
        """Run the play in a pipe, and kill ansible-playbook and its workers at once when ``reached()`` is true."""
        with (self.folder / "killed.log").open("w") as stream:
            words = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(self.words(), env=self.environment, start_new_session=True, **words)
        playbooks.wait_until(reached, process)
        playbooks.kill_controller(process)

    def in_terminal(self, *more: str, press=None, enough=lambda _output: False) -> int:
        """Run the play in a terminal as piped() does; when ``press`` is given and true of the output, press Ctrl-C once."""
        words = self.words(*more)
        child, screen = pty.fork()
        if not child:
            os.execve(words[0], words, self.environment)
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.output, deadline = "", time.monotonic() + 240
        with contextlib.suppress(OSError):  # EIO: the terminal's other end was closed
            while time.monotonic() < deadline:
                if select.select([screen], [], [], 0.1)[0]:
                    self.output += os.read(screen, 65536).decode()
                if enough(self.output):
                    self.enough.touch()
                if press and press(self.output):
                    os.write(screen, b"\x03")
                    press = None
        os.close(screen)
        status = os.waitpid(child, 0)[1]
        self._require_clean()
        return os.waitstatus_to_exitcode(status)

    def _require_clean(self) -> None:
        """Raise AssertionError when the output has a traceback, or a warning that something of ansible-core's will go.

        The tests themselves ask for a result's frame, which has gone already.
        """
        gone = re.findall(r"\[DEPRECATION WARNING\]: (?!The `timedout.frame`).*", self.output)
        assert "Traceback" not in self.output and not gone, self.output

    def seen(self) -> list[str]:
        """Return the lines that are left on the screen in the end."""
        return [line.split("\r\x1b[K")[-1] for line in self.output.replace("\r\n", "\n").split("\n")]

    def result(self, host: str = "here") -> dict:
        return json.loads((self.folder / f"result-{host}.json").read_text())

    def left(self) -> list[str]:
        """Return the files of jobs that were left behind."""
        return [path.name for path in self.jobs.iterdir()] if self.jobs.exists() else []
