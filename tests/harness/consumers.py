"""Consumers for tests, written as the gateway writes them."""

from shared.auth import keys
from shared.auth.consumer_rows import Record, StoredKey
from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from shared.types import ANYWHERE, Access, Consumer


async def create_consumer(
    consumers: Consumers,
    name: str,
    *,
    models: frozenset[str] | None,
    limits: Limits,
    expires: float = 0.0,
    team: str = "",
    addresses: tuple[str, ...] = (),
    access: Access = ANYWHERE,
    products: tuple[str, ...] = (),
) -> tuple[Consumer, str]:
    """Create a consumer with a random id. Return it with the text of its first key."""
    consumer = Consumer(
        id=keys.new_id(10),
        name=name,
        models=models,
        limits=limits,
        team=team,
        addresses=addresses,
        access=access,
        products=products,
    )
    text, key = keys.make(consumer.id)
    stored = StoredKey(key.key_id, key.digest, consumers._store.now(), expires)
    assert await consumers.write(Record(consumer, {stored.id: stored}, stored.created, expires)) is not None
    return consumer, text
