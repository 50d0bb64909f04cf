"""Jobs that one instance of all does once a day."""

from shared.storage import Store, names

DAY = 86_400.0  # seconds


async def claim(store: Store, partition: str, row: str) -> bool:
    """Claim today's run of the job with this row of the table `control`; return False if an instance has claimed it
    within a day. Raises `StoreUnavailable`."""
    now, control = store.now(), store.table(names.CONTROL)
    last = await control.get(partition, row)
    if last is not None and now - float(last.properties.get("time", 0.0)) < DAY:
        return False
    return await control.put(partition, row, {"time": now}, last.etag if last is not None else None) is not None
