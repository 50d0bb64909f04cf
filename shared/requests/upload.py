"""A request's body that is relayed while it comes: multipart, of any size, never whole in memory.

What has come is kept in a temporary file as long as another backend may have to be tried, or as long as the field
`model`, which may stand behind the file, has not come.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.types import Message, Receive

from shared.azure_openai import multipart
from shared.errors import GatewayError, InvalidRequest, RequestTooLarge
from shared.requests._deadline import BodyDeadline
from shared.requests.disconnect import CallerDisconnected

_IN_MEMORY = 1024 * 1024  # bytes of what is kept; beyond that it is on disk
_KEPT = 64 * 1024 * 1024  # bytes within which a body can be sent again to another backend
_PIECE = 256 * 1024
_STREAM = b"stream"


class Upload:
    """One request's body. To be closed by whoever answers the request."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], most: int, seconds: float) -> None:
        """`most`: bytes that are taken. Raises `RequestTooLarge` where more are told."""
        length = headers.get("content-length", "")
        self._told = int(length) if length.isdecimal() else None
        self._most = most
        if self._told is not None and self._told > most:
            raise self._too_large()
        self.content_type = headers.get("content-type", "")
        self.error: BaseException | None = None  # why the body ended early, when that was the caller's doing
        self.fields: multipart.FormFields | None = None
        self._sought = b""
        self._forbidden = b""
        self._receive = receive
        self._pace = BodyDeadline(seconds)
        self._received = 0
        self._kept = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by `close`
        self._keeps = True
        self._over = asyncio.Event()  # nobody reads the body any more
        self._reading = asyncio.Lock()
        self._complete = False
        self._sent: Callable[[], None] = _nothing

    def close(self) -> None:
        """Forget what is kept. Nobody reads the body any more."""
        self._over.set()
        self._kept.close()

    async def find(self, name: str, *, to_the_end: bool = False) -> str | None:
        """The value of a field, reading on until it has come; None when the body ends without it."""
        wanted = self._sought = name.encode()
        fields = self._follow(wanted)
        while (wanted not in fields.values or to_the_end) and await self._more():
            pass
        found = fields.values.get(wanted)
        try:
            return found.value.decode() if found else None
        except UnicodeDecodeError:
            raise InvalidRequest(f"The field `{name}` is not UTF-8 text.", param=name) from None

    def forbid(self, name: str) -> None:
        """A field that must not come: the body is broken off there."""
        self._forbidden = name.encode()
        self._follow(self._forbidden)

    async def begin(self) -> None:
        """Read the first piece, in which the short fields stand as most clients send them."""
        self._follow()
        await self._more()

    @property
    def asks_for_stream(self) -> bool:
        """Whether what has come so far says that the answer is to be a stream."""
        field = self.fields.values.get(_STREAM) if self.fields else None
        return field is not None and field.value.strip().lower() in (b"true", b"1")

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self._complete

    def keep_for_retries(self, keep: bool) -> None:
        """Whether the body may have to be sent more than once."""
        self._keeps = keep

    def when_sent(self, sent: Callable[[], None]) -> None:
        """What is to be called when the next reader of `stream` has all of it."""
        self._sent = sent

    @property
    def repeatable(self) -> bool:
        """Whether all that has come is still here."""
        return self._keeps or not self._received

    def length(self, model: bytes | None) -> int | None:
        """The bytes that will be sent, where they are known: with another model's name in place of the one found."""
        if self._told is None or model is None:
            return self._told
        return self._told + len(self._insertion(model)) - self._replaced()[1]

    async def stream(self, model: bytes | None) -> AsyncIterator[bytes]:
        """The body from its beginning, with this model's name in place of the one found."""
        try:
            position = 0
            start, removed = self._replaced() if model is not None else (0, 0)
            insertion = self._insertion(model) if model is not None else b""
            kept = self._received if self._received else 0
            while position < kept:
                self._kept.seek(position)
                piece = self._kept.read(min(_PIECE, kept - position))
                yield _edited(piece, position, start, removed, insertion) if model is not None else piece
                position += len(piece)
            if model is not None and not kept:
                yield insertion
            while chunk := await self._more():
                yield chunk
            self._sent()
        except (GatewayError, CallerDisconnected) as error:
            self.error = error
            raise

    async def after(self) -> Message:
        """What comes behind the body: in place of the caller's `receive`, for whoever waits for a hang-up."""
        await self._over.wait()
        return await self._receive()

    async def _more(self) -> bytes:
        """The next piece; empty at the end."""
        async with self._reading:
            while not self._complete:
                message = await self._pace.receive(self._receive, self._received)
                if message["type"] == "http.disconnect":
                    raise CallerDisconnected
                self._complete = not message.get("more_body", False)
                chunk: bytes = message.get("body", b"")
                if self._complete:
                    self._over.set()
                if chunk:
                    self._take(chunk)
                    return chunk
            return b""

    def _take(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._most:
            raise self._too_large()
        if self._keeps:
            self._kept.seek(0, 2)
            self._kept.write(chunk)
            if self._received > _KEPT and not self._searching():
                self._keeps = False
        if self.fields is not None:
            self.fields.feed(chunk)
            if self._forbidden and self._forbidden in self.fields.values:
                name = self._forbidden.decode()
                raise InvalidRequest(f"Send `{name}` in a body of JSON, not of multipart.", param=name)

    def _follow(self, *wanted: bytes) -> multipart.FormFields:
        parting = multipart.boundary(self.content_type)
        self.fields = multipart.FormFields(parting, frozenset(wanted), noted=frozenset((_STREAM,)))
        return self.fields

    def _searching(self) -> bool:
        return bool(self._sought) and self.fields is not None and self._sought not in self.fields.values

    def _replaced(self) -> tuple[int, int]:
        """Where the model's name stands, and how long it is; at the beginning, if there is none."""
        found = self.fields.values.get(b"model") if self.fields else None
        return (found.start, len(found.value)) if found else (0, 0)

    def _insertion(self, model: bytes) -> bytes:
        if self.fields is not None and b"model" in self.fields.values:
            return model
        parting = multipart.boundary(self.content_type)
        return b"--" + parting + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model + b"\r\n"

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"The request's body is larger than this gateway takes ({self._most} bytes).")


def _nothing() -> None: ...


def _edited(piece: bytes, position: int, start: int, removed: int, insertion: bytes) -> bytes:
    """A piece of the body, which begins at `position`, with the bytes that are to be replaced replaced."""
    end = start + removed
    if position + len(piece) <= start or position > end or (position == end and position > start):
        return piece
    before = piece[: max(0, start - position)]
    behind = piece[max(0, end - position) :]
    return before + (insertion if position <= start else b"") + behind
