"""Multipart bodies, read as a stream, so that no file has to fit into memory."""

import mimetypes
import re
from typing import Any

import msgspec
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from . import errors
from .content import PIECE, Content

MAXIMUM_FILE_BYTES = 512 * 1_024 * 1_024
MAXIMUM_FIELD_BYTES = 1_024 * 1_024
MAXIMUM_PARTS = 1_000
REMEMBERED_BYTES = 1_024 * 1_024

# Errors of aiohttp's reader for an invalid body, invalid part headers or an unknown encoding.
_BROKEN = (
    ValueError,
    AssertionError,
    LookupError,
    RuntimeError,
    HttpProcessingError,
    web.RequestPayloadError,
    web.HTTPBadRequest,
)

_INDEX = re.compile(r"\[\d*\]$")


class UploadedFile(msgspec.Struct, frozen=True):
    filename: str
    content_type: str
    content: Content


class Form(msgspec.Struct, frozen=True):
    """Fields and files by name. `image[]` is the same name as `image`."""

    fields: dict[str, list[str]] = {}
    files: dict[str, list[UploadedFile]] = {}

    def field(self, name: str) -> str | None:
        return next(iter(self.fields.get(name, ())), None)

    def required(self, name: str) -> str:
        """Raises AzureError 400."""
        if (value := self.field(name)) is None:
            raise errors.missing_parameter(name)
        return value

    def file(self, name: str) -> UploadedFile:
        """Raises AzureError 400."""
        if not (files := self.files.get(name)):
            raise errors.missing_parameter(name)
        return files[0]

    def true(self, name: str) -> bool:
        return (self.field(name) or "").lower() in ("true", "1")

    def integer(self, name: str) -> int | None:
        """Raises AzureError 400."""
        value = self.field(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise errors.invalid_request(f"Invalid type for '{name}': expected an integer.", name, "invalid_type")
        return int(value)


class _Recorder:
    """A stream that records the first bytes read from it and counts all of them."""

    def __init__(self, stream: StreamReader) -> None:
        self._stream = stream
        self._unread = 0
        self.size = 0
        self.beginning = bytearray()

    async def read(self, size: int = -1) -> bytes:
        return self._note(await self._stream.read(size))

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        return self._note(await self._stream.readline(max_line_length=max_line_length))

    def at_eof(self) -> bool:
        return self._stream.at_eof()

    def unread_data(self, data: bytes) -> None:
        self._unread += len(data)
        self._stream.unread_data(data)

    def _note(self, data: bytes) -> bytes:
        fresh = data[self._unread :]
        self._unread = max(0, self._unread - len(data))
        self.size += len(fresh)
        if len(self.beginning) < REMEMBERED_BYTES:
            self.beginning += fresh
        return data


class ReceivedForm(msgspec.Struct, frozen=True):
    """`raw` is the body as received, or empty if it was too long to keep."""

    form: Form
    size: int
    raw: bytes


async def read_form(request: web.BaseRequest) -> ReceivedForm:
    """Raises AzureError 400 for an invalid multipart body, 413 for too large a file."""
    recorder: Any = _Recorder(request.content)
    form = Form({}, {})
    try:
        reader = MultipartReader(request.headers, recorder)
        count = 0
        while (part := await reader.next()) is not None:
            count += 1
            if not isinstance(part, BodyPartReader) or part.name is None or count > MAXIMUM_PARTS:
                raise errors.invalid_form()
            name = _INDEX.sub("", part.name)
            if part.filename is None:
                form.fields.setdefault(name, []).append(await _read_field(part))
            else:
                form.files.setdefault(name, []).append(await _read_file(part))
        await request.content.read()  # the epilogue
    except _BROKEN as error:
        raise errors.invalid_form() from error
    whole = recorder.size <= REMEMBERED_BYTES
    return ReceivedForm(form, recorder.size, bytes(recorder.beginning) if whole else b"")


async def _read_field(part: BodyPartReader) -> str:
    data = bytearray()
    while piece := await part.read_chunk():
        data += piece
        if len(data) > MAXIMUM_FIELD_BYTES:
            raise errors.payload_too_large(MAXIMUM_FIELD_BYTES)
    return data.decode("utf-8", "replace")


async def _read_file(part: BodyPartReader) -> UploadedFile:
    content = Content()
    while piece := await part.read_chunk(PIECE):
        content.write(piece)
        if content.size > MAXIMUM_FILE_BYTES:
            raise errors.payload_too_large(MAXIMUM_FILE_BYTES)
    filename = part.filename or "upload"
    content_type = part.headers.get("content-type") or mimetypes.guess_type(filename)[0]
    return UploadedFile(filename, content_type or "application/octet-stream", content)
