"""Pairs each invocation of the Functions host with its HTTP request, or ends both within ten seconds.

The host starts an invocation over one channel and forwards its request over another; either may never arrive. A caller
that leaves early, a header that HTTP forbids or a connection that closes at the wrong moment leaves an invocation
alone. Microsoft's coordinator waits for the other half without limit, until the host kills the worker with all its
streams. It also keeps an entry for every call.
"""

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

HEADER = "x-ms-invocation-id"
KNOWN = "azure-functions-runtime 1.3.0"  # whose coordinator is replaced

_SECONDS = 10.0
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REPLACED = {  # methods of the worker's coordinator, and their parameters
    "get_http_request_async": ["invoc_id"],
    "set_http_response": ["invoc_id", "http_response"],
}


class Unpaired(Exception):
    """An invocation without a request, or a request without an invocation."""


class _Pair:
    """Both halves of a call. `taken` is done when the invocation has the request."""

    __slots__ = ("request", "response", "taken")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.request: asyncio.Future[Request] = loop.create_future()
        self.taken: asyncio.Future[None] = loop.create_future()
        self.response: asyncio.Future[Any] = loop.create_future()


class Pairing:
    """The calls of one worker, by the id of their invocation. `seconds`: that one half waits for the other."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._pairs: dict[str, _Pair] = {}

    def __len__(self) -> int:
        """The calls that have not ended."""
        return len(self._pairs)

    def replaces(self, handler: Callable[..., Any]) -> bool:
        """Take over from the coordinator that the worker's own `handler` uses. False if it is not as known."""
        coordinator: Any = getattr(handler, "__globals__", {}).get("http_coordinator")
        for name, parameters in _REPLACED.items():
            method = getattr(coordinator, name, None)
            if not callable(method) or list(inspect.signature(method).parameters) != parameters:
                return False
        if not inspect.iscoroutinefunction(coordinator.get_http_request_async):
            return False
        for name in _REPLACED:
            setattr(coordinator, name, getattr(self, name))
        return True

    async def get_http_request_async(self, invoc_id: str) -> Request:
        """The request of an invocation; the worker calls it. Raises `Unpaired`."""
        pair = self._pair(invoc_id)
        try:
            async with asyncio.timeout(self._seconds):
                request = await pair.request
        except TimeoutError:
            self._pairs.pop(invoc_id, None)
            raise Unpaired(
                "The request of this invocation did not arrive: its caller left, or sent invalid HTTP."
            ) from None
        except BaseException:
            self._pairs.pop(invoc_id, None)
            raise
        pair.taken.set_result(None)
        return request

    def set_http_response(self, invoc_id: str, http_response: Any) -> None:
        """The result of an invocation, a response or an exception; the worker calls it."""
        pair = self._pairs.pop(invoc_id, None)
        if pair is not None and not pair.response.done():
            pair.response.set_result(http_response)

    async def respond(self, request: Request) -> Response:
        """The response of the invocation that the request names. Raises `Unpaired`, or what the invocation raised."""
        ids = request.headers.getlist(HEADER)
        if len(ids) != 1 or not _ID.fullmatch(ids[0]):
            raise Unpaired("The request does not name one invocation.")
        pair = self._pair(ids[0])
        if pair.request.done():
            raise Unpaired("Another request has named this invocation.")
        pair.request.set_result(request)
        try:
            async with asyncio.timeout(self._seconds):
                await pair.taken
        except TimeoutError:
            self._pairs.pop(ids[0], None)
            raise Unpaired("The invocation that the request names did not start.") from None
        response = await pair.response
        if isinstance(response, Exception):
            raise response
        result: Response = response
        return result

    def refuse(self, invocation: str) -> None:
        """End an invocation whose request the server could not read."""
        request = self._pair(invocation).request
        if not request.done():
            request.set_exception(Unpaired("The request of this invocation is not valid HTTP."))
            request.exception()  # the invocation may never come to retrieve it
            asyncio.get_running_loop().call_later(self._seconds, self._pairs.pop, invocation, None)

    def _pair(self, invocation: str) -> _Pair:
        pair = self._pairs.get(invocation)
        if pair is None:
            pair = self._pairs[invocation] = _Pair()
        return pair
