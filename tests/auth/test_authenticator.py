"""Keys to consumers: from memory where possible, revoked within a minute, never refused for the store's trouble."""

import asyncio
import json
import logging

import pytest

from shared.auth import keys
from shared.auth.authenticator import Authenticator
from shared.auth.consumer_rows import Record
from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from shared.errors import InvalidApiKey, StoreUnavailable
from shared.storage.names import CONSUMERS
from shared.types import Consumer
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore


class Store(MemoryStore):
    """A store whose reads are counted, and which can be out of reach or slow."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        super().__init__(lambda: self.time)
        self.reads = 0
        self.dead = False
        self.slow = 0.0

    def consumers(self) -> Consumers:
        consumers = Consumers(self)
        find = consumers.find

        async def counted(consumer_id: str) -> Record | None:
            self.reads += 1
            await asyncio.sleep(self.slow)
            if self.dead:
                raise StoreUnavailable("dead")
            return await find(consumer_id)

        consumers.find = counted  # type: ignore[method-assign]
        return consumers


class House:
    def __init__(self) -> None:
        self.store = Store()
        self.consumers = self.store.consumers()
        self.authenticator = Authenticator(self.consumers, self.store.now, lambda: self.store.time)

    async def new(self, name: str = "team", expires: float = 0.0) -> tuple[Consumer, str]:
        return await create_consumer(self.consumers, name, models=None, limits=Limits(), expires=expires)

    async def who(self, key: str) -> Consumer:
        return await self.authenticator.authenticate({"authorization": f"Bearer {key}"})

    async def later(self, seconds: float) -> None:
        self.store.time += seconds
        await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_key_is_read_once_and_then_cached() -> None:
    house = House()
    consumer, key = await house.new()
    for _ in range(50):
        assert await house.who(key) == consumer
    assert house.store.reads == 1


async def test_invented_keys_are_read_a_few_at_a_time_and_keep_no_known_caller_waiting() -> None:
    house = House()
    consumer, key = await house.new()
    assert await house.who(key) == consumer
    await house.later(51)  # this record has to be read again before it is used
    house.store.slow, reads = 0.5, house.store.reads
    invented = [keys.make(keys.new_id(10))[0] for _ in range(500)]
    strangers = [asyncio.ensure_future(house.who(text)) for text in invented]
    await asyncio.sleep(0.02)
    assert house.store.reads - reads == 8
    async with asyncio.timeout(10):  # five hundred at eight a time take half a minute
        assert await house.who(key) == consumer
    for stranger in strangers:
        stranger.cancel()
    await asyncio.gather(*strangers, return_exceptions=True)


async def test_many_first_requests_share_one_read() -> None:
    house = House()
    _, key = await house.new()
    house.store.slow = 0.01
    await asyncio.gather(*(house.who(key) for _ in range(50)))
    assert house.store.reads == 1


async def test_a_revocation_holds_within_a_minute_under_load_and_after_a_pause() -> None:
    for pauses in ([5.0] * 11 + [4.0], [59.0]):
        house = House()
        consumer, key = await house.new()
        await house.who(key)
        await change(house.consumers, consumer.id, revoked=house.store.time)
        with pytest.raises(InvalidApiKey, match="revoked"):
            for pause in pauses:
                await house.later(pause)
                await house.who(key)
                await settle()


async def test_a_warm_key_never_waits_for_its_refresh() -> None:
    house = House()
    _, key = await house.new()
    await house.who(key)
    house.store.slow = 60.0
    await house.later(35.0)
    async with asyncio.timeout(10):
        await house.who(key)


async def test_rotation_keeps_the_end_of_validity() -> None:
    store = MemoryStore(lambda: 1000.0)
    consumers = Consumers(store)
    for expires in (0.0, 5000.0):
        consumer, _ = await create_consumer(consumers, "ann", models=None, limits=Limits(), expires=expires)
        for grace in (100.0, 0.0):
            record = await consumers.find(consumer.id)
            assert record is not None
            current = next(key.id for key in record.keys.values() if key.valid_at(1000.0) and not key.successor)
            _, new = await consumers.rotate(record, current, overlap=grace)
            record = await consumers.find(consumer.id)
            assert record is not None
            assert record.keys[new.id].expires == expires


async def test_a_key_made_while_its_consumer_is_revoked_is_not_valid() -> None:
    store = MemoryStore(lambda: 1000.0)
    consumers = Consumers(store)
    consumer, _ = await create_consumer(consumers, "ann", models=None, limits=Limits())
    record = await consumers.find(consumer.id)
    assert record is not None
    await change(consumers, consumer.id, revoked=1000.0)
    await consumers.add_key(record)  # by what it read before
    record = await consumers.find(consumer.id)
    assert record is not None
    assert [key.valid_at(1000.0) for key in record.keys.values()] == [False, False]


async def test_a_rotated_key_works_at_once_and_the_old_one_ends() -> None:
    house = House()
    consumer, old = await house.new()
    await house.who(old)
    record = await house.consumers.find(consumer.id)
    assert record is not None
    new, _ = await house.consumers.rotate(record, *record.keys)
    await house.later(3.0)
    assert (await house.who(new)).id == consumer.id
    with pytest.raises(InvalidApiKey):
        await house.who(old)


async def test_with_a_grace_period_both_keys_work_until_it_is_over() -> None:
    house = House()
    consumer, old = await house.new()
    record = await house.consumers.find(consumer.id)
    assert record is not None
    new, _ = await house.consumers.rotate(record, *record.keys, overlap=3600)
    assert await house.who(old) == await house.who(new)
    await house.later(3601)
    assert (await house.who(new)).id == consumer.id
    with pytest.raises(InvalidApiKey):
        await house.who(old)


async def test_a_new_key_ends_with_the_one_that_it_replaces() -> None:
    """Keys have an end of their own in rows of older versions, and by the library."""
    house = House()
    consumer, _ = await house.new()
    ends = house.store.time + 100
    key_id = next(iter((await house.consumers.find(consumer.id)).keys))  # type: ignore[union-attr]
    await house.store.table(CONSUMERS).merge(consumer.id, {key_id: {"expires": ends}})
    for _ in range(2):  # the second time it has been replaced, and ends by that
        record = await house.consumers.find(consumer.id)
        assert record is not None
        newest = max(record.keys.values(), key=lambda key: (not key.successor, key.created))
        _, made = await house.consumers.rotate(record, newest.id, overlap=3600)
        assert made.expires == ends


async def test_an_expired_key_is_refused() -> None:
    house = House()
    _, key = await house.new(expires=house.store.time + 10)
    await house.who(key)
    await house.later(10.5)
    with pytest.raises(InvalidApiKey, match="expired"):
        await house.who(key)


async def test_with_the_store_out_of_reach_known_keys_work_and_unknown_ones_get_503_not_401() -> None:
    house = House()
    _, known = await house.new()
    _, unknown = await house.new()
    await house.who(known)
    house.store.dead = True
    for _ in range(100):
        await house.later(20.0)
        assert (await house.who(known)).name == "team"
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await house.who(unknown)
        assert caught.value.status == 503
    house.store.dead = False
    await house.later(3.0)
    assert (await house.who(unknown)).name == "team"


async def test_a_store_that_hangs_delays_a_known_key_by_less_than_half_a_second() -> None:
    house = House()
    _, key = await house.new()
    await house.who(key)
    house.store.slow = 60.0
    await house.later(3600.0)
    async with asyncio.timeout(10):
        await house.who(key)
    again = asyncio.ensure_future(house.who(key))
    await settle()
    assert again.done()  # and then not again for a while


async def test_guessing_costs_the_store_nothing_where_the_id_is_known_and_one_read_where_it_is_not() -> None:
    house = House()
    consumer, key = await house.new()
    await house.who(key)
    _, stored = keys.make(consumer.id)
    for _ in range(20):
        guess, _ = keys.make(consumer.id)
        with pytest.raises(InvalidApiKey):
            await house.who(guess)
    assert house.store.reads <= 2
    reads = house.store.reads
    guess, _ = keys.make("0000000000")
    for _ in range(20):
        with pytest.raises(InvalidApiKey):
            await house.who(guess)
    for mistyped in (guess[:-1] + "x", "sk-something", "tg_", "é" * 40):
        with pytest.raises(InvalidApiKey):
            await house.who(mistyped)
    assert house.store.reads == reads + 1
    assert stored.digest


async def test_unknown_ids_do_not_push_known_ones_out_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.auth._records._MAX_UNKNOWN", 10)
    house = House()
    _, key = await house.new()
    await house.who(key)
    for number in range(30):
        with pytest.raises(InvalidApiKey):
            await house.who(keys.make(f"{number:010}")[0])
    reads = house.store.reads
    await house.who(key)
    assert house.store.reads == reads
    assert len(house.authenticator._records._unknown) == 10


async def test_the_key_may_come_in_any_of_three_headers_and_the_one_with_its_shape_counts() -> None:
    house = House()
    consumer, key = await house.new()
    ask = house.authenticator.authenticate
    assert await ask({"api-key": key}) == consumer
    assert await ask({"authorization": f"bearer  {key}"}) == consumer
    assert await ask({"authorization": "Bearer eyJ.other", "api-key": key}) == consumer
    product = await ask({"ocp-apim-subscription-key": f"{key};product=gold"})
    assert (product.id, product.product) == (consumer.id, "gold")
    for headers in ({}, {"authorization": "Basic abc"}, {"authorization": "Bearer "}, {"api-key": "sk-x"}):
        with pytest.raises(InvalidApiKey):
            await ask(headers)


async def test_limits_of_another_version_in_a_policy_are_logged_and_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House()
    consumer, key = await house.new()
    limits = {"requests_per_minute": 5, "pages_per_fortnight": 3, "tokens_per_minute": "many", "time_zone": "Mars/Base"}
    written = {
        "limits": json.dumps(limits),
        "model_limits": json.dumps({"gpt-4o": {"max_concurrent": 2, "estimate": "exact"}, "o1": 3}),
    }
    await house.store.table("consumers").merge(consumer.id, {"policy": written, "seal": {"kind": "newer"}})
    with caplog.at_level(logging.ERROR, "tollgate.consumers"):
        known = await house.who(key)
    assert known.limits == Limits(requests_per_minute=5)
    assert known.model_limits == {"gpt-4o": Limits(max_concurrent=2), "o1": Limits()}
    for word in ("pages_per_fortnight", "tokens_per_minute", "Mars/Base", "estimate"):
        assert word in caplog.text
    caplog.clear()
    assert [record.consumer for record in await house.consumers.all()] == [known]
    assert not caplog.records  # once, not with every reading


@pytest.mark.parametrize("text", ["no json", "[]", '"x"', "[" * 100_000])
async def test_a_policy_that_cannot_be_read_leaves_the_defaults(text: str, caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    consumer, key = await house.new()
    await house.store.table("consumers").merge(
        consumer.id, {"policy": {"limits": text[:30_000], "model_limits": text[:30_000]}}
    )
    assert (await house.who(key)).limits == Limits()
    assert "are not a JSON object" in caplog.text
