"""Changes of consumers as the management API makes them, for tests of what follows."""

import msgspec

from shared.auth.consumer_rows import Version
from shared.auth.consumers import Consumers


async def change(consumers: Consumers, consumer_id: str, *, revoked: float | None = None, **fields: object) -> Version:
    """Change these fields of a consumer, or revoke it."""
    version = await consumers.read(consumer_id)
    assert version is not None
    old = version.record
    consumer = msgspec.structs.replace(old.consumer, **fields)
    changed = old.changed(consumer, old.expires, old.revoked if revoked is None else revoked)
    written = await consumers.write(changed, version)
    assert written is not None
    return written
