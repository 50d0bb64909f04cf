"""The HTTP server inside the Functions worker: a web extension of the worker's, as small as the gateway needs.

A Python function streams through such an extension: the worker knows it by the base classes below, makes its `WebApp`
and its `WebServer`, and the host sends every request there while the invocation of its id runs. Microsoft's own
(azurefunctions-extensions-http-fastapi) answers in our place, and leaves the invocation waiting for its request for
ever, whatever its catch-all route does not match: /docs and /openapi.json, methods it does not list, paths with a line
feed. It answers an exception with a plain 500, records spans beside the host's, costs CPU with every request, and
FastAPI is a third of what a start would import. GATEWAY_HTTP_SERVER (function_app.py) takes it all the same.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

import azurefunctions.extensions.base as base
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.edges.functions_pairing import HEADER, KNOWN, Pairing, Unpaired
from shared.edges.http_protocol import Protocol
from shared.errors import GatewayError, InvalidRequest
from shared.responses.early_refusal import early_refusal

logger = logging.getLogger("tollgate")

_KEEP_ALIVE = 120  # seconds; the host's pool keeps a connection for 60, and cannot repeat a POST on a closed one
_NAMED = re.compile(rb"\r\n" + HEADER.encode() + rb": ([0-9a-f-]{36})\r\n", re.IGNORECASE)


Handler = Callable[[Request], Awaitable[Response]]


class RouteParameters(base.RequestSynchronizer):
    """Puts what the host's route matched where the handler looks for it."""

    def sync_route_params(self, request: Request, path_params: Mapping[str, str]) -> None:
        request.path_params.clear()
        request.path_params.update(path_params)


class RequestType(metaclass=base.RequestTrackerMeta):
    """By this annotation the worker knows a function's request."""

    request_type = Request
    synchronizer = RouteParameters()


class ResponseType(metaclass=base.ResponseTrackerMeta):
    """By this annotation, a class derived from it included, the worker knows a function's response."""

    label = base.ResponseLabels.STANDARD
    response_type = Response


class WebApp(base.WebApp):
    """Pairs every request with the host's invocation, and sends the response of that."""

    # Of the class, because the worker makes the object, without arguments.
    pairing: ClassVar[Pairing | None] = None

    def __init__(self) -> None:
        self._handler: Handler | None = None

    def route(self, func: Handler) -> Handler:
        """Take the worker's own handler. It finds the coordinator that the pairing replaces."""
        pairing = Pairing()
        if pairing.replaces(func):
            self._handler, type(self).pairing = pairing.respond, pairing
        else:
            self._handler = func
            logger.error(
                "unsupported worker runtime library: expected %s, which requirements.txt pins; an invocation may now "
                "wait for its request until functionTimeout",
                KNOWN,
            )
        return func

    def get_app(self) -> "WebApp":
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            if self._handler is None:
                raise RuntimeError("the worker has registered no handler")
            response = await self._handler(request)
        except Unpaired as error:
            foreign = InvalidRequest(f"The header {HEADER} belongs to the host: leave it out.")
            response = refused = early_refusal(foreign, request.headers)
            logger.warning("request %s was not paired with an invocation: %s", refused.request_id, error)
        except Exception as error:  # the function could not be run: a configuration that cannot be used, above all
            broken = GatewayError("The gateway cannot serve requests. The operator can find the reason in the log.")
            response = refused = early_refusal(broken, request.headers)
            logger.error("request %s could not be served: %s: %s", refused.request_id, type(error).__name__, error)
        await response(scope, receive, send)


class _Protocol(Protocol):
    """Ends the invocation of a request that the server itself refuses."""

    _data = b""

    def data_received(self, data: bytes) -> None:
        self._data = data
        super().data_received(data)
        self._data = b""

    def send_400_response(self, msg: str) -> None:
        named = _NAMED.search(self._data)
        if named and WebApp.pairing is not None:
            WebApp.pairing.refuse(named[1].decode().lower())
        super().send_400_response(msg)


class WebServer(base.WebServer):
    """Serves the app on the address that the worker gives to the host. The gateway logs one line per request itself.

    Without WebSockets, whatever is installed: an upgrade is answered by the gateway, in its invocation. Without an
    orderly end: the host kills the worker, so nothing may wait for one."""

    async def serve(self) -> None:
        config = uvicorn.Config(
            self.web_app,
            host=self.hostname,
            port=self.port,
            http=_Protocol,
            ws="none",
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE,
            access_log=False,
        )
        await uvicorn.Server(config).serve()
