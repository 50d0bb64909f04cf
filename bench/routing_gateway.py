"""The gateway for the routing scenarios, with a count of open resources and a name that resolves too slowly.

`GET /bench/look` counts the event loop's tasks and the connections in use. Host names that end with `.hanging.invalid`
take 30 seconds to resolve, as with an unreachable name server.
"""

import asyncio
import gc
from collections import Counter
from typing import Any

import aiohttp
import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.asgi import app as gateway

_resolve = aiohttp.DefaultResolver.resolve


async def _resolve_or_hang(self: Any, host: str, *rest: Any, **more: Any) -> Any:
    if host.endswith(".hanging.invalid"):
        await asyncio.sleep(30)
    return await _resolve(self, host, *rest, **more)


aiohttp.DefaultResolver.resolve = _resolve_or_hang  # type: ignore[method-assign]


def _look() -> dict[str, Any]:
    connectors = [item for item in gc.get_objects() if type(item) is aiohttp.TCPConnector]
    in_use = sum(len(connector._acquired) for connector in connectors)
    tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
    return {"tasks": tasks, "connections": in_use}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/bench/look":
        await Response(msgspec.json.encode(_look()), media_type="application/json")(scope, receive, send)
    else:
        await gateway(scope, receive, send)
