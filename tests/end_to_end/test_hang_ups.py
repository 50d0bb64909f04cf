"""Callers that disconnect at any moment: the backend is stopped, the call is on record, and nothing leaks."""

import time
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from tests.harness.system import Caller, System, chat_body, eventually, final

LONG = "simulate_output_tokens=20000"  # 100 s in the slow region


def the_row(system: System, key: str) -> dict[str, Any]:
    """The one row of this key, complete."""
    rows: list[dict[str, Any]] = []

    def written() -> bool:
        rows[:] = system.usage_rows(key)
        return len(rows) == 1 and final(rows[0])

    eventually(written)  # the first one waits for the tokenizer to be loaded
    return rows[0]


def the_backend_was_stopped(system: System) -> dict[str, Any]:
    """The simulator's record of the one call that it got, once its connection has been closed."""
    requests: list[dict[str, Any]] = []

    def logged() -> bool:
        requests[:] = system.simulator.log()["requests"]
        return bool(requests)

    eventually(logged)
    assert len(requests) == 1
    assert not requests[0]["completed"]
    return requests[0]


def in_flight(system: System, model: str) -> int:
    """The calls that the gateway has under way at the deployments of a model."""
    backends = system.get("/gateway/backends").json()["backends"]
    return sum(one["in_flight"] for backend in backends for one in backend["deployments"] if one["deployment"] == model)


@pytest.fixture
def key(gateway: System) -> str:
    return gateway.make_key("hang-ups")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [1, 30, -70, -1], ids=["one byte", "half a head", "no body", "half a body"])
def test_a_disconnect_before_the_request_is_complete_leaves_nothing(
    gateway: System, key: str, sent: int, reset: bool
) -> None:
    with Caller(gateway, key, chat_body()) as caller:
        caller.send(sent).leave(reset=reset)
    gateway.no_invocation_is_left()
    assert gateway.chat().status == 200
    assert len(gateway.simulator.log()["requests"]) == 1
    assert gateway.usage_rows(key) == []


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_before_the_first_byte_stops_the_backend(
    gateway: System, key: str, stream: bool, reset: bool
) -> None:
    model = gateway.spare()
    gateway.simulator.fault("hang", deployment=model)
    with Caller(gateway, key, chat_body(model, stream=stream)) as caller:
        caller.send()
        eventually(lambda: gateway.simulator.faults()[0]["applied"] == 1)
        caller.leave(reset=reset)
    assert the_backend_was_stopped(gateway)["status"] is None
    row = the_row(gateway, key)
    assert (row["e_ended"], row["e_status"], row.get("e_est")) == ("hung_up", 499, True)
    assert (row["e_attempts"], row["e_model"]) == (1, model)  # the backend charges the prompt
    assert row["e_backend"]
    gateway.no_invocation_is_left()


def test_a_disconnect_while_the_answer_is_being_made_stops_the_backend(gateway: System, key: str) -> None:
    model = gateway.slow()
    with Caller(gateway, key, chat_body(model, LONG)) as caller:
        caller.send()
        eventually(lambda: in_flight(gateway, model) == 1)
        time.sleep(0.2)  # for the request to arrive
    the_backend_was_stopped(gateway)
    assert the_row(gateway, key)["e_ended"] == "hung_up"
    gateway.no_invocation_is_left()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunks", [1, 20])
def test_a_disconnect_in_the_middle_of_a_stream_is_still_billed(
    gateway: System, key: str, chunks: int, reset: bool
) -> None:
    model = gateway.slow()
    with Caller(gateway, key, chat_body(model, LONG, stream=True)) as caller:
        caller.send().read_until(chunks).leave(reset=reset)
    record = the_backend_was_stopped(gateway)
    assert record["chunks_sent"] < chunks + 1000  # of 10,000
    row = the_row(gateway, key)
    assert (row["e_ended"], row["e_est"], row["e_status"]) == ("hung_up", True, 200)
    assert 2 * chunks - 2 <= row["e_output"] <= record["output_tokens"]  # a word is a token to both
    assert row["e_input"] == 13  # by OpenAI's tokenizer; the simulator has one of its own
    gateway.no_invocation_is_left()


def test_a_disconnect_at_the_end_counts_as_a_whole_answer(gateway: System, key: str) -> None:
    model = gateway.slow()
    with Caller(gateway, key, chat_body(model, stream=True)) as caller:
        caller.send().read_until(1, b"[DONE]").leave(reset=True)
    row = the_row(gateway, key)
    assert (row["e_ended"], row["e_output"], row.get("e_est")) == ("complete", 32, None)
    gateway.no_invocation_is_left()


def test_a_caller_that_stops_reading_slows_the_backend_and_fills_no_memory(gateway: System, key: str) -> None:
    process = psutil.Process(gateway.gateway.pid)
    before = process.memory_info().rss
    body = chat_body("gpt-4o", "simulate_output_tokens=300000", stream=True)  # 45 MB, at once
    with Caller(gateway, key, body, buffer=4096) as caller:
        caller.send().read_until(1)
        time.sleep(1.0)
        grown = process.memory_info().rss - before
        assert gateway.chat().status == 200
        gateway.simulator.clear()
        caller.leave(reset=True)
    assert grown < 20_000_000
    assert the_backend_was_stopped(gateway)["output_tokens"] < 200_000
    assert the_row(gateway, key)["e_ended"] == "hung_up"
    gateway.no_invocation_is_left()


class Connections(NamedTuple):
    """Connections of the gateway's process: from the callers, to the regions, and all others."""

    callers: set[Any]
    regions: set[Any]
    others: set[Any]


@pytest.mark.parametrize("stream", [False, True])
def test_many_disconnects_leave_no_connection_and_no_task(gateway: System, key: str, stream: bool) -> None:
    process = psutil.Process(gateway.gateway.pid)
    regions = {urlsplit(url).port for url in gateway.simulator.regions.values()}
    model = gateway.slow()
    body = chat_body(model, LONG, stream=stream)

    def connections(callers: list[Caller]) -> Connections:
        ports = {caller.port for caller in callers}
        current = Connections(set(), set(), set())
        for one in process.net_connections("tcp"):
            if one.raddr:
                kind = 0 if one.raddr.port in ports else 1 if one.raddr.port in regions else 2
                current[kind].add((one.laddr.port, one.raddr.port))
        return current

    def crowd() -> int:
        """Let thirty callers disconnect; return the number of connections to neither callers nor regions."""
        before = connections([])
        with ExitStack() as stack:
            callers = [stack.enter_context(Caller(gateway, key, body)).send() for _ in range(30)]
            if stream:
                for caller in callers:
                    caller.read_until(2)
            # Under the functions host the callers' connections are the host's own.
            kinds = slice(0, 2) if gateway.edge == "uvicorn" else slice(1, 2)
            eventually(lambda: all(len(held) >= 30 for held in connections(callers)[kinds]))
            ports = [caller.port for caller in callers]
            for number, caller in enumerate(callers):
                caller.leave(reset=bool(number % 2))
        eventually(lambda: len(gateway.simulator.log()["requests"]) >= 30)

        def gone() -> bool:
            now = connections([])
            return now.regions <= before.regions and not {there for _, there in now.others} & set(ports)

        eventually(gone)
        return len(connections([]).others)

    first = crowd()
    gateway.simulator.clear()
    assert crowd() <= first + 2
    gateway.no_invocation_is_left()
    eventually(lambda: sum(map(final, gateway.usage_rows(key))) == 60)
    usage = gateway.usage_of(key)
    assert (usage["requests"], usage["estimated"]) == (60, 60)
    assert usage["output_tokens"] == sum(row["e_output"] for row in gateway.usage_rows(key))
