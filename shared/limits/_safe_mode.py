"""What an instance decides on its own while the table is out of reach: a small part of each limit, refilled at its part
of the rate."""

import logging
import math
import random

import msgspec

from shared.limits._token_bucket import (
    DIMENSIONS,
    EPSILON,
    LEASE_SECONDS,
    NEVER,
    UNLIMITED,
    Amounts,
    Bounds,
    BucketState,
    Denial,
)

logger = logging.getLogger("tollgate.limits")

SAFE_PART = 0.15  # of an instance's part of a minute
_RETRY = 1.0  # seconds between attempts to reach the table


class Safe(msgspec.Struct, frozen=True):
    """What an instance admits on its own while the table is out of reach: a small bucket of its part of each limit."""

    level: Amounts = UNLIMITED
    time: float = -math.inf


def spend_safely(
    safe: Safe,
    bounds: Bounds,
    row: BucketState | None,
    active: float,
    owed: Amounts,
    under_way: float,
    cost: Amounts,
    now: float,
) -> Safe | Denial:
    """Admit a call without the table: some of this instance's part of a minute, refilled at its part of the rate.

    `active`: the instances that share the limits. A call larger than the bucket passes when it has been saved up; none
    passes on credit, since a fleet would grant one to each instance. A quota is judged by the row as last seen and by
    what has been spent since."""
    levels, longest = [], None
    for i, (bound, level, amount) in enumerate(zip(bounds, safe.level.each(), cost.each(), strict=True)):
        if bound is None or not amount:
            levels.append(level)
            continue
        known = row.levels[i] if row is not None else None
        if known is not None and bound.since <= known.since and known.used + owed.each()[i] + amount > bound.quota:
            return Denial(DIMENSIONS[i], "quota", max(0.0, bound.until - now))
        if math.isinf(bound.cap):
            levels.append(level)
            continue
        wait = 0.0
        if math.isinf(bound.per_second):  # slots
            if under_way + amount > max(1.0, bound.cap / active):
                wait = LEASE_SECONDS
            levels.append(level)
        else:
            cap, rate = bound.cap / active * SAFE_PART, bound.per_second / active
            filled = cap if math.isinf(level) else min(max(cap, amount), level + max(0.0, now - safe.time) * rate)
            if filled < amount - EPSILON:
                wait = (amount - filled) / rate
            levels.append(filled - amount)
        if wait and (longest is None or wait > longest.wait):
            longest = Denial(DIMENSIONS[i], "rate", wait)
    return longest or Safe(Amounts(*levels), now)


class Reach:
    """Whether the table answers, for all lessees of a process together."""

    def __init__(self) -> None:
        self.lost_since: float | None = None
        self.heard_at = NEVER
        self._retry_at = 0.0

    def may_try(self, now: float) -> bool:
        """Whether the table may be asked. While it is out of reach one lessee does so for all, about once a second."""
        if self.lost_since is None:
            return True
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY
        return True

    def lose(self, now: float, error: object) -> None:
        if self.lost_since is None:
            self.lost_since = now
            logger.warning("safe mode: the limits' table does not answer, this instance decides alone: %s", error)
        self._retry_at = now + _RETRY * random.uniform(1.0, 1.5)

    def hear(self, now: float) -> None:
        """The table has answered."""
        self.heard_at = now
        if self.lost_since is not None:
            logger.warning("safe mode ends after %.1f s: the limits' table answers again", now - self.lost_since)
            self.lost_since = None
