# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A way to a server that can be cut, as by a firewall that resets, fall silent, as by a cable pulled, or be a long one.

python3 link.py PORT DELAY     a long one, until its standard input ends; it says its own port
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import subprocess
import sys
import threading

# linux/filter.h and asm-generic/socket.h: a program of one instruction, "return 0", takes no byte of a packet.
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_TAKE_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
_DROP = struct.pack("HL", 1, ctypes.addressof(_TAKE_NOTHING))

# Pieces of 64 KiB that are on the way at a time: more than a link of 10 Gbit/s holds in a millisecond.
_ON_THE_WAY = 64

# By which a client ends its session: manual, section 55.7.
_TERMINATE = b"X\0\0\0\4"


class Link:
    """A way to a port of this host through a port of its own, ``port``, which can be cut, silenced and mended.

    What passes arrives ``delay`` seconds later, in either direction, and the end of a session ``late`` seconds after that, as
    where the server is busy. Who is connected to sees the address ``source``.
    """

    def __init__(self, target: int, delay: float = 0.0, source: str = "127.0.0.1", late: float = 0.0) -> None:
        self.target, self.delay, self.whole, self.sockets, self.pumps = target, delay, True, [], set()
        self.source, self.late = source, late
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> "Link":
        self.thread.start()
        self._soon(self._listen())
        return self

    def __exit__(self, *_reason) -> None:
        self.cut()
        self._soon(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def cut(self) -> None:
        """Reset every connection, and every new one from now on."""
        self.whole = False
        self._soon(self._reset())

    def silence(self) -> None:
        """Lose every packet from now on, as a cable that was pulled does: nobody is told, and not even the kernel answers."""
        for each in [self.listener, *self.sockets]:
            each.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _DROP)

    def mend(self) -> None:
        """Let new connections pass again; the old ones stay what they are."""
        with contextlib.suppress(OSError):
            self.listener.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        self.whole = True

    def _soon(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def _listen(self) -> None:
        self.server = await asyncio.start_server(self._join, sock=self.listener)

    async def _join(self, reader, writer) -> None:
        writers, ways = [writer], []
        try:
            if self.whole:
                other_reader, other = await asyncio.open_connection("127.0.0.1", self.target, local_addr=(self.source, 0))
                writers.append(other)
                self.sockets += [each.get_extra_info("socket") for each in writers]
                for each in writers:  # asyncio does so for sockets that it made itself
                    each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.pumps.add(asyncio.current_task())
                for source, target in ((reader, other), (other_reader, writer)):
                    on_the_way = asyncio.Queue(_ON_THE_WAY)
                    ways += map(asyncio.ensure_future, (self._leave(source, on_the_way), _arrive(on_the_way, target)))
                await asyncio.gather(*ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for way in ways:
                way.cancel()
            for each in writers:
                found = each.get_extra_info("socket")
                # To linger for no time is to reset: socket(7).
                with contextlib.suppress(OSError):
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.sockets = [known for known in self.sockets if known is not found]
                each.transport.abort()
            self.pumps.discard(asyncio.current_task())

    async def _leave(self, reader, on_the_way: asyncio.Queue) -> None:
        piece = b"-"
        while piece:
            piece = await reader.read(1 << 16)
            late = self.late if piece in (b"", _TERMINATE) else 0
            await on_the_way.put((asyncio.get_running_loop().time() + self.delay + late, piece))

    async def _reset(self) -> None:
        waited = list(self.pumps)
        for task in waited:
            task.cancel()
        await asyncio.gather(*waited, return_exceptions=True)

    async def _close(self) -> None:
        self.server.close()
        await self.server.wait_closed()


async def _arrive(on_the_way: asyncio.Queue, writer) -> None:
    while True:
        due, piece = await on_the_way.get()
        left = due - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
        if not piece:
            raise ConnectionResetError
        writer.write(piece)
        await writer.drain()


@contextlib.contextmanager
def long(target: int, delay: float):
    """Yield the port of a way to ``target`` in a process and a session of its own: what is measured does not keep it waiting."""
    words = [sys.executable, __file__, str(target), str(delay)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


if __name__ == "__main__":
    with Link(int(sys.argv[1]), float(sys.argv[2])) as link:
        print(link.port, flush=True)
        sys.stdin.read()
