"""Sends an answer at the region's pace, with scripted faults, and charges the generated tokens."""

import asyncio
import math
import time
from urllib.parse import quote

from .answers import EVENT_STREAM, Answer, FileAnswer, StreamedAnswer, WholeAnswer
from .exchange import Exchange
from .faults import Effect, Rechunk, StreamEffect, WrongLength
from .generation import TOKENS_PER_CHUNK
from .misbehaviour import rechunked, strike_in_stream

_MISSING_BYTES = 1_024


class Delivery:
    """Sends answers at a given pace. An answer that is not streamed takes as long as its stream would."""

    def __init__(self, first_token_seconds: float, seconds_per_chunk: float) -> None:
        self._first_token_seconds = first_token_seconds
        self.seconds_per_chunk = seconds_per_chunk

    async def send(self, answer: Answer, exchange: Exchange, effect: Effect | None) -> None:
        if isinstance(effect, WrongLength):
            await self._send_too_short(answer, exchange)
        elif isinstance(answer, WholeAnswer):
            await self._send_whole(answer, exchange)
        elif isinstance(answer, StreamedAnswer) and isinstance(effect, Rechunk):
            await self._send_rechunked(answer, exchange, effect)
        elif isinstance(answer, StreamedAnswer):
            await self._send_stream(answer, exchange, effect if isinstance(effect, StreamEffect) else None)
        else:
            await self._send_file(answer, exchange)

    async def _send_whole(self, answer: WholeAnswer, exchange: Exchange) -> None:
        if answer.charge is not None:
            seconds = self._first_token_seconds
            seconds += math.ceil(answer.charge.output_tokens / TOKENS_PER_CHUNK) * self.seconds_per_chunk
            if seconds:
                await asyncio.sleep(seconds)
            exchange.entry.charge(answer.charge)
        await exchange.send(answer.status, answer.body, answer.content_type, answer.headers)

    async def _send_too_short(self, answer: Answer, exchange: Exchange) -> None:
        match answer:
            case WholeAnswer():
                body, content_type = answer.body, answer.content_type
                charges = [answer.charge]
            case StreamedAnswer():
                events = list(answer.events)
                body, content_type = b"".join(event.data for event in events), answer.content_type
                charges = [answer.charge, *(event.charge for event in events)]
            case FileAnswer():
                body, content_type = next(iter(answer.pieces), b""), answer.content_type
                charges = []
        for charge in charges:
            if charge is not None:
                exchange.entry.charge(charge)
        await exchange.open(content_type, content_length=len(body) + _MISSING_BYTES)
        await exchange.write(body)
        exchange.cut()

    async def _send_stream(self, answer: StreamedAnswer, exchange: Exchange, effect: StreamEffect | None) -> None:
        entry = exchange.entry
        if self._first_token_seconds:
            await asyncio.sleep(self._first_token_seconds)
        if answer.charge is not None:
            entry.charge(answer.charge)
        await exchange.open(answer.content_type)
        for event in answer.events:
            past_content = event.kind == "closing"
            if effect is not None and event.kind != "opening" and (past_content or entry.chunks_sent == effect.due):
                if await strike_in_stream(effect, answer, exchange):
                    return
                effect = None
            # Even a sleep of 0 lets the loop flush, so that every event is a separate write.
            pause = self.seconds_per_chunk if event.kind == "content" else 0
            if event.not_before:
                pause = max(pause, event.not_before - time.time())
            await asyncio.sleep(pause)
            if event.charge is not None:
                entry.charge(event.charge)
            entry.chunks_sent += event.kind == "content"
            if event.data:
                await exchange.write(event.data)
        await exchange.finish()

    async def _send_rechunked(self, answer: StreamedAnswer, exchange: Exchange, effect: Rechunk) -> None:
        events = list(answer.events)
        await asyncio.sleep(max(0.0, *(event.not_before - time.time() for event in events)))
        for charge in (answer.charge, *(event.charge for event in events)):
            if charge is not None:
                exchange.entry.charge(charge)
        exchange.entry.chunks_sent = sum(event.kind == "content" for event in events)
        await exchange.open(answer.content_type)
        plain = answer.content_type != EVENT_STREAM
        for piece in rechunked([event.data for event in events], effect, plain=plain):
            await asyncio.sleep(0)
            await exchange.write(piece)
        await exchange.finish()

    async def _send_file(self, answer: FileAnswer, exchange: Exchange) -> None:
        disposition = f"attachment; filename*=UTF-8''{quote(answer.filename)}"
        await exchange.open(answer.content_type, answer.size, {"content-disposition": disposition})
        for piece in answer.pieces:
            await exchange.write(piece)
        await exchange.finish()
