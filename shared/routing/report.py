"""The report of `GET /gateway/backends`: every deployment as this instance sees it, and as the instances share it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared.config.document import Backend, Configuration
from shared.errors import StoreUnavailable
from shared.routing.breakers import Breakers
from shared.routing.deployments import DeploymentKey, DeploymentState, parted
from shared.routing.drains import Drain, Drains
from shared.routing.fleet_health import Shared, SharedHealth


class BackendsReport(NamedTuple):
    """`instance` names this process among those that answer behind one address; `now` is the store's clock.
    `simulated`: operators may break the regions."""

    configuration: Configuration
    breakers: Breakers
    health: SharedHealth
    drains: Drains
    now: Callable[[], float]
    instance: str
    simulated: bool = False

    async def report(self) -> dict[str, Any]:
        shared: dict[DeploymentKey, Shared] | None
        drains: dict[str, Drain] = {}
        try:
            shared = await self.health.rows()
            drains = await self.drains.read()
        except StoreUnavailable:
            shared = None
        table = "unreachable" if shared is None else "ok"
        backends = [
            self._backend(backend, shared or {}) | {"drained": shown_drain(drains.get(backend.name), self.now())}
            for backend in self.configuration.backends
        ]
        about = {"instance": self.instance, "health_table": table, "simulated": self.simulated}
        return {**about, "backends": backends}

    def _backend(self, backend: Backend, shared: Mapping[DeploymentKey, Shared]) -> dict[str, Any]:
        models: dict[str, list[str]] = {}
        for model, deployment in backend.deployments.items():
            models.setdefault(deployment, []).append(model)
        columns = ("name", "region", "data_zone", "kind", "priority", "weight")
        about: dict[str, Any] = {name: getattr(backend, name) for name in columns}
        about |= {"throttles": self.breakers.throttles[backend.name], "ejections": self.breakers.trips[backend.name]}
        about["deployments"] = [
            {"deployment": name, "type": backend.type_of(served[0]), "models": served}
            | self._deployment((backend.name, name), shared)
            for name, served in models.items()
        ] + [
            {"deployment": name, "type": backend.type_of(models[name][0]), "tier": tier, "models": models[name]}
            | self._deployment((of, key), shared)
            for of, key in sorted({*self.breakers.all(), *shared})
            for name, tier in [parted(key)]
            if of == backend.name and tier and name in models
        ]
        return about

    def _deployment(self, key: DeploymentKey, shared: Mapping[DeploymentKey, Shared]) -> dict[str, Any]:
        state, row = self.breakers.all().get(key) or DeploymentState(), shared.get(key)
        now, health = self.breakers.clock(), state.health
        ejected, cooling = max(health.ejected_until - now, 0.0), max(health.cooling_until - now, 0.0)
        return {
            "state": "ejected" if ejected else "cooling" if cooling else "half_open" if health.half_open else "usable",
            "reason": health.reason,
            "ejected_for": round(ejected, 1),
            "ejections": health.ejections,
            "faults_in_a_row": health.faults,
            "cooling_for": round(cooling, 1),
            "in_flight": state.in_flight,
            "remaining": _remaining(state, now),
            "first_byte_ms": state.latency.summary(),
            "shared": _shared(row) if row is not None else None,
        }


def _remaining(state: DeploymentState, now: float) -> dict[str, Any] | None:
    """The rest of its quota by its last answer, less what was sent since; None if it has reported none."""
    reading = state.quota
    if reading is None:
        return None
    left = {"tokens": reading.tokens_left(state.sent, now), "requests": reading.requests_left(state.sent, now)}
    return {name: None if amount is None else max(amount, 0) for name, amount in left.items()} | {
        "limit_tokens": reading.limit_tokens,
        "configured_tokens": state.configured,
        "full": now < reading.full_until,
    }


def shown_drain(drain: Drain | None, now: float) -> dict[str, Any] | None:
    """A drain in the report; None if it is not in force."""
    if drain is None or drain.until <= now:
        return None
    return {"until": _when(drain.until), "since": _when(drain.at), "reason": drain.reason, "by": drain.by}


def _shared(row: Shared) -> dict[str, Any]:
    until = {"ejected_until": _when(row.eject_until), "ejections": row.ejections, "probe_until": _when(row.probe_until)}
    return until | {"reason": row.reason, "by": row.by, "at": _when(row.at)}


def _when(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
