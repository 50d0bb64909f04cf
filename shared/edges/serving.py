"""Serves what an ASGI server has received: requests and upgrades, within the bound of their client address."""

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from shared.errors import RateLimitExceeded
from shared.process.application import Application
from shared.responses.early_refusal import early_refusal


async def serve(application: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request or an upgrade up to its end."""
    connections = application.connections
    try:
        held = connections.requested(scope)
    except RateLimitExceeded as error:
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
        await early_refusal(error)(scope, receive, send)
        return
    try:
        if scope["type"] == "websocket":
            await application.sockets.serve(scope, receive, send)
        else:
            response = await application.front.handle(Request(scope, receive))
            await response(scope, receive, send)
    finally:
        connections.released(held)
