"""What a request asks for: its route and its body, read whole where it is small, as an upload where it is multipart."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from shared.azure_openai import operations, requests
from shared.azure_openai.operations import Route
from shared.config.document import Configuration
from shared.errors import NO_WEBSOCKETS, NotSupported, RequestTooLarge
from shared.requests._deadline import BodyDeadline
from shared.requests._decoding import decoded
from shared.requests.disconnect import CallerDisconnected
from shared.requests.upload import Upload
from shared.types import Call


class Bounds(msgspec.Struct, frozen=True):
    """Of a request's body: bytes, and the seconds within which it has to come."""

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
    """The call, and its body where that is still on its way. Raises `GatewayError` and `ClientGone`."""
    if method == "GET" and headers.get("upgrade", "").lower() == "websocket":
        raise NotSupported(NO_WEBSOCKETS)
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
            upload.keep_for_retries(False)  # it can go to one backend only
            if route.operation.name == "containers.files.create":
                upload.forbid("file_id")  # a file that has an owner is named in JSON, which is read
        elif not (route.surface == "dated" and route.operation.on_deployment):
            model = await upload.find("model", to_the_end=route.model is not None)
        elif route.operation.streams:
            await upload.begin()
        return requests.parse_upload(route, query, headers, model, stream=upload.asks_for_stream), upload
    except BaseException:
        upload.close()
        raise


async def _read_body(receive: Receive, headers: Mapping[str, str], bounds: Bounds) -> bytes:
    """The request's body. Raises `RequestTooLarge`, before it is read where its length is told, `RequestTimeout` and
    `ClientGone`."""
    length, most = headers.get("content-length", ""), bounds.request_bytes
    told, size, more = int(length) if length.isdecimal() else 0, 0, True
    body: list[bytes] = []
    pace = BodyDeadline(bounds.seconds)
    while more and max(told, size) <= most:
        message = await pace.receive(receive, size)
        if message["type"] == "http.disconnect":
            raise CallerDisconnected
        chunk, more = message.get("body", b""), message.get("more_body", False)
        body.append(chunk)
        size += len(chunk)
    if max(told, size) > most:
        raise RequestTooLarge(f"The request's body is larger than this gateway takes ({most} bytes).")
    return body[0] if len(body) == 1 else b"".join(body)
