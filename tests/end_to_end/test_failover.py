"""Regions that throttle, fail, hang or refuse: callers notice as little as possible, and else get the true reason."""

import itertools
import json
import time
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.harness.backends import DENIED
from tests.harness.system import BACKENDS, REGIONS, WITH_FALLBACK, System, chat_body, eventually, quickest

BAD = "eastus2"  # the region that misbehaves where one does
WORDS = 32  # in an answer of the simulator

DEPLOYMENT_NOT_FOUND = {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}
FIREWALL = {"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}}
NOT_WRAPPED = {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid or expired."}

FAILING: dict[str, dict[str, Any]] = {
    "408": {"kind": "status", "status": 408},
    "429": {"kind": "status", "status": 429, "headers": {"retry-after-ms": "50"}},
    "500": {"kind": "status", "status": 500},
    "502 of a proxy": {"kind": "status", "status": 502, "body": "<html>Bad gateway</html>"},
    "503": {"kind": "status", "status": 503},
    "504": {"kind": "status", "status": 504},
    "529": {"kind": "status", "status": 529},
    "reset": {"kind": "reset"},
    "hang": {"kind": "hang"},
    "no JSON": {"kind": "not_json"},
    "broken JSON": {"kind": "status", "status": 200, "body": '{"choices": ['},
    "empty": {"kind": "status", "status": 200, "body": ""},
    "our token": {"kind": "status", "status": 401, "body": NOT_WRAPPED},
    "our role": {"kind": "status", "status": 401, "body": DENIED},
    "firewall": {"kind": "status", "status": 403, "body": FIREWALL},
    "no deployment": {"kind": "status", "status": 404, "body": DEPLOYMENT_NOT_FOUND},
    "wrong length": {"kind": "wrong_length"},
}
FAILING_STREAMS: dict[str, dict[str, Any]] = {
    "error first": {"kind": "error_in_stream", "after_chunks": 0},
    "cut first": {"kind": "cut_stream", "after_chunks": 0},
    "empty stream": {"kind": "empty_stream"},
    "nothing": {"kind": "empty_stream", "done": False},
    "slow": {"kind": "slow_first_token", "seconds": 30},
}


def fault(system: System, model: str, region: str | None, times: int | None = None, **fields: Any) -> None:
    system.simulator.fault(fields.pop("kind"), region=region, deployment=model, times=times, **fields)


def tried(system: System, model: str) -> list[str]:
    """The regions that received calls of this model, in order."""
    return [entry["region"] for entry in system.simulator.log()["requests"] if entry["deployment"] == model]


def content(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def streamed(system: System, model: str) -> str:
    with system.openai() as client:
        chunks = client.chat.completions.create(**chat_body(model, stream=True))
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("kind", FAILING)
def test_one_failing_region_goes_unnoticed(impatient: System, kind: str) -> None:
    model = impatient.spare()
    fault(impatient, model, BAD, **FAILING[kind])
    with impatient.openai() as client:
        raw = [client.chat.completions.with_raw_response.create(**chat_body(model)) for _ in range(4)]
    assert all(len(content(answer.parse()).split()) == WORDS for answer in raw)
    attempts = [int(answer.headers["x-gateway-attempts"]) for answer in raw]
    assert max(attempts) == 2
    eventually(lambda: sum(attempts) == len(tried(impatient, model)))  # one that hangs is logged at its end
    assert BAD in tried(impatient, model)
    assert all(answer.headers["x-gateway-region"] != BAD for answer in raw)


@pytest.mark.parametrize("kind", [*sorted(FAILING.keys() - {"wrong length"}), *FAILING_STREAMS])
def test_a_stream_fails_over_until_its_first_content(impatient: System, kind: str) -> None:
    model = impatient.spare()
    fault(impatient, model, BAD, **(FAILING | FAILING_STREAMS)[kind])
    texts = [streamed(impatient, model) for _ in range(4)]
    assert [len(text.split()) for text in texts] == [WORDS] * 4
    eventually(lambda: BAD in tried(impatient, model))


def test_a_region_that_refuses_connections_goes_unnoticed(impatient: System) -> None:
    model = impatient.spare()
    impatient.simulator.down(BAD)
    answers = [impatient.chat(model, stream=stream) for stream in (False, True, False, True)]
    assert [answer.status for answer in answers] == [200] * 4
    assert {answer.headers["x-gateway-attempts"] for answer in answers} >= {"1", "2"}


def test_a_failed_attempt_is_on_record(impatient: System) -> None:
    model = impatient.spare()
    fault(impatient, model, None, times=2, kind="status", status=500)
    answer = impatient.chat(model)
    row = impatient.usage_rows()[-1]
    assert (row["id"], row["e_attempts"]) == (answer.headers["x-gateway-request-id"], 3)
    assert row["e_region"] == answer.headers["x-gateway-region"] == tried(impatient, model)[-1]
    assert row["e_output"] == WORDS
    assert impatient.gateway.record(row["id"])["attempts"] == 3


def test_a_region_that_keeps_failing_gets_no_more_calls(impatient: System) -> None:
    model = impatient.spare()
    fault(impatient, model, BAD, kind="status", status=500)
    assert all(impatient.chat(model).status == 200 for _ in range(20))
    assert tried(impatient, model).count(BAD) == 3


@pytest.mark.parametrize("kind", ["our role", "firewall", "no deployment"])
def test_a_region_that_refuses_the_gateway_is_ejected_at_once_and_reported(impatient: System, kind: str) -> None:
    model = impatient.spare()
    fault(impatient, model, BAD, **FAILING[kind])
    assert all(impatient.chat(model).status == 200 for _ in range(8))
    assert tried(impatient, model).count(BAD) == 1
    alert = f"ALERT backend virginia refuses the gateway on deployment {model}"
    eventually(lambda: alert in impatient.gateway.logs())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1"}, 1.0),
        ({"retry-after": "1", "retry-after-ms": "400"}, 0.4),
    ],
)
def test_a_throttled_region_gets_no_calls_for_as_long_as_it_asked(
    impatient: System, headers: dict[str, str], seconds: float
) -> None:
    model = impatient.spare()
    fault(impatient, model, BAD, times=1, kind="status", status=429, headers=headers)
    before = time.monotonic()
    while BAD not in tried(impatient, model):
        before = time.monotonic()
        assert impatient.chat(model).status == 200
    after = time.monotonic()
    while time.monotonic() - before < 0.8 * seconds:
        region = impatient.chat(model).headers["x-gateway-region"]
        assert region != BAD or time.monotonic() - before >= seconds  # the machine may have stood still
        time.sleep(seconds / 20)
    time.sleep(max(0.0, after + 1.1 * seconds - time.monotonic()))
    assert BAD in {impatient.chat(model).headers["x-gateway-region"] for _ in range(3)}


def test_when_all_are_throttled_the_caller_gets_the_shortest_wait(impatient: System) -> None:
    model = impatient.spare()
    for region, milliseconds in zip(REGIONS, ("9000", "5000", "8000"), strict=True):
        fault(impatient, model, region, kind="status", status=429, headers={"retry-after-ms": milliseconds})
    for _ in range(3):
        answer = impatient.chat(model)
        assert answer.status == 429
        assert answer.error()["code"] == "rate_limit_exceeded"
        wait = int(answer.headers["retry-after-ms"])
        assert 1000 < wait <= 5000
        assert 0 <= int(answer.headers["retry-after"]) * 1000 - wait < 1000
    assert len(tried(impatient, model)) == 3  # no region is asked again before its time


def test_the_clients_own_retry_then_succeeds(impatient: System) -> None:
    model = impatient.spare()
    for region, milliseconds in zip(REGIONS, ("5000", "400", "5000"), strict=True):
        fault(impatient, model, region, times=1, kind="status", status=429, headers={"retry-after-ms": milliseconds})
    with impatient.openai(max_retries=2) as client:
        assert len(content(client.chat.completions.create(**chat_body(model))).split()) == WORDS
    assert len(tried(impatient, model)) == 4
    assert tried(impatient, model)[-1] == list(REGIONS)[1]


def test_the_shortest_wait_is_that_of_a_throttled_region_when_the_others_fail(impatient: System) -> None:
    model = impatient.spare()
    fault(impatient, model, "swedencentral", kind="status", status=429, headers={"retry-after-ms": "9000"})
    fault(impatient, model, "eastus2", kind="reset")
    fault(impatient, model, "japaneast", kind="status", status=503, body="<html>")
    answer = impatient.chat(model)
    assert answer.status == 429
    assert 4000 < int(answer.headers["retry-after-ms"]) <= 9000


@pytest.mark.parametrize("stream", [False, True])
def test_a_filtered_prompt_is_returned_at_once_and_tried_once(impatient: System, stream: bool) -> None:
    model = impatient.spare()
    with impatient.openai(max_retries=2) as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**chat_body(model, "simulate_content_filter", stream=stream))
    assert refused.value.code == "content_filter"
    assert refused.value.response.headers["x-gateway-attempts"] == "1"
    assert len(tried(impatient, model)) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422])
def test_a_callers_mistake_is_returned_unchanged_and_counts_against_no_region(impatient: System, status: int) -> None:
    model = impatient.spare()
    body = {"error": {"message": "Yours.", "type": "invalid_request_error", "param": "messages", "code": "yours"}}
    fault(impatient, model, None, kind="status", status=status, body=body)
    answers = [impatient.chat(model) for _ in range(12)]
    assert {(answer.status, answer.body) for answer in answers} == {(status, answers[0].body)}
    assert answers[0].json() == body
    assert {answer.headers["x-gateway-attempts"] for answer in answers} == {"1"}
    assert sorted(tried(impatient, model)) == sorted([*REGIONS] * 4)


@pytest.mark.parametrize("kind", ["error_in_stream", "cut_stream", "stall"])
def test_a_stream_that_breaks_after_its_first_content_is_reported_and_never_retried(
    impatient: System, kind: str
) -> None:
    model = impatient.slow()
    key = impatient.make_key("broken streams")
    seconds = {"seconds": 30} if kind == "stall" else {}
    fault(impatient, model, None, kind=kind, after_chunks=10, **seconds)
    texts = []
    with impatient.openai(key, max_retries=2) as client, pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(**chat_body(model, stream=True)):
            texts += [choice.delta.content or "" for choice in chunk.choices]
    assert len("".join(texts).split()) == 20
    assert len(tried(impatient, model)) == 1
    eventually(lambda: "e_ended" in impatient.usage_rows(key)[-1])
    row = impatient.usage_rows(key)[-1]
    assert (row["e_est"], row["e_attempts"]) == (True, 1)
    assert row["e_ended"] in ("cut", "hung_up")  # the client leaves when it reads of the error
    assert row["e_output"] >= 10


def test_a_broken_chat_ends_with_an_error_event_and_its_body_stays_unfinished(impatient: System) -> None:
    """Clients that do not read the event see that the transfer is broken."""
    for kind in ("error_in_stream", "cut_stream"):
        model = impatient.slow()
        fault(impatient, model, None, kind=kind, after_chunks=10)
        answer = impatient.chat(model, stream=True)
        assert b"[DONE]" not in answer.body
        assert answer.body.endswith(b"\n\n")
        last = answer.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        assert last.startswith(b'data: {"error":{"message":')
        assert not answer.finished


def test_a_broken_response_ends_cleanly_with_a_typed_error_event(impatient: System) -> None:
    model = impatient.slow()
    fault(impatient, model, None, kind="cut_stream", after_chunks=10)
    answer = impatient.post("/v1/responses", {"model": model, "input": "hello", "stream": True, "store": False})
    last = answer.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    assert last.startswith(b"event: error\ndata: {")
    assert (json.loads(last.partition(b"data: ")[2])["code"], answer.finished) == ("upstream_interrupted", True)


@pytest.mark.parametrize("stream", [False, True])
def test_every_call_is_answered_while_one_region_is_dead_one_hangs_and_one_throttles(
    impatient: System, stream: bool
) -> None:
    """Each region has each fault once; the client retries a 429 as it always does."""
    model = impatient.spare()
    simulator = impatient.simulator
    with impatient.openai(max_retries=2) as client:
        for dead, hanging, throttling in itertools.islice(itertools.permutations(REGIONS), 0, 6, 2):
            simulator.clear()
            simulator.down(dead)
            fault(impatient, model, hanging, times=1, kind="hang")
            fault(impatient, model, throttling, times=1, kind="status", status=429, headers={"retry-after-ms": "300"})
            for _ in range(4):
                raw = client.chat.completions.with_raw_response.create(**chat_body(model, stream=stream))
                assert raw.headers["x-gateway-region"] in REGIONS
                parsed: Any = raw.parse()
                assert len(list(parsed) if stream else content(parsed).split()) >= 16


def test_two_calls_in_a_row_go_to_different_regions(gateway: System) -> None:
    """The calls span several counter blocks of the rotation."""
    with gateway.openai() as client:
        create = client.chat.completions.with_raw_response.create
        regions = [create(**chat_body(max_tokens=1)).headers["x-ms-region"] for _ in range(200)]
    assert all(before != after for before, after in itertools.pairwise(regions))
    assert all(regions.count(region) >= 64 for region in REGIONS.values())


def test_backends_of_lower_priority_wait_until_they_are_needed(impatient: System) -> None:
    """The fallback model serves when every region of the model fails, and the answer says so."""
    fault(impatient, WITH_FALLBACK, None, kind="status", status=503)
    answer = impatient.chat(WITH_FALLBACK)
    assert answer.status == 200
    assert answer.headers["x-gateway-fallback"] == "gpt-4o-mini"
    assert answer.json()["model"] == "gpt-4o-mini-2024-07-18"
    assert len(tried(impatient, WITH_FALLBACK)) == 3
    assert impatient.usage_rows()[-1]["e_model"] == "gpt-4o-mini"


def test_an_alias_is_served_by_its_model(gateway: System) -> None:
    assert gateway.chat("gpt-4o-2024-11-20").json()["model"] == "gpt-4o-2024-11-20"
    assert b'"gpt-4o-prod"' in gateway.simulator.last_body()


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        ({"kind": "reset"}, 503, "no_backend_available"),
        ({"kind": "hang"}, 504, "upstream_timeout"),
        ({"kind": "not_json"}, 502, "bad_gateway"),
        ({"kind": "status", "status": 401, "body": DENIED}, 503, "no_backend_available"),
        ({"kind": "status", "status": 404, "body": DEPLOYMENT_NOT_FOUND}, 503, "no_backend_available"),
        ({"kind": "status", "status": 503, "body": "<html>"}, 503, "no_backend_available"),
    ],
)
def test_when_no_backend_answers_the_caller_gets_the_reason_and_no_internals(
    impatient: System, trouble: dict[str, Any], status: int, code: str
) -> None:
    model = impatient.spare()
    fault(impatient, model, None, **trouble)
    answer = impatient.chat(model, stream=status == 503)
    assert answer.status == status
    assert answer.error()["code"] == code
    assert answer.error()["type"] == "server_error"
    again = trouble["kind"] == "reset"  # each may have closed an idle connection, so the last one is asked once more
    assert answer.headers["x-gateway-attempts"] == ("4" if again else "3")
    assert set(tried(impatient, model)) == set(REGIONS)
    rows = {row["id"]: row for row in impatient.usage_rows()}  # an attempt that timed out has a row as well
    assert rows[answer.headers["x-gateway-request-id"]]["e_status"] == status
    text = answer.body.decode()
    assert not [word for word in (*BACKENDS, *REGIONS, "127.0.0.1", "PermissionDenied") if word in text]


def test_a_role_that_lacks_an_operation_is_named_in_the_log_and_ejects_no_deployment(gateway: System) -> None:
    action = "Microsoft.CognitiveServices/accounts/OpenAI/vector-stores/write"
    body = {
        "error": {"code": "PermissionDenied", "message": f"The principal lacks the required data action `{action}`."}
    }
    gateway.simulator.fault("status", operation="POST vector_stores", status=401, body=body)
    before = gateway.gateway.logs()
    refused = gateway.post("/v1/vector_stores", {"name": "x"})
    assert refused.status == 503
    said = f"lacks the data action {action}"
    eventually(lambda: gateway.gateway.logs().count(said) > before.count(said))
    gateway.gateway.record(refused.headers["x-gateway-request-id"])
    after = gateway.gateway.logs()
    assert after.count("not tried for 60 s") == before.count("not tried for 60 s")
    gateway.simulator.clear()
    assert gateway.post("/v1/vector_stores", {"name": "x"}).status == 200


def test_with_all_regions_dead_the_client_raises_and_recovers_with_them(impatient: System) -> None:
    model = impatient.spare()
    for region in REGIONS:
        impatient.simulator.down(region)
    with impatient.openai() as client:
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(**chat_body(model))
        assert refused.value.code == "no_backend_available"
        for region in REGIONS:
            impatient.simulator.up(region)
        assert content(client.chat.completions.create(**chat_body(model)))


def test_a_failure_that_all_backends_report_is_returned_in_their_words(impatient: System) -> None:
    model = impatient.spare()
    fault(impatient, model, None, kind="status", status=500)
    with impatient.openai() as client, pytest.raises(openai.InternalServerError, match="had an error processing"):
        client.chat.completions.create(**chat_body(model))
    assert len(tried(impatient, model)) == 3


def test_a_hanging_region_costs_no_more_than_the_time_for_the_first_byte(impatient: System) -> None:
    def ask() -> None:
        model = impatient.spare()
        fault(impatient, model, None, times=1, kind="hang")
        assert impatient.chat(model).status == 200

    assert 0.5 < quickest(ask) < 2.0
