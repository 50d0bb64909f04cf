"""A multipart body of any size, relayed while it arrives, never whole in memory.

A temporary file keeps what has arrived as long as the call may be retried, or the field `model`, which may follow the
file, has not arrived.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.types import Message, Receive

from shared.azure_openai import multipart
from shared.errors import GatewayError, InvalidRequest, RequestTooLarge
from shared.requests._deadline import BodyDeadline
from shared.requests.disconnect import CallerDisconnected

logger = logging.getLogger("tollgate.uploads")

_IN_MEMORY = 1024 * 1024  # bytes kept in memory; more are kept on disk
_KEPT = 64 * 1024 * 1024  # bytes; larger bodies are not kept for retries
_PIECE = 256 * 1024
_STREAM = b"stream"


class Upload:
    """The body of one request. Whoever answers the request closes it."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], most: int, seconds: float) -> None:
        """`most`: the largest body, in bytes; `seconds`: its time (`BodyDeadline`). Raises `RequestTooLarge`."""
        length = headers.get("content-length", "")
        self._length = int(length) if length.isdecimal() else None
        self._most = most
        if self._length is not None and self._length > most:
            raise self._too_large()
        self.content_type = headers.get("content-type", "")
        self.error: Exception | None = None  # the reason for which the body ended early, which is no backend's
        self.fields: multipart.FormFields | None = None
        self._sought = b""
        self._forbidden = b""
        self._receive = receive
        self._deadline = BodyDeadline(seconds)
        self._received = 0
        # Unbuffered, so that a full disk shows with the piece that it does not take. Closed by `close`.
        self._kept = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, buffering=0)  # noqa: SIM115
        self._keeps = True
        self._passes_on = False  # each piece goes to a backend as it arrives
        self._over = asyncio.Event()  # set once nobody reads the body
        self._reading = asyncio.Lock()
        self._complete = False
        self._sent: Callable[[], None] = _nothing

    def close(self) -> None:
        """Delete what is kept. Nobody reads the body after this."""
        self._over.set()
        self._kept.close()

    async def find(self, name: str, *, to_the_end: bool = False) -> str | None:
        """Read until a field has arrived, or to the end, and return its value; None if the body does not have it."""
        self._sought = name.encode()
        fields = self._follow(self._sought)
        while (self._sought not in fields.values or to_the_end) and await self._more():
            pass
        field = fields.values.get(self._sought)
        try:
            return field.value.decode() if field else None
        except UnicodeDecodeError:
            raise InvalidRequest(f"The field `{name}` is not UTF-8 text.", param=name) from None

    def forbid(self, name: str) -> None:
        """Reject the body if it has this field."""
        self._forbidden = name.encode()
        self._follow(self._forbidden)

    async def begin(self) -> None:
        """Read the first piece: it has the short fields of most clients."""
        self._follow()
        await self._more()

    @property
    def asks_for_stream(self) -> bool:
        """True if the fields so far ask for a streamed answer."""
        field = self.fields.values.get(_STREAM) if self.fields else None
        return field is not None and field.value.strip().lower() in (b"true", b"1")

    @property
    def complete(self) -> bool:
        """True if all of it has arrived."""
        return self._complete

    def keep_for_retries(self, keep: bool) -> None:
        """Keep the body, or not, so that it can be sent more than once."""
        self._keeps = keep

    def when_sent(self, sent: Callable[[], None]) -> None:
        """Call `sent` when the next reader of `stream` has the whole body."""
        self._sent = sent

    @property
    def repeatable(self) -> bool:
        """True if everything received so far can be sent again."""
        return self._keeps or not self._received

    def length(self, model: bytes | None) -> int | None:
        """Return the length of the body with this model's name in its field `model`; None if it is not known."""
        if self._length is None or model is None:
            return self._length
        return self._length + len(self._insertion(model)) - self._replaced()[1]

    async def stream(self, model: bytes | None) -> AsyncIterator[bytes]:
        """Yield the body from its beginning, with this model's name in its field `model`; None: unchanged."""
        try:
            position = 0
            start, removed = self._replaced() if model is not None else (0, 0)
            insertion = self._insertion(model) if model is not None else b""
            kept = self._received
            while position < kept:
                self._kept.seek(position)
                piece = self._kept.read(min(_PIECE, kept - position))
                yield _edited(piece, position, start, removed, insertion) if model is not None else piece
                position += len(piece)
            if model is not None and not kept:
                yield insertion
            self._passes_on = True
            while chunk := await self._more():
                yield chunk
            self._sent()
        except Exception as error:
            self.error = error
            raise

    async def after(self) -> Message:
        """ASGI's `receive` for whoever waits for a hang-up: it returns what follows the body."""
        await self._over.wait()
        return await self._receive()

    async def _more(self) -> bytes:
        """Return the next piece; empty at the end."""
        async with self._reading:
            while not self._complete:
                message = await self._deadline.receive(self._receive, self._received)
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
            self._keep(chunk)
            if self._received > _KEPT and not self._searching():
                self._keeps = False
        if self.fields is not None:
            self.fields.feed(chunk)
            if self._forbidden and self._forbidden in self.fields.values:
                name = self._forbidden.decode()
                raise InvalidRequest(f"Send `{name}` in a JSON body, not in a multipart one.", param=name)

    def _keep(self, chunk: bytes) -> None:
        """Keep a piece. While pieces pass on to a backend, a disk that is full costs only the retries. Raises
        `GatewayError`."""
        problem = "no space"
        try:
            before = self._kept.seek(0, 2)
            self._kept.write(chunk)
            whole = self._kept.seek(0, 2) == before + len(chunk)
        except OSError as error:
            whole, problem = False, str(error)
        if not whole:
            logger.error("an upload cannot be kept in the temporary directory: %s", problem)
            if not self._passes_on:
                raise GatewayError("No room is left to keep this upload. Put the field `model` before the file.")
            self._keeps = False

    def _follow(self, *names: bytes) -> multipart.FormFields:
        parting = multipart.boundary(self.content_type)
        self.fields = multipart.FormFields(parting, frozenset(names), noted=frozenset((_STREAM,)))
        return self.fields

    def _searching(self) -> bool:
        return bool(self._sought) and self.fields is not None and self._sought not in self.fields.values

    def _replaced(self) -> tuple[int, int]:
        """Return the position and length of the model's name; 0, 0 if there is none."""
        field = self.fields.values.get(b"model") if self.fields else None
        return (field.start, len(field.value)) if field else (0, 0)

    def _insertion(self, model: bytes) -> bytes:
        if self.fields is not None and b"model" in self.fields.values:
            return model
        parting = multipart.boundary(self.content_type)
        return b"--" + parting + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model + b"\r\n"

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"The request's body is larger than the gateway's limit of {self._most} bytes.")


def _nothing() -> None: ...


def _edited(piece: bytes, position: int, start: int, removed: int, insertion: bytes) -> bytes:
    """Replace the bytes from `start` on in a piece of the body that begins at `position`."""
    end = start + removed
    if position + len(piece) <= start or position > end or (position == end and position > start):
        return piece
    before = piece[: max(0, start - position)]
    behind = piece[max(0, end - position) :]
    return before + (insertion if position <= start else b"") + behind
