"""A receiver of alerts on a socket, which keeps what it gets and can refuse it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web


class Received(NamedTuple):
    """A POST. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.data)
        return body


class AlertReceiver:
    """A running receiver. `respond` makes the answer to the n-th POST, counted from 1."""

    def __init__(self, url: str, respond: Callable[[int], web.Response]) -> None:
        self.url = url
        self.received: list[Received] = []
        self._respond = respond

    async def take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, headers, await request.read()))
        return self._respond(len(self.received))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The bodies of the generic alerts about an event."""
        return [one.body for one in self.received if one.body.get("event") == event]


def accepts(number: int) -> web.Response:
    return web.Response(status=204)


@asynccontextmanager
async def alert_receiver(respond: Callable[[int], web.Response] = accepts) -> AsyncIterator[AlertReceiver]:
    """A receiver at `/hook` and below."""
    receiver = AlertReceiver("", respond)
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
