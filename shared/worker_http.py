"""The HTTP app inside the Functions worker, in place of the FastAPI one that its streaming extension would make.

That one answers in our place, and leaves the invocation waiting for its request for ever, whatever its catch-all route
does not match: /docs and /openapi.json, methods it does not list, paths with a line feed. It answers an exception with
a plain 500, records spans beside the host's, and costs CPU with every request. The extension needs no more than this.
"""

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.errors import GatewayError
from shared.responses import refusal

logger = logging.getLogger("tollgate")

Handler = Callable[[Request], Awaitable[Response]]


class WorkerHttp:
    """Hands every request to the handler that the extension registers, which pairs it with the host's invocation."""

    def __init__(self, stop: Callable[[], Awaitable[None]]) -> None:
        """`stop` is awaited when the worker ends."""
        self._stop = stop
        self._handler: Handler | None = None

    def api_route(self, path: str, *, methods: list[str]) -> Callable[[Handler], Handler]:
        """FastAPI's decorator, as far as the extension uses it: one route for all paths and methods."""

        def register(handler: Handler) -> Handler:
            self._handler = handler
            return handler

        return register

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            if self._handler is None:
                raise RuntimeError("the worker has registered no handler")
            response = await self._handler(Request(scope, receive))
        except Exception as error:  # the function could not be run: a configuration that cannot be used, above all
            logger.error("a request could not be served: %s: %s", type(error).__name__, error)
            response = refusal(
                GatewayError("The gateway cannot serve requests. Its operator finds why in the log."), {}
            )
        await response(scope, receive, send)
