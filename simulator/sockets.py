"""WebSockets of a region: realtime sessions, and responses."""

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from . import errors
from .answers import Charge, StreamedAnswer
from .api import responses
from .api.realtime_session import RealtimeSession, Refusal, SessionEvent
from .call import Call
from .collection import Collection, Object
from .deployments import Deployment
from .exchange import Exchange
from .faults import CutStream, Effect, ErrorInStream, LaterStreamEffect, Stall
from .request_log import LogEntry, RequestLog
from .store import Store, StoredResponse

PATHS = ("/openai/v1/realtime", "/openai/realtime", "/openai/v1/responses", "/v1/realtime", "/v1/responses")
_LARGEST = 32 * 1024 * 1024
_CREATE = "response.create"

MakeCall = Callable[[bytes, LogEntry, Store], Call]
"""Makes the call of a message on the socket, with its own entry of the log."""


def is_upgrade(request: web.BaseRequest) -> bool:
    return request.headers.get("upgrade", "").lower() == "websocket" and request.path in PATHS


class Connection:
    """`pace`: seconds per chunk. Each response is a request of its own in the log."""

    def __init__(self, exchange: Exchange, log: RequestLog, pace: float, effect: Effect | None) -> None:
        self._exchange = exchange
        self._log = log
        self._pace = pace
        self._effect = effect if isinstance(effect, LaterStreamEffect) else None
        self._socket = web.WebSocketResponse(max_msg_size=_LARGEST, compress=False)
        self._socket.headers.update(exchange.headers)
        self._chunks = 0

    async def _open(self) -> None:
        exchange = self._exchange
        exchange.response = self._socket
        exchange.entry.status = 101
        await self._socket.prepare(exchange.request)

    async def _messages(self) -> Any:
        async for message in self._socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                yield message.data.encode() if isinstance(message.data, str) else message.data
        self._exchange.entry.completed = True

    def _entry(self) -> LogEntry:
        """An entry for a response."""
        own = self._exchange.entry
        return LogEntry(
            time=own.time,
            region=own.region,
            method="GET",
            path=own.path,
            deployment=own.deployment,
            operation=own.operation,
            surface=own.surface,
            status=200,
            stream=True,
            client_request_id=own.client_request_id,
        )

    async def _say(self, content: Object | bytes) -> None:
        data = content if isinstance(content, bytes) else msgspec.json.encode(content)
        await self._socket.send_str(data.decode())

    async def _is_struck(self) -> bool:
        """Apply the fault before a chunk. True: the connection is over."""
        effect = self._effect
        if effect is None or self._chunks < effect.due:
            return False
        self._effect = None
        match effect:
            case Stall(seconds=seconds):
                await asyncio.sleep(seconds)
            case CutStream():
                self._exchange.reset()
                return True
            case ErrorInStream():
                await self._say({"type": "error", **msgspec.json.decode(errors.server_error(500).body)})
        return False

    async def _pass(self, entry: LogEntry, charge: Charge | None, *, chunk: bool) -> bool:
        """Wait for the time of an event, and charge it. False: a fault ended the connection."""
        if chunk:
            if await self._is_struck():
                return False
            await asyncio.sleep(self._pace)
            self._chunks += 1
            entry.chunks_sent += 1
        if charge is not None:
            entry.charge(charge)
        return True


class RealtimeConnection(Connection):
    async def run(self, deployment: Deployment | None) -> None:
        """`deployment` None: a session that only transcribes what it hears."""
        await self._open()
        session = RealtimeSession(deployment)
        await self._say(session.opening().content)
        async for message in self._messages():
            try:
                event = msgspec.json.decode(message, type=dict[str, Any])
            except errors.DECODE_FAILURES:
                await self._refuse({}, "Could not parse the event as JSON.")
                continue
            try:
                if not await self._answer(session.take(event)):
                    return
            except Refusal as refusal:
                await self._refuse(event, str(refusal))

    async def _answer(self, events: Iterator[SessionEvent]) -> bool:
        entry = self._entry()
        try:
            for event in events:
                if not await self._pass(entry, event.charge, chunk=event.chunk):
                    return False
                await self._say(event.content)
                if event.ends:
                    entry.completed = True
                    self._log.add(entry)
                    entry = self._entry()
        finally:
            if entry.input_tokens or entry.output_tokens:
                self._log.add(entry)
        return True

    async def _refuse(self, event: Object, message: str) -> None:
        error = {"type": "invalid_request_error", "code": "invalid_value", "message": message, "param": None}
        await self._say({"type": "error", "event_id": "event_x", "error": {**error, "event_id": event.get("event_id")}})


class ResponsesConnection(Connection):
    async def run(self, store: Store, make_call: MakeCall) -> None:
        """`store`: the region's. Responses that are not stored are known to the connection."""
        await self._open()
        own = copy.copy(store)
        own.responses = _OwnResponses(store.responses)
        async for message in self._messages():
            entry = self._entry()
            try:
                event = msgspec.json.decode(message, type=dict[str, Any])
                if event.get("type") != _CREATE:
                    raise errors.invalid_request(f"Invalid value: '{event.get('type')}'.", "type")
                entry.deployment = event.get("model")
                body = msgspec.json.encode({**event, "stream": True})
                answer = responses.create(make_call(body, entry, own))
            except errors.DECODE_FAILURES:
                await self._refuse(errors.not_json())
                continue
            except errors.AzureError as refusal:
                entry.status = refusal.status
                self._log.add(entry)
                await self._refuse(refusal)
                continue
            assert isinstance(answer, StreamedAnswer)
            if not await self._answer(answer, entry):
                return

    async def _answer(self, answer: StreamedAnswer, entry: LogEntry) -> bool:
        try:
            if answer.charge is not None:
                entry.charge(answer.charge)
            for event in answer.events:
                if not await self._pass(entry, event.charge, chunk=event.kind == "content"):
                    return False
                await self._say(event.data.partition(b"data: ")[2].strip())
            entry.completed = True
        finally:
            self._log.add(entry)
        return True

    async def _refuse(self, refusal: errors.AzureError) -> None:
        await self._say({"type": "error", "status": refusal.status, **msgspec.json.decode(refusal.body)})


class _OwnResponses(Collection[StoredResponse]):
    """The responses of a connection, and those of its region."""

    keeps_all = True

    def __init__(self, of_region: Collection[StoredResponse]) -> None:
        super().__init__(of_region.missing)
        self._of_region = of_region

    def __contains__(self, object_id: str) -> bool:
        return super().__contains__(object_id) or object_id in self._of_region

    def add(self, stored: StoredResponse) -> StoredResponse:
        if stored.object["store"]:
            self._of_region.add(stored)
        return super().add(stored)

    def get(self, object_id: str) -> StoredResponse:
        return super().get(object_id) if super().__contains__(object_id) else self._of_region.get(object_id)
