"""Deletes the limit rows of client addresses and of users that are back at their initial state."""

import logging
import math

from shared.config.document import Configuration
from shared.limits import scopes
from shared.limits._amounts import Bounds
from shared.limits._rows import from_properties
from shared.limits._token_bucket import BucketState, caught_up
from shared.storage import Store, daily, names
from shared.storage.daily import DAY

logger = logging.getLogger("tollgate.limits")

_PARTITION, _ROW = "limits", "addresses"  # of the daily pass; rows written within a day stay


async def forget_idle(store: Store, configuration: Configuration) -> int:
    """Delete the rows that have not been written for a day and equal a new one. Return their number, 0 if another
    instance has done so within a day. Raises `StoreUnavailable`."""
    if not await daily.claim(store, _PARTITION, _ROW):
        return 0
    now = store.now()
    deleted = 0
    for scope in (
        *scopes.of_address("", configuration.limits.addresses),
        *scopes.counted(scopes.scope(scopes.USER, "", configuration.limits.users)),
    ):
        deleted += await _forget(store, scope.key, scopes.bounds(scope.limits, now))
    if deleted:
        logger.info("deleted the limit rows of %d client addresses and users that have not called for a day", deleted)
    return deleted


async def _forget(store: Store, prefix: str, bounds: Bounds) -> int:
    """Delete such rows of the scopes whose keys begin like this. Return their number."""
    now, table, deleted = store.now(), store.table(names.LIMITS), 0
    async for stored in table.scan_all(prefix):
        if not stored.partition.startswith(prefix):
            break
        if is_default(from_properties(stored.properties), bounds, now):
            await table.delete(stored.partition, stored.key)
            deleted += 1
    return deleted


def is_default(row: BucketState, bounds: Bounds, now: float) -> bool:
    """True if a row was not written for a day and equals a new one: full, and with nothing used of a quota."""
    if now - row.time < DAY:
        return False
    for level, bound in zip(caught_up(row, bounds, now).levels, bounds, strict=True):
        if level is None or bound is None:
            continue
        if level.level < bound.cap or (level.used and math.isfinite(bound.quota)):
            return False
    return True
