"""Comments keep a stream alive while its backend is silent; failover and errors work until then and after."""

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import DEPLOYMENTS, LONE, SPARES, Caller, System, chat_body, configuration, eventually, system

COMMENT = b": keep-alive\n\n"
# Models with a short time for their first byte, for tests in which they hang; no test takes them from the system.
IMPATIENT, IMPATIENT_SPARES = LONE[20:30], SPARES[70:72]
hanging, hanging_spares = iter(IMPATIENT), iter(IMPATIENT_SPARES)


@pytest.fixture(scope="module")
def beating(edge: Edge, azurite: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    simulator.clear()  # another file may have left a fault
    settings = configuration(simulator, heartbeat_seconds=0.3)
    settings["models"] |= {model: {"first_byte": 1.5} for model in (*IMPATIENT, *IMPATIENT_SPARES)}
    with system(edge, settings, simulator, azurite.connection_string) as running:
        assert running.chat().status == 200
        yield running
        running.assert_no_defect()


def test_a_silent_stream_gets_comments_and_stays_readable(beating: System) -> None:
    model = beating.lone()
    beating.simulator.fault("stall", deployment=model, after_chunks=1, seconds=1.0)
    answer = beating.post("/v1/chat/completions", chat_body(model, stream=True))
    assert 1 <= answer.body.count(COMMENT) <= 10
    events = [line for line in answer.body.decode().split("\n\n") if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event[6:])["choices"]]
    assert len("".join(choice["delta"].get("content", "") for choice in choices).split()) == 32
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_status_and_headers_are_committed_by_the_first_comment_and_not_before(beating: System) -> None:
    model = beating.lone()
    beating.simulator.fault("slow_first_token", deployment=model, seconds=1.0)
    started = time.monotonic()
    with Caller(beating, beating.key, chat_body(model, stream=True)) as caller:
        caller.send().read_until(1, COMMENT)
        waited = time.monotonic() - started
        assert b"data: " not in caller.received
        caller.read_until(1, b"[DONE]")
    assert waited > 0.25
    assert caller.received.startswith(b"HTTP/1.1 200")
    assert caller.received.count(b"HTTP/1.1") == 1


def test_a_failover_is_possible_after_a_comment(beating: System) -> None:
    model = next(hanging_spares)
    beating.simulator.fault("hang", deployment=model, times=1)
    answer = beating.post("/v1/chat/completions", chat_body(model, stream=True))
    assert answer.body.startswith(COMMENT)
    assert answer.body.count(b'"content":"') >= 16
    assert b'"error"' not in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_an_error_after_a_comment_is_raised_by_the_client(beating: System) -> None:
    model = next(hanging)
    beating.simulator.fault("hang", deployment=model)
    with beating.openai() as client, pytest.raises(openai.APIError, match="in time"):
        list(client.chat.completions.create(**chat_body(model, stream=True)))
    beating.simulator.clear()


def test_a_refusal_of_the_backend_after_a_comment_becomes_an_event(beating: System) -> None:
    model = beating.lone()
    beating.simulator.fault("delay", deployment=model, seconds=1.0)
    answer = beating.post("/v1/chat/completions", chat_body(model, "simulate_content_filter", stream=True))
    assert answer.status == 200
    assert answer.body.startswith(COMMENT)
    (event,) = [part for part in answer.body.split(b"\n\n") if part.startswith(b"data:")]
    assert json.loads(event[5:])["error"]["code"] == "content_filter"


@pytest.mark.parametrize("fault", [{"kind": "hang"}, {"kind": "delay", "seconds": 1.0}])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
def test_an_error_after_a_comment_has_the_form_that_clients_of_the_operation_read(
    beating: System, path: str, fault: dict[str, Any]
) -> None:
    """The gateway's own error, and the refusal of a backend."""
    model, of_responses = next(hanging) if fault["kind"] == "hang" else beating.lone(), path == "/v1/responses"
    beating.simulator.fault(fault["kind"], deployment=model, **{k: v for k, v in fault.items() if k != "kind"})
    prompt = "simulate_content_filter"
    fields = {"input": prompt, "store": False} if of_responses else {"messages": [{"role": "user", "content": prompt}]}
    answer = beating.post(path, {"model": model, "stream": True, **fields})
    assert answer.body.startswith(COMMENT)
    event = answer.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    name, _, data = event.rpartition(b"data: ")
    error = json.loads(data)
    assert name == (b"event: error\n" if of_responses else b"")
    assert error.get("type") == ("error" if of_responses else None)
    assert error["error"]["code"] == ("upstream_timeout" if fault["kind"] == "hang" else "content_filter")
    assert answer.finished == of_responses
    beating.simulator.clear()


def test_a_disconnect_after_a_comment_is_noticed(beating: System) -> None:
    model = beating.lone()
    key = beating.make_key("leaves late")
    beating.simulator.fault("hang", deployment=model)
    with Caller(beating, key, chat_body(model, stream=True)) as caller:
        caller.send().read_until(1, COMMENT)
        caller.leave()
    # What it has taken is counted by a process of its own, which starts with the first such call.
    eventually(lambda: [row.get("e_ended") for row in beating.usage_rows(key)] == ["hung_up"])
    beating.simulator.clear()


def test_a_caller_may_turn_comments_off(beating: System) -> None:
    model = beating.lone()
    beating.simulator.fault("stall", deployment=model, after_chunks=1, seconds=1.0)
    answer = beating.post("/v1/chat/completions", chat_body(model, stream=True), {"x-gateway-heartbeat": "off"})
    assert COMMENT not in answer.body


FORM = {"content-type": "multipart/form-data; boundary=x"}
SOUND = b'--x\r\nContent-Disposition: form-data; name="file"; filename="stream=.wav"\r\nContent-Type: audio/wav\r\n\r\n'
SOUND += b"\0" * 200_000 + b"\r\n"
TRANSCRIPTIONS = ["/v1/audio/transcriptions", "/openai/deployments/gpt-4o-mini-transcribe/audio/transcriptions"]


def field(name: str, value: str) -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


@pytest.mark.parametrize("path", TRANSCRIPTIONS)
@pytest.mark.parametrize("before", [True, False], ids=["before the file", "behind the file"])
def test_a_form_that_asks_for_a_stream_gets_comments_wherever_it_says_so(
    beating: System, path: str, before: bool
) -> None:
    beating.simulator.fault("slow_first_token", deployment=DEPLOYMENTS["gpt-4o-mini-transcribe"], seconds=1.0)
    stream = field("stream", "true")
    body = field("model", "gpt-4o-mini-transcribe") + (stream + SOUND if before else SOUND + stream) + b"--x--\r\n"
    answer = beating.post(f"{path}?api-version=2025-04-01-preview", body, FORM)
    assert (answer.status, answer.body.startswith(COMMENT)) == (200, True)
    assert b'"transcript.text.done"' in answer.body
    beating.simulator.clear()


@pytest.mark.parametrize("path", TRANSCRIPTIONS)
def test_a_form_that_asks_for_no_stream_gets_none(beating: System, path: str) -> None:
    beating.simulator.fault("slow_first_token", deployment=DEPLOYMENTS["gpt-4o-mini-transcribe"], seconds=0.8)
    body = field("model", "gpt-4o-mini-transcribe") + field("stream", "false") + SOUND + field("stream", "true")
    answer = beating.post(f"{path}?api-version=2025-04-01-preview", body + b"--x--\r\n", FORM)
    assert "text" in answer.json()
    beating.simulator.clear()
