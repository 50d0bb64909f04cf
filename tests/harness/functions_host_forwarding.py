"""Forwards a request to the worker's own HTTP server, as the Functions host does by YARP and .NET's HttpClient.

Connections are pooled. The answer is read when the whole request has been sent, never before. A request whose
connection turns out to be closed is sent again on another one, unless it has a body: that cannot be read twice.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import httptools

_MAX_HEAD = 256 * 1024
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to connect

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ForwardingFailed(Exception):
    """The request could not be forwarded, or its answer not be passed on; the message is for the host's log."""


class CallerGone(ForwardingFailed):
    """The caller left before the answer was complete."""


class Pool:
    """Connections to one address that are not in use, each for at most `idle` seconds."""

    def __init__(self, address: tuple[str, int], idle: float) -> None:
        self._address = address
        self._idle = idle
        self._free: list[tuple[float, Stream]] = []

    async def take(self) -> tuple[Stream, bool]:
        """A connection, and whether it was used before. One whose end has been noticed is not given out."""
        while self._free:
            since, stream = self._free.pop()
            if time.monotonic() - since < self._idle and not stream[0].at_eof() and not stream[1].is_closing():
                return stream, True
            stream[1].close()
        return await self.open(), False

    async def open(self) -> Stream:
        """A new connection. The worker's server may not listen yet: the host tries again for a while."""
        for pause in _PAUSES:
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection(*self._address, limit=_MAX_HEAD)
            await asyncio.sleep(pause)
        return await asyncio.open_connection(*self._address, limit=_MAX_HEAD)

    def give_back(self, stream: Stream) -> None:
        self._free.append((time.monotonic(), stream))

    def close(self) -> None:
        for _, (_, writer) in self._free:
            writer.close()
        self._free.clear()


class Answer:
    """Follows the worker's answer to know where it ends; says that the caller's connection ends with it."""

    def __init__(self, method: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._bodiless = method == "HEAD"
        self._head: bytes | None = b""
        self.begun = False
        self.complete = False
        self.reusable = False

    def feed(self, data: bytes) -> bytes:
        """The part that goes to the caller."""
        self.begun = True
        self._parser.feed_data(data)
        if self._head is None:
            return data
        self._head += data
        line, separator, rest = self._head.partition(b"\r\n")
        if not separator:
            return b""
        self._head = None
        return line + b"\r\nconnection: close\r\n" + rest

    def on_headers_complete(self) -> None:
        self.complete = self._bodiless
        self.reusable = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.complete = self._parser.get_status_code() >= 200


class Forwarder:
    """Forwards requests to one worker. `silence`: seconds without a byte in either direction that end a request."""

    def __init__(self, pool: Pool, silence: float) -> None:
        self._pool = pool
        self._silence = silence

    async def forward(
        self,
        method: str,
        head: bytes,
        body: AsyncIterator[bytes] | None,
        caller: Stream,
        begun: Callable[[], None],
    ) -> None:
        """Send the request, and its answer to the caller; `begun` is called before the first byte of that. Raises
        `ForwardingFailed`."""
        try:
            async with asyncio.timeout(self._silence) as activity:
                stream, used = await self._pool.take()
                try:
                    answer = await self._exchange(stream, method, head, body, caller, begun, activity)
                    if answer is None and used and body is None:
                        stream[1].close()
                        stream = await self._pool.open()
                        answer = await self._exchange(stream, method, head, body, caller, begun, activity)
                except BaseException:
                    stream[1].transport.abort()
                    raise
                if answer is None:
                    stream[1].close()
                    raise ForwardingFailed("the worker's server closed the connection")
                if answer.reusable:
                    self._pool.give_back(stream)
                else:
                    stream[1].close()
        except TimeoutError:
            raise ForwardingFailed(f"{self._silence:.0f} s without a byte") from None
        except OSError as error:
            raise ForwardingFailed(str(error)) from None
        except httptools.HttpParserError as error:
            raise ForwardingFailed(f"the answer is no HTTP: {error}") from None

    async def _exchange(
        self,
        stream: Stream,
        method: str,
        head: bytes,
        body: AsyncIterator[bytes] | None,
        caller: Stream,
        begun: Callable[[], None],
        activity: asyncio.Timeout,
    ) -> Answer | None:
        """The answer, passed on; None where the connection was closed before its first byte."""
        reader, writer = stream
        loop = asyncio.get_running_loop()
        try:
            writer.write(head)
            if body is not None:
                async for piece in body:
                    activity.reschedule(loop.time() + self._silence)
                    writer.write(piece)
                    await writer.drain()
            await writer.drain()
        except (ConnectionError, RuntimeError):
            return None
        answer = Answer(method)
        leaving = asyncio.ensure_future(_left(caller[0]))
        try:
            while not answer.complete:
                coming = asyncio.ensure_future(reader.read(65_536))
                try:
                    await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        raise CallerGone("the caller left")
                    data = await coming
                except ConnectionError:
                    data = b""
                finally:
                    coming.cancel()
                if not data:
                    if answer.begun:
                        raise ForwardingFailed("the answer broke off")
                    return None
                activity.reschedule(loop.time() + self._silence)
                begun()
                try:
                    caller[1].write(answer.feed(data))
                    await caller[1].drain()
                except ConnectionError:
                    raise CallerGone("the caller left") from None
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)  # one reads at a time
        return answer


async def _left(caller: asyncio.StreamReader) -> None:
    """Returns when the caller's connection has ended."""
    try:
        while await caller.read(65_536):
            pass
    except OSError:
        pass
