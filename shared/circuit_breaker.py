"""When a deployment is left alone: pure transitions of its health, and the health of all of them in this process."""

import random
from collections import Counter
from collections.abc import Callable

import msgspec

from shared.types import Target

FAULTS_TO_EJECT = 3  # in a row
FIRST_EJECTION = 5.0  # seconds; doubles with every ejection that no success ends
LONGEST_EJECTION = 60.0
MISCONFIGURED = 60.0  # seconds without trying a deployment that refuses the gateway's identity or is not there
DEFAULT_COOL_DOWN = 2.0  # seconds, where a 429 tells nothing
LONGEST_COOL_DOWN = 10.0  # a longer Retry-After is obeyed only while another deployment can serve
LONGEST_TOLD = 86_400.0  # Azure tells a whole day on free tiers


class Health(msgspec.Struct, frozen=True):
    """A deployment's health. Times on the monotonic clock; in the past: over.

    `cooling_until`: it said 429 and when to come back. `retry_at`: from then on it may be tried all the same when
    nothing else is left. `ejected_until`: it failed or refuses us.
    """

    faults: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    cooling_until: float = 0.0
    retry_at: float = 0.0
    reason: str = ""

    def usable_at(self, now: float) -> bool:
        return now >= self.ejected_until and now >= self.cooling_until

    def cooling_at(self, now: float) -> bool:
        """Whether it may not even be tried for want of another."""
        return now < self.retry_at


HEALTHY = Health()


def after_success(health: Health) -> Health:
    """An answer: forget the faults. A cool-down stays, since it came from another call's quota."""
    return msgspec.structs.replace(HEALTHY, cooling_until=health.cooling_until, retry_at=health.retry_at)


def after_throttle(health: Health, now: float, retry_after: float | None) -> Health:
    """A 429: keep away for as long as it says. It answers, so the row of faults is broken."""
    told = min(retry_after if retry_after is not None else DEFAULT_COOL_DOWN, LONGEST_TOLD)
    return msgspec.structs.replace(
        health,
        faults=0,
        cooling_until=max(health.cooling_until, now + told),
        retry_at=max(health.retry_at, now + min(told, LONGEST_COOL_DOWN)),
        reason="throttled",
    )


def after_fault(health: Health, now: float, reason: str, jitter: float) -> Health:
    """A 5xx, a broken connection, a timeout. `jitter` in -1..1 spreads the returns of many instances by 20 %."""
    faults = health.faults + 1
    if faults < FAULTS_TO_EJECT:
        return msgspec.structs.replace(health, faults=faults, reason=reason)
    duration = min(FIRST_EJECTION * 2**health.ejections, LONGEST_EJECTION) * (1 + 0.2 * jitter)
    return msgspec.structs.replace(
        health, faults=faults, ejections=health.ejections + 1, ejected_until=now + duration, reason=reason
    )


def after_refusal(health: Health, now: float, reason: str) -> Health:
    """Our own 401, 403 or DeploymentNotFound: trying again soon cannot help."""
    return msgspec.structs.replace(health, ejected_until=now + MISCONFIGURED, reason=reason)


def while_probing(health: Health, now: float, seconds: float) -> Health:
    """One call tries a deployment whose ejection is over; the others keep away until it is known how that went."""
    return msgspec.structs.replace(health, ejected_until=now + seconds)


class Breakers:
    """The health of every target, as this process has seen it."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self.clock = clock
        self._rng = rng
        self._health: dict[tuple[str, str], Health] = {}
        self.trips: Counter[str] = Counter()  # ejections by backend, since the start

    def health(self, target: Target) -> Health:
        return self._health.get((target.backend.name, target.deployment), HEALTHY)

    def begin(self, target: Target, seconds: float) -> None:
        """A try starts that may take so long."""
        health = self.health(target)
        if health.faults >= FAULTS_TO_EJECT:
            self._set(target, while_probing(health, self.clock(), seconds))

    def success(self, target: Target) -> None:
        health = self.health(target)
        if health.faults or health.ejected_until:
            self._set(target, after_success(health))

    def throttle(self, target: Target, retry_after: float | None) -> None:
        self._set(target, after_throttle(self.health(target), self.clock(), retry_after))

    def fault(self, target: Target, reason: str) -> None:
        health = after_fault(self.health(target), self.clock(), reason, self._rng.uniform(-1, 1))
        self._set(target, health)
        if health.faults >= FAULTS_TO_EJECT:
            self.trips[target.backend.name] += 1

    def refusal(self, target: Target, reason: str) -> None:
        self._set(target, after_refusal(self.health(target), self.clock(), reason))
        self.trips[target.backend.name] += 1

    def _set(self, target: Target, health: Health) -> None:
        self._health[target.backend.name, target.deployment] = health
