"""The rows by which instances agree on who sends an alert: the first to write one sends it. In the table `control`."""

import asyncio
import logging
import secrets

from shared.alerts.events import Alert, digest
from shared.errors import StoreUnavailable
from shared.storage import Properties, Row, Store, names
from shared.storage.conditional import update

logger = logging.getLogger("tollgate.alerts")

PARTITION = "alerts"  # of the table `control`
_PATIENCE = 3.0  # seconds for the table's answer


class Claims:
    """One per process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table = store.table(names.CONTROL)
        self._nonce = secrets.token_hex(8)

    async def take(self, alert: Alert) -> bool:
        """Return True if this instance is to send an alert: it is the first one within the alert's time, or the table
        does not answer. An alert twice is better than none."""

        def claim(row: Row | None) -> Properties | None:
            if row is not None and row.properties.get("by") != self._nonce and self._holds(row):
                return None
            return {"event": alert.event, "about": alert.key[:512], "until": alert.until, "by": self._nonce}

        try:
            async with asyncio.timeout(_PATIENCE):
                return await update(self._table, PARTITION, digest(alert.key), claim) is not None
        except (StoreUnavailable, TimeoutError) as error:
            logger.warning("cannot claim an alert, so several instances may send it: %s", error)
            return True

    async def release(self, alert: Alert) -> None:
        """Let another attempt send an alert that no receiver has accepted."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._table.delete(PARTITION, digest(alert.key))
        except (StoreUnavailable, TimeoutError) as error:
            logger.warning("cannot release an alert's claim: %s", error)

    async def clean_up(self) -> int:
        """Delete the rows of alerts that may be raised again. Return their number. Raises `StoreUnavailable`."""
        over = [row.key async for row in self._table.scan(PARTITION) if not self._holds(row)]
        for key in over:
            await self._table.delete(PARTITION, key)
        return len(over)

    def _holds(self, row: Row) -> bool:
        return float(row.properties.get("until", 0.0)) > self._store.now()
