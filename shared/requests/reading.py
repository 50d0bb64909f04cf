"""Reads a request: matches its route, then reads its body, or opens it as an upload if it is multipart."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from shared.anthropic import batch_requests
from shared.anthropic import operations as messages_operations
from shared.anthropic.operations import is_messages_path
from shared.azure_openai import completions_as_chat, operations, requests, socket_events
from shared.azure_openai.operations import Route
from shared.azure_openai.outline import LARGE, PIECE, Outline
from shared.azure_openai.socket_events import CallerEvent
from shared.config.document import Configuration
from shared.errors import GatewayError, RequestTooLarge
from shared.requests._deadline import BodyDeadline
from shared.requests._decoding import decoded
from shared.requests.buffers import Buffer
from shared.requests.disconnect import CallerDisconnected
from shared.requests.head import content_length
from shared.requests.upload import Upload
from shared.requests.websockets import websocket_refused
from shared.types import Call

# Bytes of bodies that need fewer than the configuration allows. An offer holds a few kB and a session; what takes no
# body may still get an empty object.
_LARGEST = {"sdp": 1024 * 1024, "none": 64 * 1024}


class Bounds(msgspec.Struct, frozen=True):
    """The largest bodies, in bytes, and the seconds that a body may take."""

    request_bytes: int
    upload_bytes: int
    seconds: float

    @staticmethod
    def of(configuration: Configuration) -> "Bounds":
        seconds = configuration.timeouts.request_body
        return Bounds(configuration.max_request_bytes, configuration.max_upload_bytes, seconds)


class Arriving(msgspec.Struct, frozen=True):
    """The terms of a body that is arriving. `admit` is awaited before the first wait for it: nobody's body is waited
    for who may not call. `buffer` bounds what is kept of it, until the call has ended."""

    admit: Callable[[], Awaitable[None]]
    buffer: Buffer
    bounds: Bounds


async def read_call(
    request: Request, headers: Mapping[str, str], method: str, path: str, arriving: Arriving
) -> tuple[Call, Upload | None]:
    """Return the call, and its body if that is still arriving. Raises `GatewayError` and `CallerDisconnected`."""
    if method == "GET" and headers.get("upgrade", "").lower() == "websocket":
        raise websocket_refused(path)
    messages = is_messages_path(path, headers)
    route = messages_operations.match(method, path) if messages else operations.match(method, path)
    query = request.scope["query_string"].decode("latin-1")
    receive, headers = decoded(request.receive, headers)
    if route.operation.body == "multipart" and headers.get("content-type", "").lower().startswith("multipart/"):
        return await _uploaded(receive, route, query, headers, arriving)
    try:
        call = await _received(receive, route, query, headers, arriving)
        arriving.buffer.keep()
    except GatewayError as error:
        raise error.with_traceback(None) from None  # its frames would keep what has arrived of the body
    return call, None


async def _uploaded(
    receive: Receive, route: Route, query: str, headers: Mapping[str, str], arriving: Arriving
) -> tuple[Call, Upload]:
    bounds = arriving.bounds
    deadline = BodyDeadline(bounds.seconds, arriving.admit)
    upload = Upload(receive, headers, bounds.upload_bytes, deadline, arriving.buffer)
    try:
        model = None
        if route.operation.model != "form":
            upload.keep_for_retries(False)  # its objects bind it to one backend
            if route.operation.name == "files.create":
                upload.scan_lines()
            if route.operation.name == "containers.files.create":
                upload.forbid("file_id")  # ids of files are checked in JSON only
        elif route.model is None:
            model = await upload.find_model()
        else:
            await upload.begin_with_model()
        return requests.parse_upload(route, query, headers, model, stream=upload.asks_for_stream), upload
    except BaseException:
        upload.close()
        raise


async def _received(receive: Receive, route: Route, query: str, headers: Mapping[str, str], arriving: Arriving) -> Call:
    """Read and parse a whole body. A large one is parsed on another thread, and only if its outline is bounded."""
    operation = route.operation
    if operation.name == batch_requests.CREATE:
        return await _received_batch(receive, route, query, headers, arriving)
    outline = Outline(counts_values=operation.metered != "input") if operation.body != "sdp" else None
    most = arriving.bounds.request_bytes
    most = min(most, _LARGEST.get(operation.body, most))
    body = await _read_body(receive, headers, most, arriving, outline)
    if outline is None or len(body) <= LARGE:
        return requests.parse_call(route, query, headers, body)
    async with arriving.buffer.one_at_a_time:
        return await asyncio.to_thread(requests.parse_call, route, query, headers, body, outline)


async def _received_batch(
    receive: Receive, route: Route, query: str, headers: Mapping[str, str], arriving: Arriving
) -> Call:
    """Read a whole batch of messages, then its requests, on another thread: they take a hundred times as long."""
    body = await _read_body(receive, headers, arriving.bounds.request_bytes, arriving, None)
    reader = batch_requests.BatchReader(body)
    done = len(body) <= LARGE and reader.read()
    while not done:
        async with arriving.buffer.one_at_a_time:
            done = await asyncio.to_thread(reader.read)
    return reader.call(route, query, headers)


async def as_chat(call: Call, buffer: Buffer) -> tuple[Call, completions_as_chat.Rendering]:
    """A call of completions as a chat, and how its answer is rendered. A large one is translated on another thread.
    Raises `InvalidRequest`."""
    if len(call.body) <= LARGE:
        return completions_as_chat.translated(call)
    async with buffer.one_at_a_time:
        return await asyncio.to_thread(completions_as_chat.translated, call)


async def read_event(route: Route, headers: Mapping[str, str], body: bytes, buffer: Buffer) -> Call:
    """Parse an event of a WebSocket that makes a call, as a body is parsed. Raises `GatewayError`."""
    outline = await _outline_of(body, buffer)
    if outline is None:
        return requests.parse_call(route, "", headers, body)
    async with buffer.one_at_a_time:
        return await asyncio.to_thread(requests.parse_call, route, "", headers, body, outline)


async def read_names(connection: Call, event: CallerEvent, buffer: Buffer) -> Call:
    """`socket_events.with_names`, on another thread for a large event. Raises `InvalidRequest`."""
    outline = await _outline_of(event.body, buffer)
    if outline is None:
        return socket_events.with_names(connection, event, outline)
    async with buffer.one_at_a_time:
        return await asyncio.to_thread(socket_events.with_names, connection, event, outline)


async def _outline_of(body: bytes, buffer: Buffer) -> Outline | None:
    """Return the outline of a large event; None: it is not large. Raises `InvalidRequest`."""
    if len(body) <= LARGE:
        return None
    outline = Outline()
    await _feed(outline, body, buffer)
    return outline


async def _read_body(
    receive: Receive, headers: Mapping[str, str], most: int, arriving: Arriving, outline: Outline | None
) -> bytes:
    """Read the whole body. Raises `RequestTooLarge`, if possible before reading, `RequestTimeout`, `InvalidRequest` for
    an outline that exceeds its bounds, and `CallerDisconnected`."""
    size, largest, more = 0, content_length(headers) or 0, True
    body: list[bytes] = []
    deadline = BodyDeadline(arriving.bounds.seconds, arriving.admit)
    while more and largest <= most:
        message = await deadline.receive(receive, size)
        if message["type"] == "http.disconnect":
            raise CallerDisconnected
        chunk, more = message.get("body", b""), message.get("more_body", False)
        body.append(chunk)
        size += len(chunk)
        largest = max(largest, size)
        if more or size > LARGE:
            arriving.buffer.hold(len(chunk))
        if outline is not None and LARGE < size <= most:
            started = size - len(chunk) > LARGE
            await _feed(outline, chunk if started else b"".join(body), arriving.buffer)
    if largest > most:
        raise RequestTooLarge(f"The request's body is larger than the gateway's limit of {most} bytes.")
    return body[0] if len(body) == 1 else b"".join(body)


async def _feed(outline: Outline, chunk: bytes, buffer: Buffer) -> None:
    """Read the outline in pieces, between which other calls go on."""
    for start in range(0, len(chunk), PIECE):
        async with buffer.one_at_a_time:
            outline.feed(chunk[start : start + PIECE])
            await asyncio.sleep(0)
