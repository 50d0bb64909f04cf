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
from shared.azure_openai.batch_lines import BatchLines, BatchSize
from shared.azure_openai.multipart import FormModel
from shared.errors import GatewayError, InvalidRequest, RequestTooLarge
from shared.requests._deadline import BodyDeadline
from shared.requests.buffers import Buffer
from shared.requests.disconnect import CallerDisconnected
from shared.requests.head import content_length

logger = logging.getLogger("tollgate.uploads")

_IN_MEMORY = 1024 * 1024  # bytes kept in memory; more are kept on disk
_KEPT = 64 * 1024 * 1024  # bytes; larger bodies are not kept for retries
_PIECE = 256 * 1024
_MODEL, _STREAM, _PURPOSE, _FILE = b"model", b"stream", b"purpose", b"file"


class Upload:
    """The body of one request. It must be closed when the request is answered."""

    def __init__(
        self, receive: Receive, headers: Mapping[str, str], most: int, deadline: BodyDeadline, buffer: Buffer
    ) -> None:
        """`most`: the largest body, in bytes; `buffer`: bounds what is kept. Raises `RequestTooLarge`, and
        `InvalidRequest` for a content-type without a boundary."""
        self._length = content_length(headers)
        self._most = most
        if self._length is not None and self._length > most:
            raise self._too_large()
        self.error: Exception | None = None  # the reason for which the body ended early, not the backend's fault
        self._parting = multipart.boundary(headers.get("content-type", ""))
        self._fields = multipart.FormFields(self._parting, noted=frozenset((_STREAM, _PURPOSE)))
        self._lines: BatchLines | None = None
        self._unscanned = bytearray()  # of the file of a batch
        self._scanned = False
        self._batch: BatchSize | None = None
        self._forbidden = b""
        self._receive = receive
        self._deadline = deadline
        self._buffer = buffer
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
        self._buffer.release()

    async def find_model(self) -> str | None:
        """Read until the field `model` has arrived, or to the end, and return its value; None: the body lacks it."""
        await self.begin_with_model()
        while _MODEL not in self._fields.values and await self._more():
            pass
        field = self._fields.values.get(_MODEL)
        try:
            return field.value.decode() if field else None
        except UnicodeDecodeError:
            raise InvalidRequest("The field `model` is not UTF-8 text.", param="model") from None

    def forbid(self, name: str) -> None:
        """Reject the body if it has this field."""
        self._forbidden = name.encode()
        self._fields.required.add(self._forbidden)

    def scan_lines(self) -> None:
        """Scan the file as that of a batch, unless its purpose, which most clients send first, is another."""
        self._lines = BatchLines()
        self._fields.watched[_FILE] = self._watch

    def _watch(self, piece: bytes) -> None:
        purpose = self._fields.values.get(_PURPOSE)
        if self._lines is not None and not self._lines.decided and (purpose is None or purpose.value == b"batch"):
            self._unscanned += piece

    async def _scan(self, lines: BatchLines) -> None:
        """Scan what has arrived, on another thread: it takes a hundred times as long as passing it on."""
        if len(self._unscanned) < _PIECE and not self._complete:
            return
        piece, self._unscanned = bytes(self._unscanned), bytearray()
        self._scanned = self._scanned or bool(piece)
        async with self._buffer.one_at_a_time:
            await asyncio.to_thread(lines.feed, piece)
            if self._complete and self._scanned and self._fields.files == [_FILE]:
                self._batch = await asyncio.to_thread(lines.finish)

    def batch_size(self) -> BatchSize | None:
        """Return the size of a file for a batch; None if it has not been scanned as a whole, or a line names an
        object."""
        return self._batch

    async def begin_with_model(self) -> None:
        """Read the first piece, which has the short fields of most clients, of a form that may name a model."""
        self._fields.required.add(_MODEL)
        await self._more()

    @property
    def asks_for_stream(self) -> bool:
        """True if the fields so far ask for a streamed answer."""
        field = self._fields.values.get(_STREAM)
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

    def length(self, model: FormModel | None) -> int | None:
        """Return the length of the body with this field `model`; None if it is not known."""
        if self._length is None or model is None:
            return self._length
        if (field := self._fields.values.get(_MODEL)) is not None:
            return self._length + len(model.name) - len(field.value)
        if not self._complete:
            return None  # the field may follow
        return self._length + len(self._addition(model))

    async def stream(self, model: FormModel | None) -> AsyncIterator[bytes]:
        """Yield the body from its beginning, with this field `model`; None: unchanged. A field that has not arrived is
        put in front, and left out when it comes."""
        try:
            pieces = self._pieces()
            async for piece in pieces if model is None else self._with_model(pieces, model):
                yield piece
            self._sent()
        except Exception as error:
            self.error = error
            raise

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Yield what is kept, then what arrives."""
        position, kept = 0, self._received
        while position < kept:
            self._kept.seek(position)
            piece = self._kept.read(min(_PIECE, kept - position))
            yield piece
            position += len(piece)
        self._passes_on = True
        while chunk := await self._more():
            yield chunk

    async def _with_model(self, pieces: AsyncIterator[bytes], model: FormModel) -> AsyncIterator[bytes]:
        addition = b"" if _MODEL in self._fields.values else self._addition(model)
        if addition:
            yield addition
        position, pending = 0, b""
        async for piece in pieces:
            pending += piece
            settled = max(0, min(len(pending), self._fields.settled - position))
            passing, pending = pending[:settled], pending[settled:]
            if (field := self._fields.values.get(_MODEL)) is None:
                edited = passing
            elif addition:
                edited = _edited(passing, position, field.part, field.end - field.part, b"")
            else:
                edited = _edited(passing, position, field.start, len(field.value), model.name)
            if edited:
                yield edited
            position += settled

    async def after(self) -> Message:
        """ASGI's `receive` for detecting hang-ups: it returns what follows the body."""
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
                if self._complete:
                    self._fields.finish()
                if self._lines is not None:
                    await self._scan(self._lines)
                if chunk:
                    return chunk
            return b""

    def _take(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._most:
            raise self._too_large()
        if self._keeps:
            self._keep(chunk)
        self._fields.feed(chunk)
        if self._received == self._length:
            self._fields.finish()  # before the backend has the whole body, too
        if self._forbidden and self._forbidden in self._fields.values:
            name = self._forbidden.decode()
            raise InvalidRequest(f"Send `{name}` in a JSON body, not in a multipart one.", param=name)

    def _keep(self, chunk: bytes) -> None:
        """Keep a piece. Before any is sent, all must be kept; afterwards a body that cannot be kept loses its retries
        alone."""
        try:
            self._buffer.hold(len(chunk))
            if self._received > _KEPT:
                raise InvalidRequest(f"`model` is not in the first {_KEPT} bytes: send short fields before the file.")
            self._write(chunk)
        except GatewayError:
            if not self._passes_on:
                raise
            self._keeps = False

    def _write(self, chunk: bytes) -> None:
        """Write a piece. Raises `GatewayError` if the temporary directory is full."""
        try:
            before = self._kept.seek(0, 2)
            self._kept.write(chunk)
            problem = "" if self._kept.seek(0, 2) == before + len(chunk) else "no space"
        except OSError as error:
            problem = str(error)
        if problem:
            logger.error("an upload cannot be kept in the temporary directory: %s", problem)
            raise GatewayError("No room is left to keep this upload. Put the field `model` before the file.")

    def _addition(self, model: FormModel) -> bytes:
        """The part in front of a form that lacks the field."""
        if not model.required:
            return b""
        head = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
        return b"--" + self._parting + head + model.name + b"\r\n"

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
