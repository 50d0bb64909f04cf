"""Relays a backend's answer to the caller, and accounts for it before its end."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Literal

import aiohttp
import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import event_stream
from shared.forwarding.response import UpstreamResponse
from shared.requests.disconnect import CallerConnection, CallerDisconnected
from shared.requests.upload import Upload
from shared.responses._idle_watch import Watch
from shared.responses.rendering import error_event, interrupted, send_part
from shared.types import Usage

_LAST_EVENT = 5.0  # seconds in which a caller has to take the event that reports a broken answer

Ended = Literal["complete", "hung_up", "cut"]
Account = Callable[[Usage, Ended, str], asyncio.Future[None]]


class RelayedResponse(Response):
    """Relays a backend's answer byte for byte, and accounts for it exactly once, however it ends.

    `account` takes the usage, how the answer ended and, if the usage is an estimate, the text that has passed. It
    returns a future that is done when the row is in the table. The last byte waits for that, so no caller has a whole
    answer that is not on record. Accounting happens in `__call__`, not in a generator: one that never starts never
    reaches its own `finally`. `heartbeat`: seconds of silence after which an event stream gets a comment; 0: never.
    """

    def __init__(
        self,
        upstream: UpstreamResponse,
        client: CallerConnection,
        headers: Mapping[str, str],
        account: Account,
        *,
        heartbeat: float = 0.0,
        recorder: ObjectRecorder | None = None,
        upload: Upload | None = None,
    ) -> None:
        self.status_code = upstream.status
        self.background = None
        self._request_id = headers.get("x-gateway-request-id", "")
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._upstream = upstream
        self._client = client
        self._account = account
        self._heartbeat = heartbeat
        self._recorder = recorder
        self._upload = upload
        self._accounted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._run(self._relay(send))

    async def continue_stream(self, send: Send) -> None:
        """Relay the answer as the rest of a started event stream. A body of another kind becomes one event."""
        await self._run(self._relay_rest(send) if self._upstream.events is not None else self._relay_as_event(send))

    def tokens_so_far(self) -> int:
        """Tokens of a whole answer; of one that has only begun, the estimated tokens of its prompt."""
        if not self._upstream.complete:
            return self._upstream.call.input_estimate
        usage = self._upstream.usage()
        return usage.input_tokens + usage.output_tokens

    async def _run(self, relaying: Coroutine[None, None, None]) -> None:
        ended: Ended = "cut"
        try:
            async with self._client:
                await relaying
        except CallerDisconnected:
            ended = "hung_up"
        finally:
            relaying.close()  # if the caller had left before it began
            if not self._accounted:
                self._accounted = True
                self._account_for_the_rest(ended)
            self._upstream.close()
            if self._upload is not None:
                self._upload.close()

    async def _relay(self, send: Send) -> None:
        upstream, length = self._upstream, self._upstream.length
        if upstream.complete:
            await self._account_for_whole()
            length = str(len(upstream.head))
        headers = [*self.raw_headers, (b"content-length", length.encode("latin-1"))] if length else self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if upstream.complete:
            await send({"type": "http.response.body", "body": upstream.head})
        else:
            await self._relay_rest(send)

    async def _relay_as_event(self, send: Send) -> None:
        upstream = self._upstream
        if upstream.complete:
            await self._account_for_whole()
        await send_part(send, b"data: ")
        if upstream.complete:
            body = upstream.head or msgspec.json.encode({"error": interrupted(self._request_id)})
            await _as_data(send)({"type": "http.response.body", "body": body})
        else:
            await self._relay_rest(_as_data(send))

    async def _relay_rest(self, send: Send) -> None:
        """Relay the body of an answer that was not read to its end."""
        upstream = self._upstream
        events = upstream.events
        if upstream.head:
            await send_part(send, upstream.head)
            # What was sent leaves when the event loop gets its turn; a fast backend would not give it one for a while.
            await asyncio.sleep(0)
        if not await self._follow(send):
            await self._break_off(send)
            return
        await self._close_account("complete")
        if events is not None and events.may_go_on:
            await send_part(send, events.finish())
            async for chunk in upstream.rest():
                await send_part(send, chunk)
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": b"" if events is None else events.finish()})
        await upstream.read_to_end()

    async def _follow(self, send: Send) -> bool:
        """Relay the chunks of an answer up to its end. Returns False if it broke off."""
        upstream = self._upstream
        events = upstream.events
        watch: Watch | None = None
        try:
            async with asyncio.timeout_at(upstream.deadline) as timeout:
                watch = Watch(upstream, timeout, send, self._heartbeat)
                while events is None or not events.done:  # some backends keep the connection open behind the end
                    if events is not None and events.reader.objects:
                        self._record_objects()
                    watch.waiting()
                    chunk = await upstream.content.readany()
                    watch.heard()
                    if not chunk:
                        break
                    if passing := upstream.feed(chunk):
                        await send({"type": "http.response.body", "body": passing, "more_body": True})
        except (aiohttp.ClientError, OSError):
            return events is not None and events.done  # its length was wrong, but its end has come
        finally:
            if watch is not None:
                watch.stop()
        if events is None:
            return True
        events.end()
        return events.done

    async def _break_off(self, send: Send) -> None:
        """End an answer whose backend failed after the commitment: an event stream with an error event. Any other body
        stays unfinished, and so does a long event: the connection closes early, and nobody takes it for whole."""
        events = self._upstream.events
        self._upstream.close()
        await self._close_account("cut")
        if events is None or not events.between_events:
            return
        event = error_event(interrupted(self._request_id), typed=events.reader.typed)
        with contextlib.suppress(TimeoutError):  # a caller that does not read is not waited for
            async with asyncio.timeout(_LAST_EVENT):
                await send({"type": "http.response.body", "body": event})

    def _record_objects(self) -> None:
        """Record the objects that the events so far have named."""
        events = self._upstream.events
        if events is not None and self._recorder is not None:
            self._recorder.events(events.reader.objects)
            events.reader.objects = []

    async def _account_for_whole(self) -> None:
        upstream, recorder = self._upstream, self._recorder
        if recorder is not None:
            recorder.answer(upstream.status, upstream.head, upstream.headers.get("location", ""))
            await recorder.deleted(upstream.status)
        await self._close_account("complete")

    async def _close_account(self, ended: Ended) -> None:
        usage = self._upstream.usage()
        recorder = self._recorder
        if recorder is not None:
            self._record_objects()
            usage = await recorder.charge(usage)
        self._accounted = True
        row = self._account(usage, ended, self._upstream.text(usage))
        if recorder is not None:
            await recorder.kept()
        if ended == "cut":
            await asyncio.wait((row,), timeout=_LAST_EVENT)
        else:
            await row

    def _account_for_the_rest(self, ended: Ended) -> None:
        """Account for an answer that its caller left, or whose relaying failed."""
        recorder = self._recorder
        if recorder is not None:
            self._record_objects()
        if recorder is None or not recorder.deferred:
            usage = self._upstream.usage()
            self._account(usage, ended, self._upstream.text(usage))
        elif recorder.charging is None:  # the usage of what goes on without this caller is reported to somebody else
            self._account(Usage(), ended, "")
        else:

            def charged(task: asyncio.Task[Usage]) -> None:
                failed = task.cancelled() or task.exception() is not None
                self._account(Usage() if failed else task.result(), ended, "")

            recorder.charging.add_done_callback(charged)


def _as_data(send: Send) -> Send:
    """Sends a body as the data of an event that has begun, and ends the event."""

    async def send_data(message: Message) -> None:
        end = b"" if message.get("more_body") else b"\n\n"
        await send({**message, "body": event_stream.as_data(message["body"]) + end})

    return send_data
