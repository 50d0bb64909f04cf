"""Relays a backend's answer to the caller, and accounts for it before its end."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Literal

import aiohttp
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.affinity.deferred_charge import DeferredCharge
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import event_stream
from shared.forwarding.late_attempts import LateAttempts
from shared.forwarding.response import Answer, OpenAnswer, WholeAnswer
from shared.http_client import read_some
from shared.requests.disconnect import CallerDisconnected
from shared.responses._gateway_headers import EMPTY_ANSWER_COMMENT, WARNING
from shared.responses._idle_watch import Watch
from shared.responses.admitted_call import AdmittedCall
from shared.responses.rendering import as_data, error_in, interrupted, send_error_event, send_part, taken
from shared.types import Usage
from shared.usage.unsaid import Pauses

_LAST_EVENT = 5.0  # seconds in which a caller has to take the event that reports a broken answer
_LARGE = 65_536  # bytes of an answer that a connection does not take at once

Ended = Literal["complete", "hung_up", "cut"]
Account = Callable[[Usage, Ended, str, float], asyncio.Future[None]]


class RelayedResponse(Response):
    """Relays a backend's answer byte for byte, and accounts for it exactly once, however it ends.

    `account` takes the usage, how the answer ended, the text that has passed if the usage is an estimate, and the
    seconds of the pauses in it. It returns a future that is done when the row is on record. The last byte waits for
    that, so no caller has a whole answer that is not on record. Accounting happens in `__call__`, not in a generator:
    one that never starts never reaches its own `finally`.
    """

    def __init__(
        self,
        admitted: AdmittedCall,
        answer: Answer,
        headers: Mapping[str, str],
        account: Account,
        *,
        late: LateAttempts,
        deferred: DeferredCharge | None,
        recorder: ObjectRecorder | None,
        pauses: Pauses,
    ) -> None:
        self.status_code = answer.status
        self.background = None
        self._request_id = headers.get("x-gateway-request-id", "")
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._answer = answer
        self._client = admitted.connection
        self._account = account
        self._operation = admitted.call.operation
        self._heartbeat = admitted.heartbeat
        self._recorder = recorder
        self._late = late
        self._deferred = deferred
        self._pauses = pauses
        self._upload = admitted.upload
        self._accounted = False
        self._paid: Usage | None = None
        self._noted = False
        self._warns = WARNING in headers
        self._events = answer.events if isinstance(answer, OpenAnswer) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._run(self._relay(send))

    async def continue_stream(self, send: Send) -> None:
        """Relay the answer as the rest of a started event stream. A body of another kind becomes one event."""
        await self._run(self._continue(send))

    def tokens_so_far(self) -> int:
        """Tokens of a whole answer; of one that has only begun, the estimated tokens of its prompt."""
        if not isinstance(self._answer, WholeAnswer):
            return self._answer.call.input_estimate
        usage = self._answer.usage
        return usage.input_tokens + usage.output_tokens

    async def _run(self, relaying: Coroutine[None, None, None]) -> None:
        ended: Ended = "cut"
        try:
            async with self._client:
                await relaying
        except CallerDisconnected:
            ended = "hung_up"
        except asyncio.CancelledError:  # by the server: the caller gets no more of the answer either
            ended = "hung_up"
            raise
        finally:
            relaying.close()  # if the caller had left before it began
            self._finish(ended)

    def abandon(self) -> None:
        """Account for an answer that nobody will receive, as if its caller had hung up."""
        self._finish("hung_up")

    def _finish(self, ended: Ended) -> None:
        reads_on = False
        self._pauses.end(asyncio.get_running_loop().time())
        if not self._accounted:
            self._accounted = True
            self._record_events()
            left = ended == "hung_up" and self._deferred is None
            reads_on = left and self._late.read_on(self._answer, self._reported)
            if not reads_on:
                self._account_for_the_rest(ended)
        if not reads_on:
            self._answer.close()
        if self._upload is not None:
            self._upload.close()

    def _reported(self) -> None:
        """Account for an answer that its caller left, and that was read on."""
        try:
            self._account_for_the_rest("hung_up")
        finally:
            self._answer.close()

    async def _relay(self, send: Send) -> None:
        answer = self._answer
        if isinstance(answer, WholeAnswer):
            await self._record_whole(answer)
            if len(answer.body) <= _LARGE:
                await self._close_account("complete")
            await self._start(send, str(len(answer.body)))
            await self._send_whole(send, answer.body)
        else:
            await self._start(send, answer.length)
            await self._relay_body(answer, send)

    async def _start(self, send: Send, length: str | None) -> None:
        headers = self.raw_headers
        if length is not None:
            headers = [*headers, (b"content-length", length.encode("latin-1"))]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})

    async def _continue(self, send: Send) -> None:
        answer, self._warns = self._answer, False  # other headers have gone
        if isinstance(answer, WholeAnswer):
            await self._record_whole(answer)
            await self._continue_with_whole(answer, send)
        elif self._events is not None:
            await self._relay_body(answer, send)
        else:
            await send_part(send, b"data: ")
            await self._relay_body(answer, as_data(send))

    async def _continue_with_whole(self, answer: WholeAnswer, send: Send) -> None:
        """Send a whole answer as the rest of a stream: events as they are, an error as the event that clients read."""
        if _has_events(answer):
            await self._send_whole(send, answer.body)
        elif answer.status >= 300:
            await self._close_account("complete")
            await send_error_event(send, error_in(answer.body) or self._interrupted(), self._operation)
        else:
            await send_part(send, b"data: ")
            await self._send_whole(as_data(send), answer.body)

    async def _send_whole(self, send: Send, body: bytes) -> None:
        """Send a body, and account for it before its last byte. A large one holds the slot of its call until the caller
        has taken it: a call that is over may fill no memory."""
        if len(body) > _LARGE:
            await send_part(send, memoryview(body)[:-1])  # a copy would take as much again
            await taken(send)
            body = body[-1:]
        if not self._accounted:
            await self._close_account("complete")
        await send({"type": "http.response.body", "body": body})

    async def _relay_body(self, answer: OpenAnswer, send: Send) -> None:
        events = self._events
        if answer.head:
            await send_part(send, answer.head)
            # The server sends it when the event loop gets its turn, which a fast backend would delay.
            await asyncio.sleep(0)
        if not await self._follow(answer, send):
            await self._break_off(answer, send)
            return
        usage = await self._close_account("complete")
        if usage.empty and not self._warns and events is not None and events.between_events:
            await send_part(send, EMPTY_ANSWER_COMMENT)
        if events is not None and events.may_go_on:
            await send_part(send, events.finish())
            async for chunk in answer.rest():
                await send_part(send, chunk)
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": b"" if events is None else events.finish()})
        await answer.read_to_end()

    async def _follow(self, answer: OpenAnswer, send: Send) -> bool:
        """Relay the chunks of an answer up to its end. Return False if it broke off."""
        events, body, content, now = self._events, answer.body, answer.content, asyncio.get_running_loop().time
        watch: Watch | None = None
        try:
            async with asyncio.timeout_at(answer.deadline) as timeout:
                watch = Watch(answer, timeout, send, self._heartbeat)
                while events is None or not events.done:  # some backends keep the connection open after the end
                    if events is not None and events.reader.objects:
                        self._record_events()
                    self._pauses.waiting(now())
                    watch.waiting()
                    chunk = await read_some(content)
                    watch.chunk_arrived()
                    answer.on_chunk()
                    if not chunk:
                        break
                    passing = body.feed(chunk)
                    self._pauses.chunk_arrived(now(), events.reader.text_tokens if events is not None else 0)
                    if passing:
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

    async def _break_off(self, answer: OpenAnswer, send: Send) -> None:
        """End an answer whose backend failed after the commitment: an event stream with an error event. A stream of
        Responses then ends; any other body stays unfinished: the connection closes early, and nobody takes it for
        whole."""
        events = self._events
        answer.close()
        await self._close_account("cut")
        if events is None or not events.between_events:
            return
        with contextlib.suppress(TimeoutError):  # a caller that does not read is not waited for
            async with asyncio.timeout(_LAST_EVENT):
                await send_error_event(send, self._interrupted(), self._operation)

    def _interrupted(self) -> Mapping[str, object]:
        return interrupted(self._request_id, self._operation.format)

    def _record_events(self) -> None:
        """Record the objects in the events so far."""
        if self._recorder is not None and self._events is not None:
            objects, self._events.reader.objects = self._events.reader.objects, []
            self._recorder.events(objects)
            if self._deferred is not None and not (self._noted or self._operation.makes):
                self._noted = True
                self._deferred.relayed(0)  # another call has made the object, which does not know of this stream

    async def _record_whole(self, answer: WholeAnswer) -> None:
        """Record the objects in an answer, and what its call pays, before the caller has any of it."""
        if self._recorder is not None and _has_events(answer):
            self._recorder.events([event_stream.payload(event) for event in event_stream.split(answer.body)[0]])
        elif self._recorder is not None:
            self._recorder.answer(answer.status, answer.body, answer.headers.get("location", ""))
            await self._recorder.deleted(answer.status)
        await self._share()

    async def _close_account(self, ended: Ended) -> Usage:
        usage = await self._share()
        self._accounted = True
        row = self._account(usage, ended, self._text(usage), self._pauses.seconds)
        if self._recorder is not None:
            await self._recorder.kept()
        if ended == "cut":
            await asyncio.wait((row,), timeout=_LAST_EVENT)
        else:
            await row
        return usage

    async def _share(self) -> Usage:
        """Return the usage that this call pays."""
        if self._paid is None:
            usage = self._usage()
            self._record_events()
            if self._deferred is not None:
                self._note_relayed(self._deferred, usage)
                usage = await self._deferred.share(usage)
            self._paid = usage
        return self._paid

    def _account_for_the_rest(self, ended: Ended) -> None:
        """Account for an answer that its caller left, or whose relaying failed."""
        if self._deferred is not None and self._paid is None:
            self._note_relayed(self._deferred, self._usage())
            self._deferred.after_disconnect(lambda usage: self._account(usage, ended, "", 0.0))
        else:
            usage = self._usage() if self._paid is None else self._paid
            self._account(usage, ended, self._text(usage), self._pauses.seconds)

    def _note_relayed(self, deferred: DeferredCharge, usage: Usage) -> None:
        if self._events is not None and usage == Usage():
            deferred.relayed(self._events.reader.text_tokens)

    def _usage(self) -> Usage:
        return self._answer.usage if isinstance(self._answer, WholeAnswer) else self._answer.usage()

    def _text(self, usage: Usage) -> str:
        """The text of a stream whose usage is an estimate, for its tokens to be counted."""
        return self._events.reader.text() if self._events is not None and usage.estimated else ""


def _has_events(answer: WholeAnswer) -> bool:
    """True if an answer is a stream that has failed before its first content."""
    return answer.headers.get("content-type", "").startswith("text/event-stream")
