"""Keeps the table `limits` small: rows of client addresses that say no more than their absence would are deleted."""

import logging
import math

from shared.config.document import Configuration
from shared.limits import scopes
from shared.limits._rows import from_properties
from shared.limits._token_bucket import Bounds, BucketState, caught_up
from shared.limits.limiter import TABLE
from shared.storage import Store

logger = logging.getLogger("tollgate.limits")

CONTROL, PARTITION, ROW = "control", "limits", "addresses"
EVERY = 86_400.0  # seconds between two passes of the fleet; a row that is younger stays


async def forget_addresses(store: Store, configuration: Configuration) -> int:
    """Delete the rows of addresses that have their limits to themselves again. How many. Raises `StoreUnavailable`."""
    now, control = store.now(), store.table(CONTROL)
    last = await control.get(PARTITION, ROW)
    if last is not None and now - float(last.properties.get("time", 0.0)) < EVERY:
        return 0
    if await control.put(PARTITION, ROW, {"time": now}, last.etag if last is not None else None) is None:
        return 0  # another instance is at it
    limits = scopes.of_address("", configuration.limits.addresses).limits
    bounds, prefix = scopes.bounds(limits, now), f"{scopes.ADDRESS}:"
    table, deleted = store.table(TABLE), 0
    async for stored in table.scan_all(prefix):
        if not stored.partition.startswith(prefix):
            break
        if is_default(from_properties(stored.properties), bounds, now):
            await table.delete(stored.partition, stored.key)
            deleted += 1
    if deleted:
        logger.info("forgot %d client addresses that have not called for a day", deleted)
    return deleted


def is_default(row: BucketState, bounds: Bounds, now: float) -> bool:
    """Whether a row that nobody has written for a day is like a new one: full, and with nothing used of a quota."""
    if now - row.time < EVERY:
        return False
    for level, bound in zip(caught_up(row, bounds, now).levels, bounds, strict=True):
        if level is None or bound is None:
            continue
        if level.level < bound.cap or (level.used and math.isfinite(bound.quota)):
            return False
    return True
