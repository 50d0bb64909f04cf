"""Keeps the state of every deployment by what its calls report, and decides which deployments are left out."""

import random
from collections import Counter
from collections.abc import Callable, Container, Sequence
from typing import Protocol

import msgspec

from shared.routing import _health, silence
from shared.routing._health import FAULTS_TO_EJECT, HEALTHY, LONGEST_RETRY_AFTER, PROBING, Health
from shared.routing.deployments import DeploymentKey, DeploymentState, deployment_key, parted
from shared.routing.quota import QuotaReading, Sent, Throttle
from shared.routing.retry_budget import AdaptiveThrottle
from shared.routing.silence import Look
from shared.types import Target

PROBE_GRANTED = 10.0  # seconds for a call to come along that may try a deployment whose ejection is over
PROBE_ASKED = 3.0  # seconds until the fleet is asked again for that


class Fleet(Protocol):
    """The other instances. Each method returns at once, and works in the background."""

    def look(self, breakers: "Breakers") -> None:
        """Adopt what the others have found out, if the last look was long ago."""

    def tripped(self, key: DeploymentKey, health: Health, seconds: float) -> None:
        """Report an ejection that lasts so many seconds."""

    def recovered(self, key: DeploymentKey) -> None:
        """Report the end of an ejection."""

    def ask_for_probe(self, key: DeploymentKey, granted: Callable[[], None]) -> None:
        """Call `granted` if this instance is the one that may try a deployment again."""


class Breakers:
    """One per process. `clock` is monotonic; `fleet` None: it runs alone."""

    def __init__(self, clock: Callable[[], float], rng: random.Random, fleet: Fleet | None = None) -> None:
        self.clock = clock
        self.rng = rng
        self.trips: Counter[str] = Counter()  # ejections by backend, since the start
        self.throttles: Counter[str] = Counter()  # answers of 429, likewise
        self._fleet = fleet
        self._watched: dict[DeploymentKey, DeploymentState] = {}

    def watched(self, target: Target) -> DeploymentState:
        """The state of a target's deployment, to be read only."""
        key = deployment_key(target)
        try:
            return self._watched[key]
        except KeyError:
            return self._watched.setdefault(key, DeploymentState())

    def all(self) -> dict[DeploymentKey, DeploymentState]:
        return self._watched

    def ejected(self) -> dict[DeploymentKey, str]:
        """The deployments that get no call or only a probe, with the reason; "": it is being tried."""
        now = self.clock()
        return {
            key: "" if (health := state.health).reason == PROBING else health.reason
            for key, state in self._watched.items()
            if state.health.half_open or now < state.health.ejected_until
        }

    def health(self, target: Target) -> Health:
        return self.watched(target).health

    def configure(
        self, target: Target, tokens_per_minute: float | None, longest_cool_down: Callable[[], float] | None
    ) -> None:
        """Set the deployment's configured quota (None: unknown), and the bound of its cool-downs in seconds (None: as
        long as it says)."""
        state = self.watched(target)
        state.longest_cool_down = longest_cool_down
        if tokens_per_minute != state.configured_quota:
            state.configured = state.configured_quota = tokens_per_minute

    def share(self, targets: Sequence[Target]) -> None:
        """Let deployments have one quota: what is sent to one and what one reports counts for all of them."""
        states = [self.watched(target) for target in targets]
        sent = max((state.sent for state in states), default=Sent())
        for state in states:
            state.sent = sent
            state.sharing = tuple(other for other in states if other is not state)

    def keep_only(self, kept: Container[DeploymentKey]) -> None:
        """Forget all deployments except these, which a new configuration has left as they were. Calls under way are
        still counted. `kept` has no tiers."""
        for key, state in list(self._watched.items()):
            backend, deployment = key
            if (backend, parted(deployment)[0]) in kept:
                continue
            if self._fleet is not None and state.health.ejected_until > self.clock():
                self._fleet.recovered(key)
            del self._watched[key]
            if state.in_flight:
                fresh = self._watched[key] = DeploymentState()
                fresh.in_flight, fresh.movable = state.in_flight, state.movable

    def look(self) -> None:
        """A call comes in: adopt what other instances have found out, if the last look was long ago."""
        if self._fleet is not None:
            self._fleet.look(self)

    def usable(self, target: Target, now: float, tokens: float = 0.0) -> bool:
        """True if a call of so many tokens may go there like any other. Once an ejection is over, one call of the whole
        fleet is let through first."""
        state = self.watched(target)
        health = state.health
        if health is HEALTHY:
            return True
        if not health.usable_at(now, tokens):
            return False
        if not health.half_open or self._fleet is None or now < state.probe_granted_until:
            return True
        if now >= state.probe_asked_until:
            state.probe_asked_until = now + PROBE_ASKED
            key = deployment_key(target)
            self._fleet.ask_for_probe(key, lambda: self._grant_probe(key))
        return now < state.probe_granted_until

    def begin(
        self, target: Target, seconds: float, tokens: float = 0.0, move: Callable[[], None] | None = None
    ) -> Sent:
        """A try starts that may take so long. Return all that has been sent there, this try included, for `learn`.
        `move` ends the try if the deployment hangs."""
        state = self.watched(target)
        state.in_flight += 1
        if move is not None:
            state.movable.add(move)
        if state.health.half_open:
            state.health = _health.while_probing(state.health, self.clock(), seconds)
            state.probe_granted_until = 0.0
        state.sent = Sent(state.sent.tokens + tokens, state.sent.calls + 1)
        for other in state.sharing:
            other.sent = state.sent
        return state.sent

    def answered(
        self,
        target: Target,
        started: float,
        *,
        stream: bool,
        tokens: float = 0.0,
        move: Callable[[], None] | None = None,
    ) -> None:
        """A try of so many tokens has an answer, of which more may come."""
        state, now = self.watched(target), self.clock()
        state.last_byte_at = now
        state.latency.note((now - started) * 1000, stream=stream, tokens=tokens)
        if move is not None:
            state.movable.discard(move)

    def failed(self, target: Target, move: Callable[[], None] | None = None) -> None:
        """A try has ended without an answer."""
        state = self.watched(target)
        state.in_flight -= 1
        if move is not None:
            state.movable.discard(move)

    def chunk_arrived(self, state: DeploymentState) -> None:
        """A byte has come on one of a deployment's calls."""
        state.last_byte_at = self.clock()

    def end(self, target: Target) -> None:
        """An answer has ended, a stream with its last byte."""
        self.watched(target).in_flight -= 1

    def suspicion(self, target: Target, started: float, patience: float) -> Look:
        """Judge a deployment by a try that has waited since `started`."""
        state, now = self.watched(target), self.clock()
        probing = state.health.reason == PROBING
        return silence.look(self._silent_for(state, started), patience, now - state.tested_at, probing=probing)

    def tested(self, target: Target) -> None:
        """One of its calls has been sent elsewhere as well."""
        self.watched(target).tested_at = self.clock()

    def silent(self, target: Target, started: float, patience: float) -> bool:
        """True if no byte has come for so long on any call, as seen by a try that began at `started`."""
        return self._silent_for(self.watched(target), started) >= patience

    def quiet(self, target: Target) -> bool:
        """True if its calls wait without a byte, so that it is no place for a test."""
        state = self.watched(target)
        return bool(state.movable) and self.clock() - state.last_byte_at >= silence.SHORTEST

    def hung(self, target: Target) -> None:
        """Eject a deployment that answers nobody, and move the tries that wait there."""
        state = self.watched(target)
        state.health = msgspec.structs.replace(state.health, faults=max(state.health.faults, FAULTS_TO_EJECT - 1))
        self.fault(target, "silent while others answer")
        for move in list(state.movable):
            move()

    def _silent_for(self, state: DeploymentState, started: float) -> float:
        return self.clock() - max(started, state.last_byte_at)

    def abandoned(self, target: Target) -> None:
        """A try was given up before its target answered: its caller left, or another target was faster."""
        state = self.watched(target)
        if state.health.reason == PROBING:
            now = self.clock()
            state.health = _health.after_abandoned(state.health, now)
            state.probe_granted_until = now + PROBE_GRANTED

    def success(self, target: Target) -> None:
        state = self.watched(target)
        health = state.health
        if state.throttle is not None:
            state.throttle.accepted()
        if health.faults or health.ejected_until:
            state.health = _health.after_success(health)
            if self._fleet is not None and (health.half_open or health.ejected_until):
                self._fleet.recovered(deployment_key(target))

    def learn(self, target: Target, reading: QuotaReading) -> None:
        """Keep the quota that an answer reported, unless its call went out before that of the last such answer."""
        state = self.watched(target)
        if state.quota is None or reading.mark.calls >= state.quota.mark.calls:
            state.quota = reading
        limit = reading.limit_tokens
        if limit is not None and (state.configured is None or limit > state.configured):
            state.configured = limit
        for other in state.sharing:
            other.quota, other.configured = state.quota, state.configured

    def throttle(
        self, target: Target, retry_after: float | None, kind: Throttle = "quota", tokens: float = 0.0
    ) -> None:
        """A 429. It concerns this process alone: sharing it was measured, and costs half of the goodput."""
        state, now = self.watched(target), self.clock()
        self.throttles[target.backend.name] += 1
        if state.throttle is None:
            state.throttle = AdaptiveThrottle(self.clock)
        if kind == "oversized":
            health = _health.after_oversized(state.health, now, retry_after, tokens)
        else:
            longest = LONGEST_RETRY_AFTER if state.longest_cool_down is None else state.longest_cool_down()
            health = _health.after_throttle(state.health, now, retry_after, self.rng.random(), longest)
        recovered = state.health.ejected_until > health.ejected_until
        state.health = msgspec.structs.replace(health, reason=f"429: {kind}")
        for other in state.sharing:
            other.health = _health.with_cool_down(other.health, state.health)
        if recovered and self._fleet is not None:
            self._fleet.recovered(deployment_key(target))

    def held_back(self, target: Target) -> bool:
        """True if this call is not to be sent to a deployment that asked for more time than it is given."""
        throttle = self.watched(target).throttle
        return throttle is not None and throttle.rejects(self.rng.random())

    def fault(self, target: Target, reason: str) -> None:
        """A 5xx, a broken connection, a timeout."""
        state = self.watched(target)
        health = _health.after_fault(state.health, self.clock(), reason, self.rng.uniform(-1, 1))
        ejected = health.ejections > state.health.ejections
        state.health = health
        if ejected:
            self._tripped(target, health)

    def refusal(self, target: Target, reason: str) -> None:
        """A 401, 403 or 404 that concerns the gateway's own access."""
        state = self.watched(target)
        state.health = _health.after_refusal(state.health, self.clock(), reason)
        self._tripped(target, state.health)

    def _tripped(self, target: Target, health: Health) -> None:
        self.trips[target.backend.name] += 1
        if self._fleet is not None:
            key = deployment_key(target)
            self._fleet.tripped(key, health, health.ejected_until - self.clock())

    def adopt(self, key: DeploymentKey, health: Health) -> None:
        """Take over the health that another instance has found out."""
        self._watched.setdefault(key, DeploymentState()).health = health

    def _grant_probe(self, key: DeploymentKey) -> None:
        self._watched[key].probe_granted_until = self.clock() + PROBE_GRANTED

    def refuses(self, target: Target, tokens: float, now: float) -> bool:
        """True if its quota, as last reported, would not take a call of so many tokens. While Azure has lowered that
        quota, also True for a part of the calls, so that its share of them shrinks with it."""
        state = self.watched(target)
        reading = state.quota
        if reading is None:
            return False
        if reading.refuses(tokens, state.sent, now):
            return True
        if reading.limit_tokens is None or state.configured is None or reading.limit_tokens >= state.configured:
            return False
        return self.rng.random() > reading.limit_tokens / state.configured
