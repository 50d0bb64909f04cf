"""Calls under their limits: several at once, settled once on every path, and without the table."""

import asyncio
import random
from collections import Counter
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.azure_openai import operations
from shared.config.document import Backend, Configuration, Model
from shared.config.limits import Limits, TokenHeaders
from shared.config.prices import PriceLine
from shared.errors import BudgetExceeded, GatewayError, ModelWithoutPrice, QuotaExceeded, RateLimitExceeded
from shared.limits._headers import duration
from shared.limits.limiter import Limiter
from shared.limits.reservation import Reservation
from shared.storage import Properties
from shared.types import Call, Consumer, Target, Usage
from tests.harness.calls import call as parsed
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.patience import eventually
from tests.harness.scripted_store import NOON, ScriptedStore

CHAT, EMBEDDINGS = operations.OPERATIONS[0], operations.OPERATIONS[2]


def call(size: int = 400, model: str = "gpt-4o", most: int | None = 50) -> Call:
    return Call(operation=CHAT, surface="openai", model=model, body=b"x" * size, max_output_tokens=most)


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


async def test_a_key_without_limits_costs_no_operation() -> None:
    store = ScriptedStore()
    limiter = store.limiter()
    reservation = await limiter.reserve(consumer(), call())
    limiter.settle(reservation, Usage(100, 20))
    assert limiter.headers(reservation) == {}
    await limiter.close()
    assert store.operations == 0


async def test_a_call_that_takes_nothing_of_what_is_limited_needs_no_lease() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=100_000, budget_usd=5)
    store.dead = True
    for path in ("/v1/models", "/v1/files/file-123456789", "/v1/responses/resp_123456789"):
        limiter.settle(await limiter.reserve(ann, parsed("GET", path)), Usage())
    assert store.operations == 0
    assert limiter.safe_since is None


async def test_a_call_that_costs_less_than_a_millionth_of_a_dollar_gets_its_lease() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(budget_usd=5)
    body = {"model": "text-embedding-3-small", "input": "hi"}
    limiter.settle(await limiter.reserve(ann, parsed("POST", "/v1/embeddings", body)), Usage(2))
    assert limiter.safe_since is None


async def test_a_defect_of_one_limit_fails_its_own_calls_only(caplog: pytest.LogCaptureFixture) -> None:
    store = ScriptedStore()
    limiter = store.limiter()
    store.defect = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await limiter.reserve(consumer(token_quota=1000), call())
    store.defect = None
    assert limiter.safe_since is None
    assert isinstance(await limiter.reserve(consumer("bob", token_quota=1000), call()), Reservation)
    assert "cannot update the limits of key:ann" in caplog.text


async def test_what_a_batch_or_another_operation_takes_teaches_nothing_about_chat() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=10**9, token_quota=10**9)
    usual = (await limiter.reserve(ann, call(most=None))).costs[0].tokens
    batch = Usage(10_000_000, 2_000_000, service_tier="batch")
    limiter.settle(await limiter.reserve(ann, parsed("GET", "/v1/batches/batch_123456789")), batch)
    pictures = parsed("POST", "/v1/images/generations", {"model": "gpt-4o", "prompt": "a harbour"})
    limiter.settle(await limiter.reserve(ann, pictures), Usage(10, 50_000))
    assert (await limiter.reserve(ann, call(most=None))).costs[0].tokens == usual


async def test_a_price_that_changes_on_a_day_changes_reservations() -> None:
    store = ScriptedStore()
    lines = [PriceLine(model="mine", input=1.0), PriceLine(model="mine", since="2026-11-22", input=3.0)]
    configuration = Configuration(backends=[], prices=lines)
    limiter, ann = Limiter(store, configuration, lambda *_: None), consumer(budget_usd=10**6)
    before = (await limiter.reserve(ann, call(model="mine", most=0))).costs[0].usd
    store.time += 86_400
    assert (await limiter.reserve(ann, call(model="mine", most=0))).costs[0].usd == pytest.approx(3 * before)


async def test_a_budget_lets_a_model_without_a_price_pass_or_refuses_it_as_configured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ScriptedStore()
    ann = consumer(budget_usd=5)
    limiter = store.limiter()
    for _ in range(2):
        limiter.settle(await limiter.reserve(ann, call(model="our-own")), Usage(100, 20))
    assert caplog.text.count("the model our-own has no known price") == 1
    strict = store.limiter(unpriced="refuse")
    with pytest.raises(ModelWithoutPrice, match="our-own"):
        await strict.reserve(ann, call(model="our-own"))
    strict.settle(await strict.reserve(ann, parsed("GET", "/v1/models/our-own")), Usage())
    strict.settle(await strict.reserve(ann, call()), Usage(100, 20))
    assert not any(one.safe_since for one in (limiter, strict))


@pytest.mark.parametrize("order", ["charge settle correct", "settle charge correct", "settle correct charge"])
async def test_the_charge_of_a_late_attempt_counts_whenever_it_comes(order: str) -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(token_quota=10**6)
    target = Target(Backend(name="b", endpoint="https://b", region="r", models={"gpt-4o": "g"}), "gpt-4o", "g")
    other = msgspec.structs.replace(target, deployment="h")
    reservation = await limiter.reserve(ann, call())
    steps = {
        "charge": lambda: limiter.charge(reservation, other, Usage(1000, 200)),
        "settle": lambda: limiter.settle(reservation, Usage(5, 1, estimated=True), target, [(other, Usage(30))]),
        "correct": lambda: limiter.book(reservation, Usage(7, 2), target, [(other, Usage(40))], 200),
    }
    for step in order.split():
        steps[step]()
    assert [(cost.requests, cost.tokens) for cost in reservation.costs] == [(1.0, 1249.0)]
    await limiter.close()
    row = next(iter(store.rows("limits").values()))["0"][0]
    assert row["tokens_used"] == 1249.0


async def test_a_warm_key_awaits_nothing() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=1_000_000)
    for _ in range(50):
        store.time += 0.1
        limiter.settle(await limiter.reserve(ann, call()), Usage(100, 20))
    store.stalled = True
    for _ in range(5):
        store.time += 0.1
        coroutine = limiter.reserve(ann, call())
        with pytest.raises(StopIteration):  # it ends without ever having to wait
            coroutine.send(None)
    store.stalled = False


async def test_of_a_thousand_at_once_on_three_instances_ten_pass() -> None:
    store = ScriptedStore()
    limiters, ann = [store.limiter() for _ in range(3)], consumer(requests_per_minute=10)
    answers = await asyncio.gather(*(attempt(limiters[i % 3], ann) for i in range(1000)))
    assert sum(isinstance(answer, Reservation) for answer in answers) == 10
    refused = [answer for answer in answers if isinstance(answer, RateLimitExceeded)]
    assert len(refused) == 990
    assert min(error.retry_after for error in refused) > 0


async def test_a_settlement_counts_once() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=10_000)
    reservation = await limiter.reserve(ann, call())
    for _ in range(3):
        limiter.settle(reservation, Usage(1000, 500))
        limiter.release(reservation)
    await limiter.close()
    assert store.rows("limits")["key:ann"]["0"][0]["tokens_used"] == pytest.approx(1500)


async def test_charges_of_other_tries_count_too() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=10_000, budget_usd=100, requests_per_minute=100)
    reservation = await limiter.reserve(ann, call())
    backend = Backend(name="b", endpoint="https://b", region="r", models={})
    large, small = Target(backend, "gpt-4o", "l"), Target(backend, "gpt-4o-mini", "s")
    limiter.settle(reservation, Usage(1000, 500), large, [(large, Usage(1000, 20)), (small, Usage(7))])
    await limiter.close()
    row = store.rows("limits")["key:ann"]["0"][0]
    assert row["tokens_used"] == pytest.approx(2527)
    assert row["requests_used"] == 1
    assert row["usd_used"] == pytest.approx((2000 * 2.5 + 520 * 10 + 7 * 0.15) / 1e6)


async def test_a_release_returns_the_request_too() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(requests_per_minute=2)
    for _ in range(5):
        limiter.release(await limiter.reserve(ann, call()))
    assert len(await admitted(limiter, ann, 3)) == 2


async def test_one_limit_gets_its_reservation_back_if_another_denies_the_call() -> None:
    store = ScriptedStore()
    limiter = store.limiter(teams={"red": Limits(requests_per_minute=1)})
    ann = Consumer("ann", "ann", limits=Limits(requests_per_minute=5), team="red")
    bob = Consumer("bob", "bob", limits=Limits(requests_per_minute=5), team="red")
    await limiter.reserve(ann, call())
    refused = await attempt(limiter, bob)
    assert isinstance(refused, RateLimitExceeded)
    assert "The team 'red'" in refused.message
    await limiter.close()
    assert store.rows("limits")["key:bob"]["0"][0]["requests_used"] == 0
    assert store.rows("limits")["team:red"]["0"][0]["requests_used"] == 1


async def test_a_limit_on_a_model_applies_in_addition_to_the_keys() -> None:
    store = ScriptedStore()
    limiter = store.limiter({"gpt-4o": Model(aliases=["gpt-4o-dated"])})
    ann = msgspec.structs.replace(
        consumer(requests_per_minute=100), model_limits={"gpt-4o": Limits(requests_per_minute=2)}
    )
    assert len(await admitted(limiter, ann, 2, call(model="gpt-4o"))) == 2
    refused = await attempt(limiter, ann, call(model="gpt-4o-dated"))
    assert isinstance(refused, RateLimitExceeded)
    assert "on gpt-4o" in refused.message
    assert len(await admitted(limiter, ann, 3, call(model="gpt-4.1"))) == 3


async def test_a_models_ceiling_is_shared_by_all() -> None:
    limiter = ScriptedStore().limiter({"gpt-4o": Model(limits=Limits(requests_per_minute=2))})
    passed = [await attempt(limiter, consumer(name)) for name in ("ann", "bob", "cleo")]
    assert [isinstance(answer, Reservation) for answer in passed] == [True, True, False]


async def test_defaults_hold_for_those_without_limits_and_0_lifts_them() -> None:
    limiter = ScriptedStore().limiter(defaults=Limits(requests_per_minute=1))
    assert len(await admitted(limiter, consumer("ann"), 3)) == 1
    assert len(await admitted(limiter, consumer("bob", requests_per_minute=2), 3)) == 2
    assert len(await admitted(limiter, consumer("cleo", requests_per_minute=0), 3)) == 3


async def test_a_soft_limit_only_reports() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(requests_per_minute=2, soft=True)
    assert len(await admitted(limiter, ann, 5)) == 5
    assert limiter.hits["key", "requests"] == 3
    await limiter.close()
    assert store.rows("limits")["key:ann"]["0"][0]["requests_used"] == 5


async def test_changed_limits_hold_at_once() -> None:
    limiter = ScriptedStore().limiter()
    assert len(await admitted(limiter, consumer(requests_per_minute=100), 3)) == 3
    stricter = consumer(requests_per_minute=2)
    assert len(await admitted(limiter, stricter, 9)) <= 4  # what was on lease, then none


async def test_quota_and_budget_say_when_they_renew() -> None:
    limiter = ScriptedStore().limiter(contact="platform@contoso.com")
    ann = consumer(token_quota=100, token_quota_period="week", time_zone="Asia/Tokyo")
    limiter.settle(await limiter.reserve(ann, call()), Usage(400, 50))
    refused = await attempt(limiter, ann)
    assert isinstance(refused, QuotaExceeded)
    assert (refused.status, refused.code) == (403, "quota_exceeded")
    assert refused.headers() == {"x-gateway-quota-renews": "2026-11-23T00:00:00+09:00"}
    assert "100 tokens per week" in refused.message
    assert "platform@contoso.com" in refused.message
    bob = consumer("bob", budget_usd=0.001)
    limiter.settle(await limiter.reserve(bob, call()), Usage(400, 50))
    broke = await attempt(limiter, bob)
    assert isinstance(broke, BudgetExceeded)
    assert broke.code == "budget_exceeded"


async def test_a_batch_counts_towards_budgets_alone() -> None:
    limiter, batch = ScriptedStore().limiter(), Usage(4_000_000, 500_000, service_tier="batch")
    ann = consumer(tokens_per_minute=1_000, token_quota=10_000)
    bob = consumer("bob", tokens_per_minute=1_000, token_quota=10_000, budget_usd=0.001)
    for one in (ann, bob):
        limiter.settle(await limiter.reserve(one, call()), batch)
    assert isinstance(await attempt(limiter, ann), Reservation)
    assert isinstance(await attempt(limiter, bob), BudgetExceeded)


async def test_a_quota_is_not_overrun_by_many_instances() -> None:
    store = ScriptedStore()
    limiters, ann = [store.limiter() for _ in range(8)], consumer(token_quota=10_000, estimate="max")
    for number in range(300):
        limiter = limiters[number % 8]
        answer = await attempt(limiter, ann, call(400, most=100))
        if isinstance(answer, Reservation):
            limiter.settle(answer, Usage(100, 100))
        store.time += 0.05
    await asyncio.gather(*(limiter.close() for limiter in limiters))
    used = store.rows("limits")["key:ann"]["0"][0]["tokens_used"]
    assert 9_000 <= float(used) <= 10_100


async def test_near_its_end_a_quota_reserves_all_that_calls_may_take() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(token_quota=100_000)
    limiter.settle(await limiter.reserve(ann, call(most=4000)), Usage(50_000, 0))
    await limiter.close()
    assert (await limiter.reserve(ann, call(most=4000))).costs[0].tokens < 1000
    limiter.settle(await limiter.reserve(ann, call(most=4000)), Usage(40_000, 0))
    await limiter.close()
    assert (await limiter.reserve(ann, call(most=4000))).costs[0].tokens > 4000


async def test_the_own_lease_does_not_bring_the_end_of_a_quota_nearer() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(token_quota=10_000)
    passed = 0
    while isinstance(answer := await attempt(limiter, ann, call(most=None)), Reservation):
        limiter.settle(answer, Usage(80, 20))
        passed += 1
        store.time += 0.1
    assert 80 <= passed <= 90  # at 85 % the longest answer has no room


async def test_a_small_call_passes_while_a_large_one_is_denied() -> None:
    limiter, ann = ScriptedStore().limiter(), consumer(tokens_per_minute=1000, estimate="max")
    await limiter.reserve(ann, call(0, most=950))
    large, small = await asyncio.gather(
        attempt(limiter, ann, call(0, most=100)), attempt(limiter, ann, call(0, most=10))
    )
    assert isinstance(large, RateLimitExceeded)
    assert isinstance(small, Reservation)


async def test_a_call_that_ends_late_is_settled_without_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.limits._settlement.LEASE_SECONDS", 0.02)
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=10_000)
    reservation = await limiter.reserve(ann, call())
    store.time += 10
    await asyncio.sleep(0.1)  # what was on lease has been given back; nothing is left to do
    limiter.settle(reservation, Usage(700, 77))
    await eventually(lambda: store.rows("limits")["key:ann"]["0"][0]["tokens_used"] == pytest.approx(777))


async def test_80_and_100_percent_raise_one_alert_each_in_a_fleet() -> None:
    store = ScriptedStore()
    limiters, ann = [store.limiter() for _ in range(3)], consumer(token_quota=1000)
    for number in range(20):
        store.time += 1.0
        answer = await attempt(limiters[number % 3], ann, call(400, most=0))
        if isinstance(answer, Reservation):
            limiters[number % 3].settle(answer, Usage(100, 0))
    await asyncio.gather(*(limiter.close() for limiter in limiters))
    assert store.alerts == [("key:ann", "tokens", 80), ("key:ann", "tokens", 100)]


async def test_a_budget_alerts_once_a_period_and_again_in_the_next() -> None:
    store = ScriptedStore()
    limiters, ann = [store.limiter() for _ in range(2)], consumer(budget_usd=1.0, budget_period="hour")
    for _ in range(2):
        for number in range(30):
            store.time += 2.0
            answer = await attempt(limiters[number % 2], ann, call(400, most=0))
            if isinstance(answer, Reservation):
                limiters[number % 2].settle(answer, Usage(20_000, 0))
        await asyncio.gather(*(limiter.close() for limiter in limiters))
        store.time += 3600 - 60
    assert store.alerts == [("key:ann", "usd", 80), ("key:ann", "usd", 100)] * 2


async def test_changed_limits_of_a_consumer_hold_within_a_minute() -> None:
    store = ScriptedStore()
    limiter, consumers = store.limiter(), Consumers(store)
    created, key = await create_consumer(consumers, "ann", models=None, limits=Limits(requests_per_minute=100))
    authenticator = Authenticator(consumers, store.now, store.now)

    async def passed(times: int) -> int:
        known = await authenticator.authenticate({"api-key": key})
        return len(await admitted(limiter, known, times))

    assert await passed(10) == 10
    one_of_a_model = {"gpt-4.1": Limits(requests_per_minute=1)}
    await change(consumers, created.id, limits=Limits(requests_per_minute=3), model_limits=one_of_a_model)
    store.time += 60
    assert await passed(10) == 3
    known = await authenticator.authenticate({"api-key": key})
    store.time += 60
    assert len(await admitted(limiter, known, 5, call(model="gpt-4.1"))) == 1


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)], ids=["summer time begins", "summer time ends"]
)
async def test_a_day_quota_lasts_for_all_hours_of_a_day(day: str, hours: int) -> None:
    store = ScriptedStore()
    midnight = datetime.fromisoformat(f"{day}T00:00:00").replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    limiter, ann = store.limiter(), consumer(request_quota=1, time_zone="Europe/Berlin")
    store.time = midnight - 1
    assert len(await admitted(limiter, ann, 2)) == 1
    store.time = midnight
    assert len(await admitted(limiter, ann, 2)) == 1
    store.time = midnight + hours * 3600 - 1
    assert len(await admitted(limiter, ann, 2)) == 0
    store.time += 1
    assert len(await admitted(limiter, ann, 2)) == 1


async def test_an_unreadable_row_is_reset(caplog: pytest.LogCaptureFixture) -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(requests_per_minute=2)
    rows: tuple[Properties, ...] = (
        {"colour": "red"},
        {"time": NOON, "epoch": 1, "requests_out": "many"},
        {"time": "soon", "epoch": 1},
    )
    for row in rows:
        await store.drop("limits")
        await store.table("limits").put("key:ann", "0", row, None)
        assert len(await admitted(store.limiter(), ann, 3)) == 2, row
    assert limiter.state()["mode"] == "normal"
    assert "resetting the limit row" in caplog.text


async def test_a_dead_table_leaves_some_seconds_of_its_limit_to_each_instance() -> None:
    store = ScriptedStore()
    store.dead = True
    limiter, ann = store.limiter(), consumer(requests_per_minute=40)
    assert len(await admitted(limiter, ann, 20)) == 6
    assert limiter.state()["mode"] == "safe"
    store.dead = False
    store.time += 5
    assert await admitted(limiter, ann, 1)
    await eventually(lambda: limiter.state()["mode"] == "normal")
    await limiter.close()
    assert store.rows("limits")["key:ann"]["0"][0]["requests_used"] == pytest.approx(7)


async def test_no_call_waits_longer_than_the_patience_for_a_slow_table() -> None:
    store = ScriptedStore()
    store.stalled = True
    limiter = store.limiter()
    loop = asyncio.get_running_loop()
    started = loop.time()
    answers = await asyncio.gather(*(attempt(limiter, consumer(requests_per_minute=40)) for _ in range(20)))
    waited = loop.time() - started
    assert sum(isinstance(answer, Reservation) for answer in answers) == 6
    assert waited < 10
    again = asyncio.ensure_future(attempt(limiter, consumer("bob", requests_per_minute=40)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert again.done()  # the outage is noticed by now


async def test_a_quota_that_was_never_read_is_503_without_the_table() -> None:
    store = ScriptedStore()
    store.dead = True
    refused = [await attempt(store.limiter(), consumer(token_quota=1000)) for _ in range(2)]
    assert [error.status for error in refused if isinstance(error, GatewayError)] == [503, 503]


async def test_a_large_limit_is_divided_among_shards_and_all_of_it_can_be_used() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=8_000_000, estimate="max")
    passed = len(await admitted(limiter, ann, 120, call(0, most=100_000)))
    assert passed == 80
    assert len(store.rows("limits")["key:ann"]) == 8


async def test_forgotten_keys_lose_no_settlement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three instances that know ten keys at a time serve a long tail of a hundred, through a table that fails now and
    then; calls end late and in any order."""
    monkeypatch.setattr("shared.limits._limits_at_hand._MOST_KEPT", 10)
    monkeypatch.setattr("shared.limits._settlement.LEASE_SECONDS", 0.02)
    monkeypatch.setattr("shared.limits._safe_mode._RETRY", 0.02)
    store, rng = ScriptedStore(), random.Random(5)
    limiters = [store.limiter(teams={"all": Limits(tokens_per_minute=10**9)}) for _ in range(3)]
    taken: Counter[str] = Counter()
    under_way: list[tuple[Limiter, Reservation, int]] = []

    async def begin() -> None:
        name, limiter = f"c{int(rng.paretovariate(0.6)) % 100}", rng.choice(limiters)
        caller = Consumer(name, name, limits=Limits(tokens_per_minute=10**9), team="all")
        answer = await attempt(limiter, caller)
        assert isinstance(answer, Reservation)
        tokens = rng.randrange(1, 500)
        taken[f"key:{name}"] += tokens
        under_way.append((limiter, answer, tokens))

    async def end() -> None:
        limiter, reservation, tokens = under_way.pop(rng.randrange(len(under_way)))
        limiter.settle(reservation, Usage(tokens))

    for step in range(1500):
        store.dead = step % 300 > 280
        await (end() if under_way and rng.random() < 0.48 else begin())
        store.time += rng.expovariate(10)
        await asyncio.sleep(0.002 if step % 100 == 0 else 0)
    store.dead = False
    store.time += 10
    assert all(len(limiter._at_hand.scopes) <= 10 and len(limiter._at_hand.calls) <= 10 for limiter in limiters)
    while under_way:
        await end()
    await asyncio.sleep(0.2)  # most has settled itself by now
    await asyncio.gather(*(limiter.close() for limiter in limiters))
    rows = store.rows("limits")
    used = {key: sum(float(row["tokens_used"]) for row, _ in shards.values()) for key, shards in rows.items()}
    taken["team:all"] = sum(taken.values())
    # A write that failed may have been done. Where too much time has gone by to tell, what it refunded is not refunded
    # again: a little too much may be counted, by this rule, and never too little.
    assert used.keys() == taken.keys()
    assert all(used[key] > tokens - 0.01 for key, tokens in taken.items()), (used, taken)
    assert sum(used.values()) < 1.02 * sum(taken.values())


async def test_a_process_that_ends_waits_for_the_settlement_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.limits._settlement.LEASE_SECONDS", 0.01)
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=1000)
    limiter.settle(await limiter.reserve(ann, call()), Usage(70, 7))
    store.latency, store.time = 0.05, store.time + 10
    await asyncio.sleep(0.03)
    limiter._at_hand.scopes.clear()  # it is forgotten meanwhile
    limiter._at_hand.calls.clear()
    await limiter.close()
    assert store.rows("limits")["key:ann"]["0"][0]["tokens_used"] == pytest.approx(77)


async def test_keys_that_are_used_once_settle_by_a_shared_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.limits._settlement.LEASE_SECONDS", 0.02)
    store = ScriptedStore()
    limiter = store.limiter()
    for number in range(200):
        limiter.settle(await limiter.reserve(consumer(f"c{number}", tokens_per_minute=1000), call()), Usage(70, 7))
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert sum(not timer.cancelled() for timer in scheduled) <= 2  # the agenda's, and the last call's patience
    store.time += 10

    def used() -> list[object]:
        return [rows["0"][0]["tokens_used"] for rows in store.rows("limits").values()]

    await eventually(lambda: used() == [pytest.approx(77)] * 200)


async def test_the_estimate_learns_what_calls_take() -> None:
    limiter, ann = ScriptedStore().limiter(), consumer(tokens_per_minute=1_000_000)
    for _ in range(400):
        limiter.settle(await limiter.reserve(ann, call(1000, most=None)), Usage(500, 40))
    reservation = await limiter.reserve(ann, call(1000, most=None))
    assert reservation.costs[0].tokens == pytest.approx(500 + 1.25 * 40, rel=0.05)


async def test_a_new_instance_begins_with_what_others_have_learned() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(tokens_per_minute=1_000_000)
    for _ in range(400):
        limiter.settle(await limiter.reserve(ann, call(1000, most=None)), Usage(250, 40))
    await limiter.close()
    other = store.limiter()
    await other.reserve(ann, call(1000, most=None))
    reservation = await other.reserve(ann, call(1000, most=None))
    assert reservation.costs[0].tokens == pytest.approx(250 + 1.25 * 40, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (7.66, "7.66s"), (360, "6m0s"), (59.999, "60s"), (3601, "1h0m1s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_token_headers_have_the_names_in_the_configuration() -> None:
    limiter = ScriptedStore().limiter(headers=TokenHeaders("Remaining-Tokens", "Consumed-Tokens"))
    reservation = await limiter.reserve(consumer(tokens_per_minute=1000), call(400, most=0))
    headers = limiter.headers(reservation, lambda: 17)
    assert (headers["consumed-tokens"], headers["remaining-tokens"]) == ("17", "900")
    assert "consumed-tokens" not in limiter.headers(reservation)
