"""Take a backend out of service for a time, and back."""

import re
from functools import partial

import msgspec

from shared.config.document import Backend, Configuration
from shared.errors import InvalidRequest, ResourceNotFound, StillNeeded
from shared.management.audit import Audit, Change
from shared.management.routes import ManagementRequest
from shared.routing.drains import PARTITION, Drain, drain_of
from shared.routing.report import shown_drain
from shared.storage import Store, names
from shared.storage.conditional import TRIES, contended, pause

LONGEST = 30 * 86_400  # seconds
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ISO = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


def seconds(text: object) -> int:
    """A duration such as `30s`, `15m`, `2h`, `1d` or, by ISO 8601, `PT2H30M`. Raises `InvalidRequest`."""
    total = 0
    if isinstance(text, str) and len(text) <= 32 and text.isascii():
        if text[-1:] in _UNITS and text[:-1].isdecimal():
            total = int(text[:-1]) * _UNITS[text[-1]]
        elif match := _ISO.fullmatch(text):
            sizes = (86_400, 3600, 60, 1)
            total = sum(int(number or 0) * size for number, size in zip(match.groups(), sizes, strict=True))
    if not 0 < total <= LONGEST:
        expected = f"a duration such as 30s, 15m, 2h, 1d or PT2H30M, at most {LONGEST // 86_400} days"
        raise InvalidRequest.of("for", expected, text)
    return total


def left_without(name: str, configuration: Configuration, drained: frozenset[str]) -> list[str]:
    """The models that no backend serves any more if this one is drained, too."""
    out = drained | {name}
    served = {model for backend in configuration.backends if backend.name not in out for model in backend.models}
    return [model for model in backend_named(name, configuration).models if model not in served]


def backend_named(name: str, configuration: Configuration) -> Backend:
    """Raises `ResourceNotFound`."""
    for backend in configuration.backends:
        if backend.name == name:
            return backend
    known = ", ".join(backend.name for backend in configuration.backends)
    raise ResourceNotFound(f"There is no backend {name[:64]!r}; the configuration has: {known}.")


class DrainTable:
    """The drains as operators change them. Every change is conditional and on record."""

    def __init__(self, store: Store, configuration: Configuration, audit: Audit) -> None:
        self._store = store
        self._table = store.table(names.CONTROL)
        self._configuration = configuration
        self._audit = audit

    async def drain(self, request: ManagementRequest, name: str, lasts: int, reason: str, *, force: bool) -> Drain:
        """Take a backend out for so many seconds. Raises `ResourceNotFound`, `StoreUnavailable`, and `StillNeeded` if
        a model then has no backend, unless `force`."""
        drained = frozenset([other for other in await self.current() if other != name])
        models = left_without(name, self._configuration, drained)
        if models and not force:
            more = f" and {len(models) - 5} more" if len(models) > 5 else ""
            raise StillNeeded(
                f"No other backend in service has {', '.join(models[:5])}{more}: calls to them would fail. With "
                f"force=true (--force) {name!r} is drained nevertheless."
            )
        now = self._store.now()
        return await self._write(request, name, Drain(now + lasts, reason, request.actor.name, now), "backend.drain")

    async def restore(self, request: ManagementRequest, name: str) -> None:
        """Put a backend back into service. Raises `ResourceNotFound` and `StoreUnavailable`."""
        backend_named(name, self._configuration)
        await self._write(request, name, Drain(0.0, "", request.actor.name, self._store.now()), "backend.restore")

    async def current(self) -> dict[str, Drain]:
        """The drains in force, by backend. Raises `StoreUnavailable`."""
        now = self._store.now()
        drains = {row.key: drain_of(row) async for row in self._table.scan(PARTITION)}
        return {name: drain for name, drain in drains.items() if drain.until > now}

    async def _write(self, request: ManagementRequest, name: str, drain: Drain, action: str) -> Drain:
        for attempt in range(TRIES):
            row = await self._table.get(PARTITION, name)
            before = drain_of(row) if row is not None else None
            now, etag = self._store.now(), row.etag if row is not None else None
            change = Change(request, action, name, shown_drain(before, now), shown_drain(drain, now))
            write = partial(self._table.put, PARTITION, name, msgspec.structs.asdict(drain), etag)
            if await self._audit.perform(change, write) is not None:
                return drain
            await pause(attempt)
        raise contended(f"The backend {name!r}")
