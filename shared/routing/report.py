"""The report of `GET /gateway/backends`: every deployment as this instance sees it, and as the instances share it."""

from datetime import UTC, datetime
from typing import Any

from shared.config.document import Configuration
from shared.errors import StoreUnavailable
from shared.routing.breakers import Breakers, DeploymentKey, DeploymentState
from shared.routing.fleet_health import Shared, SharedHealth


class BackendsReport:
    """`instance` names this process among those that answer behind one address."""

    def __init__(self, configuration: Configuration, breakers: Breakers, health: SharedHealth, instance: str) -> None:
        self._configuration = configuration
        self._breakers = breakers
        self._health = health
        self._instance = instance

    async def report(self) -> dict[str, Any]:
        shared: dict[DeploymentKey, Shared] | None
        try:
            shared = await self._health.rows()
        except StoreUnavailable:
            shared = None
        backends = []
        for backend in self._configuration.backends:
            models: dict[str, list[str]] = {}
            for model, deployment in backend.models.items():
                models.setdefault(deployment, []).append(model)
            about: dict[str, Any] = {
                name: getattr(backend, name) for name in ("name", "region", "data_zone", "kind", "priority", "weight")
            }
            deployments = [
                {"deployment": name, "models": served} | self._deployment((backend.name, name), shared)
                for name, served in models.items()
            ]
            deployments += [
                {"deployment": name, "tier": tier, "models": models[name]} | self._deployment((of, key), shared)
                for of, key in self._breakers.all()
                for name, _, tier in [key.partition(":")]
                if of == backend.name and tier and name in models
            ]
            backends.append(about | {"deployments": deployments})
        return {"instance": self._instance, "health_table": "unreachable" if shared is None else "ok"} | {
            "backends": backends
        }

    def _deployment(self, key: DeploymentKey, shared: dict[DeploymentKey, Shared] | None) -> dict[str, Any]:
        state = self._breakers.all().get(key) or DeploymentState()
        row = shared.get(key) if shared is not None else None
        now, health = self._breakers.clock(), state.health
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
    tokens, requests = reading.tokens_left(state.sent, now), reading.requests_left(state.sent, now)
    return {
        "tokens": None if tokens is None else max(tokens, 0),
        "requests": None if requests is None else max(requests, 0),
        "limit_tokens": reading.limit_tokens,
        "configured_tokens": state.configured,
        "full": now < reading.full_until,
    }


def _shared(row: Shared) -> dict[str, Any]:
    return {
        "ejected_until": _when(row.eject_until),
        "ejections": row.ejections,
        "probe_until": _when(row.probe_until),
        "reason": row.reason,
        "by": row.by,
        "at": _when(row.at),
    }


def _when(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
