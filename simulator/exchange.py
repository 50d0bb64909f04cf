"""One request and its response on the socket, including cut and reset connections."""

import socket
import struct
from typing import Any

from aiohttp import web

from .answers import JSON
from .request_log import LogEntry

# With a linger time of zero, closing sends RST and drops unsent data (socket(7), SO_LINGER).
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Exchange:
    """`headers` are added to every response. `entry` is filled along the way and logged at the end."""

    def __init__(self, request: web.BaseRequest, entry: LogEntry, headers: dict[str, str]) -> None:
        self.request = request
        self.entry = entry
        self.headers = headers
        self.response: web.StreamResponse = web.Response()

    async def send(
        self, status: int, body: bytes, content_type: str = JSON, headers: dict[str, str] | None = None
    ) -> None:
        """Send a whole response with its length."""
        self.response = web.Response(
            status=status, body=body, headers={"content-type": content_type, **self.headers, **(headers or {})}
        )
        self.entry.status = status
        await self.response.prepare(self.request)
        await self.finish()

    async def open(
        self, content_type: str, content_length: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Start a response with status 200; `write` sends its body. Chunked unless a length is given."""
        self.response = web.StreamResponse(headers={"content-type": content_type, **self.headers, **(headers or {})})
        self.response.content_length = content_length
        self.entry.status = 200
        await self.response.prepare(self.request)

    async def write(self, data: bytes) -> None:
        await self.response.write(data)

    async def finish(self) -> None:
        await self.response.write_eof()
        self.entry.completed = True

    def cut(self) -> None:
        """Close the connection in the middle of the response. Data already written still arrives."""
        transport = self.request.transport
        if transport is not None:
            transport.close()

    def reset(self) -> None:
        """Reset the connection: the client gets ECONNRESET."""
        transport = self.request.transport
        if transport is None:
            return
        raw_socket: Any = transport.get_extra_info("socket")
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()
