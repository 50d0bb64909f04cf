"""The state of one deployment as this process sees it: its health, its quota, and its calls under way."""

import math
from collections.abc import Callable

from shared.routing._health import HEALTHY
from shared.routing._latency import Latency
from shared.routing.quota import QuotaReading, Sent
from shared.routing.retry_budget import AdaptiveThrottle
from shared.types import TIERS, Target

DeploymentKey = tuple[str, str]
"""A backend's name and a deployment, which have one health; `DEPLOYMENT:TIER` for a tier with its own quota."""


def deployment_key(target: Target) -> DeploymentKey:
    """The key of a target's state."""
    return target.backend.name, f"{target.deployment}:{target.tier}" if target.tier else target.deployment


def parted(deployment: str) -> tuple[str, str]:
    """The deployment and the tier, or "", in the second part of a key. A name may have colons, as `ft:gpt-4.1:me::1`,
    but none ends with the name of a tier behind one."""
    name, _, tier = deployment.rpartition(":")
    return (name, tier) if tier in TIERS and name else (deployment, "")


class DeploymentState:
    """The state of one deployment. One per deployment, for the life of the process."""

    __slots__ = (
        "configured", "given", "health", "heard_at", "in_flight", "latency", "longest_cool_down", "movable",
        "probe_asked_until", "probe_granted_until", "quota", "sent", "sharing", "tested_at", "throttle",
    )  # fmt: skip

    def __init__(self) -> None:
        self.health = HEALTHY
        self.in_flight = 0  # tries under way, streams until they end
        self.movable: set[Callable[[], None]] = set()  # each moves a try without an answer to another deployment
        self.heard_at = -math.inf  # the time of the last byte on any of its calls
        self.tested_at = -math.inf  # the time of the last test for a hang
        self.sent = Sent()
        self.quota: QuotaReading | None = None
        self.configured: float | None = None  # tokens per minute, as configured, else the most that it has reported
        self.given: float | None = None  # of these, as configured
        self.latency = Latency()
        self.throttle: AdaptiveThrottle | None = None  # since its first 429
        self.longest_cool_down: Callable[[], float] | None = None
        self.sharing: tuple[DeploymentState, ...] = ()  # those that have one quota with it
        self.probe_granted_until = 0.0
        self.probe_asked_until = 0.0
