"""The HTTP front of the emulated Functions host: what Kestrel and the host do with a request before the worker sees it.

A connection serves one request, so that "the caller is gone" is simply the end of its connection.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

MAX_LINE = 8 * 1024
MAX_HEADERS = 32 * 1024
MOST_HEADERS = 100
HOST_SPAN = "5e1f5e1f5e1f5e1f"  # of the host's own span of a request
CLIENT_SPAN = "c11ec11ec11ec11e"  # of the span with which it forwards the request
INVOCATION_ID = b"x-ms-invocation-id"

_SLOWEST, _GRACE = 240, 5.0  # bytes a second on average that a body with a length must have, after so many seconds
_OF_THE_CONNECTION = (b"connection", b"keep-alive", b"host", b"expect", b"transfer-encoding", b"content-length")
_NONE: Mapping[str, str] = {}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(rb"[A-Za-z0-9._~%:\[\]-]+")
_PATH = "/:@!$&'()*+,;=-._~"  # what stays as it is in a path that is forwarded


class Refused(Exception):
    """The host answers by itself, with this status and nothing else."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Head:
    """The first lines of a request. Raises `Refused` where Kestrel does."""

    def __init__(self, data: bytes, peer: str) -> None:
        line, *fields = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
        if len(line) > MAX_LINE:
            raise Refused(414)
        if len(fields) > MOST_HEADERS or len(data) - len(line) > MAX_HEADERS:
            raise Refused(431)
        words = line.split(b" ")
        if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not words[1].startswith(b"/") or b"\0" in data:
            raise Refused(400)
        self.method, self.target = words[0].decode(), words[1].decode("latin-1")
        self.query = self.target.partition("?")[1] + self.target.partition("?")[2]
        self.path = decoded_path(self.target.partition("?")[0])
        self.fields: dict[bytes, list[bytes]] = {}
        for field in fields:
            name, colon, value = field.partition(b":")
            if not colon or not _TOKEN.fullmatch(name) or b"\r" in value or b"\n" in value or not _is_utf8(value):
                raise Refused(400)
            self.fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
        hosts = self.fields.get(b"host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise Refused(400)
        self._peer = peer
        self.chunked = self._is_chunked()
        self.length = self._length()
        given = self.fields.get(b"traceparent", [b""])[0].decode("latin-1")
        self._trace = given[3:35] if given else uuid.uuid4().hex
        self._flags = given[-2:] if given else "01"

    def _is_chunked(self) -> bool:
        coding = self.fields.get(b"transfer-encoding")
        if coding is None:
            return False
        if coding != [b"chunked"] or b"content-length" in self.fields:
            raise Refused(400)
        return True

    def _length(self) -> int | None:
        lengths = self.fields.get(b"content-length", [])
        if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
            raise Refused(400)
        if lengths and (len(lengths[0]) > 19 or int(lengths[0]) >= 2**63):  # Kestrel reads a 64-bit number
            raise Refused(400)
        return int(lengths[0]) if lengths else None

    def trace_parent(self, span: str = HOST_SPAN) -> str:
        """The host's span, in the caller's trace if it has one."""
        return f"00-{self._trace}-{span}-{self._flags}"

    def has_key(self, master: str) -> bool:
        """True if the request has the host's master key."""
        return self.fields.get(b"x-functions-key") == [master.encode()] or f"code={master}" in self.query

    def forwarded(self, invocation: str, worker: str) -> bytes:
        """As the worker's server receives it. Raises ValueError where .NET refuses to send a header."""
        fields = {name: values for name, values in self.fields.items() if name not in _OF_THE_CONNECTION}
        fields.setdefault(INVOCATION_ID, [invocation.encode()])
        fields[b"host"] = [worker.encode()]
        fields[b"x-forwarded-for"] = [self._peer.encode()]
        fields[b"x-forwarded-host"] = self.fields[b"host"]
        fields[b"x-forwarded-proto"] = [b"http"]
        fields[b"traceparent"] = [self.trace_parent(CLIENT_SPAN).encode()]
        if b"upgrade" in (value.lower() for value in self.fields.get(b"connection", [])):
            fields[b"connection"] = [b"Upgrade"]
        else:
            fields.pop(b"upgrade", None)
        if self.chunked:
            fields[b"transfer-encoding"] = [b"chunked"]
        elif self.length is not None:
            fields[b"content-length"] = [str(self.length).encode()]
        lines = [f"{self.method} {quote(self.path, safe=_PATH)}{self.query} HTTP/1.1".encode("latin-1")]
        for name, values in fields.items():
            value = (b"; " if name == b"cookie" else b", ").join(values)
            if not value.isascii():
                raise ValueError(f"the header {name.decode()} has characters beyond ASCII")
            lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])


def decoded_path(raw: str) -> str:
    """A path as the host's handlers see it: decoded except for slashes, dot segments resolved."""
    if "%00" in raw:
        raise Refused(400)
    pieces = re.split(r"(%2[fF])", raw)
    path = "".join(piece if index % 2 else _unquoted(piece) for index, piece in enumerate(pieces))
    segments: list[str] = []
    for segment in (parts := path.split("/"))[1:]:
        if segment == ".." and segments:
            segments.pop()
        elif segment not in (".", ".."):
            segments.append(segment)
    if parts[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)


def _unquoted(piece: str) -> str:
    """Decode valid UTF-8, and leave the rest."""

    def decode(match: re.Match[str]) -> str:
        try:
            return bytes.fromhex(match[0].replace("%", "")).decode()
        except UnicodeDecodeError:
            return match[0]

    return re.sub(r"(?:%[0-9a-fA-F]{2})+", decode, piece)


async def read_head(reader: asyncio.StreamReader, peer: str) -> Head | None:
    """The head of the one request of a connection; None where none comes. Raises `Refused`."""
    try:
        return Head(await reader.readuntil(b"\r\n\r\n"), peer)
    except asyncio.LimitOverrunError:
        raise Refused(431) from None
    except (asyncio.IncompleteReadError, OSError):
        return None


async def read_whole(reader: asyncio.StreamReader, length: int, most: int) -> bytes:
    """A body with a length, which the host reads before anything else. Raises `Refused` if it is too long or too slow,
    `EOFError` if its caller leaves."""
    if length > most:
        raise Refused(500)
    loop = asyncio.get_running_loop()
    started, body = loop.time(), bytearray()
    while len(body) < length:
        try:
            async with asyncio.timeout_at(started + _GRACE + len(body) / _SLOWEST):
                data = await reader.read(min(65_536, length - len(body)))
        except TimeoutError:
            raise Refused(500) from None
        if not data:
            raise EOFError
        body += data
    return bytes(body)


async def whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def chunks(reader: asyncio.StreamReader, most: int) -> AsyncIterator[bytes]:
    """A chunked body as it comes, with its framing. Raises `Refused` if it is too long or malformed, `EOFError` if its
    caller leaves."""
    total = 0
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0].strip(), 16)
            total += size
            if total > most:
                raise Refused(500)
            if not size:
                while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                    pass
                yield b"0\r\n\r\n"
                return
            data = await reader.readexactly(size + 2)
        except (asyncio.IncompleteReadError, OSError):
            raise EOFError from None
        except (ValueError, asyncio.LimitOverrunError):
            raise Refused(400) from None
        yield b"%x\r\n" % size + data


async def send(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes = b"",
    content_type: str = "application/json",
    headers: Mapping[str, str] = _NONE,
) -> None:
    """An answer of the host's own, or with these `headers` of an app that does not stream."""
    lines = {"content-type": content_type, **headers} if body else {}
    kind = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(
        f"HTTP/1.1 {status} -\r\n{kind}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
    )
    await writer.drain()


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
