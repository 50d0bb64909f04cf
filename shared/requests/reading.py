"""Reads a request: matches its route, then reads its body, or opens it as an upload if it is multipart."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from shared.azure_openai import operations, requests
from shared.azure_openai.operations import Route
from shared.config.document import Configuration
from shared.errors import RequestTooLarge, websocket_refused
from shared.requests._deadline import BodyDeadline
from shared.requests._decoding import decoded
from shared.requests.disconnect import CallerDisconnected
from shared.requests.upload import Upload
from shared.types import Call


class Bounds(msgspec.Struct, frozen=True):
    """The largest bodies, in bytes, and the seconds that a body may take."""

    request_bytes: int
    upload_bytes: int
    seconds: float

    @staticmethod
    def of(configuration: Configuration) -> "Bounds":
        seconds = configuration.timeouts.request_body
        return Bounds(configuration.max_request_bytes, configuration.max_upload_bytes, seconds)


async def read_call(
    request: Request, headers: Mapping[str, str], method: str, path: str, bounds: Bounds
) -> tuple[Call, Upload | None]:
    """Return the call, and its body if that is still arriving. Raises `GatewayError` and `CallerDisconnected`."""
    if method == "GET" and headers.get("upgrade", "").lower() == "websocket":
        raise websocket_refused(path)
    route = operations.match(method, path)
    query = request.scope["query_string"].decode("latin-1")
    receive, headers = decoded(request.receive, headers)
    if route.operation.body == "multipart" and headers.get("content-type", "").lower().startswith("multipart/"):
        return await _uploaded(receive, route, query, headers, bounds)
    body = await _read_body(receive, headers, bounds)
    return requests.parse_call(route, query, headers, body), None


async def _uploaded(
    receive: Receive, route: Route, query: str, headers: Mapping[str, str], bounds: Bounds
) -> tuple[Call, Upload]:
    upload = Upload(receive, headers, bounds.upload_bytes, bounds.seconds)
    try:
        model = None
        if route.operation.model != "form":
            upload.keep_for_retries(False)  # its objects bind it to one backend
            if route.operation.name == "containers.files.create":
                upload.forbid("file_id")  # ids of files are checked in JSON only
        elif not (route.surface == "dated" and route.operation.on_deployment):
            model = await upload.find("model", to_the_end=route.model is not None)
        elif route.operation.streams:
            await upload.begin()
        return requests.parse_upload(route, query, headers, model, stream=upload.asks_for_stream), upload
    except BaseException:
        upload.close()
        raise


async def _read_body(receive: Receive, headers: Mapping[str, str], bounds: Bounds) -> bytes:
    """Read the whole body. Raises `RequestTooLarge`, if possible before reading, `RequestTimeout` and
    `CallerDisconnected`."""
    length, most = headers.get("content-length", ""), bounds.request_bytes
    size, largest, more = 0, int(length) if length.isdecimal() else 0, True
    body: list[bytes] = []
    deadline = BodyDeadline(bounds.seconds)
    while more and largest <= most:
        message = await deadline.receive(receive, size)
        if message["type"] == "http.disconnect":
            raise CallerDisconnected
        chunk, more = message.get("body", b""), message.get("more_body", False)
        body.append(chunk)
        size += len(chunk)
        largest = max(largest, size)
    if largest > most:
        raise RequestTooLarge(f"The request's body is larger than the gateway's limit of {most} bytes.")
    return body[0] if len(body) == 1 else b"".join(body)
