"""Ends connections whose callers do not read what they are sent: they would hold it, and their places, for ever."""

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios

SECONDS = 60.0
LEAST = 65_536  # bytes that a caller has to take in this time, or all that is left


class WriteTimer:
    """Watches one connection while its transport holds more than it should, or is about to close."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def start(self) -> None:
        """Abort the connection unless its caller takes what is unsent. Nothing may be written meanwhile."""
        if self._timer is None:
            self._unsent = _unsent(self._transport)
            self._timer = self._loop.call_later(SECONDS, self._look)

    def stop(self) -> None:
        """The transport holds as little as it should, or the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if _unsent(self._transport) > max(0, self._unsent - LEAST):
            _reset(self._transport)
        else:
            self.start()


def _unsent(transport: asyncio.Transport) -> int:
    """The bytes that the caller's machine has not taken. Linux reports those in the kernel, which takes megabytes
    from a transport at once, and then nothing for minutes."""
    in_kernel = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
    return transport.get_write_buffer_size() + in_kernel[0]


def _reset(transport: asyncio.Transport) -> None:
    """Abort a connection. With a linger time of 0 the kernel drops what it holds, instead of keeping it for a caller
    that may read it yet."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
