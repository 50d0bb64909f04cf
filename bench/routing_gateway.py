"""The gateway as the routing scenarios run it: with a look at what is open, and names that are not looked up in time.

`GET /bench/look` counts the event loop's tasks, and the connections that calls hold.
A host name that ends in `.hanging.invalid` is looked up for half a minute without an answer, as by a name server that
is out of reach.
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
    connectors = [found for found in gc.get_objects() if type(found) is aiohttp.TCPConnector]
    in_use = sum(len(connector._acquired) for connector in connectors)
    tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
    return {"tasks": tasks, "connections": in_use}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/bench/look":
        await Response(msgspec.json.encode(_look()), media_type="application/json")(scope, receive, send)
    else:
        await gateway(scope, receive, send)
