"""Safe mode: an instance's own decisions while the table is out of reach. It admits a small part of its part of each
limit, refilled at its part of the rate."""

import logging
import math
import random
from typing import NamedTuple

import msgspec

from shared.limits._amounts import DIMENSIONS, EPSILON, UNLIMITED, Amounts, Bound, Bounds
from shared.limits._holding import Holding
from shared.limits._token_bucket import LEASE_SECONDS, NEVER, BucketState, Denial, Level

logger = logging.getLogger("tollgate.limits")

SAFE_PART = 0.15  # of an instance's part of a minute
_RETRY = 1.0  # seconds between attempts to reach the table


class Safe(msgspec.Struct, frozen=True):
    """An instance's own bucket: what it may still admit without the table. `time`: of the last call admitted so."""

    level: Amounts = UNLIMITED
    time: float = NEVER


class Standing(NamedTuple):
    """An instance's view of a limit without the table: the row as last seen, its own holding, and the number of
    instances that share the limit."""

    row: BucketState | None
    holding: Holding
    active: float


def spend_safely(safe: Safe, bounds: Bounds, standing: Standing, cost: Amounts, now: float) -> Safe | Denial:
    """Admit a call without the table, and return what is left. A call larger than the bucket passes when it has been
    saved up; none passes on credit, since a fleet would grant one to each instance."""
    seconds, levels = max(0.0, now - safe.time), list(safe.level.each())
    owed = standing.holding.owed.each()
    longest: Denial | None = None
    for i, (bound, amount) in enumerate(zip(bounds, cost.each(), strict=True)):
        if bound is None or not amount:
            continue
        level = standing.row.levels[i] if standing.row is not None else None
        if _exceeds_quota(bound, level, owed[i] + amount):
            return Denial(DIMENSIONS[i], "quota", max(0.0, bound.until - now))
        wait = 0.0
        if math.isinf(bound.per_second):  # slots
            if standing.holding.under_way + amount > max(1.0, bound.cap / standing.active):
                wait = LEASE_SECONDS
        elif math.isfinite(bound.cap):
            levels[i], wait = _draw(levels[i], bound.share(standing.active), amount, seconds)
        if wait and (longest is None or wait > longest.wait):
            longest = Denial(DIMENSIONS[i], "rate", wait)
    return longest or Safe(Amounts(*levels), now)


def _exceeds_quota(bound: Bound, level: Level | None, amount: float) -> bool:
    """True if the quota's use as last seen, and what this instance has spent since, leaves no room for the amount."""
    return level is not None and bound.since <= level.since and level.used + amount > bound.quota


def _draw(level: float, part: Bound, amount: float, seconds: float) -> tuple[float, float]:
    """(The bucket's level after the refill of so many seconds and the amount, seconds to wait for the amount).
    `part`: this instance's part of the limit."""
    cap = part.cap * SAFE_PART
    filled = cap if math.isinf(level) else min(max(cap, amount), level + seconds * part.per_second)
    wait = (amount - filled) / part.per_second if filled < amount - EPSILON else 0.0
    return filled - amount, wait


class Reach:
    """Records whether the table answers, for all limits of a process together."""

    def __init__(self) -> None:
        self.lost_since: float | None = None
        self.answered_at = NEVER
        self._retry_at = 0.0

    def may_try(self, now: float) -> bool:
        """True if the table may be read now. While it is out of reach, one limit tries for all, about once a second."""
        if self.lost_since is None:
            return True
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY
        return True

    def lose(self, now: float, error: object) -> None:
        """The table has failed, or has not answered in time."""
        if self.lost_since is None:
            self.lost_since = now
            logger.warning("safe mode: the limits' table does not answer, so this instance decides alone: %s", error)
        self._retry_at = now + _RETRY * random.uniform(1.0, 1.5)

    def hear(self, now: float) -> None:
        """The table has answered."""
        self.answered_at = now
        if self.lost_since is not None:
            logger.warning("safe mode ends after %.1f s: the limits' table answers again", now - self.lost_since)
            self.lost_since = None
