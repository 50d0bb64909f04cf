"""Another configuration for a running gateway: calls end with theirs, and what did not change is not forgotten."""

import asyncio
import gc
import json
import tracemalloc
from typing import Any

import pytest

from shared.config import environment
from shared.config.limits import Limits
from shared.errors import ConfigurationError
from shared.process.application import Application
from shared.types import Target
from tests.harness import in_process
from tests.harness.in_process import Exchange, Tables, backend, call, chat, gateway

CHAT = "/v1/chat/completions"
KINDS = ("ClientSession", "Gateway", "Router", "Limiter", "Configuration", "ObjectDirectory", "ManagementApi")


def body(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def apply(application: Application, backends: list[dict[str, Any]], **document: Any) -> None:
    document = {"ledger": {"overflow_bytes": 0}} | document | {"backends": backends}
    environ = {"GATEWAY_CONFIG": json.dumps(document), "GATEWAY_STORAGE": "UseDevelopmentStorage=true", "K": "secret"}
    application.apply(environment.load(environ | {"HOOK": "whsec_!!!"}))


async def answer(exchange: Exchange) -> None:
    exchange.answer(200, chat())


async def test_a_stream_ends_with_the_configuration_that_it_began_with() -> None:
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def stream(exchange: Exchange) -> None:
        exchange.stream()
        await exchange.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "one"}}]})
        begun.set()
        await going_on.wait()
        await exchange.event({"choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": "stop"}]})
        await exchange.event("[DONE]")
        exchange.end()

    tables = Tables()
    async with backend("old", {"m": "m"}, stream) as old, backend("new", {"n": "n"}, answer) as new:
        async with gateway(tables, [old]) as application:
            key = await in_process.key(tables, Limits(max_concurrent=5))
            under_way = asyncio.ensure_future(call(application, key, CHAT, body(stream=True)))
            await begun.wait()
            apply(application, [new], timeouts={"total": 1, "stream": 1}, models={"n": {"aliases": ["m2"]}})
            assert (await call(application, key, CHAT, body())).status == 404
            assert (await call(application, key, CHAT, body("m2"))).status == 200
            await asyncio.sleep(1.2)  # longer than a stream may take from now on
            going_on.set()
            reply = await under_way
            assert (reply.status, reply.headers["x-gateway-backend"], reply.complete) == (200, "old", True)
            assert b"two" in reply.body
            assert b"[DONE]" in reply.body
            assert {state.in_flight for state in application._running.backends.breakers.all().values()} == {0}
        assert {row["s_model"] for row in tables.usage().values()} == {"m", "n"}
        assert all(row["e_ended"] == "complete" for row in tables.usage().values())


async def test_what_did_not_change_keeps_its_health_its_leases_and_its_connections() -> None:
    connections = set()

    async def count(exchange: Exchange) -> None:
        connections.add(exchange._writer)
        exchange.answer(200, chat())

    tables = Tables()
    async with (
        backend("a", {"m": "m"}, count) as a,
        backend("b", {"m": "m"}, count) as b,
        gateway(tables, [a, b]) as application,
    ):
        key = await in_process.key(tables, Limits(requests_per_minute=10))
        breakers = application._running.backends.breakers
        for _ in range(4):
            assert (await call(application, key, CHAT, body())).status == 200
        down, other = (Target(one, "m", "m") for one in application.configuration.backends)
        for _ in range(5):
            breakers.fault(down, "status 500")
        seen, leases = breakers.watched(other), application._running.limiter._at_hand.scopes
        before = (breakers.health(down), seen.latency.summary(), len(connections))
        lease = leases[next(iter(leases))]
        seen.configured = 7e5  # the most that its answers have reported
        for weight in (2, 3):
            apply(application, [a, {**b, "weight": weight}], heartbeat_seconds=weight)
        assert (breakers.health(down), breakers.watched(other).latency.summary()) == before[:2]
        assert breakers.watched(other) is seen
        assert seen.configured == 7e5
        assert leases[next(iter(leases))] is lease
        replies = [await call(application, key, CHAT, body()) for _ in range(7)]
        assert {reply.headers.get("x-gateway-backend") for reply in replies[:6]} == {"b"}
        assert [reply.status for reply in replies] == [200] * 6 + [429]
        assert len(connections) == before[2]


async def test_a_backend_that_changed_starts_healthy_and_one_that_left_is_forgotten() -> None:
    tables = Tables()
    async with (
        backend("a", {"m": "m"}, answer) as a,
        backend("b", {"m": "m", "n": "n"}, answer) as b,
        gateway(tables, [a, b]) as application,
    ):
        key = await in_process.key(tables)
        breakers = application._running.backends.breakers
        for one in application.configuration.backends:
            for _ in range(5):
                breakers.fault(Target(one, "m", "m"), "status 500")
        apply(application, [{**a, "endpoint": b["endpoint"]}])
        (target,) = (Target(one, "m", "m") for one in application.configuration.backends)
        assert breakers.health(target).usable_at(breakers.clock())
        assert {name for name, _ in breakers.all()} == {"a"}
        assert (await call(application, key, CHAT, body())).headers["x-gateway-backend"] == "a"


async def test_limits_hold_from_the_next_request_on() -> None:
    tables = Tables()
    async with backend("a", {"m": "m"}, answer) as a, gateway(tables, [a]) as application:
        key = await in_process.key(tables, team="search")
        assert (await call(application, key, CHAT, body())).status == 200
        apply(application, [a], limits={"teams": {"search": {"requests_per_minute": 2}}})
        assert [(await call(application, key, CHAT, body())).status for _ in range(3)] == [200, 200, 429]
        apply(application, [a], limits={"addresses": {"requests_per_minute": 1}})
        assert [(await call(application, key, CHAT, body())).status for _ in range(2)] == [200, 429]
        apply(application, [a])
        assert (await call(application, key, CHAT, body())).status == 200


async def test_settings_that_a_part_refuses_change_nothing() -> None:
    tables = Tables()
    async with backend("a", {"m": "m"}, answer) as a, gateway(tables, [a]) as application:
        before = application.front, application.configuration
        with pytest.raises(ConfigurationError, match="base64"):
            apply(
                application,
                [{**a, "models": {"x": "x"}}],
                limits={"webhook": {"url": "https://hooks.example.com", "secret_env": "HOOK"}},
            )
        assert (application.front, application.configuration) == before


async def test_a_hundred_configurations_leave_nothing_behind() -> None:
    tables = Tables()

    async def swap(application: Application, key: str, backends: list[dict[str, Any]], start: int, count: int) -> None:
        for i in range(start, start + count):
            model = f"model-{i}"
            changing = {**backends[1], "models": {model: f"deployment-{i}"}}
            apply(application, [backends[0], changing], limits={"teams": {f"team-{i % 7}": {"tokens_per_minute": i}}})
            assert (await call(application, key, CHAT, body())).status == 200
            assert (await call(application, key, CHAT, body(model))).status == 200

    async with (
        backend("a", {"m": "m"}, answer) as a,
        backend("b", {"n": "n"}, answer) as b,
        gateway(tables, [a, b]) as application,
    ):
        key = await in_process.key(tables, Limits(tokens_per_minute=10**9))
        await swap(application, key, [a, b], 0, 20)
        await asyncio.sleep(0.3)
        gc.collect()
        tasks, kinds = len(asyncio.all_tasks()), {kind: _count(kind) for kind in KINDS}
        tracemalloc.start()
        try:
            await swap(application, key, [a, b], 20, 10)
            gc.collect()
            before = _held()
            await swap(application, key, [a, b], 30, 100)
            await asyncio.sleep(0.3)
            gc.collect()
            grown = _held() - before
        finally:
            tracemalloc.stop()
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert {kind for kind, count in kinds.items() if _count(kind) > count} == set()
        assert grown < 100 * 3_000, grown


def _count(kind: str) -> int:
    return sum(type(one).__name__ == kind for one in gc.get_objects())


def _held() -> int:
    """The bytes of the gateway's own objects: the tables in memory grow with every call."""
    shots = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(True, "*/shared/*"), tracemalloc.Filter(True, "*/msgspec/*")]
    )
    return sum(statistic.size for statistic in shots.statistics("filename"))
