"""Health of a deployment, and its change by each outcome of a call. Pure."""

import msgspec

FAULTS_TO_EJECT = 3  # in a row
FIRST_EJECTION = 5.0  # seconds; doubles with every ejection that no success ends
LONGEST_EJECTION = 60.0
MISCONFIGURED = 60.0  # seconds without a call to a deployment that rejects the gateway's identity or does not exist
DEFAULT_COOL_DOWN = 2.0  # seconds, for a 429 without a Retry-After
LONGEST_COOL_DOWN = 10.0  # a longer Retry-After is obeyed only while another deployment can serve
LONGEST_RETRY_AFTER = 86_400.0  # Azure sends a whole day on free tiers
COOL_DOWN_SPREAD = 0.1  # the most that is added at random, so that instances do not all come back at the same moment
PROBING = "being tried"


class Health(msgspec.Struct, frozen=True):
    """A deployment's health. Times on the monotonic clock; in the past: over.

    `cooling_until`: a 429 said when to come back. `retry_at`: from then on it may be tried all the same if nothing else
    is left. `ejected_until`: it failed, or rejected the gateway. Until `oversized_until` calls of `oversized` tokens or
    more are rejected, and smaller ones may pass.
    """

    faults: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    cooling_until: float = 0.0
    retry_at: float = 0.0
    oversized: float = 0.0
    oversized_until: float = 0.0
    reason: str = ""

    def usable_at(self, now: float, tokens: float = 0.0) -> bool:
        if now < self.ejected_until or now < self.cooling_until:
            return False
        return now >= self.oversized_until or tokens < self.oversized

    def cooling_at(self, now: float, tokens: float = 0.0) -> bool:
        """True if it must not be tried even as the last resort."""
        return self.wait_at(now, tokens) > 0

    def wait_at(self, now: float, tokens: float = 0.0) -> float:
        """Seconds until its quota allows a try as the last resort."""
        until = self.retry_at
        if tokens >= self.oversized:
            until = max(until, self.oversized_until)
        return until - now

    @property
    def half_open(self) -> bool:
        """True if it was ejected for its faults and has not answered since: once the ejection is over, one call may
        try it."""
        return self.faults >= FAULTS_TO_EJECT


HEALTHY = Health()


def after_success(health: Health) -> Health:
    """An answer: forget the faults. A cool-down stays, since it came from another call's quota."""
    return msgspec.structs.replace(health, faults=0, ejections=0, ejected_until=0.0, reason="")


def after_throttle(
    health: Health, now: float, retry_after: float | None, spread: float = 0.0, longest: float = LONGEST_RETRY_AFTER
) -> Health:
    """A 429: keep away for as long as it says, but not for longer than `longest`. Since it answers, its faults are no
    longer in a row. `spread`, 0 to 1, adds up to a tenth; the wait is never shorter: a backend knows its quota."""
    wait = min(retry_after if retry_after is not None else DEFAULT_COOL_DOWN, longest, LONGEST_RETRY_AFTER)
    return msgspec.structs.replace(
        _after_sign_of_life(health),
        cooling_until=max(health.cooling_until, now + wait * (1 + COOL_DOWN_SPREAD * spread)),
        retry_at=max(health.retry_at, now + min(wait, LONGEST_COOL_DOWN)),
    )


def with_cool_down(health: Health, throttled: Health) -> Health:
    """A 429 of a deployment that has the same quota: keep away as long."""
    return msgspec.structs.replace(
        health,
        cooling_until=max(health.cooling_until, throttled.cooling_until),
        retry_at=max(health.retry_at, throttled.retry_at),
        oversized=throttled.oversized,
        oversized_until=throttled.oversized_until,
        reason=health.reason if health.reason == PROBING else throttled.reason,
    )


def after_oversized(health: Health, now: float, retry_after: float | None, tokens: float) -> Health:
    """A 429 although quota is left: keep away only calls as large as this one."""
    wait = min(retry_after if retry_after is not None else DEFAULT_COOL_DOWN, LONGEST_COOL_DOWN)
    smallest = min(tokens, health.oversized) if now < health.oversized_until else tokens
    return msgspec.structs.replace(
        _after_sign_of_life(health), oversized=smallest, oversized_until=max(health.oversized_until, now + wait)
    )


def _after_sign_of_life(health: Health) -> Health:
    """A 429 shows that a deployment works, so its faults are not in a row. The call that tried it ends the ejection."""
    if health.reason != PROBING:
        return msgspec.structs.replace(health, faults=0)
    return msgspec.structs.replace(health, faults=0, ejections=0, ejected_until=0.0)


def after_fault(health: Health, now: float, reason: str, jitter: float) -> Health:
    """A 5xx, a broken connection, a timeout. `jitter` in -1..1 spreads the returns of many instances by 20 %."""
    faults = health.faults + 1
    if faults < FAULTS_TO_EJECT:
        return msgspec.structs.replace(health, faults=faults, reason=reason)
    if now < health.ejected_until and health.reason != PROBING:
        # It was ejected while this call was under way, which does not justify a longer ejection.
        return health
    duration = min(FIRST_EJECTION * 2.0 ** min(health.ejections, 8), LONGEST_EJECTION) * (1 + 0.2 * jitter)
    return msgspec.structs.replace(
        health, faults=faults, ejections=health.ejections + 1, ejected_until=now + duration, reason=reason
    )


def after_refusal(health: Health, now: float, reason: str) -> Health:
    """A 401, 403 or DeploymentNotFound for the gateway itself: an early retry cannot help."""
    return msgspec.structs.replace(health, ejected_until=now + MISCONFIGURED, reason=reason)


def while_probing(health: Health, now: float, seconds: float) -> Health:
    """One call tries a deployment whose ejection is over; the others keep away until its outcome is known."""
    return msgspec.structs.replace(health, ejected_until=now + seconds, reason=PROBING)


def after_abandoned(health: Health, now: float) -> Health:
    """The call that tried it left before its outcome was known: the next one may try."""
    return msgspec.structs.replace(health, ejected_until=now) if health.reason == PROBING else health
