"""The request log: every request and the tokens that Azure would bill, so that tests can check a gateway's accounts.

An answer with status 200 is billed for its generated text. A stream is billed for the events sent: the prompt when it
begins, reasoning with the first content, then chunk by chunk. A fault without generated text costs nothing. A prompt
rejected by the content filter is billed although the status is 400. Background work is billed when it is done, to the
request that started it.
"""

from collections import defaultdict, deque

import msgspec

from .answers import Charge

CAPACITY = 100_000


class LogEntry(Charge, gc=False, kw_only=True):
    """One request. `status` is null if no answer was started; `completed`: the whole answer was written.

    `problem`: an unexpected error of the operation. `logged`: the entry is in the log's totals, so later charges must
    be added to them.
    """

    time: float
    region: str
    method: str
    path: str
    query: str = ""
    deployment: str | None = None
    operation: str | None = None
    surface: str | None = None
    api_version: str | None = None
    status: int | None = None
    stream: bool = False
    client_request_id: str | None = None
    chunks_sent: int = 0
    completed: bool = False
    headers: tuple[str, ...] = ()
    body_bytes: int = 0
    fault: str | None = None
    problem: str | None = None
    logged: bool = False
    retry_after: float | None = None  # seconds, from a 429 or a scripted status
    spilled_to: str | None = None
    utilisation: float | None = None  # per cent, of a provisioned deployment after it admitted or rejected the call


class Totals(Charge, kw_only=True):
    """Exact sums since the start or the last reset, including requests no longer in the log."""

    requests: int = 0
    completed: int = 0
    by_status: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, entry: LogEntry) -> None:
        self.requests += 1
        self.completed += entry.completed
        self.charge(entry)
        status = "none" if entry.status is None else str(entry.status)
        self.by_status[status] = self.by_status.get(status, 0) + 1


class Received(msgspec.Struct, frozen=True):
    """Headers and body of a request, as received."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def redacted_headers(self) -> list[tuple[str, str]]:
        return [(name.decode("latin-1"), _redacted(name, value)) for name, value in self.headers]


class RequestLog:
    def __init__(self, regions: list[str]) -> None:
        self._regions = regions
        self.reset()

    def reset(self) -> None:
        self.entries: deque[LogEntry] = deque(maxlen=CAPACITY)
        self.totals: dict[str, Totals] = defaultdict(Totals, {region: Totals() for region in self._regions})
        self._last: dict[str, Received] = {}
        self._last_region: str | None = None

    def received(self, region: str, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
        self._last[region] = Received(headers, body)
        self._last_region = region

    def add(self, entry: LogEntry) -> None:
        self.entries.append(entry)
        self.totals[entry.region].add(entry)
        entry.logged = True

    def charge_late(self, entry: LogEntry, charge: Charge) -> None:
        """Charge background work to the request that started it."""
        entry.charge(charge)
        if entry.logged:
            self.totals[entry.region].charge(charge)

    def last_received(self, region: str | None) -> Received | None:
        """The latest request of one region, or of all regions."""
        name = region or self._last_region
        return self._last.get(name) if name is not None else None


def _redacted(name: bytes, value: bytes) -> str:
    """The value, with credentials reduced to their scheme."""
    if name.lower() == b"authorization":
        return value.partition(b" ")[0].decode("latin-1")
    if name.lower() in (b"api-key", b"x-api-key"):
        return "redacted"
    return value.decode("latin-1")
