"""What the caller receives: an upstream's answer relayed and accounted for, or a refusal in OpenAI's shape."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Literal

import aiohttp
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai.metering import StreamMeter
from shared.forwarding.response import UpstreamResponse
from shared.requests.disconnect import CallerConnection, CallerDisconnected
from shared.requests.upload import Upload
from shared.responses._idle_watch import Watch
from shared.responses.rendering import BROKEN_OFF, INTERRUPTED, error_event
from shared.types import Usage

_LAST_WORD = 5.0  # seconds to tell a caller that its answer broke off

Ended = Literal["complete", "hung_up", "cut"]
Account = Callable[[Usage, Ended, str], asyncio.Future[None]]


class RelayedResponse(Response):
    """Relays an upstream's answer byte for byte, and accounts for it exactly once on whatever way it ends.

    `account` is given the usage, how the answer ended and, where the usage is an estimate, the text that has passed. It
    takes note at once and returns a future that is done when the note is in the table. The last byte waits
    for that, so that no caller has an answer in full that is not on record. Accounting happens in `__call__`, not in a
    generator: one that never starts never reaches its own `finally`. `heartbeat`: seconds of silence after which an
    event stream gets a comment; 0: never.
    """

    def __init__(
        self,
        upstream: UpstreamResponse,
        client: CallerConnection,
        headers: Mapping[str, str],
        account: Account,
        *,
        heartbeat: float = 0.0,
        witness: ObjectRecorder | None = None,
        upload: Upload | None = None,
    ) -> None:
        self.status_code = upstream.status
        self.background = None
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._upstream = upstream
        self._client = client
        self._account = account
        self._heartbeat = heartbeat
        self._witness = witness
        self._upload = upload
        self._accounted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended: Ended = "cut"
        try:
            async with self._client:
                await self._relay(send)
        except CallerDisconnected:
            ended = "hung_up"
        finally:
            if not self._accounted:
                self._accounted = True
                self._account_for_the_rest(ended)
            self._upstream.close()
            if self._upload is not None:
                self._upload.close()

    @property
    def event_stream(self) -> bool:
        return self._upstream.meter.event_stream

    def tokens_so_far(self) -> int:
        """Tokens of a whole answer; of one that has only begun, the estimated tokens of its prompt."""
        if not self._upstream.complete:
            return self._upstream.call.input_estimate
        usage = self._upstream.usage()
        return usage.input_tokens + usage.output_tokens

    def _account_for_the_rest(self, ended: Ended) -> None:
        """What the caller has left, or what failed."""
        witness = self._witness
        if witness is not None:
            witness.events(self._upstream.meter.objects)
        if witness is None or not witness.deferred:
            usage = self._upstream.usage()
            self._account(usage, ended, self._upstream.said(usage))
        elif witness.charging is None:  # somebody else will be told the usage of what goes on without this caller
            self._account(Usage(), ended, "")
        else:

            def charged(task: asyncio.Task[Usage]) -> None:
                failed = task.cancelled() or task.exception() is not None
                self._account(Usage() if failed else task.result(), ended, "")

            witness.charging.add_done_callback(charged)

    async def _relay(self, send: Send) -> None:
        upstream = self._upstream
        headers = self.raw_headers
        if upstream.complete:
            headers = [*headers, (b"content-length", str(len(upstream.head)).encode())]
            if self._witness is not None:
                self._witness.answer(upstream.status, upstream.head, upstream.headers.get("location", ""))
                await self._witness.deleted(upstream.status)
            await self._note("complete")
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": upstream.head})
            return
        if upstream.length is not None:
            headers = [*headers, (b"content-length", upstream.length.encode("latin-1"))]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if upstream.head:
            await send({"type": "http.response.body", "body": upstream.head, "more_body": True})
            # What was sent leaves when the event loop gets its turn; a fast backend would not give it one for a while.
            await asyncio.sleep(0)
        meter = upstream.meter
        if not await self._follow(send):
            await self._break_off(send)
            return
        await self._note("complete")
        if meter.event_stream and not meter.marked:  # no end marker: there may be more behind the event that ends it
            await send({"type": "http.response.body", "body": meter.finish(), "more_body": True})
            async for chunk in upstream.rest():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": meter.finish()})
        await upstream.read_to_end()

    async def _follow(self, send: Send) -> bool:
        """Relay what comes, up to its end; whether it is whole."""
        upstream, meter = self._upstream, self._upstream.meter
        watch: Watch | None = None
        try:
            async with asyncio.timeout_at(upstream.deadline) as timeout:
                watch = Watch(upstream, timeout, send, self._heartbeat)
                while not (meter.event_stream and meter.done):  # some backends keep the connection open behind the end
                    if meter.objects and self._witness is not None:
                        self._witness.events(meter.objects)
                        meter.objects = []
                    watch.waiting()
                    chunk = await upstream.content.readany()
                    watch.heard()
                    if not chunk:
                        break
                    if passing := meter.feed(chunk):
                        await send({"type": "http.response.body", "body": passing, "more_body": True})
        except (aiohttp.ClientError, OSError):
            return meter.event_stream and meter.done  # it lied about its length, but said that it has ended
        finally:
            if watch is not None:
                watch.stop()
        meter.end()
        return meter.done

    async def _break_off(self, send: Send) -> None:
        """The upstream failed after the commitment: an event stream says so; any other body is left unfinished, so that
        the connection closes early and nobody takes it for whole."""
        meter = self._upstream.meter
        self._upstream.close()
        await self._note("cut")
        if not isinstance(meter, StreamMeter) or (ending := meter.break_off(BROKEN_OFF)) is None:
            return
        event = error_event(INTERRUPTED, typed=meter.typed)
        with contextlib.suppress(TimeoutError):  # a caller that does not read is not waited for
            async with asyncio.timeout(_LAST_WORD):
                await send({"type": "http.response.body", "body": ending + event})

    async def _note(self, ended: Ended) -> None:
        usage = self._upstream.usage()
        witness = self._witness
        if witness is not None:
            witness.events(self._upstream.meter.objects)
            usage = await witness.charge(usage)
        self._accounted = True
        row = self._account(usage, ended, self._upstream.said(usage))
        if witness is not None:
            await witness.kept()
        if ended == "cut":
            await asyncio.wait((row,), timeout=_LAST_WORD)
        else:
            await row
