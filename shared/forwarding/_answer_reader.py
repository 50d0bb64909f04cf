"""Reads a backend's answer until it is committed.

An answer is committed when it belongs to the caller: a body that is complete, or larger than what is kept in memory; a
stream with its first token. Before that an attempt fails with `AttemptFailed`, and another target may do better. After
that, failures are reported to the caller, never retried.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable

import aiohttp
import msgspec

from shared.anthropic.event_reader import MessageEventReader
from shared.azure_openai.answers import ReportedError
from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.event_relay import EventRelay, Reader
from shared.azure_openai.metering import BodyMeter
from shared.config.document import Timeouts
from shared.forwarding._attempt import in_seconds
from shared.forwarding._failures import AttemptFailed, error_below_200, error_in_success, failure_in_answer
from shared.forwarding.response import Answer, BackendResponse, OpenAnswer, WholeAnswer, returned_headers, whole_answer
from shared.http_client import read_some
from shared.routing import quota
from shared.routing.breakers import Breakers
from shared.routing.quota import Sent
from shared.types import Call, Target

_MAX_BUFFERED = 4 * 1024 * 1024  # bytes of a body held back so that another target can still be tried
_REASON_FOLLOWS = 1.0  # seconds; Azure's `response.failed` without an error is followed by it within 0.3 s
_END_FOLLOWS = 0.1  # seconds from there to the end of the stream


class AnswerReader:
    """Reads for the breakers, too, which learn of every sign of life and of the quota that an answer reports."""

    def __init__(self, breakers: Breakers, timeouts: Timeouts) -> None:
        self._breakers = breakers
        self._timeouts = timeouts

    async def read(self, call: Call, target: Target, response: BackendResponse, sent: Sent, call_ends: float) -> Answer:
        """Read until the answer belongs to the caller. `call_ends`: the latest end of the whole call, on the event
        loop's clock. Raises `AttemptFailed`."""
        breakers, seconds = self._breakers, self._timeouts.stream
        served_by = self._served_by(target, response, sent)
        state = breakers.watched(target)
        on_chunk = functools.partial(breakers.chunk_arrived, state)
        committed: WholeAnswer | tuple[EventRelay | BodyMeter, bytes]
        if response.status == 200 and response.content_type == "text/event-stream":
            committed = await _read_stream(call, served_by, response, on_chunk, state.configured)
        elif _is_opaque(call, response):
            committed = await _read_body(call, target, served_by, response, state.configured, most=0)
        else:
            seconds = self._timeouts.total
            committed = await _read_body(call, target, served_by, response, state.configured, most=_MAX_BUFFERED)
        breakers.success(target)
        if isinstance(committed, WholeAnswer):
            breakers.end(target)
            (response.release if response.content.at_eof() else response.close)()
            return committed
        body, head = committed
        return OpenAnswer(
            call=call,
            target=served_by,
            response=response,
            headers=returned_headers(call, response.headers),
            head=head,
            body=body,
            on_chunk=on_chunk,
            ended=functools.partial(breakers.end, target),
            deadline=min(in_seconds(seconds), call_ends),
            silence=self._timeouts.total,
        )

    def _served_by(self, target: Target, response: BackendResponse, sent: Sent) -> Target:
        """Return the deployment that served a call, and note the quota that the answer reports of the one asked."""
        headers = response.headers
        if target.backend.provisioned and "x-ms-spillover-from-deployment" in headers:
            # The provisioned deployment was full, so Azure used a pay-as-you-go one of the same resource.
            backend = msgspec.structs.replace(target.backend, kind="standard")
            return Target(backend, target.model, headers.get("x-ms-deployment-name") or "?", target.tier)
        if (reading := quota.read(headers, sent, self._breakers.clock())) is not None:
            self._breakers.learn(target, reading)
        return target


def _is_opaque(call: Call, response: BackendResponse) -> bool:
    """True for a body that is not JSON: it shows nothing but its status, unless the objects it makes have to be
    recorded."""
    return (
        response.status == 200
        and call.operation.free_form
        and not call.makes
        and response.content_type != "application/json"
    )


async def _read_stream(
    call: Call,
    served_by: Target,
    response: BackendResponse,
    on_chunk: Callable[[], None],
    configured: float | None,
) -> WholeAnswer | tuple[EventRelay, bytes]:
    """Read a stream until its first token; return what may go to the caller so far, or the error that it consists of.
    Calls `on_chunk` for each chunk."""
    reader = _reader(call)
    events = EventRelay(reader)
    head, chunk = b"", b"-"
    while chunk and not (reader.committed or reader.failed or events.done) and len(head) <= _MAX_BUFFERED:
        chunk = await read_some(response.content)
        on_chunk()
        head += events.feed(chunk)
    if reader.failed:
        head += await _rest_of_failure(events, response)
        error, usage = reader.error or ReportedError(), reader.reported()
        return _returned(
            error_below_200(call, served_by, response.headers, error, reader.failure, head, usage, configured)
        )
    if len(head) > _MAX_BUFFERED:
        reader.committed = True  # no opening event is so large: it is content, such as a picture
    if not reader.committed:
        problem = "ended the stream before its first token"
        raise AttemptFailed(problem, response.status, charged=True, usage=reader.reported())
    return events, head


def _reader(call: Call) -> Reader:
    if call.surface == "anthropic":
        return MessageEventReader(call)
    return EventReader(call, eager=call.background or not call.model)


async def _rest_of_failure(events: EventRelay, response: BackendResponse) -> bytes:
    """Read a stream that has failed to its end, or for as long as its reason may follow; return what is read."""
    rest = b""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_REASON_FOLLOWS) as timeout:
            while len(rest) <= _MAX_BUFFERED:
                if events.reader.error is not None:
                    timeout.reschedule(min(loop.time() + _END_FOLLOWS, timeout.when() or loop.time()))
                if not (chunk := await read_some(response.content)):
                    break
                rest += events.feed(chunk)
    return rest + events.finish()


async def _read_body(
    call: Call,
    target: Target,
    served_by: Target,
    response: BackendResponse,
    configured: float | None,
    *,
    most: int,
) -> WholeAnswer | tuple[BodyMeter, bytes]:
    """Read a body until it is larger than `most` bytes. `most` 0: its status is all that it shows."""
    chunks, size, content = [], 0, response.content
    while size <= most and not content.at_eof() and (chunk := await read_some(content)):
        chunks.append(chunk)
        size += len(chunk)
    head, complete = chunks[0] if len(chunks) == 1 else b"".join(chunks), size <= most
    if most:
        failed = failure_in_answer(call, target, response, head, complete=complete, configured=configured)
        if failed is not None:
            raise failed
    if not complete:
        return BodyMeter(call, response.status, head), head
    if (reported := error_in_success(call, served_by, response, head, configured)) is not None:
        return _returned(reported)
    return whole_answer(call, served_by, response.status, response.headers, head)


def _returned(outcome: AttemptFailed | WholeAnswer) -> WholeAnswer:
    """Return a complete answer. Raises the failure that it reports."""
    if isinstance(outcome, AttemptFailed):
        raise outcome
    return outcome
