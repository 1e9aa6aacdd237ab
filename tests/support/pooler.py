# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A running PgBouncer before a throwaway cluster."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from support import clusters, loopback

# Where a package of the system's has it, and where the test stages put it.
_FOLDERS = [os.environ.get("PATH", os.defpath), "/usr/sbin", pathlib.Path(__file__).parents[2] / ".cache/pgbouncer/usr/sbin"]
PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join(map(str, _FOLDERS)))


@contextlib.contextmanager
def before(cluster: clusters.Cluster, passwords: dict[str, str], *settings: str):
    """Yield the port of a PgBouncer before ``cluster``, with lines of ``settings``, which knows roles by their ``passwords``."""
    with tempfile.TemporaryDirectory(prefix="synapse-postgres-") as folder:
        port = loopback.free_port()
        known = {clusters.ADMIN: clusters.ADMIN_PASSWORD, **passwords}
        lines = ['"{}" "{}"\n'.format(*(word.replace('"', '""') for word in one)) for one in known.items()]
        with open(f"{folder}/users", "w", encoding="utf-8") as stream:
            stream.writelines(lines)
        head = ["[databases]", f"* = host=127.0.0.1 port={cluster.port}", "[pgbouncer]"]
        ours = ["listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", "auth_type = scram-sha-256"]
        with open(f"{folder}/ini", "w", encoding="utf-8") as stream:
            stream.write("\n".join([*head, *ours, f"auth_file = {folder}/users", f"logfile = {folder}/log", *settings, ""]))
        if cluster.account:  # root it refuses to run as
            for name in ("", "/users", "/ini"):
                shutil.chown(folder + name, cluster.account)
        process = subprocess.Popen([PROGRAM, "-q", f"{folder}/ini"], user=cluster.account, stderr=subprocess.DEVNULL)
        try:
            _wait(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
