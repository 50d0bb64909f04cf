"""Decodes compressed request bodies while they arrive, so that all bounds hold for the bytes that come out."""

import asyncio
import zlib
from collections.abc import Mapping

from starlette.types import Message, Receive

from shared.errors import InvalidRequest, UnsupportedEncoding

_ACCEPTED = "gzip, deflate"
_PIECE = 256 * 1024  # bytes that are decoded at a time: about a millisecond
_MOST_SPARE = 1024 * 1024  # bytes that a body may have beyond twice what comes out of it
_MOST_MEMBERS, _MEMBER = 1000, 4096  # of a file of many: more only if each holds so many bytes on average
_GZIP = 16 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS


def decoded(receive: Receive, headers: Mapping[str, str]) -> tuple[Receive, Mapping[str, str]]:
    """The body without its `content-encoding`, and the headers that describe it. Raises `UnsupportedEncoding`."""
    if "content-encoding" not in headers:
        return receive, headers
    named = [coding.strip() for coding in headers["content-encoding"].lower().split(",")]
    codings = [coding for coding in named if coding not in ("", "identity")]
    if not codings:
        return receive, headers
    if len(codings) > 1 or codings[0] not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedEncoding(
            f"The body has the content-encoding {', '.join(codings)[:100]!r}, which this gateway does not decode: "
            f"expected one of {_ACCEPTED}, or an uncompressed body.",
            _ACCEPTED,
        )
    plain = {name: value for name, value in headers.items() if name not in ("content-encoding", "content-length")}
    return _DecodedBody(receive, codings[0].removeprefix("x-")), plain


class _DecodedBody:
    """An ASGI `receive` that decodes the messages of another. It raises `InvalidRequest` for what it cannot decode."""

    def __init__(self, receive: Receive, coding: str) -> None:
        self._receive = receive
        self._coding = coding
        self._decoder: zlib._Decompress | None = None
        self._waiting = b""  # bytes that have not been decoded
        self._more = False  # the decoder has more to give
        self._last = False  # the caller has sent all
        self._received = self._decoded = self._members = 0
        self._ended = False

    async def __call__(self) -> Message:
        while not self._ended:
            if self._more:
                await asyncio.sleep(0)  # a large body must not block the other calls
            else:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._waiting, self._last = message.get("body", b""), not message.get("more_body", False)
                self._received += len(self._waiting)
                if self._received > _MOST_SPARE + 2 * self._decoded:
                    raise InvalidRequest(
                        f"The body is far larger with {self._coding} than without: send it uncompressed."
                    )
            piece = self._decode() if self._more or self._waiting else b""
            self._ended = self._last and not self._more
            if self._ended and self._decoder is not None and not self._decoder.eof:
                raise self._invalid()
            self._decoded += len(piece)
            if piece or self._ended:
                return {"type": "http.request", "body": piece, "more_body": not self._ended}
        return await self._receive()

    def _decode(self) -> bytes:
        """The next piece of what is waiting."""
        if self._decoder is None or (self._decoder.eof and self._coding == "gzip"):  # files may follow each other
            self._members += 1
            if self._members > _MOST_MEMBERS + self._decoded // _MEMBER:
                raise InvalidRequest(f"The body has {self._members} {self._coding} streams: send one.")
            self._decoder = zlib.decompressobj(self._window(self._waiting))
        elif self._decoder.eof:
            raise self._invalid()
        try:
            piece = self._decoder.decompress(self._waiting, _PIECE)
        except zlib.error:
            raise self._invalid() from None
        self._waiting = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        self._more = bool(self._waiting) or (len(piece) == _PIECE and not self._decoder.eof)
        return piece

    def _window(self, start: bytes) -> int:
        """The format by zlib's numbers. `deflate` means zlib's; some clients send the raw stream."""
        if self._coding == "gzip":
            return _GZIP
        is_zlib = start[0] & 0x0F == 8 and (len(start) < 2 or (start[0] * 256 + start[1]) % 31 == 0)
        return zlib.MAX_WBITS if is_zlib else _RAW

    def _invalid(self) -> InvalidRequest:
        return InvalidRequest(f"The body is not valid {self._coding}, which its content-encoding names.")
