"""What the caller receives: an upstream's answer relayed and accounted for, or a refusal in OpenAI's shape."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Literal

import aiohttp
import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared import metering
from shared.errors import GatewayError
from shared.types import Usage
from shared.upstream import UpstreamResponse

_INTERRUPTED = (
    b"data: "
    + msgspec.json.encode(
        {
            "error": {
                "message": "The backend broke off in the middle of this answer. What has arrived is incomplete.",
                "type": "server_error",
                "param": None,
                "code": "upstream_interrupted",
            }
        }
    )
    + b"\n\n"
)


class JsonResponse(Response):
    """A value as JSON, rendered by msgspec."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


def refusal(error: GatewayError, headers: Mapping[str, str]) -> Response:
    """The answer that tells a `GatewayError`."""
    body = {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    return JsonResponse(body, error.status, {**headers, **error.limits, **error.headers()})


class ClientGone(Exception):
    """The caller hung up."""


class Client:
    """Notices that a caller hangs up, from the moment its request has been read until the answer is complete.

    As a context manager it runs a block for this caller: when it hangs up, the block is cancelled and `ClientGone`
    raised. It may be entered more than once, one after the other, from different tasks. The listening ends by itself:
    to a complete answer, too, ASGI says `http.disconnect`.
    """

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._listener = asyncio.Task(self._listen(receive), loop=loop, eager_start=True)
        self._owner: asyncio.Task[object] | None = None
        self._cancelled = False

    async def __aenter__(self) -> None:
        self._owner = asyncio.current_task()
        self._listener.add_done_callback(self._cancel)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        owner, self._owner = self._owner, None  # a callback that is on its way already must find nobody to cancel
        self._listener.remove_done_callback(self._cancel)
        if self._cancelled and owner is not None:
            self._cancelled = False
            others = owner.uncancel()
            if kind is not None and issubclass(kind, asyncio.CancelledError) and not others:
                raise ClientGone from None

    def _cancel(self, _: asyncio.Future[None]) -> None:
        if self._owner is not None and not self._cancelled:
            self._cancelled = True
            self._owner.cancel()

    @staticmethod
    async def _listen(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


_LAST_WORD = 5.0  # seconds to tell a caller that its answer broke off

Ended = Literal["complete", "hung_up", "cut"]
Account = Callable[[Usage, Ended, str], asyncio.Future[None]]


class MeteredResponse(Response):
    """Relays an upstream's answer byte for byte, and accounts for it exactly once on whatever way it ends.

    `account` is given the usage, how the answer ended and, where the usage is an estimate, the text that has passed. It
    takes note at once and returns a future that is done when the note is in the table. The last byte waits
    for that, so that no caller has an answer in full that is not on record. Accounting happens in `__call__`, not in a
    generator: one that never starts never reaches its own `finally`.
    """

    def __init__(
        self,
        upstream: UpstreamResponse,
        client: Client,
        headers: Mapping[str, str],
        input_estimate: int,
        account: Account,
    ) -> None:
        self.status_code = upstream.status
        self.background = None
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._upstream = upstream
        self._client = client
        self._input_estimate = input_estimate
        self._account = account
        self._accounted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended: Ended = "cut"
        try:
            async with self._client:
                await self._relay(send)
        except ClientGone:
            ended = "hung_up"
        finally:
            if not self._accounted:
                self._note(ended)
            self._upstream.close()

    def usage_so_far(self) -> Usage:
        """Of a whole answer, its usage; of one that has only begun, what its prompt is thought to take."""
        upstream = self._upstream
        if upstream.complete:
            return metering.usage_in_answer(upstream.status, upstream.head, self._input_estimate)
        return Usage(input_tokens=self._input_estimate, estimated=True)

    async def _relay(self, send: Send) -> None:
        upstream = self._upstream
        headers = self.raw_headers
        if upstream.complete:
            headers = [*headers, (b"content-length", str(len(upstream.head)).encode())]
            await self._note("complete")
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": upstream.head})
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if upstream.head:
            await send({"type": "http.response.body", "body": upstream.head, "more_body": True})
            # What was sent leaves when the event loop gets its turn; a fast backend would not give it one for a while.
            await asyncio.sleep(0)
        meter = upstream.meter
        try:
            async with asyncio.timeout_at(upstream.deadline):
                while chunk := await upstream.content.readany():
                    if passing := meter.feed(chunk):
                        await send({"type": "http.response.body", "body": passing, "more_body": True})
                    if meter.event_stream and meter.done:
                        break  # some backends keep the connection open behind the end marker
        except (aiohttp.ClientError, OSError, metering.EventTooLarge):
            whole = meter.event_stream and meter.done  # it lied about its length, but said that it has ended
        else:
            meter.end()
            whole = meter.done
        if not whole:
            await self._break_off(send)
            return
        await self._note("complete")
        await send({"type": "http.response.body", "body": meter.finish()})
        await upstream.read_to_end()

    async def _break_off(self, send: Send) -> None:
        """The upstream failed after the commitment: an event stream says so; any other body is left unfinished, so that
        the connection closes early and nobody takes it for whole."""
        self._upstream.close()
        await asyncio.wait((self._note("cut"),), timeout=_LAST_WORD)
        if self._upstream.meter.event_stream:
            with contextlib.suppress(TimeoutError):  # a caller that does not read is not waited for
                async with asyncio.timeout(_LAST_WORD):
                    await send({"type": "http.response.body", "body": _INTERRUPTED})

    def _note(self, ended: Ended) -> asyncio.Future[None]:
        self._accounted = True
        upstream = self._upstream
        if upstream.complete:
            usage, said = metering.usage_in_answer(upstream.status, upstream.head, self._input_estimate), ""
        else:
            usage = upstream.meter.result(self._input_estimate)
            said = upstream.meter.said() if usage.estimated else ""
        return self._account(usage, ended, said)
