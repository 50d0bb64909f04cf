"""Backends with invalid, wrong or endless answers: the caller gets a true error in bounded time and memory."""

import threading
import time
from typing import Any

import openai
import psutil
import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.system import Caller, System, chat_body, configuration, eventually, system

NONSENSE: dict[str, dict[str, Any]] = {
    "a proxy's page": {"kind": "not_json"},
    "nothing": {"kind": "status", "status": 200, "body": ""},
    "half an object": {"kind": "status", "status": 200, "body": '{"id": "chatcmpl-1", "choices": ['},
    "a list": {"kind": "status", "status": 200, "body": []},
    "a string": {"kind": "status", "status": 200, "body": '"hello"'},
    "no content": {"kind": "status", "status": 204, "body": ""},
    "elsewhere": {"kind": "status", "status": 302, "headers": {"location": "http://127.0.0.1:9/"}, "body": "<html>"},
    "not modified": {"kind": "status", "status": 304, "body": ""},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", NONSENSE)
def test_an_invalid_answer_is_a_bad_gateway(impatient: System, kind: str, stream: bool) -> None:
    model = impatient.lone()
    impatient.simulator.fault(deployment=model, **NONSENSE[kind])
    answer = impatient.chat(model, stream=stream)
    assert (answer.status, answer.error()["code"]) == (502, "bad_gateway")
    with impatient.openai() as client, pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(**chat_body(model, stream=stream))
    assert raised.value.code == "bad_gateway"
    impatient.no_invocation_is_left()


def test_a_body_shorter_than_its_length_is_an_error(impatient: System) -> None:
    model = impatient.lone()
    impatient.simulator.fault("wrong_length", deployment=model)
    answer = impatient.chat(model)
    assert answer.status in (502, 503)
    assert answer.error()["type"] == "server_error"
    impatient.no_invocation_is_left()


def test_a_stream_shorter_than_its_length_is_whole_if_its_end_marker_came(impatient: System) -> None:
    """The caller has every event, and the usage is exact."""
    model = impatient.lone()
    key = impatient.make_key("short streams")
    impatient.simulator.fault("wrong_length", deployment=model)
    with impatient.openai(key) as client:
        chunks = list(client.chat.completions.create(**chat_body(model, stream=True)))
    assert len("".join(c.choices[0].delta.content or "" for c in chunks if c.choices).split()) == 32
    row = impatient.usage_rows(key)[0]
    assert (row["e_output"], row.get("e_est")) == (32, None)


@pytest.mark.parametrize("stream", [False, True])
def test_an_endless_answer_is_broken_off(impatient: System, stream: bool) -> None:
    """Within bounded time and memory, and without an effect on other callers."""
    model = impatient.lone()
    key = impatient.make_key("endless")
    impatient.simulator.fault("endless", deployment=model)
    process = psutil.Process(impatient.gateway.pid)
    before, most, busiest = process.memory_info().rss, 0, 0.0
    ended: list[bool] = []
    with Caller(impatient, key, chat_body(model, stream=stream)) as caller:
        caller.send()
        reader = threading.Thread(target=lambda: ended.append(caller.read_to_the_end(30.0)))  # `total` is 3 s
        reader.start()
        while reader.is_alive():
            asked = process.cpu_times()
            assert impatient.gateway.request("GET", "/healthz").status == 200
            busiest = max(busiest, sum(process.cpu_times()[:2]) - sum(asked[:2]))
            most = max(most, process.memory_info().rss - before)
            time.sleep(0.02)
        reader.join()
    impatient.simulator.clear()
    assert ended == [True]
    assert not caller.received.endswith(b"0\r\n\r\n") or b"error" in caller.received  # nobody takes it for whole
    assert most < 60_000_000
    assert busiest < 1.0  # seconds of its CPU behind which another call has to wait
    impatient.no_invocation_is_left()
    eventually(lambda: impatient.usage_rows(key)[0].get("e_ended", "complete") != "complete")


def test_a_stream_that_breaks_inside_an_event_raises_the_clients_typed_exception(impatient: System) -> None:
    model = impatient.lone()
    impatient.simulator.fault("endless", deployment=model)  # the beginning of an event
    with impatient.openai() as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(**chat_body(model, stream=True)))


def test_a_token_in_use_is_kept_while_the_identity_fails(impatient: System) -> None:
    impatient.simulator.identity(failing_status=500)
    assert impatient.chat(impatient.lone()).status == 200


def test_a_token_that_backends_refuse_is_replaced_but_not_on_every_call(
    azurite: Azurite, simulator: SimulatorProcess
) -> None:
    """A missing role looks like a bad token, and a new token on each call would not help it."""
    simulator.clear()
    with system("uvicorn", configuration(simulator), simulator, azurite.connection_string) as running:
        assert running.chat().status == 200
        before = simulator.log(summary=True)["tokens_issued"]
        body = {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid or expired."}
        for _ in range(3):
            model = running.spare()
            simulator.fault("status", deployment=model, status=401, body=body, times=1)
            assert running.chat(model).status == 200
        eventually(lambda: simulator.log(summary=True)["tokens_issued"] == before + 1)
        running.assert_no_defect()


def test_a_stream_that_falls_silent_ends_with_an_error_event(impatient: System) -> None:
    model = impatient.lone()
    impatient.simulator.fault("stall", deployment=model, after_chunks=3, seconds=30)
    started = time.monotonic()
    answer = impatient.chat(model, stream=True)
    assert 2.5 < time.monotonic() - started < 12  # `total` is 3 s; the machine may be slow
    assert answer.status == 200
    assert b"upstream_interrupted" in answer.body
    assert b"[DONE]" not in answer.body
    impatient.no_invocation_is_left()


def test_a_caller_that_pauses_does_not_count_as_a_silent_backend(impatient: System) -> None:
    body = chat_body("gpt-4o", "simulate_output_tokens=60000", stream=True)  # more than fits on the way
    with Caller(impatient, impatient.key, body, buffer=65_536) as caller:
        caller.send().read_until(1)
        time.sleep(4.5)  # `total` is 3 s
        caller.skip_until(b"\r\n0\r\n\r\n")
    assert b"[DONE]" in caller.received
    assert b"upstream_interrupted" not in caller.received
