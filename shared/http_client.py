"""Requests whose body is at hand, on the connections of aiohttp but past its session, which saves a tenth of a call's
CPU. Uploads and WebSockets go through a session."""

import asyncio
import functools
import re
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from multidict import CIMultiDictProxy
from yarl import URL

_JOINED = 65_536  # bytes of a body that are joined with its head: one write to a socket costs less than two
_FIELDS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++: [^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_WITHOUT_BODY = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # methods that need no content-length of 0
_LONG = 300  # characters of a URL; longer ones hold a caller's query, which is not worth caching


class HttpResponse:
    """A response whose body is still arriving. `close` or `release` it; the end of its body does so, too. `sent`: bytes
    of the request's body."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, connection: Connection, message: RawResponseMessage, content: aiohttp.StreamReader, sent: int
    ) -> None:
        self._connection = connection
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        # An error may come before the end of a large request, the rest of which is then in the way of the next one. TLS
        # does not report how much is unsent.
        early = sent > _JOINED and message.code >= 300
        content.on_eof(functools.partial(_end, connection) if early else connection.release)

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """Read the whole body. Raises aiohttp's errors."""
        try:
            return await self.content.read()
        except BaseException:
            self.close()
            raise

    def release(self) -> None:
        """Return the connection for another request, unless the body was not read to its end."""
        self._connection.release()

    def close(self) -> None:
        """Close the connection at once. A pending read gets an error."""
        if self.content.exception() is None:
            self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))
        _end(self._connection)


async def read_some(content: aiohttp.StreamReader) -> bytes:
    """Return what has arrived of a body, else wait for it; b"" at its end. Raises aiohttp's errors, after all that came
    before: aiohttp itself drops what has arrived, but was not read yet, when a connection breaks."""
    try:
        return await content.readany()
    except aiohttp.ClientError:
        if rest := content._read_nowait(-1):
            return rest
        raise


class _Destination(aiohttp.ClientRequest):
    """The origin of requests, in the form in which a connector asks for it."""

    @functools.cached_property
    def connection_key(self) -> ConnectionKey:  # asked for at every request
        return super().connection_key


class HttpClient:
    """Sends requests on the connections of a connector, which its owner closes. Follows no redirect, keeps no cookie,
    uses no proxy, and sends nothing again."""

    def __init__(self, connector: aiohttp.TCPConnector) -> None:
        self._connector = connector
        self._destinations: dict[URL, _Destination] = {}

    async def send(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str],
        body: bytes,
        connecting: aiohttp.ClientTimeout,
        written: Callable[[], object] = bool,
    ) -> HttpResponse:
        """Send a request; return the response when its head has arrived. Calls `written` when it has a connection.

        Raises `aiohttp.ClientError`, `OSError`, and `ValueError` for an address or a header with control
        characters."""
        origin, start = (_cached_start if len(address) <= _LONG else _start)(method, address)
        connector = self._connector
        if connector.closed:
            raise aiohttp.ClientConnectionError("Connector is closed")
        head = _head(start, method, headers, len(body), closes=connector.force_close)
        if (destination := self._destinations.get(origin)) is None:
            loop = asyncio.get_running_loop()
            destination = self._destinations[origin] = _Destination("GET", origin, loop=loop)
        try:
            connection = await connector.connect(destination, [], connecting)
            while connection.protocol is None or connection.protocol.should_close:  # it has had an answer unasked
                connection.close()
                connection = await connector.connect(destination, [], connecting)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {origin}") from error
        try:
            written()
            message, content = await _exchange(connection, method, head, body)
        except HttpProcessingError as error:
            _end(connection)
            raise aiohttp.ClientResponseError(
                destination.request_info, (), status=error.code, message=error.message, headers=error.headers
            ) from error
        except BaseException:
            _end(connection)
            raise
        return HttpResponse(connection, message, content, len(body))


def _end(connection: Connection) -> None:
    """Close a connection without what is unsent, for which a closing one would wait."""
    if connection.protocol is not None:
        connection.protocol.abort()
    connection.close()


async def _exchange(
    connection: Connection, method: str, head: bytes, body: bytes
) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """Write a request, and read the head of its response."""
    protocol = connection.protocol
    assert protocol is not None
    protocol.set_response_params(skip_payload=method == "HEAD", read_until_eof=True)
    transport = protocol.transport
    if transport is None or transport.is_closing():
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    if len(body) <= _JOINED:
        transport.write(head + body)
    else:
        transport.writelines((head, body))
    message, content = await protocol.read()
    while 100 <= message.code < 200 and message.code != 101:  # an early hint, or the like: the response follows
        message, content = await protocol.read()
    return message, content


def _start(method: str, address: str) -> tuple[URL, str]:
    """Return the origin of a request, and the beginning of its head."""
    url = URL(address, encoded=True)
    if _CONTROL.search(address):
        raise ValueError("the address of the request holds a control character")
    return url.origin(), f"{method} {url.raw_path_qs} HTTP/1.1\r\nhost: {url.host_port_subcomponent}\r\n"


_cached_start = functools.lru_cache(maxsize=1024)(_start)


def _head(start: str, method: str, headers: Mapping[str, str], length: int, *, closes: bool) -> bytes:
    """Return the head of a request. `closes`: the connection ends with the response."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not _FIELDS.fullmatch(fields) or fields.count("\n") != len(headers):
        raise ValueError("a header of the request holds a line break or another control character")
    if length or method not in _WITHOUT_BODY:
        fields += f"content-length: {length}\r\n"
    if closes:
        fields += "connection: close\r\n"
    return f"{start}{fields}\r\n".encode()
