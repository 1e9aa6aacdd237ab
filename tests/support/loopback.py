# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The loopback interface, where every server of the tests listens."""

import contextlib
import socket


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
