"""Scripted misbehaviour: the kinds of fault, and the queue from which a call takes the first that concerns it."""

import asyncio
import random
import re
from typing import Annotated, Any, ClassVar

import msgspec

from .config import Seconds

ChunkCount = Annotated[int, msgspec.Meta(ge=0)]

_HEADER_NAME = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
_HEADER_VALUE = re.compile(r"^[^\r\n\0]*$")
_FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})


class Effect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One that strikes on arrival does so whatever the call is worth, the others only with an answer of status 200.

    `streams_only` are those that wait for a call that asks for a stream.
    """

    on_arrival: ClassVar[bool] = True
    streams_only: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class Status(Effect, frozen=True, tag="status"):
    """An answer of this status. A `body` that is a string is sent as it is, another as JSON; absent: Azure's error."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: dict[str, str] = {}
    body: Any = None

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
                raise ValueError(f"{name!r} is no HTTP header")
            if name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"{name!r} cannot be set; see the kinds wrong_length, reset and cut_stream")


class Delay(Effect, frozen=True, tag="delay"):
    seconds: Seconds


class Hang(Effect, frozen=True, tag="hang"):
    """No answer until the client goes away; when the fault is deleted, the call is answered after all."""


class Reset(Effect, frozen=True, tag="reset"):
    """The connection is reset (TCP RST) before an answer."""


class NotJson(Effect, frozen=True, tag="not_json"):
    body: str = "<html><body>Bad gateway</body></html>"


class Endless(Effect, frozen=True, tag="endless"):
    """Status 200 and a body that never ends, about 60 MB a second if the client reads that fast."""


class EmptyStream(Effect, frozen=True, tag="empty_stream"):
    """A stream without one event; `done` false leaves out `data: [DONE]` too."""

    streams_only: ClassVar[bool] = True

    done: bool = True


class WrongLength(Effect, frozen=True, tag="wrong_length"):
    """The normal answer under a content-length that is larger; then the connection is closed."""

    on_arrival: ClassVar[bool] = False


class StreamEffect(Effect, frozen=True):
    """Strikes before the content chunk number `due`, or at the end of the content if that comes first."""

    on_arrival: ClassVar[bool] = False
    streams_only: ClassVar[bool] = True

    @property
    def due(self) -> int:
        return 0


class SlowFirstToken(StreamEffect, frozen=True, tag="slow_first_token"):
    """Headers and roles at once, then a wait before the first content."""

    seconds: Seconds


class LaterStreamEffect(StreamEffect, frozen=True):
    after_chunks: ChunkCount = 0

    @property
    def due(self) -> int:
        return self.after_chunks


class Stall(LaterStreamEffect, frozen=True, tag="stall", kw_only=True):
    seconds: Seconds


class ErrorInStream(LaterStreamEffect, frozen=True, tag="error_in_stream"):
    """An event `data: {"error": …}`, then the end of the body, without [DONE]. What is no event stream is cut."""


class CutStream(LaterStreamEffect, frozen=True, tag="cut_stream"):
    """The connection is closed in the middle: what was sent arrives, the end of the body does not."""


class Rechunk(Effect, frozen=True, tag="rechunk"):
    """The whole stream arrives, cut at random places into pieces of one byte to `largest`; the same for one `seed`.

    `crlf`: its lines end with CR LF. `comments`: some events have a comment before them.
    """

    on_arrival: ClassVar[bool] = False
    streams_only: ClassVar[bool] = True

    seed: int = 0
    largest: Annotated[int, msgspec.Meta(ge=1)] = 64
    crlf: bool = False
    comments: bool = False


AnyEffect = (
    Status
    | Delay
    | Hang
    | Reset
    | NotJson
    | Endless
    | EmptyStream
    | WrongLength
    | SlowFirstToken
    | Stall
    | ErrorInStream
    | CutStream
    | Rechunk
)


class FaultRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`region`, `deployment` and `operation` null mean any, `times` null until deleted. `share`: of the calls that it
    concerns, how many it strikes, by chance.

    An operation is a method and a path as the table of operations has it, such as "POST responses/{id}/cancel".
    """

    fault: AnyEffect
    region: str | None = None
    deployment: str | None = None
    operation: str | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Fault:
    """One queued fault and how often it may still strike."""

    def __init__(self, fault_id: int, request: FaultRequest) -> None:
        self.id = fault_id
        self.request = request
        self.remaining = request.times
        self.applied = 0
        self.deleted = asyncio.Event()
        self._chance = random.Random(fault_id)  # the same calls at every run

    @property
    def effect(self) -> AnyEffect:
        return self.request.fault

    def concerns(self, region: str, deployment: str | None, operation: str, stream: bool) -> bool:
        request = self.request
        return (
            request.region in (None, region)
            and request.deployment in (None, deployment)
            and request.operation in (None, operation)
            and (stream or not request.fault.streams_only)
            and (request.share == 1 or self._chance.random() < request.share)
        )


class FaultState(msgspec.Struct, frozen=True):
    """What GET /faults tells of one fault."""

    id: int
    region: str | None
    deployment: str | None
    operation: str | None
    times: int | None
    share: float
    remaining: int | None
    applied: int
    fault: AnyEffect


class FaultQueue:
    """Faults in the order they came; one that has struck `times` times is gone from it."""

    def __init__(self) -> None:
        self._last_id = 0
        self._queue: list[Fault] = []
        self._holding: set[Fault] = set()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, request: FaultRequest) -> int:
        self._last_id += 1
        self._queue.append(Fault(self._last_id, request))
        return self._last_id

    def take(self, region: str, deployment: str | None, operation: str, stream: bool) -> Fault | None:
        """The first fault that concerns the call, counted as applied to it."""
        fault = next((fault for fault in self._queue if fault.concerns(region, deployment, operation, stream)), None)
        if fault is None:
            return None
        fault.applied += 1
        if fault.remaining is not None:
            fault.remaining -= 1
            if fault.remaining == 0:
                self._queue.remove(fault)
        return fault

    def give_back(self, fault: Fault) -> None:
        """The call was refused before the fault could strike: the next call has it."""
        fault.applied -= 1
        if fault.remaining is not None and not fault.deleted.is_set():
            fault.remaining += 1
            if fault not in self._queue:
                self._queue.insert(0, fault)

    async def hold(self, fault: Fault) -> None:
        """Returns when the fault is deleted, also one that is no longer queued because this was its last call."""
        self._holding.add(fault)
        try:
            await fault.deleted.wait()
        finally:
            self._holding.discard(fault)

    def states(self) -> list[FaultState]:
        return [
            FaultState(
                id=fault.id,
                region=fault.request.region,
                deployment=fault.request.deployment,
                operation=fault.request.operation,
                times=fault.request.times,
                share=fault.request.share,
                remaining=fault.remaining,
                applied=fault.applied,
                fault=fault.effect,
            )
            for fault in self._queue
        ]

    def delete(self, fault_id: int | None = None) -> int:
        """Deletes one fault, or all; returns how many there were, calls that hang on a used up one included."""
        doomed = {fault for fault in {*self._queue, *self._holding} if fault_id in (None, fault.id)}
        for fault in doomed:
            fault.deleted.set()
        self._queue = [fault for fault in self._queue if fault not in doomed]
        return len(doomed)
