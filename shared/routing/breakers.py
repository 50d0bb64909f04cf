"""When a deployment is left alone: pure transitions of its health, and the health of all of them in this process."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from shared.routing._health import (
    FAULTS_TO_EJECT,
    HEALTHY,
    LONGEST_TOLD,
    PROBING,
    Health,
    after_abandoned,
    after_fault,
    after_oversized,
    after_refusal,
    after_success,
    after_throttle,
    while_probing,
)
from shared.routing._latency import Latency
from shared.routing.quota import QuotaReading, Sent, Throttle
from shared.routing.retry_budget import AdaptiveThrottle
from shared.types import Target

PROBE_GRANTED = 10.0  # seconds for a call to come along that may try a deployment whose ejection is over
PROBE_ASKED = 3.0  # seconds until the fleet is asked again for that

DeploymentKey = tuple[str, str]
"""A backend's name and a deployment: what has a health of its own."""


class DeploymentState:
    """What a process knows of one deployment. One per deployment, for the life of the process."""

    __slots__ = (
        "answered_at", "capacity", "configured", "health", "in_flight", "latency", "most_cool_down",
        "probe_asked_until", "probe_granted_until", "sent", "throttle", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.health = HEALTHY
        self.in_flight = 0  # tries under way, streams until they end
        self.waiting = 0  # those of them that have shown nothing yet
        self.answered_at = 0.0  # when it last showed something
        self.sent = Sent()
        self.capacity: QuotaReading | None = None
        self.configured: float | None = None  # tokens a minute, as configured, else the most that it has told
        self.latency = Latency()
        self.throttle: AdaptiveThrottle | None = None  # once it has said 429
        self.most_cool_down: Callable[[], float] | None = None  # of a provisioned one that others stand in for
        self.probe_granted_until = 0.0
        self.probe_asked_until = 0.0


class Fleet(Protocol):
    """What other instances are told, and asked, of a deployment. Nothing of it waits."""

    def look(self) -> None: ...
    def tripped(self, key: DeploymentKey, health: Health) -> None: ...
    def recovered(self, key: DeploymentKey) -> None: ...
    def ask_for_probe(self, key: DeploymentKey) -> None: ...


class Breakers:
    """What this process has seen of every target. `fleet` None: it runs alone."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self.clock = clock
        self.fleet: Fleet | None = None
        self.trips: Counter[str] = Counter()  # ejections by backend, since the start
        self.rng = rng
        self._watched: dict[DeploymentKey, DeploymentState] = {}

    def watched(self, target: Target) -> DeploymentState:
        key = (target.backend.name, target.deployment)
        try:
            return self._watched[key]
        except KeyError:
            return self._watched.setdefault(key, DeploymentState())

    def all(self) -> dict[DeploymentKey, DeploymentState]:
        return self._watched

    def health(self, target: Target) -> Health:
        return self.watched(target).health

    def usable(self, target: Target, now: float, tokens: float = 0.0) -> bool:
        """Whether a call of so many tokens may go there as a matter of course. Once an ejection is over, one call of
        the whole fleet is let through first."""
        watched = self.watched(target)
        health = watched.health
        if health is HEALTHY:
            return True
        if not health.usable_at(now, tokens):
            return False
        if not health.half_open or self.fleet is None or now < watched.probe_granted_until:
            return True
        if now >= watched.probe_asked_until:
            watched.probe_asked_until = now + PROBE_ASKED
            self.fleet.ask_for_probe((target.backend.name, target.deployment))
        return now < watched.probe_granted_until

    def begin(self, target: Target, seconds: float, tokens: float = 0.0) -> Sent:
        """A try starts that may take so long. What had been sent there, with it: for `learn`."""
        watched = self.watched(target)
        watched.in_flight += 1
        watched.waiting += 1
        if watched.health.half_open:
            watched.health = while_probing(watched.health, self.clock(), seconds)
            watched.probe_granted_until = 0.0
        watched.sent = Sent(watched.sent.tokens + tokens, watched.sent.calls + 1)
        return watched.sent

    def shown(self, target: Target, started: float, *, stream: bool) -> None:
        """A try has an answer, of which more may come."""
        watched, now = self.watched(target), self.clock()
        watched.waiting -= 1
        watched.answered_at = now
        watched.latency.note((now - started) * 1000, stream=stream)

    def failed(self, target: Target) -> None:
        """A try has none."""
        watched = self.watched(target)
        watched.waiting -= 1
        watched.in_flight -= 1

    def end(self, target: Target) -> None:
        """What has been answered has ended, a stream with its last byte."""
        self.watched(target).in_flight -= 1

    def silent(self, target: Target, started: float) -> bool:
        """Whether a target seems to hang, as seen by a try that began at `started` and takes much longer than usual: it
        has answered nobody since, and others wait as well, or it has failed just before."""
        watched = self.watched(target)
        if watched.answered_at > started:
            return False
        return watched.waiting >= FAULTS_TO_EJECT or watched.health.faults > 0

    def abandoned(self, target: Target) -> None:
        """A try was given up before its target had shown anything: its caller left, or another target was faster."""
        watched = self.watched(target)
        if watched.health.reason == PROBING:
            now = self.clock()
            watched.health = after_abandoned(watched.health, now)
            watched.probe_granted_until = now + PROBE_GRANTED

    def success(self, target: Target) -> None:
        watched = self.watched(target)
        health = watched.health
        if watched.throttle is not None:
            watched.throttle.accepted()
        if health.faults or health.ejected_until:
            watched.health = after_success(health)
            if self.fleet is not None and (health.half_open or health.ejected_until):
                self.fleet.recovered((target.backend.name, target.deployment))

    def learn(self, target: Target, told: QuotaReading) -> None:
        """What an answer told of the quota; one to a call that went out earlier than the last such one is old news."""
        watched = self.watched(target)
        known = watched.capacity
        if known is None or told.mark.calls >= known.mark.calls:
            watched.capacity = told
        limit = told.limit_tokens
        if limit is not None and (watched.configured is None or limit > watched.configured):
            watched.configured = limit

    def throttle(
        self, target: Target, retry_after: float | None, kind: Throttle = "quota", tokens: float = 0.0
    ) -> None:
        """A 429. It concerns this process alone: telling the others was measured, and costs half of the goodput."""
        watched, now = self.watched(target), self.clock()
        if watched.throttle is None:
            watched.throttle = AdaptiveThrottle(self.clock)
        if kind == "oversized":
            health = after_oversized(watched.health, now, retry_after, tokens)
        else:
            most = LONGEST_TOLD if watched.most_cool_down is None else watched.most_cool_down()
            health = after_throttle(watched.health, now, retry_after, self.rng.random(), most)
        watched.health = msgspec.structs.replace(health, reason=f"429: {kind}")

    def held_back(self, target: Target) -> bool:
        """Whether a call is not to be sent to a deployment that asked for more time than it is given."""
        throttle = self.watched(target).throttle
        return throttle is not None and throttle.refuses(self.rng.random())

    def fault(self, target: Target, reason: str) -> None:
        watched = self.watched(target)
        health = after_fault(watched.health, self.clock(), reason, self.rng.uniform(-1, 1))
        ejected = health.ejections > watched.health.ejections
        watched.health = health
        if ejected:
            self._tripped(target, health)

    def refusal(self, target: Target, reason: str) -> None:
        watched = self.watched(target)
        watched.health = after_refusal(watched.health, self.clock(), reason)
        self._tripped(target, watched.health)

    def _tripped(self, target: Target, health: Health) -> None:
        self.trips[target.backend.name] += 1
        if self.fleet is not None:
            self.fleet.tripped((target.backend.name, target.deployment), health)

    def adopt(self, key: DeploymentKey, health: Health) -> None:
        """What another instance has found out."""
        self._watched.setdefault(key, DeploymentState()).health = health

    def grant_probe(self, key: DeploymentKey) -> None:
        """The fleet leaves the trying of a deployment to this process."""
        self._watched[key].probe_granted_until = self.clock() + PROBE_GRANTED

    def refuses(self, target: Target, tokens: float, now: float) -> bool:
        """Whether its quota, as it was told last, would not take a call of so many tokens; or, where Azure has lowered
        that quota for now, a part of the calls, so that its share of them shrinks with it."""
        watched = self.watched(target)
        told = watched.capacity
        if told is None:
            return False
        if told.refuses(tokens, watched.sent, now):
            return True
        if told.limit_tokens is None or watched.configured is None or told.limit_tokens >= watched.configured:
            return False
        return self.rng.random() > told.limit_tokens / watched.configured
