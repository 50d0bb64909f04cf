"""The order of the targets: rotation, health, quotas, fallbacks, regions; and the error if none is left."""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.anthropic import operations as messages
from shared.anthropic.backend_requests import upstream_message
from shared.azure_openai.backend_requests import headers_for, upstream_request
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.document import ApiKey, Backend, Configuration, DeployedModel, Model, Successor, Variant
from shared.config.prices import DeploymentType
from shared.errors import (
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    RateLimitExceeded,
    RegionNotAllowed,
    StoreUnavailable,
    UnknownPath,
)
from shared.routing import _health, quota
from shared.routing._health import HEALTHY, Health
from shared.routing._prompt_cache import Share, choose
from shared.routing.breakers import Breakers
from shared.routing.preferences import RoutingPreferences
from shared.routing.quota import Sent, Throttle
from shared.routing.rotation import BLOCK, Rotation, smooth_order
from shared.routing.router import Router
from shared.storage import Properties
from shared.types import Access, Call, Consumer, Target
from tests.harness.backends import backend
from tests.harness.clock import Clock
from tests.harness.memory_store import MemoryStore

ANYONE = Consumer("c", "anyone")


def chat(model: str = "m") -> Call:
    body = b'{"model": "%s"}' % model.encode()
    return parse_call(match("POST", "/v1/chat/completions"), "", {}, body)


class Routing:
    """A router, with everything that it decides by."""

    def __init__(self, *backends: Backend, models: Mapping[str, Model] | None = None) -> None:
        self.clock = Clock()
        rng = random.Random(7)
        self.store = MemoryStore(self.clock)
        self.breakers = Breakers(self.clock, rng)
        self.rotation = Rotation(self.store.table("rotation"), rng)
        self.configuration = Configuration(list(backends), dict(models or {}))
        self.router = Router(self.configuration, self.rotation, self.breakers)

    def order(self, model: str = "m", consumer: Consumer = ANYONE) -> list[str]:
        return [target.backend.name for target in self.targets(model, consumer)]

    def targets(self, model: str = "m", consumer: Consumer = ANYONE) -> list[Target]:
        return self.planned(chat(model), consumer)

    def planned(self, call: Call, consumer: Consumer = ANYONE) -> list[Target]:
        return self.router.plan(consumer, call).targets

    def target(self, name: str) -> Target:
        return next(target for target in self.targets() if target.backend.name == name)


async def test_two_calls_in_a_row_go_to_different_backends() -> None:
    for count in (2, 3, 5):
        routing = Routing(*(backend(f"b{i}") for i in range(count)))
        firsts = [routing.order()[0] for _ in range(5 * BLOCK)]
        assert all(one != two for one, two in pairwise(firsts))
        assert max(Counter(firsts).values()) - min(Counter(firsts).values()) <= 6
        await routing.rotation.close()


async def test_weights_share_the_calls() -> None:
    routing = Routing(backend("a", weight=30), backend("b", weight=10))
    assert Counter(routing.order()[0] for _ in range(40)) == {"a": 30, "b": 10}
    await routing.rotation.close()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_round_has_every_backend_as_often_as_its_weight_and_evenly_spread(weights: list[int]) -> None:
    order = smooth_order(weights)
    assert Counter(order) == dict(enumerate(weights))
    for i, weight in enumerate(weights):  # in any stretch, no backend is ahead of its share by more than one turn each
        for length in range(len(order)):
            assert abs(order[:length].count(i) - length * weight / len(order)) < len(weights)


async def test_every_target_is_a_candidate_once_and_lower_priority_numbers_go_first() -> None:
    routing = Routing(backend("late", priority=2), backend("a"), backend("b", weight=3))
    for _ in range(8):
        order = routing.order()
        assert sorted(order[:2]) == ["a", "b"]
        assert order[2:] == ["late"]
    await routing.rotation.close()


async def test_instances_share_blocks_of_the_counter_and_none_takes_one_twice() -> None:
    store = MemoryStore(lambda: 0.0)
    rotations = [Rotation(store.table("rotation"), random.Random(seed)) for seed in range(8)]
    blocks = [await rotation._claim("pool") for rotation in rotations * 5]
    assert sorted(blocks) == list(range(40))


async def test_the_turns_go_on_while_the_table_is_out_of_reach() -> None:
    class Dead(MemoryStore):
        def table(self, name: str) -> Any:
            table = super().table(name)

            async def put(partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
                raise StoreUnavailable("dead")

            table.put = put  # type: ignore[method-assign]
            return table

    rotation = Rotation(Dead(lambda: 0.0).table("rotation"), random.Random(1))
    tickets = [rotation.ticket("pool", 3) for _ in range(4 * BLOCK)]
    assert all(two - one in (1, 2) for one, two in pairwise(tickets))
    await rotation.close()


def openai(name: str = "o", **more: Any) -> Backend:
    return Backend(
        name=name, endpoint="https://api.openai.com", kind="openai", auth=ApiKey("K"), models={"m": "m"}, **more
    )


async def test_openai_takes_its_turn_beside_azure_but_never_with_what_azure_alone_has() -> None:
    routing = Routing(backend("a"), openai())
    assert Counter(routing.order()[0] for _ in range(40)) == {"a": 20, "o": 20}
    grounded = parse_call(match("POST", "/v1/chat/completions"), "", {}, b'{"model": "m", "data_sources": []}')
    assert {tuple(one.backend.name for one in routing.planned(grounded)) for _ in range(6)} == {("a",)}
    await routing.rotation.close()
    alone = Routing(openai())
    with pytest.raises(InvalidRequest, match="data_sources works on Azure OpenAI only"):
        alone.planned(grounded)
    with pytest.raises(UnknownPath, match="works on Azure OpenAI only"):
        alone.planned(parse_call(match("GET", "/openai/files"), "api-version=2024-10-21", {}, b""))
    await alone.rotation.close()


@pytest.mark.parametrize(("canary", "shadow"), [(None, None), (Variant("n", 1.0), None), (None, Variant("n", 1.0))])
async def test_a_key_limited_to_places_never_reaches_openai(canary: Variant | None, shadow: Variant | None) -> None:
    models = {"m": Model(fallbacks=["n"], canary=canary, shadow=shadow)}
    elsewhere = Backend(
        name="p", endpoint="https://api.openai.com", kind="openai", auth=ApiKey("K"), models={"n": "n"}, region="a"
    )
    routing = Routing(backend("a", data_zone="eu"), openai(priority=0), elsewhere, models=models)
    for access in (Access(regions=frozenset("a")), Access(data_zones=frozenset({"eu"}))):
        plan = routing.router.plan(Consumer("c", "pinned", access=access), chat())
        assert [target.backend.name for target in [*plan.targets, *plan.shadow]] == ["a"]
        with pytest.raises(RegionNotAllowed):
            routing.order("n", Consumer("c", "pinned", access=access))
    await routing.rotation.close()


async def test_a_throttled_backend_gets_no_call_until_its_wait_is_over() -> None:
    routing = Routing(backend("a"), backend("b"))
    routing.breakers.throttle(routing.target("a"), 7.0)
    assert {tuple(routing.order()) for _ in range(6)} == {("b", "a")}
    routing.clock.now += 7.7
    assert sorted(routing.order()) == ["a", "b"]
    await routing.rotation.close()


async def test_when_all_are_throttled_the_caller_gets_the_shortest_wait() -> None:
    routing = Routing(backend("a"), backend("b"), backend("c"))
    a, b, c = (routing.target(name) for name in "abc")
    for target, wait in ((a, 7.0), (b, 5.0), (c, 9.0)):
        routing.breakers.throttle(target, wait)
    with pytest.raises(RateLimitExceeded) as caught:
        routing.targets()
    assert caught.value.headers() == {"retry-after": "5", "retry-after-ms": "5000"}
    routing.clock.now += 5.5
    assert routing.order()[0] == "b"
    await routing.rotation.close()


async def test_a_wait_of_a_day_is_obeyed_only_while_another_backend_can_serve() -> None:
    routing = Routing(backend("a"), backend("b"))
    a, b = routing.target("a"), routing.target("b")
    routing.breakers.throttle(a, 86_400)
    routing.clock.now += 60
    assert routing.order() == ["b", "a"]
    routing.breakers.throttle(b, 86_400)
    assert routing.order() == ["a", "b"]
    await routing.rotation.close()


async def test_three_faults_in_a_row_eject_and_an_answer_between_them_does_not() -> None:
    routing = Routing(backend("a"), backend("b"))
    a = routing.target("a")
    for _ in range(2):
        routing.breakers.fault(a, "status 503")
    routing.breakers.success(a)
    for _ in range(2):
        routing.breakers.fault(a, "status 503")
    assert sorted(routing.order()) == ["a", "b"]
    routing.breakers.fault(a, "status 503")
    assert {tuple(routing.order()) for _ in range(4)} == {("b", "a")}  # still there for a call that b fails
    await routing.rotation.close()


@pytest.mark.parametrize("kind", ["quota", "oversized"])
async def test_a_probe_that_is_throttled_ends_the_ejection(kind: Throttle) -> None:
    routing = Routing(backend("a"), backend("b"))
    a = routing.target("a")
    for _ in range(3):
        routing.breakers.fault(a, "status 500")
    routing.clock.now += 10
    routing.breakers.begin(a, 60.0)
    routing.breakers.failed(a)
    routing.breakers.throttle(a, 0.3, kind, 1.0)
    assert not routing.breakers.usable(a, routing.breakers.clock(), 1.0)
    routing.clock.now += 0.4
    assert routing.breakers.usable(a, routing.breakers.clock(), 1.0)
    assert not routing.breakers.health(a).half_open


async def test_a_late_429_does_not_end_an_ejection() -> None:
    routing = Routing(backend("a"), backend("b"))
    a = routing.target("a")
    for _ in range(3):
        routing.breakers.fault(a, "status 500")
    routing.breakers.throttle(a, 0.3)
    routing.clock.now += 1
    assert not routing.breakers.usable(a, routing.breakers.clock())


async def test_an_ejected_backend_is_probed_by_one_call_and_comes_back_when_it_answers() -> None:
    routing = Routing(backend("a"), backend("b"))
    a = routing.target("a")
    for _ in range(3):
        routing.breakers.fault(a, "timeout")
    routing.clock.now += 6.1
    assert sorted(routing.order()) == ["a", "b"]
    routing.breakers.begin(a, 20.0)
    assert routing.order() == ["b", "a"]  # the others keep away while it is being tried
    routing.breakers.success(a)
    assert sorted(routing.order()) == ["a", "b"]
    await routing.rotation.close()


@given(st.integers(0, 12), st.floats(-1, 1))
def test_ejections_grow_and_are_capped(ejections: int, jitter: float) -> None:
    health = Health(faults=2, ejections=ejections)
    lasts = _health.after_fault(health, 0.0, "x", jitter).ejected_until
    usual = min(5.0 * 2**ejections, 60.0)
    assert 0.8 * usual - 1e-9 <= lasts <= 1.2 * usual + 1e-9


def test_a_refusal_of_our_identity_ejects_at_once_and_a_success_ends_it() -> None:
    refused = _health.after_refusal(HEALTHY, 100.0, "status 401")
    assert not refused.usable_at(159.9)
    assert refused.usable_at(160.0)
    assert _health.after_success(refused).usable_at(100.0)


def test_a_success_does_not_end_a_cool_down() -> None:
    cooling = _health.after_throttle(HEALTHY, 0.0, 30.0)
    assert not _health.after_success(cooling).usable_at(29.0)


async def test_when_all_are_ejected_the_one_that_recovers_first_is_tried_first() -> None:
    routing = Routing(backend("a"), backend("b"))
    a, b = routing.target("a"), routing.target("b")
    routing.breakers.refusal(a, "status 401")
    routing.clock.now += 1
    routing.breakers.refusal(b, "status 401")
    assert routing.order() == ["a", "b"]
    await routing.rotation.close()


async def test_health_is_kept_by_deployment_so_one_model_does_not_cool_another() -> None:
    routing = Routing(backend("a", ("m", "n")))
    routing.breakers.throttle(routing.target("a"), 5.0)
    with pytest.raises(RateLimitExceeded):
        routing.targets("m")
    assert routing.order("n") == ["a"]
    await routing.rotation.close()


async def test_a_fallback_model_comes_after_every_backend_of_the_model_itself() -> None:
    routing = Routing(backend("a", ("m", "n")), backend("b", ("n",)), models={"m": Model(["n"], ["m-2024"])})
    assert routing.targets("m-2024")[0] == Target(routing.target("a").backend, "m", "m")
    assert {t.model for t in routing.targets()[1:]} == {"n"}
    only_m = Consumer("c", "x", frozenset({"m"}))
    assert [t.model for t in routing.targets("m", only_m)] == ["m"]
    await routing.rotation.close()


async def test_a_key_sees_and_uses_only_its_models() -> None:
    routing = Routing(backend("a", ("m", "n")), models={"n": Model([], ["alias"])})
    only_n = Consumer("c", "x", frozenset({"alias"}))
    assert routing.order("alias", only_n) == routing.order("n", only_n) == ["a"]
    with pytest.raises(ModelNotAllowed):
        routing.targets("m", only_n)
    with pytest.raises(ModelNotFound) as caught:
        routing.targets("zzz", Consumer("c", "x", frozenset({"m"})))
    assert "n" not in caught.value.message.split("use:")[1]
    await routing.rotation.close()


# --- groups, quotas, loads, regions -----------------------------------------------------------------------------------


def large(tokens: int) -> Call:
    body = b'{"model": "m", "max_tokens": %d}' % tokens
    return parse_call(match("POST", "/v1/chat/completions"), "", {}, body)


def names(targets: Sequence[Target]) -> list[str]:
    return [target.backend.name for target in targets]


async def test_provisioned_goes_first_within_a_priority_and_a_lower_number_before_that() -> None:
    routing = Routing(backend("payg"), backend("reserved", kind="provisioned"), backend("cheap", priority=0))
    assert routing.order() == ["cheap", "reserved", "payg"]
    await routing.rotation.close()


async def test_calls_spill_over_while_a_group_cools_and_return_when_it_has_cooled() -> None:
    routing = Routing(backend("reserved", kind="provisioned"), backend("payg"))
    routing.breakers.throttle(routing.target("reserved"), 30.0)
    assert routing.order()[0] == "payg"
    routing.clock.now += 1.2  # a lone instance may knock after a second: what is paid for is to be used
    assert routing.order()[0] == "reserved"
    await routing.rotation.close()


async def test_the_calls_of_an_ejected_backend_are_spread_over_all_the_others() -> None:
    routing = Routing(*(backend(name) for name in "abcd"))
    routing.breakers.refusal(routing.target("a"), "status 401")
    firsts = Counter(routing.order()[0] for _ in range(240))
    assert set(firsts) == {"b", "c", "d"}
    assert max(firsts.values()) <= 1.1 * min(firsts.values())
    await routing.rotation.close()


async def test_a_backend_with_far_more_under_way_is_passed_over_and_one_with_a_few_more_is_not() -> None:
    routing = Routing(backend("a"), backend("b"))
    for under_way, expected in ((4, {"a", "b"}), (5, {"b"})):
        routing.breakers.watched(routing.target("a")).in_flight = under_way
        assert {routing.order()[0] for _ in range(8)} == expected
    routing.breakers.watched(routing.target("b")).in_flight = 3
    assert {routing.order()[0] for _ in range(8)} == {"a", "b"}
    await routing.rotation.close()


async def test_a_quota_that_would_refuse_a_call_puts_its_backend_last_but_before_another_model() -> None:
    routing = Routing(backend("a", ("m", "n")), backend("b", ("m", "n")), models={"m": Model(["n"])})
    a = routing.target("a")
    headers = {"x-ratelimit-remaining-tokens": "500", "x-ratelimit-reset-tokens": "20"}
    reading = quota.read(headers, Sent(), routing.clock())
    assert reading is not None
    routing.breakers.learn(a, reading)
    for _ in range(4):
        targets = routing.planned(large(1000))
        assert names(targets)[:2] == ["b", "a"]
        assert [target.model for target in targets] == ["m", "m", "n", "n"]
    assert {routing.planned(large(100))[0].backend.name for _ in range(4)} == {"a", "b"}
    await routing.rotation.close()


async def test_a_lowered_quota_lowers_the_share_of_the_calls() -> None:
    routing = Routing(backend("a", tokens_per_minute={"m": 1000}), backend("b"))
    reading = quota.read({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-limit-tokens": "250"}, Sent(), 0.0)
    assert reading is not None
    routing.breakers.learn(routing.target("a"), reading)
    firsts = Counter(routing.order()[0] for _ in range(800))
    assert 60 < firsts["a"] < 140  # a quarter of its half
    await routing.rotation.close()


async def test_an_oversized_call_keeps_only_calls_of_its_size_away() -> None:
    routing = Routing(backend("a"))
    a = routing.target("a")
    routing.breakers.throttle(a, 8.0, "oversized", 900.0)
    assert names(routing.planned(large(500))) == ["a"]
    with pytest.raises(RateLimitExceeded) as caught:
        routing.planned(large(1000))
    assert 7 < caught.value.retry_after <= 8
    routing.clock.now += 8.1
    assert names(routing.planned(large(1000))) == ["a"]
    await routing.rotation.close()


async def test_backends_that_ask_for_hours_get_few_calls_while_they_refuse() -> None:
    routing = Routing(backend("a"))
    a = routing.target("a")
    routing.breakers.throttle(a, 3600.0)
    routing.clock.now += 11
    refused = []
    for _ in range(200):
        try:
            routing.targets()
        except RateLimitExceeded as error:
            refused.append(error.retry_after)
    assert 180 < len(refused) < 200
    assert all(0 < wait <= 10 for wait in refused)
    await routing.rotation.close()


@given(
    regions=st.none() | st.frozensets(st.sampled_from("abc")),
    zones=st.none() | st.frozensets(st.sampled_from(["eu", "us"])),
    pin=st.sampled_from(["", "a", "b", "c"]),
    sick=st.sets(st.sampled_from("abc")),
)
def test_no_call_ever_leaves_the_regions_of_its_key(
    regions: frozenset[str] | None, zones: frozenset[str] | None, pin: str, sick: set[str]
) -> None:
    models = {"m": Model(["n"], canary=Variant("o", 1.0), shadow=Variant("o", 1.0))}
    every = ("m", "n", "o")
    routing = Routing(
        backend("a", every, data_zone="eu"), backend("b", every, data_zone="us"), backend("c", every), models=models
    )
    routing.rotation._fetch_ahead = lambda pool, state: None  # type: ignore[method-assign]
    for name in sick:
        for model in every:
            routing.breakers.refusal(Target(backend(name), model, model), "status 401")
    consumer = Consumer("c", "x", access=Access(regions=regions, data_zones=zones, pin=True))
    try:
        plan = routing.router.plan(consumer, chat(), RoutingPreferences(backend=pin))
    except RegionNotAllowed:
        plan = None
    zone = {"a": "eu", "b": "us", "c": None}
    allowed = {
        name
        for name in "abc"
        if (regions is None or name in regions) and (zones is None or zone[name] in zones) and pin in ("", name)
    }
    if plan is None:
        assert not allowed
    else:
        assert set(names(plan.targets)) == allowed
        assert set(names(plan.shadow)) <= allowed


KINDS: tuple[DeploymentType | None, ...] = ("regional", "data_zone", "global", None)
PLACES = (("sweden", "eu"), ("france", "eu"), ("virginia", "us"), ("japan", None))


@given(
    types=st.lists(st.sampled_from(KINDS), min_size=12, max_size=12),
    regions=st.none() | st.frozensets(st.sampled_from(("sweden", "virginia", "japan")), min_size=1),
    zones=st.none() | st.frozensets(st.sampled_from(("eu", "us")), min_size=1),
    path=st.sampled_from(("/v1/chat/completions", "/v1/assistants", "/v1/batches", "/v1/threads/thread_1/runs")),
)
def test_no_call_ever_leaves_by_the_type_of_a_deployment(
    types: list[DeploymentType | None], regions: frozenset[str] | None, zones: frozenset[str] | None, path: str
) -> None:
    kinds = dict(zip(((region, model) for region, _ in PLACES for model in "mno"), types, strict=True))
    backends = [
        Backend(
            name=region,
            endpoint=f"https://{region}",
            region=region,
            data_zone=zone,
            models={model: DeployedModel(deployment=model, type=kinds[region, model]) for model in "mno"},
        )
        for region, zone in PLACES
    ]
    routing = Routing(*backends, openai(), models={"m": Model(["n"], canary=Variant("o", 1.0), shadow=Variant("o", 1))})
    routing.rotation._fetch_ahead = lambda pool, state: None  # type: ignore[method-assign]
    seen = path in ("/v1/chat/completions", "/v1/assistants")
    call = parse_call(match("POST", path), "", {}, b'{"model": "m"}' if seen else b"{}")

    def stays(target: Target) -> bool:
        if regions is None and zones is None:
            return True
        place, zone = target.backend.region, target.backend.data_zone
        kind = kinds.get((place, target.model)) if target.model else None
        if target.backend.name == "o" or kind == "global" or (kind == "data_zone" and regions is not None):
            return False
        if not seen and any(kinds[place, model] is not None for model in "mno"):
            return False
        return (regions is None or place in regions) and (zones is None or zone in zones)

    consumer = Consumer("c", "x", access=Access(regions=regions, data_zones=zones))
    try:
        plan = routing.router.plan(consumer, call)
    except RegionNotAllowed:
        own = [target for group in routing.router._groups_of("m" if seen else "") for target in group.targets]
        assert not any(map(stays, own))
        return
    assert plan.targets
    assert all(map(stays, [*plan.targets, *plan.shadow]))
    if seen:
        expected = {t.backend.name for t in plan.targets if t.model == "m"}
        assert expected == {b.name for b in (*backends, openai()) if stays(Target(b, "m", "m"))}


def test_a_refused_call_names_the_type_that_would_let_it_leave() -> None:
    models = {"m": DeployedModel(deployment="m", type="global")}
    routing = Routing(Backend(name="a", endpoint="https://a", region="sweden", data_zone="eu", models=models))
    limits = ((Access(data_zones=frozenset({"eu"})), "zone eu"), (Access(regions=frozenset({"sweden"})), "sweden"))
    for access, place in limits:
        with pytest.raises(RegionNotAllowed, match=f"'m' .* have the type global, .* limited to .*{place}"):
            routing.order("m", Consumer("c", "x", access=access))


async def test_a_backend_loses_a_later_turn_for_each_turn_taken_by_a_prefix() -> None:
    routing = Routing(*(backend(name) for name in "abcd"))
    body = b'{"model": "m", "prompt_cache_key": "k"}'
    favoured = parse_call(match("POST", "/v1/chat/completions"), "", {}, body)
    load: Counter[str] = Counter()
    for i in range(400):
        load[routing.planned(favoured if i % 5 == 0 else chat())[0].backend.name] += 1
    assert max(load.values()) <= 1.1 * 100
    await routing.rotation.close()


def flex(**fields: Any) -> Call:
    body = {"model": "m", "messages": [], "service_tier": "flex", **fields}
    return parse_call(match("POST", "/v1/chat/completions"), "", {}, json.dumps(body).encode())


async def test_a_throttle_of_a_tier_leaves_the_standard_tier_alone() -> None:
    routing = Routing(backend("a"))
    (target,) = routing.planned(flex())
    assert target.tier == "flex"
    routing.breakers.throttle(target, 60.0)
    with pytest.raises(RateLimitExceeded):
        routing.planned(flex())
    assert [one.tier for one in routing.planned(chat())] == [""]
    assert [one.tier for one in routing.planned(flex(service_tier="auto"))] == [""]
    routing.breakers.fault(target, "status 500")
    assert routing.breakers.health(routing.target("a")).faults == 0


async def test_a_throttle_of_claudes_fast_mode_leaves_the_standard_speed_alone() -> None:
    def message(speed: str) -> Call:
        body = {"model": "m", "max_tokens": 9, "messages": [], "speed": speed}
        return parse_call(messages.match("POST", "/v1/messages"), "", {}, json.dumps(body).encode())

    own = msgspec.structs.replace(backend("a"), kind="anthropic")
    routing = Routing(own, models={"m": Model(format="anthropic", tier_fallback=True)})
    fast, standard = routing.planned(message("fast"))
    assert (fast.tier, standard.tier) == ("fast", "")
    routing.breakers.throttle(fast, 60.0)
    assert [one.tier for one in routing.planned(message("fast"))] == ["", "fast"]
    assert [one.tier for one in routing.planned(message("standard"))] == [""]
    assert json.loads(upstream_message(message("fast"), fast).body)["speed"] == "fast"
    assert json.loads(upstream_message(message("fast"), standard).body)["speed"] == "standard"


@pytest.mark.parametrize(
    ("configured", "asked", "tiers"),
    [(False, None, ["flex"]), (True, None, ["flex", ""]), (False, True, ["flex", ""]), (True, False, ["flex"])],
)
async def test_the_standard_tier_serves_a_call_of_another_one_where_that_is_allowed(
    configured: bool, asked: bool | None, tiers: list[str]
) -> None:
    routing = Routing(backend("a"), models={"m": Model(tier_fallback=configured)})
    plan = routing.router.plan(ANYONE, flex(), RoutingPreferences(tier_fallback=asked))
    assert [target.tier for target in plan.targets] == tiers
    assert json.loads(upstream_request(flex(), plan.targets[0]).body)["service_tier"] == "flex"
    if len(tiers) == 2:
        assert json.loads(upstream_request(flex(), plan.targets[1]).body)["service_tier"] == "default"


def test_instances_that_send_only_one_long_beginning_spread_it_over_the_regions() -> None:
    """Forty instances with eight calls each under way, which do not know of each other."""
    load = Counter[str]()
    for _ in range(40):
        mine = Counter[str]()
        for _ in range(8):
            shares = [Share(name, 1, mine[name]) for name in "abc"]
            mine["abc"[choose(b"the same beginning", shares)]] += 1
        load += mine
    assert len(load) > 1
    assert max(load.values()) <= 40 * 8 * 2 / 3


def test_a_large_fleet_leaves_less_room_for_one_beginning_than_a_single_instance() -> None:
    def kept(instances: float) -> int:
        """The calls under way with which the first backend still takes one more, while the others have three each."""
        first = choose(b"the same beginning", [Share(name, 1, 3) for name in "abc"])
        for calls in range(1, 20):
            shares = [Share(name, 1, calls if i == first else 3) for i, name in enumerate("abc")]
            if choose(b"the same beginning", shares, instances) != first:
                return calls
        raise AssertionError("it is never skipped")

    assert kept(1.0) == 8
    assert kept(40.0) == 5


async def test_the_model_of_the_image_tool_is_named_like_any_model() -> None:
    routing = Routing(backend("a", ["m", "painter"]), backend("b"))
    headers = {"x-ms-oai-image-generation-deployment": "painter"}
    call = parse_call(match("POST", "/v1/responses"), "", headers, b'{"model": "m", "input": "a ship"}')
    (target,) = routing.planned(call)
    assert target.backend.name == "a"
    of = msgspec.structs.replace(target.backend, models={"m": "m", "painter": "painter-prod"})
    assert headers_for(call, of)["x-ms-oai-image-generation-deployment"] == "painter-prod"
    with pytest.raises(ModelNotAllowed):
        routing.planned(call, Consumer("c", "some", models=frozenset(("m",))))
    unknown = parse_call(
        match("POST", "/v1/responses"),
        "",
        {"x-ms-oai-image-generation-deployment": "none"},
        b'{"model": "m", "input": "a"}',
    )
    with pytest.raises(ModelNotFound):
        routing.planned(unknown)


JAN_15 = 1_800_000_000.0 // 86_400 * 86_400  # 2027-01-15
SWITCH = {"m": Model(replaced_by=Successor("n", "2027-01-15"))}


def test_from_its_day_on_a_switch_serves_the_successor_and_the_key_needs_permission_for_the_named_model() -> None:
    routing = Routing(backend("b", ("m", "n")), models=SWITCH)
    now = JAN_15 - 1
    routing.router = Router(routing.configuration, routing.rotation, routing.breakers, lambda: now)
    only_m, only_n = Consumer("c", "c", models=frozenset(("m",))), Consumer("c", "c", models=frozenset(("n",)))
    before = routing.router.plan(only_m, chat())
    assert (before.model, before.named, {t.model for t in before.targets}) == ("m", "", {"m"})
    now = JAN_15
    after = routing.router.plan(only_m, chat())
    assert (after.model, after.named, {t.model for t in after.targets}) == ("n", "m", {"n"})
    assert routing.router.models(only_m) == ["m"]
    with pytest.raises(ModelNotAllowed):
        routing.router.plan(only_n, chat())
    with pytest.raises(ModelNotAllowed):
        routing.router.plan(only_m, chat("n"))
    assert routing.router.plan(only_n, chat("n")).named == ""


def test_a_name_that_no_backend_has_any_more_is_unknown_before_its_switch_and_served_after_it() -> None:
    routing = Routing(backend("b", ("n",)), models=SWITCH)
    now = JAN_15 - 1
    routing.router = Router(routing.configuration, routing.rotation, routing.breakers, lambda: now)
    assert routing.router.models(ANYONE) == ["n"]
    with pytest.raises(ModelNotFound):
        routing.router.plan(ANYONE, chat())
    now = JAN_15
    assert routing.router.models(ANYONE) == ["n", "m"]
    assert routing.router.plan(ANYONE, chat()).model == "n"
