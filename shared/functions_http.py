"""The HTTP server inside the Functions worker: a web extension of the worker's, as small as the gateway needs.

A Python function streams through such an extension: the worker knows it by the base classes below, makes its `WebApp`
and its `WebServer`, and the host sends every request there while the invocation of its id runs. Microsoft's own
(azurefunctions-extensions-http-fastapi) answers in our place, and leaves the invocation waiting for its request for
ever, whatever its catch-all route does not match: /docs and /openapi.json, methods it does not list, paths with a line
feed. It answers an exception with a plain 500, records spans beside the host's, costs CPU with every request, and
FastAPI is a third of what a start would import.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

import azurefunctions.extensions.base as base
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.errors import GatewayError
from shared.responses.rendering import ErrorResponse

logger = logging.getLogger("tollgate")

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
    """Hands every request to the handler that the worker registers, which pairs it with the host's invocation."""

    # Awaited when the worker ends. Of the class, because the worker makes the object, without arguments.
    stop: ClassVar[Callable[[], Awaitable[None]]]

    def __init__(self) -> None:
        self._handler: Handler | None = None

    def route(self, func: Handler) -> Handler:
        self._handler = func
        return func

    def get_app(self) -> "WebApp":
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await type(self).stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            if self._handler is None:
                raise RuntimeError("the worker has registered no handler")
            response = await self._handler(Request(scope, receive))
        except Exception as error:  # the function could not be run: a configuration that cannot be used, above all
            logger.error("a request could not be served: %s: %s", type(error).__name__, error)
            response = ErrorResponse(
                GatewayError("The gateway cannot serve requests. Its operator finds why in the log."), {}
            )
        await response(scope, receive, send)


class WebServer(base.WebServer):
    """Serves the app on the address that the worker tells the host. One line a request is the gateway's own."""

    async def serve(self) -> None:
        await uvicorn.Server(uvicorn.Config(self.web_app, host=self.hostname, port=self.port, access_log=False)).serve()
