"""The stream of what the routing does: on both edges, bounded, and over when nobody watches."""

import http.client
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from shared.config.document import Configuration
from shared.forwarding.live import MOST_LISTENERS, Event, Listener, LiveCalls
from shared.management.live import LiveRoutes
from shared.management.routes import ManagementRequest
from shared.routing.breakers import Breakers
from shared.routing.drains import Drains
from shared.routing.fleet_health import SharedHealth
from shared.routing.report import BackendsReport
from tests.harness.memory_store import MemoryStore
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, eventually

PATH = "/gateway/backends/events"


class Watcher:
    """A stream of events, read from a socket."""

    def __init__(self, gateway: System) -> None:
        self._connection = http.client.HTTPConnection(*gateway.gateway.address, timeout=15)
        self._connection.request("GET", PATH, headers={"authorization": f"Bearer {MANAGEMENT_KEY}"})
        self.answer = self._connection.getresponse()

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        name = ""
        for raw in self.answer:
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])

    def next(self, name: str, **facts: Any) -> dict[str, Any]:
        """The next event of this name with these facts."""
        for event, data in self.events():
            if event == name and facts.items() <= data.items():
                return data
        raise AssertionError("the stream ended")

    def leave(self) -> None:
        self.answer.close()
        self._connection.close()


@contextmanager
def watching(gateway: System) -> Iterator[Watcher]:
    watcher = Watcher(gateway)
    try:
        yield watcher
    finally:
        watcher.leave()


def test_whoever_watches_sees_a_try_that_fails_the_one_that_answers_and_the_call(gateway: System) -> None:
    model = gateway.spare()
    gateway.simulator.fault("status", status=500, deployment=model, times=1)
    with watching(gateway) as watcher:
        assert watcher.answer.headers["content-type"].startswith("text/event-stream")
        assert watcher.answer.headers["cache-control"] == "no-store"
        pool = watcher.next("pool")
        assert {one["name"] for one in pool["backends"]} >= {"sweden", "virginia", "japan"}
        answer = gateway.chat(model, content="a prompt that nobody may see")
        request = answer.headers["x-gateway-request-id"]
        failed = watcher.next("try", request=request)
        served = watcher.next("try", request=request)
        call = watcher.next("call", request=request)
    assert (failed["number"], failed["status"], failed["problem"]) == (1, 500, "status 500")
    assert (served["number"], served["status"], served["problem"]) == (2, 200, "")
    assert served["backend"] == answer.headers["x-gateway-backend"] != failed["backend"]
    assert (call["status"], call["attempts"], call["name"]) == (200, 2, "tests")
    assert "nobody may see" not in str((failed, served, call))


def test_whoever_watches_sees_the_calls_that_are_refused_with_their_codes(gateway: System) -> None:
    path, key = "/v1/chat/completions", gateway.make_key("refused for <b>", models=("gpt-4o",))
    with watching(gateway) as watcher:
        watcher.next("pool")
        answers = [
            gateway.post(path, chat_body("gpt-5.4-mini"), key=key),
            gateway.post(path, chat_body("a model that nobody may see")),
            gateway.post(path, chat_body(), key="tg_nobody_may_see_this_key"),
        ]
        seen = [watcher.next("refused", request=one.headers["x-gateway-request-id"]) for one in answers]
    known: list[dict[str, Any]] = [
        {"consumer": key.split("_")[1], "name": "refused for <b>", "model": "gpt-5.4-mini"},
        {"consumer": gateway.key.split("_")[1], "name": "tests", "model": None},
        {"consumer": None, "name": None, "model": None},
    ]
    for answer, event, facts in zip(answers, seen, known, strict=True):
        expected = {**facts, "status": answer.status, "code": answer.error()["code"]}
        assert expected.items() <= event.items()
        assert 0 <= event["ms"] < 60_000
    assert [event["status"] for event in seen] == [403, 404, 401]
    assert "may_see" not in str(seen)
    assert "may see" not in str(seen)


def test_a_call_that_fails_once_it_is_on_record_is_told_of_as_a_call_alone(gateway: System) -> None:
    model = gateway.spare()
    gateway.simulator.fault("status", status=400, deployment=model, times=1)
    with watching(gateway) as watcher:
        watcher.next("pool")
        request = gateway.chat(model).headers["x-gateway-request-id"]
        refused = gateway.post("/v1/chat/completions", chat_body(), key="tg_unknown").headers["x-gateway-request-id"]
        events = []
        for name, data in watcher.events():
            events += [name] if data.get("request") == request else []
            if data.get("request") == refused:
                break
    assert events == ["try", "call"]


def test_the_stream_is_for_operators_and_for_few_at_a_time(gateway: System) -> None:
    assert gateway.get(PATH, gateway.key).status == 401
    assert gateway.get(f"{PATH}?since=now").status == 400
    assert gateway.manage("HEAD", PATH).status == 200
    watchers = [Watcher(gateway) for _ in range(MOST_LISTENERS)]
    for watcher in watchers:
        watcher.next("pool")
    refused = gateway.get(PATH)
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    for watcher in watchers:
        watcher.leave()

    def there_is_room() -> bool:
        again = Watcher(gateway)
        status = again.answer.status
        again.leave()
        return status == 200

    eventually(there_is_room)  # whoever has left is no listener


@pytest.fixture
def listener() -> Listener:
    return Listener()


async def test_a_watcher_that_does_not_read_costs_a_bounded_memory_and_learns_what_it_missed(
    listener: Listener,
) -> None:
    for number in range(1000):
        listener.put(Event("try", {"number": number}))
    *taken, last = await listener.take(1.0)
    assert [event.data["number"] for event in taken] == list(range(200))
    assert last == Event("dropped", {"events": 800})
    assert await listener.take(0.01) == []


async def test_a_stream_ends_after_a_time_so_that_its_watcher_is_authorized_again() -> None:
    store = MemoryStore()
    breakers = Breakers(time.monotonic, random.Random(1))
    health = SharedHealth(store.table("health"), store.now, random.Random(1), "one")
    report = BackendsReport(Configuration([]), breakers, health, Drains(store), store.now, "one")
    live = LiveCalls()
    (route,) = LiveRoutes(report, live, longest=0.2).routes()
    response = await route.handler(ManagementRequest({}, {}))
    assert isinstance(response, StreamingResponse)
    started = time.monotonic()
    pieces = [piece async for piece in response.body_iterator]
    text = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    assert 0.1 < time.monotonic() - started < 20
    assert text.startswith(b"event: pool\ndata: {")
    assert not live.watched


async def test_nothing_is_made_while_nobody_listens_and_all_streams_end_with_their_configuration() -> None:
    live = LiveCalls()
    watched = [live.watched]
    with live.listen() as one, live.listen() as other:
        watched.append(live.watched)
        live.end_all()
        started = time.monotonic()
        assert await one.take(60.0) == [] == await other.take(60.0)
        assert time.monotonic() - started < 30
    assert [*watched, live.watched] == [False, True, False]
    assert {one.closed, other.closed} == {True}
