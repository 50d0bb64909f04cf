"""Limits as API Management's policies have them: periods in seconds, quotas of successes, tokens by client address, and
counting without estimates."""

from typing import Any

import pytest

from shared.azure_openai import operations
from shared.config.document import Configuration
from shared.config.limits import AddressLimits, Limits, LimitSettings
from shared.config.prices import PriceLine
from shared.errors import BudgetExceeded, QuotaExceeded, RateLimitExceeded
from shared.limits import cleanup, scopes
from shared.limits.admission import Admission
from shared.limits.limiter import Limiter
from shared.limits.reservation import Reservation
from shared.types import Call, Consumer, Usage
from tests.harness.scripted_store import NOON, ScriptedStore

ADDRESS = "203.0.113.7"


def call(most: int | None = 50) -> Call:
    chat = operations.OPERATIONS[0]
    return Call(operation=chat, surface="openai", model="gpt-4o", body=b"x" * 400, max_output_tokens=most)


def consumer(name: str = "ann", **limits: Any) -> Consumer:
    return Consumer(name, name, limits=Limits(**limits))


async def made(limiter: Limiter, who: Consumer, status: int = 200, usage: Usage | None = None) -> Reservation:
    """A call from `ADDRESS` that ended with this status."""
    reservation = await admitted(limiter, who)
    limiter.settle(reservation, usage or Usage(10, 5), status=status)
    return reservation


async def admitted(limiter: Limiter, who: Consumer, most: int | None = 50) -> Reservation:
    admission = Admission(limiter)
    try:
        await admission.admit(ADDRESS)
        return await admission.reserve(who, call(most))
    finally:
        admission.leave()


async def with_a_wrong_key(limiter: Limiter) -> None:
    admission = Admission(limiter)
    await admission.admit(ADDRESS)
    admission.leave()


@pytest.mark.parametrize("seconds", [60, 90, 3600, 604_800])
def test_a_period_in_seconds_begins_as_those_of_api_management(seconds: int) -> None:
    since, until = scopes.period_of(seconds, "Europe/Berlin", NOON + 1)
    year_one = -62_135_596_800  # 0001-01-01T00:00:00Z
    assert (since - year_one) % seconds == 0
    assert (until - since, since <= NOON + 1 < until) == (seconds, True)
    bound = scopes.bounds(Limits(request_quota=5, request_quota_period=seconds), until)[0]
    assert bound is not None
    assert bound.since == until


async def test_a_quota_of_so_many_seconds_renews_after_them() -> None:
    store = ScriptedStore()
    limiter, ann = store.limiter(), consumer(request_quota=2, request_quota_period=90)
    for _ in range(2):
        await made(limiter, ann)
    with pytest.raises(QuotaExceeded, match="2 requests per 90 s"):
        await admitted(limiter, ann)
    store.time += 90
    await made(limiter, ann)


@pytest.mark.parametrize("place", ["key", "address"])
async def test_a_quota_of_successes_counts_no_other_call(place: str) -> None:
    limits: dict[str, Any] = {"request_quota": 2, "request_quota_period": 3600, "quota_counts": "success"}
    store = ScriptedStore()
    limiter = store.limiter(addresses=AddressLimits(**limits)) if place == "address" else store.limiter()
    ann = consumer(**limits) if place == "key" else consumer()
    for status in (400, 404, 429, 499, 500, 503):
        await made(limiter, ann, status)
    limiter.release(await admitted(limiter, ann))  # refused by the gateway
    await with_a_wrong_key(limiter)
    for status in (200, 302):
        await made(limiter, ann, status)
    with pytest.raises(QuotaExceeded, match="2 successful requests per 3600 s"):
        await admitted(limiter, ann)


@pytest.mark.parametrize("place", ["key", "address"])
async def test_the_rate_beside_a_quota_of_successes_counts_what_failed(place: str) -> None:
    limits: dict[str, Any] = {"requests_per_minute": 3, "request_quota": 50, "quota_counts": "success"}
    store = ScriptedStore()
    limiter = store.limiter(addresses=AddressLimits(**limits)) if place == "address" else store.limiter()
    ann = consumer(**limits) if place == "key" else consumer()
    for _ in range(3):
        await made(limiter, ann, 400)
    with pytest.raises(RateLimitExceeded, match="3 requests per minute"):
        await admitted(limiter, ann)


async def test_a_call_that_no_backend_served_takes_nothing_from_the_quota_of_its_address() -> None:
    store = ScriptedStore()
    limiter = store.limiter(addresses=AddressLimits(request_quota=2, request_quota_period="hour"))
    for _ in range(3):
        await made(limiter, consumer(), 500)
        limiter.release(await admitted(limiter, consumer()))
    for _ in range(2):
        await made(limiter, consumer())
    with pytest.raises(QuotaExceeded):
        await admitted(limiter, consumer())


async def test_wrong_keys_count_towards_the_limits_of_an_address() -> None:
    limiter = ScriptedStore().limiter(addresses=AddressLimits(requests_per_minute=100, request_quota=3))
    for _ in range(3):
        await with_a_wrong_key(limiter)
    with pytest.raises(QuotaExceeded):
        await with_a_wrong_key(limiter)


async def test_the_keys_of_an_address_share_its_tokens() -> None:
    store = ScriptedStore()
    limiter = store.limiter(addresses=AddressLimits(tokens_per_minute=5000))
    await made(limiter, consumer("ann"), usage=Usage(2000, 500))
    answer = await made(limiter, consumer("bob"), usage=Usage(2400, 200))
    await limiter.close()
    assert limiter.headers(answer)["x-ratelimit-limit-tokens"] == "5000"
    with pytest.raises(
        RateLimitExceeded, match=f"The address {ADDRESS} is limited to 5000 tokens per minute"
    ) as raised:
        await admitted(limiter, consumer("eve"), most=1000)
    assert 0 < raised.value.retry_after <= 60
    store.time += 60
    await made(limiter, consumer("eve"))


async def test_work_that_goes_on_counts_towards_the_tokens_of_its_address() -> None:
    store = ScriptedStore()
    limiter = store.limiter(addresses=AddressLimits(tokens_per_minute=5000))
    reservation = await admitted(limiter, consumer())
    held = limiter.hold(reservation, call(), "gpt-4o")
    limiter.settle(reservation, Usage(), status=200)
    limiter.settle_held(consumer(), "gpt-4o", held, store.time, [(Usage(4000, 900), None)])
    await limiter.close()
    with pytest.raises(RateLimitExceeded):
        await admitted(limiter, consumer("bob"), most=500)


async def test_without_an_estimate_calls_pass_until_what_was_used_reaches_the_limit() -> None:
    store = ScriptedStore()
    limiter = store.limiter(addresses=AddressLimits(tokens_per_minute=5000, estimate="none"))
    at_once = [await admitted(limiter, consumer(), most=100_000) for _ in range(20)]  # nothing has been used yet
    for reservation in at_once[1:]:
        limiter.release(reservation)
    limiter.settle(at_once[0], Usage(3000, 1500), status=200)
    await made(limiter, consumer(), usage=Usage(400, 400))  # past the limit by 300
    with pytest.raises(RateLimitExceeded) as raised:
        await admitted(limiter, consumer(), most=1)
    assert 300 / 5000 * 60 < raised.value.retry_after < 5
    store.time += 5
    await made(limiter, consumer())


async def test_without_an_estimate_a_budget_ends_with_what_was_spent() -> None:
    configuration = Configuration(backends=[], prices=[PriceLine(model="gpt-4o", input=1.0, output=10.0)])
    limiter, ann = Limiter(ScriptedStore(), configuration, lambda *_: None), consumer(budget_usd=1, estimate="none")
    assert (await limiter.reserve(ann, call(most=100_000))).costs[0].usd < 0.0001
    await made(limiter, ann, usage=Usage(100_000, 200_000))
    with pytest.raises(BudgetExceeded):
        await admitted(limiter, ann)


async def test_idle_rows_of_quotas_of_successes_are_forgotten() -> None:
    store = ScriptedStore()
    addresses = AddressLimits(requests_per_minute=10, request_quota=5, quota_counts="success")
    limiter = store.limiter(addresses=addresses)
    await made(limiter, consumer())
    await limiter.close()
    rows = [key for key in store.rows("limits") if key.startswith("address")]
    assert sorted(rows) == [f"address-successes:{ADDRESS}", f"address:{ADDRESS}"]
    store.time += 2 * 86_400
    settings = Configuration(backends=[], limits=LimitSettings(addresses=addresses))
    assert await cleanup.forget_idle(store, settings) == 2
