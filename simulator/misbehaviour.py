"""Applies each kind of fault to a call."""

import asyncio
import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from . import errors
from .answers import DONE, EVENT_STREAM, JSON, StreamedAnswer
from .exchange import Exchange
from .faults import (
    CutStream,
    Delay,
    EmptyStream,
    Endless,
    ErrorInStream,
    Fault,
    FaultQueue,
    Hang,
    NotJson,
    Rechunk,
    Reset,
    SlowFirstToken,
    Stall,
    Status,
    StreamEffect,
)
from .messages_errors import as_message_error

_ENDLESS_PIECE = b" " * 65_536
_ENDLESS_PAUSE_SECONDS = 0.001


async def strike_on_arrival(fault: Fault, queue: FaultQueue, exchange: Exchange) -> bool:
    """Apply the fault. Returns True if the call is finished, False if it continues normally."""
    match fault.effect:
        case Delay(seconds):
            await asyncio.sleep(seconds)
            return False
        case Hang():
            await queue.hold(fault)
            return False
        case Status() as status:
            await _send_status(status, exchange)
        case Reset():
            exchange.reset()
        case NotJson(body):
            await exchange.send(200, body.encode("utf-8", "replace"), "text/html; charset=utf-8")
        case EmptyStream(done):
            await exchange.open(EVENT_STREAM)
            if done:
                await exchange.write(DONE)
            await exchange.finish()
        case Endless():
            await _send_endless(exchange)
        case _:
            return False
    return True


async def strike_in_stream(effect: StreamEffect, answer: StreamedAnswer, exchange: Exchange) -> bool:
    """Apply the effect. Returns True if the stream is finished, False if it continues."""
    match effect:
        case SlowFirstToken(seconds) | Stall(seconds=seconds):
            await asyncio.sleep(seconds)
            return False
        case ErrorInStream(error=kind) if answer.content_type == EVENT_STREAM:
            await exchange.write(_error_event(answer, exchange, kind))
            await exchange.finish()
        case ErrorInStream() | CutStream():
            exchange.cut()
    return True


def rechunked(events: Sequence[bytes], effect: Rechunk, *, plain: bool) -> Iterator[bytes]:
    """The bytes of a stream in random pieces. `plain`: not an event stream, so `crlf` and `comments` are ignored."""
    chance = random.Random(effect.seed)
    if effect.comments and not plain:
        events = [b": note\n\n" * (chance.random() < 0.2) + event for event in events]
    body = b"".join(events)
    if effect.crlf and not plain:
        body = body.replace(b"\n", b"\r\n")
    place = 0
    while place < len(body):
        size = chance.randint(1, effect.largest)
        yield body[place : place + size]
        place += size


def _error_event(answer: StreamedAnswer, exchange: Exchange, kind: str) -> bytes:
    error = errors.server_error(500).body
    if exchange.entry.surface == "anthropic":
        error = as_message_error(500, error, exchange.headers["request-id"], kind)
    return b"event: error\ndata: " + error + b"\n\n" if answer.typed else b"data: " + error + b"\n\n"


async def _send_status(effect: Status, exchange: Exchange) -> None:
    content_type = JSON
    if effect.body is None:
        body = errors.server_error(effect.status).body
        if exchange.entry.surface == "anthropic":
            body = as_message_error(effect.status, body, exchange.headers["request-id"])
    elif isinstance(effect.body, str):
        body, content_type = effect.body.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    else:
        body = msgspec.json.encode(effect.body)
    headers = {name.lower(): value for name, value in effect.headers.items()}
    exchange.entry.retry_after = _retry_after(headers)
    await exchange.send(effect.status, body, headers.pop("content-type", content_type), headers)


async def _send_endless(exchange: Exchange) -> None:
    """Start an answer, or an event of a stream, and continue it with blanks for ever."""
    stream = exchange.entry.stream
    await exchange.open(EVENT_STREAM if stream else JSON)
    await exchange.write(b"data: {" if stream else b"{")
    while True:
        await exchange.write(_ENDLESS_PIECE)
        await asyncio.sleep(_ENDLESS_PAUSE_SECONDS)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds in `retry-after-ms` or `retry-after`; None if absent or invalid."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            return float(headers[name]) / scale
    return None
