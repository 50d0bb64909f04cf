"""The state of one deployment as this process sees it: its health, its quota, and its calls under way."""

import math
from collections.abc import Callable

import msgspec

from shared.routing._health import HEALTHY, Health
from shared.routing._latency import Latency
from shared.routing.quota import QuotaReading, Sent
from shared.routing.retry_budget import AdaptiveThrottle
from shared.types import TIERS, Target

DeploymentKey = tuple[str, str]
"""A backend's name and a deployment, which have one health; `DEPLOYMENT:TIER` for a tier with its own quota."""


def deployment_key(target: Target) -> DeploymentKey:
    return target.backend.name, f"{target.deployment}:{target.tier}" if target.tier else target.deployment


def parted(deployment: str) -> tuple[str, str]:
    """The deployment and the tier, or "", in the second part of a key. A name may have colons, as `ft:gpt-4.1:me::1`,
    but none ends with the name of a tier behind one."""
    name, _, tier = deployment.rpartition(":")
    return (name, tier) if tier in TIERS and name else (deployment, "")


class DeploymentState(msgspec.Struct, eq=False):
    """The state of one deployment. One per deployment, for the life of the process."""

    health: Health = HEALTHY
    in_flight: int = 0  # tries under way, streams until they end
    movable: set[Callable[[], None]] = set()  # each moves a try without an answer to another deployment
    last_byte_at: float = -math.inf  # the time of the last byte on any of its calls
    tested_at: float = -math.inf  # the time of the last test for a hang
    sent: Sent = Sent()
    quota: QuotaReading | None = None
    configured: float | None = None  # tokens per minute, as configured, else the most that it has reported
    configured_quota: float | None = None  # of these, as configured
    latency: Latency = msgspec.field(default_factory=Latency)
    throttle: AdaptiveThrottle | None = None  # since its first 429
    longest_cool_down: Callable[[], float] | None = None
    sharing: tuple["DeploymentState", ...] = ()  # those that have one quota with it
    probe_granted_until: float = 0.0
    probe_asked_until: float = 0.0
