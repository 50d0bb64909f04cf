"""Sends an answer the way its region does, with its pace and its faults, and charges what has been generated."""

import asyncio
import math

from .answers import TOKENS_PER_CHUNK
from .exchange import EVENT_STREAM, JSON, Exchange
from .faults import Effect, StreamEffect, WrongLength
from .misbehaviour import strike_in_stream
from .operations import Answer, StreamedAnswer, WholeAnswer

_MISSING_BYTES = 1_024


class Delivery:
    """Both paces in seconds. An answer that is not streamed takes as long as its stream would take."""

    def __init__(self, first_token_seconds: float, seconds_per_chunk: float) -> None:
        self._first_token_seconds = first_token_seconds
        self._seconds_per_chunk = seconds_per_chunk

    async def send(self, answer: Answer, exchange: Exchange, effect: Effect | None) -> None:
        if isinstance(effect, WrongLength):
            await self._send_too_short(answer, exchange)
        elif isinstance(answer, StreamedAnswer):
            await self._send_stream(answer, exchange, effect if isinstance(effect, StreamEffect) else None)
        else:
            await self._send_whole(answer, exchange)

    async def _send_whole(self, answer: WholeAnswer, exchange: Exchange) -> None:
        seconds = self._first_token_seconds
        seconds += math.ceil(answer.charge.output_tokens / TOKENS_PER_CHUNK) * self._seconds_per_chunk
        if seconds:
            await asyncio.sleep(seconds)
        _charge_all(answer, exchange)
        await exchange.send(200, answer.body)

    async def _send_too_short(self, answer: Answer, exchange: Exchange) -> None:
        if isinstance(answer, WholeAnswer):
            body, content_type = answer.body, JSON
        else:
            body, content_type = b"".join(event.data for event in answer.events), EVENT_STREAM
        _charge_all(answer, exchange)
        await exchange.open(content_type, content_length=len(body) + _MISSING_BYTES)
        await exchange.write(body)
        exchange.cut()

    async def _send_stream(self, answer: StreamedAnswer, exchange: Exchange, effect: StreamEffect | None) -> None:
        entry = exchange.entry
        if self._first_token_seconds:
            await asyncio.sleep(self._first_token_seconds)
        entry.input_tokens = answer.charge.input_tokens
        entry.cached_tokens = answer.charge.cached_tokens
        await exchange.open(EVENT_STREAM)
        for event in answer.events:
            past_content = event.kind == "closing"
            if effect is not None and event.kind != "opening" and (past_content or entry.chunks_sent == effect.due):
                if await strike_in_stream(effect, exchange):
                    return
                effect = None
            # Even a wait of nothing lets the loop flush: every event leaves as a write of its own.
            await asyncio.sleep(self._seconds_per_chunk if event.kind == "content" else 0)
            entry.output_tokens += event.output_tokens
            entry.reasoning_tokens += event.reasoning_tokens
            entry.chunks_sent += event.kind == "content"
            await exchange.write(event.data)
        await exchange.finish()


def _charge_all(answer: Answer, exchange: Exchange) -> None:
    entry, charge = exchange.entry, answer.charge
    entry.input_tokens = charge.input_tokens
    entry.cached_tokens = charge.cached_tokens
    entry.output_tokens = charge.output_tokens
    entry.reasoning_tokens = charge.reasoning_tokens
