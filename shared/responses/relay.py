"""What the caller receives: an upstream's answer relayed and accounted for, or a refusal in OpenAI's shape."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Literal

import aiohttp
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.affinity.deferred_charge import DeferredCharge
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai.metering import StreamMeter
from shared.forwarding.response import Answer, OpenAnswer, WholeAnswer
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
        answer: Answer,
        client: CallerConnection,
        headers: Mapping[str, str],
        account: Account,
        *,
        heartbeat: float = 0.0,
        recorder: ObjectRecorder | None = None,
        upload: Upload | None = None,
    ) -> None:
        self.status_code = answer.status
        self.background = None
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._answer = answer
        self._client = client
        self._account = account
        self._heartbeat = heartbeat
        self._recorder = recorder
        self._deferred = DeferredCharge(recorder) if recorder is not None and recorder.deferred else None
        self._upload = upload
        self._accounted = False
        self._events: StreamMeter | None = None
        if isinstance(answer, OpenAnswer) and isinstance(answer.meter, StreamMeter):
            self._events = answer.meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended: Ended = "cut"
        try:
            async with self._client:
                if isinstance(self._answer, WholeAnswer):
                    await self._send_whole(self._answer, send)
                else:
                    await self._relay(self._answer, send)
        except CallerDisconnected:
            ended = "hung_up"
        finally:
            if not self._accounted:
                self._accounted = True
                self._account_for_the_rest(ended)
            self._answer.close()
            if self._upload is not None:
                self._upload.close()

    @property
    def event_stream(self) -> bool:
        return self._events is not None

    def tokens_so_far(self) -> int:
        """Tokens of a whole answer; of one that has only begun, the estimated tokens of its prompt."""
        if not isinstance(self._answer, WholeAnswer):
            return self._answer.call.input_estimate
        usage = self._answer.usage
        return usage.input_tokens + usage.output_tokens

    async def _send_whole(self, answer: WholeAnswer, send: Send) -> None:
        if self._recorder is not None:
            self._recorder.answer(answer.status, answer.body, answer.headers.get("location", ""))
            await self._recorder.deleted(answer.status)
        await self._note("complete")
        headers = [*self.raw_headers, (b"content-length", str(len(answer.body)).encode())]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _relay(self, answer: OpenAnswer, send: Send) -> None:
        headers = self.raw_headers
        if answer.length is not None:
            headers = [*headers, (b"content-length", answer.length.encode("latin-1"))]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if answer.head:
            await send({"type": "http.response.body", "body": answer.head, "more_body": True})
            # The server sends it when the event loop gets its turn, which a fast backend would delay.
            await asyncio.sleep(0)
        if not await self._follow(answer, send):
            await self._break_off(send)
            return
        await self._note("complete")
        events = self._events
        if events is not None and not events.marked:  # without an end marker more may follow the last event
            await send({"type": "http.response.body", "body": events.finish(), "more_body": True})
            async for chunk in answer.rest():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": b"" if events is None else events.finish()})
        await answer.read_to_end()

    async def _follow(self, answer: OpenAnswer, send: Send) -> bool:
        """Relay the body up to its end. Return False if it is not whole."""
        events, meter, content = self._events, answer.meter, answer.content
        watch: Watch | None = None
        try:
            async with asyncio.timeout_at(answer.deadline) as timeout:
                watch = Watch(answer, timeout, send, self._heartbeat)
                while events is None or not events.done:  # some backends keep the connection open after the end
                    if events is not None and events.objects:
                        self._record_events()
                    watch.waiting()
                    chunk = await content.readany()
                    watch.heard()
                    if not chunk:
                        break
                    if passing := meter.feed(chunk):
                        await send({"type": "http.response.body", "body": passing, "more_body": True})
        except (aiohttp.ClientError, OSError):
            return events is not None and events.done  # its length was wrong, but the stream has ended
        finally:
            if watch is not None:
                watch.stop()
        if events is None:
            return True
        events.end()
        return events.done

    async def _break_off(self, send: Send) -> None:
        """End an answer whose backend failed after the commitment: an event stream with an error event; any other body
        unfinished, so that the connection closes early and nobody takes the body for whole."""
        events = self._events
        self._answer.close()
        await self._note("cut")
        if events is None or (ending := events.break_off(BROKEN_OFF)) is None:
            return
        event = error_event(INTERRUPTED, typed=events.typed)
        with contextlib.suppress(TimeoutError):  # do not wait for a caller that does not read
            async with asyncio.timeout(_LAST_WORD):
                await send({"type": "http.response.body", "body": ending + event})

    async def _note(self, ended: Ended) -> None:
        usage = self._usage()
        self._record_events()
        if self._deferred is not None:
            usage = await self._deferred.share(usage)
        self._accounted = True
        row = self._account(usage, ended, self._text(usage))
        if self._recorder is not None:
            await self._recorder.kept()
        if ended == "cut":
            await asyncio.wait((row,), timeout=_LAST_WORD)
        else:
            await row

    def _account_for_the_rest(self, ended: Ended) -> None:
        """Account for an answer that its caller left, or that failed."""
        self._record_events()
        if self._deferred is not None:
            self._deferred.after_disconnect(lambda usage: self._account(usage, ended, ""))
        else:
            usage = self._usage()
            self._account(usage, ended, self._text(usage))

    def _usage(self) -> Usage:
        """The usage of the answer, as far as it has passed."""
        answer = self._answer
        return answer.usage if isinstance(answer, WholeAnswer) else answer.meter.result()

    def _text(self, usage: Usage) -> str:
        """The text of a stream whose usage is an estimate, for its tokens to be counted."""
        return self._events.said() if self._events is not None and usage.estimated else ""

    def _record_events(self) -> None:
        """Hand over the events that name objects."""
        if self._recorder is not None and self._events is not None:
            objects, self._events.objects = self._events.objects, []
            self._recorder.events(objects)
