"""The responses of one connection: each is a call on record, from the event that asks for it to the one that ends
it."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from shared.accounting import CallRecord
from shared.affinity.directory import ObjectDirectory
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import event_stream
from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.socket_events import BackendEvent
from shared.concurrency import LruDict
from shared.types import Attempt, Outcome, Target, Usage
from shared.usage.unsaid import Pauses

MOST_WAITING = 16  # responses of one connection that have been asked for and have not begun
_MOST_MADE = 4096  # responses that a connection remembers: those that are not stored are known to it alone
_SOUND_PER_TOKEN = 3200  # characters of base64: 50 ms of sound in 24 kHz and 16 bits, the default

Ended = Literal["complete", "hung_up", "cut"]


class Turn:
    """One response on record. `event_id`: that of the caller's event that asked for it; "": it has none."""

    def __init__(self, record: CallRecord, target: Target, directory: ObjectDirectory, event_id: str) -> None:
        self._record = record
        self._target = target
        self.call = record.call
        self.event_id = event_id
        self.number = 0  # on its connection
        self._reader = EventReader(record.call, eager=True)
        self._recorder: ObjectRecorder | None = None
        if record.call.stateful:
            begin = partial(record.begin_work, target, 200)
            self._recorder = ObjectRecorder(directory, record.consumer, record.call, target.backend.name, begin)
        self._sound = 0
        self._started = time.monotonic()
        self._first_ms = 0
        self._pauses = Pauses(0.0)

    def read(self, event: BackendEvent, message: bytes) -> None:
        self._sound += event.sound
        if not self._first_ms and not event.begins:
            self._first_ms = round(self._record.received.milliseconds())
        self._reader.read(b"data: " + event_stream.as_data(message) + b"\n\n")
        now = time.monotonic()
        self._pauses.chunk_arrived(now, self._reader.text_tokens + self._sound)
        self._pauses.waiting(now)
        if self._recorder is not None:
            objects, self._reader.objects = self._reader.objects, []
            self._recorder.events(objects)

    def reported(self) -> Usage | None:
        """The usage that its last event reported; None if it reported none."""
        return self._reader.reported()

    def estimate(self) -> Usage:
        """The usage so far, of a response that was cut."""
        usage = self._reader.usage()
        if not (usage.estimated and self._sound):
            return usage
        tokens = self._sound // _SOUND_PER_TOKEN
        return msgspec.structs.replace(usage, output_tokens=usage.output_tokens + tokens, audio_output_tokens=tokens)

    async def end(self, usage: Usage, status: int = 200) -> None:
        """Put its end on record, with the objects that it has made. Returns when the rows are written: no caller
        has the end of a response that is not on record."""
        row = self._close(status, "complete", usage)
        if self._recorder is not None:
            await self._recorder.kept()
        await row

    def cut(self, ended: Ended) -> None:
        """Put the end of a response on record that its caller left, or that its backend broke off. Returns at once."""
        self._close(200, ended, self.estimate())

    def _close(self, status: int, ended: Ended, usage: Usage) -> asyncio.Future[None]:
        now = time.monotonic()
        spent = (now - self._started) * 1000
        self._pauses.end(now)
        problem = "" if ended != "cut" else "closed the connection before its answer was complete"
        outcome = Outcome(
            status=status,
            usage=usage,
            attempts=(Attempt(self._target, status, problem, spent, started=self._started),),
            served_by=self._target,
            first_byte_ms=self._first_ms,
            total_ms=round(self._record.received.milliseconds()),
            ended=ended,
            quiet_seconds=self._pauses.seconds,
        )
        return self._record.close(outcome, self._reader.text() if usage.estimated else "")


class Turns:
    """The responses under way. `by_lane`: events name the lane of their response, and not its id; a lane has one at a
    time. Those that are asked for begin in this order."""

    def __init__(self, *, by_lane: bool) -> None:
        self._by_lane = by_lane
        self._waiting: dict[str, list[Turn]] = {}
        self._active: dict[str, Turn] = {}
        self._made = LruDict[str, None](_MOST_MADE)
        self.context = 0  # tokens of the conversation, as the last response reported them
        self.count = 0

    @property
    def under_way(self) -> bool:
        return bool(self._active or self._waiting)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def made(self, response_id: str) -> bool:
        """True for a response of this connection."""
        return response_id in self._made

    def expect(self, turn: Turn, lane: str) -> None:
        """Expect the beginning of a response that the caller asks for."""
        self.count += 1
        turn.number = self.count
        self._waiting.setdefault(lane, []).append(turn)

    def begin(self, event: BackendEvent) -> bool:
        """Begin the oldest response that is expected. False: the backend has begun one by itself."""
        if event.response:
            self._made[event.response] = None
        if (turn := self._take(event.lane, lambda _: True)) is None:
            return False
        self._active[self._key(event)] = turn
        return True

    def adopt(self, event: BackendEvent, turn: Turn) -> None:
        """Take up a response that the backend has begun by itself."""
        self.count += 1
        self._active[self._key(event)] = turn

    def of(self, event: BackendEvent) -> Turn | None:
        return self._active.get(self._key(event))

    def ended(self, event: BackendEvent) -> Turn | None:
        """The response that an event ends; from then on it is not under way."""
        turn = self._active.pop(self._key(event), None)
        if turn is not None and (usage := turn.reported()) is not None:
            self.context = usage.input_tokens + usage.output_tokens
        return turn

    def refused(self, event: BackendEvent) -> Turn | None:
        """The expected response that an error answers: the one that was asked for by the event that it names, else the
        oldest whose event has no id."""
        return self._take(event.lane, lambda turn: turn.event_id == event.answers)

    def rest(self) -> list[Turn]:
        """All that are left, which are not under way any more."""
        left = [*self._active.values(), *(turn for waiting in self._waiting.values() for turn in waiting)]
        self._active, self._waiting = {}, {}
        return left

    def _take(self, lane: str, fits: Callable[[Turn], bool]) -> Turn | None:
        """Take the oldest expected response of a lane that fits; from then on it is not waited for."""
        lane = self._known(lane)
        waiting = self._waiting.get(lane, [])
        turn = next(filter(fits, waiting), None)
        if turn is not None:
            waiting.remove(turn)
            if not waiting:
                del self._waiting[lane]
        return turn

    def _known(self, lane: str) -> str:
        """The lane of an event in which responses are expected: of a backend that names none, that of the oldest."""
        if lane or lane in self._waiting:
            return lane
        return min(self._waiting, key=lambda one: self._waiting[one][0].number, default=lane)

    def _key(self, event: BackendEvent) -> str:
        return event.lane if self._by_lane else event.response
