"""Calls held to their limits: several at once, settled once on every way, alone when the table is out of reach."""

import asyncio
import gc
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web

from shared import allowances, azure_openai, pricing, tokens
from shared.alerts import Alerts, signature
from shared.allowances import Scope
from shared.config import Configuration, LimitSettings, Model, TokenHeaders, Webhook
from shared.errors import BudgetExceeded, GatewayError, QuotaExceeded, RateLimitExceeded, StoreUnavailable
from shared.limiter import Limiter, Reservation, duration
from shared.stores import Properties, Row
from shared.stores.memory import MemoryStore, MemoryTable
from shared.types import Call, Consumer, Limits, Usage

NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC, a Saturday
CHAT, EMBEDDINGS = azure_openai.OPERATIONS[0], azure_openai.OPERATIONS[2]


def call(size: int = 400, model: str = "gpt-4o", most: int | None = 50) -> Call:
    return Call(operation=CHAT, surface="openai", model=model, body=b"x" * size, max_output_tokens=most)


class Table(MemoryTable):
    """A table that can be dead or slow, and counts what is asked of it."""

    def __init__(self, house: "House", name: str) -> None:
        super().__init__(house, name)
        self._house = house

    async def get(self, partition: str, key: str) -> Row | None:
        await self._house.work()
        return await super().get(partition, key)

    async def put(self, partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
        await self._house.work()
        return await super().put(partition, key, properties, etag)


class House(MemoryStore):
    """A store under the test's clock, and limiters on it."""

    def __init__(self) -> None:
        self.time = NOON
        super().__init__(lambda: self.time)
        self.operations = 0
        self.dead = False
        self.stalled = False
        self.alerts: list[tuple[str, str, int]] = []

    async def work(self) -> None:
        self.operations += 1
        if self.stalled:
            await asyncio.sleep(60)
        if self.dead:
            raise StoreUnavailable("dead")

    def table(self, name: str) -> MemoryTable:
        return Table(self, name)

    def limiter(self, models: dict[str, Model] | None = None, **settings: Any) -> Limiter:
        configuration = Configuration(backends=[], models=models or {}, limits=LimitSettings(**settings))
        return Limiter(self, configuration, lambda scope, what, share, _: self.alerts.append((scope.key, what, share)))


def consumer(name: str = "ann", **limits: Any) -> Consumer:
    return Consumer(name, name, limits=Limits(**limits))


async def admitted(limiter: Limiter, who: Consumer, times: int, a_call: Call | None = None) -> list[Reservation]:
    answers = [await attempt(limiter, who, a_call) for _ in range(times)]
    return [answer for answer in answers if isinstance(answer, Reservation)]


async def attempt(limiter: Limiter, who: Consumer, a_call: Call | None = None) -> Reservation | GatewayError:
    try:
        return await limiter.reserve(who, a_call or call())
    except GatewayError as error:
        return error


async def test_who_has_no_limits_costs_no_operation() -> None:
    house = House()
    limiter = house.limiter()
    reservation = await limiter.reserve(consumer(), call())
    limiter.settle(reservation, Usage(100, 20))
    assert limiter.headers(reservation) == {}
    await limiter.stop()
    assert house.operations == 0


async def test_a_warm_key_awaits_nothing() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(tokens_per_minute=1_000_000)
    for _ in range(50):
        house.time += 0.1
        limiter.settle(await limiter.reserve(ann, call()), Usage(100, 20))
    house.stalled = True
    for _ in range(5):
        house.time += 0.1
        coroutine = limiter.reserve(ann, call())
        with pytest.raises(StopIteration):  # it ends without ever having to wait
            coroutine.send(None)
    house.stalled = False


async def test_of_a_thousand_at_once_on_three_instances_ten_pass() -> None:
    house = House()
    limiters, ann = [house.limiter() for _ in range(3)], consumer(requests_per_minute=10)
    answers = await asyncio.gather(*(attempt(limiters[i % 3], ann) for i in range(1000)))
    assert sum(isinstance(answer, Reservation) for answer in answers) == 10
    refused = [answer for answer in answers if isinstance(answer, RateLimitExceeded)]
    assert len(refused) == 990
    assert min(error.retry_after for error in refused) > 0


async def test_a_settlement_counts_once() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(tokens_per_minute=10_000)
    reservation = await limiter.reserve(ann, call())
    for _ in range(3):
        limiter.settle(reservation, Usage(1000, 500))
        limiter.release(reservation)
    await limiter.stop()
    assert house.rows("limits")["key:ann"]["0"][0]["tokens_used"] == pytest.approx(1500)


async def test_a_release_returns_the_request_too() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(requests_per_minute=2)
    for _ in range(5):
        limiter.release(await limiter.reserve(ann, call()))
    assert len(await admitted(limiter, ann, 3)) == 2


async def test_what_one_limit_reserved_is_returned_when_another_refuses() -> None:
    house = House()
    limiter = house.limiter(teams={"red": Limits(requests_per_minute=1)})
    ann = Consumer("ann", "ann", limits=Limits(requests_per_minute=5), team="red")
    bob = Consumer("bob", "bob", limits=Limits(requests_per_minute=5), team="red")
    await limiter.reserve(ann, call())
    refused = await attempt(limiter, bob)
    assert isinstance(refused, RateLimitExceeded)
    assert "The team 'red'" in refused.message
    await limiter.stop()
    assert house.rows("limits")["key:bob"]["0"][0]["requests_used"] == 0
    assert house.rows("limits")["team:red"]["0"][0]["requests_used"] == 1


async def test_a_limit_on_a_model_holds_beside_that_of_the_key() -> None:
    house = House()
    limiter = house.limiter({"gpt-4o": Model(aliases=["gpt-4o-dated"])})
    ann = msgspec.structs.replace(
        consumer(requests_per_minute=100), model_limits={"gpt-4o": Limits(requests_per_minute=2)}
    )
    assert len(await admitted(limiter, ann, 2, call(model="gpt-4o"))) == 2
    refused = await attempt(limiter, ann, call(model="gpt-4o-dated"))
    assert isinstance(refused, RateLimitExceeded)
    assert "on gpt-4o" in refused.message
    assert len(await admitted(limiter, ann, 3, call(model="gpt-4.1"))) == 3


async def test_a_models_ceiling_is_shared_by_all() -> None:
    limiter = House().limiter({"gpt-4o": Model(limits=Limits(requests_per_minute=2))})
    passed = [await attempt(limiter, consumer(name)) for name in ("ann", "bob", "cleo")]
    assert [isinstance(answer, Reservation) for answer in passed] == [True, True, False]


async def test_defaults_hold_for_those_without_limits_and_0_lifts_them() -> None:
    limiter = House().limiter(defaults=Limits(requests_per_minute=1))
    assert len(await admitted(limiter, consumer("ann"), 3)) == 1
    assert len(await admitted(limiter, consumer("bob", requests_per_minute=2), 3)) == 2
    assert len(await admitted(limiter, consumer("cleo", requests_per_minute=0), 3)) == 3


async def test_a_soft_limit_only_tells() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(requests_per_minute=2, soft=True)
    assert len(await admitted(limiter, ann, 5)) == 5
    assert limiter.hits["key", "requests"] == 3
    await limiter.stop()
    assert house.rows("limits")["key:ann"]["0"][0]["requests_used"] == 5


async def test_changed_limits_hold_at_once() -> None:
    limiter = House().limiter()
    assert len(await admitted(limiter, consumer(requests_per_minute=100), 3)) == 3
    house_rules = consumer(requests_per_minute=2)
    assert len(await admitted(limiter, house_rules, 9)) <= 4  # what was on lease, then none


async def test_quota_and_budget_say_when_they_renew() -> None:
    limiter = House().limiter(contact="platform@contoso.com")
    ann = consumer(token_quota=100, token_quota_period="week", time_zone="Asia/Tokyo")
    limiter.settle(await limiter.reserve(ann, call()), Usage(400, 50))
    refused = await attempt(limiter, ann)
    assert isinstance(refused, QuotaExceeded)
    assert (refused.status, refused.code) == (403, "quota_exceeded")
    assert refused.renews == "2026-11-23T00:00:00+09:00"
    assert "100 tokens per week" in refused.message
    assert "platform@contoso.com" in refused.message
    bob = consumer("bob", budget_usd=0.001)
    limiter.settle(await limiter.reserve(bob, call()), Usage(400, 50))
    broke = await attempt(limiter, bob)
    assert isinstance(broke, BudgetExceeded)
    assert broke.code == "budget_exceeded"


async def test_a_quota_is_not_overrun_by_many_instances() -> None:
    house = House()
    limiters, ann = [house.limiter() for _ in range(8)], consumer(token_quota=10_000, estimate="max")
    for number in range(300):
        limiter = limiters[number % 8]
        answer = await attempt(limiter, ann, call(400, most=100))
        if isinstance(answer, Reservation):
            limiter.settle(answer, Usage(100, 100))
        house.time += 0.05
    await asyncio.gather(*(limiter.stop() for limiter in limiters))
    used = house.rows("limits")["key:ann"]["0"][0]["tokens_used"]
    assert 9_000 <= float(used) <= 10_100


async def test_near_its_end_a_quota_reserves_all_that_calls_may_take() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(token_quota=100_000)
    limiter.settle(await limiter.reserve(ann, call(most=4000)), Usage(50_000, 0))
    await limiter.stop()
    assert (await limiter.reserve(ann, call(most=4000))).costs[0].tokens < 1000
    limiter.settle(await limiter.reserve(ann, call(most=4000)), Usage(40_000, 0))
    await limiter.stop()
    assert (await limiter.reserve(ann, call(most=4000))).costs[0].tokens > 4000


async def test_a_small_call_passes_while_a_large_one_is_refused() -> None:
    limiter, ann = House().limiter(), consumer(tokens_per_minute=1000, estimate="max")
    await limiter.reserve(ann, call(0, most=950))
    large, small = await asyncio.gather(
        attempt(limiter, ann, call(0, most=100)), attempt(limiter, ann, call(0, most=10))
    )
    assert isinstance(large, RateLimitExceeded)
    assert isinstance(small, Reservation)


async def test_a_call_that_ends_late_is_settled_without_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.lessee.LEASE_SECONDS", 0.02)
    house = House()
    limiter, ann = house.limiter(), consumer(tokens_per_minute=10_000)
    reservation = await limiter.reserve(ann, call())
    house.time += 10
    await asyncio.sleep(0.1)  # what was on lease has been given back; nothing is left to do
    limiter.settle(reservation, Usage(700, 77))
    await asyncio.sleep(0.1)
    assert house.rows("limits")["key:ann"]["0"][0]["tokens_used"] == pytest.approx(777)


async def test_80_and_100_percent_raise_one_alert_each_in_a_fleet() -> None:
    house = House()
    limiters, ann = [house.limiter() for _ in range(3)], consumer(token_quota=1000)
    for number in range(20):
        house.time += 1.0
        answer = await attempt(limiters[number % 3], ann, call(400, most=0))
        if isinstance(answer, Reservation):
            limiters[number % 3].settle(answer, Usage(100, 0))
    await asyncio.gather(*(limiter.stop() for limiter in limiters))
    assert house.alerts == [("key:ann", "tokens", 80), ("key:ann", "tokens", 100)]


async def test_a_dead_table_leaves_some_seconds_of_its_limit_to_each_instance() -> None:
    house = House()
    house.dead = True
    limiter, ann = house.limiter(), consumer(requests_per_minute=40)
    assert len(await admitted(limiter, ann, 20)) == 6
    assert limiter.state()["mode"] == "safe"
    house.dead = False
    house.time += 5
    assert await admitted(limiter, ann, 1)
    await asyncio.sleep(0.01)
    assert limiter.state()["mode"] == "normal"
    await limiter.stop()
    assert house.rows("limits")["key:ann"]["0"][0]["requests_used"] == pytest.approx(7)


async def test_nobody_waits_longer_than_the_patience_for_a_slow_table() -> None:
    house = House()
    house.stalled = True
    limiter = house.limiter()
    loop = asyncio.get_running_loop()
    started = loop.time()
    answers = await asyncio.gather(*(attempt(limiter, consumer(requests_per_minute=40)) for _ in range(20)))
    waited = loop.time() - started
    assert sum(isinstance(answer, Reservation) for answer in answers) == 6
    assert waited < 1.0
    started = loop.time()
    await attempt(limiter, consumer("bob", requests_per_minute=40))  # it is known by now
    assert loop.time() - started < 0.1


async def test_a_quota_that_was_never_read_is_503_without_the_table() -> None:
    house = House()
    house.dead = True
    refused = [await attempt(house.limiter(), consumer(token_quota=1000)) for _ in range(2)]
    assert [error.status for error in refused if isinstance(error, GatewayError)] == [503, 503]


async def test_a_large_limit_is_divided_among_shards_and_all_of_it_can_be_used() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(tokens_per_minute=8_000_000, estimate="max")
    passed = len(await admitted(limiter, ann, 120, call(0, most=100_000)))
    assert passed == 80
    assert len(house.rows("limits")["key:ann"]) == 8


async def test_a_forgotten_key_loses_no_settlement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.limiter._MOST_KEPT", 10)
    monkeypatch.setattr("shared.lessee.LEASE_SECONDS", 0.05)
    house = House()
    limiter = house.limiter()
    for number in range(50):
        ann = consumer(f"c{number}", tokens_per_minute=1000)
        limiter.settle(await limiter.reserve(ann, call()), Usage(70, 7))
    house.time += 10
    await asyncio.sleep(0.3)
    used = [rows["0"][0]["tokens_used"] for rows in house.rows("limits").values()]
    assert used == [pytest.approx(77)] * 50
    gc.collect()
    assert len(limiter._lessees) <= 10


async def test_the_estimate_learns_what_calls_take() -> None:
    limiter, ann = House().limiter(), consumer(tokens_per_minute=1_000_000)
    for _ in range(400):
        limiter.settle(await limiter.reserve(ann, call(1000, most=None)), Usage(500, 40))
    reservation = await limiter.reserve(ann, call(1000, most=None))
    assert reservation.costs[0].tokens == pytest.approx(500 + 1.25 * 40, rel=0.05)


async def test_a_new_instance_begins_with_what_others_have_learned() -> None:
    house = House()
    limiter, ann = house.limiter(), consumer(tokens_per_minute=1_000_000)
    for _ in range(400):
        limiter.settle(await limiter.reserve(ann, call(1000, most=None)), Usage(250, 40))
    await limiter.stop()
    other = house.limiter()
    await other.reserve(ann, call(1000, most=None))
    reservation = await other.reserve(ann, call(1000, most=None))
    assert reservation.costs[0].tokens == pytest.approx(250 + 1.25 * 40, rel=0.05)


def test_answers_under_way_are_longer_than_the_average_one() -> None:
    experience = tokens.Experience()
    for number in range(400):
        experience = experience.learn(1000, Usage(250, 1000 if number % 2 else 100))
    assert experience.output == pytest.approx(550, rel=0.1)
    assert experience.expected_output == pytest.approx((1000**2 + 100**2) / 1100, rel=0.1)


def test_estimates_stay_within_what_the_call_allows() -> None:
    nothing_known = tokens.Experience()
    assert tokens.expected(call(400, most=5), nothing_known).output == 5
    assert tokens.expected(call(400, most=None), nothing_known).output == 1.25 * 450
    assert tokens.most(call(400, most=None), nothing_known).output == tokens.ASSUMED_OUTPUT
    assert tokens.most(call(400, most=10**12), nothing_known).output == tokens.MOST_OUTPUT
    assert tokens.most(call(400, most=-5), nothing_known).output == 0
    embedding = msgspec.structs.replace(call(400), operation=EMBEDDINGS)
    assert tokens.most(embedding, nothing_known).output == 0


def test_prices_are_of_the_token_classes() -> None:
    price = pricing.price("gpt-4o-2024-11-20")
    assert price is not None
    assert pricing.cost(price, Usage(1_000_000, 100_000, 400_000)) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25 + 1.0)
    assert pricing.price("nonesuch") is None


@pytest.mark.parametrize(
    ("period", "zone", "now", "since", "until"),
    [
        ("hour", "UTC", "2026-11-21T12:34:56+00:00", "2026-11-21T12:00:00+00:00", "2026-11-21T13:00:00+00:00"),
        ("hour", "Asia/Kolkata", "2026-11-21T12:34:56+00:00", "2026-11-21T12:30:00+00:00", "2026-11-21T13:30:00+00:00"),
        ("day", "Europe/Berlin", "2026-11-21T23:30:00+00:00", "2026-11-21T23:00:00+00:00", "2026-11-22T23:00:00+00:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00"),
        ("week", "UTC", "2026-11-21T12:00:00+00:00", "2026-11-16T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59:59+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        (
            "month",
            "America/New_York",
            "2026-11-01T03:00:00+00:00",
            "2026-10-01T04:00:00+00:00",
            "2026-11-01T04:00:00+00:00",
        ),
    ],
)
def test_periods_begin_by_the_clocks_of_the_zone(period: Any, zone: str, now: str, since: str, until: str) -> None:
    seconds = [datetime.fromisoformat(text).timestamp() for text in (now, since, until)]
    assert allowances.span(period, zone, seconds[0]) == (seconds[1], seconds[2])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (7.66, "7.66s"), (360, "6m0s"), (59.999, "60s"), (3601, "1h0m1s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_headers_for_those_who_come_from_api_management() -> None:
    limiter = House().limiter(headers=TokenHeaders("Remaining-Tokens", "Consumed-Tokens"))
    reservation = await limiter.reserve(consumer(tokens_per_minute=1000), call(400, most=0))
    assert limiter.token_headers(reservation, 17) == {"consumed-tokens": "17", "remaining-tokens": "900"}


@asynccontextmanager
async def receiver(failures: int) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    received: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        received.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=500 if len(received) <= failures else 204)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", received
    finally:
        await runner.cleanup()


async def test_the_webhook_is_tried_again_and_signed() -> None:
    async with receiver(failures=2) as (url, received):
        alerts = Alerts(Webhook(url, "secret"), lambda: NOON, first_pause=0.01)
        alerts(Scope("key:ann", "The key of 'ann'", Limits()), "tokens", 80, NOON)
        await alerts.stop()
    assert len(received) == 3
    assert len({headers["x-tollgate-id"] for headers, _ in received}) == 1
    headers, body = received[-1]
    digest = hmac.new(b"secret", f"{NOON:.0f}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["x-tollgate-signature"] == f"t={NOON:.0f},v1={digest}" == signature("secret", int(NOON), body)
    assert msgspec.json.decode(body)["percentage"] == 80
