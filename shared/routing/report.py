"""What `GET /gateway/backends` tells: every deployment as this instance sees it, and what the instances share."""

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
            backends.append(about | {"deployments": deployments})
        return {"instance": self._instance, "health_table": "unreachable" if shared is None else "ok"} | {
            "backends": backends
        }

    def _deployment(self, key: DeploymentKey, shared: dict[DeploymentKey, Shared] | None) -> dict[str, Any]:
        watched = self._breakers.all().get(key) or DeploymentState()
        told = shared.get(key) if shared is not None else None
        return self._seen(watched) | {"shared": _told(told) if told is not None else None}

    def _seen(self, watched: DeploymentState) -> dict[str, Any]:
        now, health = self._breakers.clock(), watched.health
        ejected, cooling = max(health.ejected_until - now, 0.0), max(health.cooling_until - now, 0.0)
        state = "ejected" if ejected else "cooling" if cooling else "half_open" if health.half_open else "usable"
        return {
            "state": state,
            "reason": health.reason,
            "ejected_for": round(ejected, 1),
            "ejections": health.ejections,
            "faults_in_a_row": health.faults,
            "cooling_for": round(cooling, 1),
            "in_flight": watched.in_flight,
            "remaining": _remaining(watched, now),
            "first_byte_ms": watched.latency.summary(),
        }


def _remaining(watched: DeploymentState, now: float) -> dict[str, Any] | None:
    """What is left of its quota by its last answer, less what was sent since; None where nothing current is known."""
    told = watched.capacity
    if told is None:
        return None
    since_tokens, since_calls = watched.sent.tokens - told.mark.tokens, watched.sent.calls - told.mark.calls
    return {
        "tokens": None if told.tokens is None or now >= told.tokens_until else max(told.tokens - since_tokens, 0),
        "requests": None
        if told.requests is None or now >= told.requests_until
        else max(told.requests - since_calls, 0),
        "limit_tokens": told.limit_tokens,
        "configured_tokens": watched.configured,
        "full": now < told.full_until,
    }


def _told(told: Shared) -> dict[str, Any]:
    return {
        "ejected_until": _when(told.eject_until),
        "ejections": told.ejections,
        "probe_until": _when(told.probe_until),
        "reason": told.reason,
        "by": told.by,
        "at": _when(told.at),
    }


def _when(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
