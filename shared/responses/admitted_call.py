"""A call that its limits allow, with all that its answer depends on."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from shared.affinity.pending import PendingWork
from shared.azure_openai.batch_lines import BatchSize
from shared.forwarding import forwarded_call
from shared.requests.arrival import ReceivedRequest
from shared.requests.disconnect import CallerConnection
from shared.requests.upload import Upload
from shared.types import Attempt, Binding, Call, Consumer, Outcome, Plan, Reference, Target


class Record(forwarded_call.Record, Protocol):
    """A call on record (`accounting.CallRecord`). `close` it exactly once."""

    def close(self, outcome: Outcome, text: str = "") -> asyncio.Future[None]: ...
    def shadow(self) -> Callable[[Attempt], None]: ...
    def begin_work(
        self, target: Target, status: int, reference: Reference, parent: str, named: str, batch: BatchSize | None
    ) -> PendingWork: ...


class AdmittedCall(NamedTuple):
    """A call that its limits allow. `heartbeat`: seconds of silence after which a stream gets a comment; 0: never."""

    received: ReceivedRequest
    consumer: Consumer
    call: Call
    plan: Plan
    binding: Binding
    upload: Upload | None
    connection: CallerConnection
    record: Record
    heartbeat: float

    @property
    def kept_alive(self) -> bool:
        """True if comments keep the caller's connection while the backends are silent."""
        call = self.call
        return bool(self.heartbeat) and (call.stream or (self.upload is not None and call.operation.streams))

    @property
    def wants_stream(self) -> bool:
        """True if comments may go out. An upload asks for a stream in one of its fields; a caller that is still sending
        keeps the connection alive itself."""
        upload = self.upload
        return self.call.stream if upload is None else upload.complete and upload.asks_for_stream


def heartbeat_of(headers: Mapping[str, str], seconds: float) -> float:
    """The configured heartbeat, unless the caller turns it off in a header."""
    return 0.0 if headers.get("x-gateway-heartbeat", "").lower() == "off" else seconds
