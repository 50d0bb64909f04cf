"""Scripted faults: their kinds, and the queue from which a call takes the first one that matches it."""

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
    """`on_arrival`: strikes any request, even an invalid one; otherwise only calls answered with status 200.

    `streams_only`: strikes only calls that request a stream.
    """

    on_arrival: ClassVar[bool] = True
    streams_only: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class Status(Effect, frozen=True, tag="status"):
    """An answer with this status. A string `body` is sent as text, another as JSON; None: Azure's error."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: dict[str, str] = {}
    body: Any = None

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
                raise ValueError(f"{name!r} is not a valid HTTP header")
            if name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"{name!r} cannot be set; see the kinds wrong_length, reset and cut_stream")


class Delay(Effect, frozen=True, tag="delay"):
    seconds: Seconds


class Hang(Effect, frozen=True, tag="hang"):
    """No answer until the client disconnects. Deleting the fault lets the call continue."""


class Reset(Effect, frozen=True, tag="reset"):
    """Connection reset (TCP RST) before any answer."""


class NotJson(Effect, frozen=True, tag="not_json"):
    body: str = "<html><body>Bad gateway</body></html>"


class Endless(Effect, frozen=True, tag="endless"):
    """Status 200 and an endless body, up to about 60 MB per second."""


class EmptyStream(Effect, frozen=True, tag="empty_stream"):
    """A stream without events. `done` false also omits `data: [DONE]`."""

    streams_only: ClassVar[bool] = True

    done: bool = True


class WrongLength(Effect, frozen=True, tag="wrong_length"):
    """The normal answer with too large a content-length; then the connection is closed."""

    on_arrival: ClassVar[bool] = False


class StreamEffect(Effect, frozen=True):
    """Strikes before content chunk number `due`, or at the end of the content if that comes first."""

    on_arrival: ClassVar[bool] = False
    streams_only: ClassVar[bool] = True

    @property
    def due(self) -> int:
        return 0


class SlowFirstToken(StreamEffect, frozen=True, tag="slow_first_token"):
    """Headers and roles at once, then a delay before the first content."""

    seconds: Seconds


class LaterStreamEffect(StreamEffect, frozen=True):
    after_chunks: ChunkCount = 0

    @property
    def due(self) -> int:
        return self.after_chunks


class Stall(LaterStreamEffect, frozen=True, tag="stall", kw_only=True):
    seconds: Seconds


class ErrorInStream(LaterStreamEffect, frozen=True, tag="error_in_stream"):
    """An event `data: {"error": …}`, then the end of the body without [DONE]. Other content types are cut. `error`: its
    type in a stream of Anthropic's API."""

    error: str = "api_error"


class CutStream(LaterStreamEffect, frozen=True, tag="cut_stream"):
    """Connection closed in the middle. Data already sent arrives; the end of the body does not."""


class Rechunk(Effect, frozen=True, tag="rechunk"):
    """The whole stream in random pieces of 1 to `largest` bytes, the same for the same `seed`.

    `crlf`: lines end with CR LF. `comments`: some events are preceded by a comment.
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
    """A null `region`, `deployment` or `operation` matches any; without `times` the fault stays until deleted.

    `share`: probability that a matching call is struck. `operation`: method and route, such as
    "POST responses/{id}/cancel".
    """

    fault: AnyEffect
    region: str | None = None
    deployment: str | None = None
    operation: str | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Fault:
    """A queued fault and its remaining number of strikes."""

    def __init__(self, fault_id: int, request: FaultRequest) -> None:
        self.id = fault_id
        self.request = request
        self.remaining = request.times
        self.applied = 0
        self.deleted = asyncio.Event()
        self._chance = random.Random(fault_id)  # seeded: the same calls in every run

    @property
    def effect(self) -> AnyEffect:
        return self.request.fault

    def matches(self, region: str, deployment: str | None, operation: str, stream: bool) -> bool:
        request = self.request
        return (
            request.region in (None, region)
            and request.deployment in (None, deployment)
            and request.operation in (None, operation)
            and (stream or not request.fault.streams_only)
            and (request.share == 1 or self._chance.random() < request.share)
        )


class FaultState(msgspec.Struct, frozen=True):
    """A fault as `GET /faults` returns it."""

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
    """Faults in order of arrival. A fault leaves the queue after its last strike."""

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
        """The first fault that matches the call, counted as applied."""
        fault = next((fault for fault in self._queue if fault.matches(region, deployment, operation, stream)), None)
        if fault is None:
            return None
        fault.applied += 1
        if fault.remaining is not None:
            fault.remaining -= 1
            if fault.remaining == 0:
                self._queue.remove(fault)
        return fault

    def give_back(self, fault: Fault) -> None:
        """Return a fault whose call was rejected before the fault could strike."""
        fault.applied -= 1
        if fault.remaining is not None and not fault.deleted.is_set():
            fault.remaining += 1
            if fault not in self._queue:
                self._queue.insert(0, fault)

    async def hold(self, fault: Fault) -> None:
        """Wait until the fault is deleted, even if it has already left the queue."""
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
        """Delete one fault, or all. Returns their number, including used-up faults that still hold a call."""
        doomed = {fault for fault in {*self._queue, *self._holding} if fault_id in (None, fault.id)}
        for fault in doomed:
            fault.deleted.set()
        self._queue = [fault for fault in self._queue if fault not in doomed]
        return len(doomed)
