"""An error below status 200 has the same effect as the same error in a status line."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.azure_openai.answers import equivalent_status, reported_error, wait
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.document import Model
from shared.errors import RateLimitExceeded
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.forwarding.response import OpenAnswer, WholeAnswer
from shared.types import Call, Usage
from tests.harness.scripted_backends import Exchange, chat, completion, forwarding, response

CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "usage": None}}

CALLERS = (
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "invalid_prompt",
    "image_too_large",
)

type Tell = Callable[[Exchange, dict[str, Any]], Awaitable[None]]


async def in_response_failed(exchange: Exchange, error: dict[str, Any]) -> None:
    exchange.stream()
    await exchange.event(CREATED, "response.created")
    failed = {"type": "response.failed", "response": {"id": "resp_1", "status": "failed", "error": error}}
    await exchange.event(failed, "response.failed")
    exchange.end()


async def in_an_error_event_that_follows(exchange: Exchange, error: dict[str, Any]) -> None:
    exchange.stream()
    await exchange.event(CREATED, "response.created")
    failed = {"type": "response.failed", "response": {"id": "resp_1", "status": "failed", "error": None}}
    await exchange.event(failed, "response.failed")
    await asyncio.sleep(0.3)
    await exchange.event({"type": "error", **error}, "error")
    exchange.end()


async def in_a_chunk(exchange: Exchange, error: dict[str, Any]) -> None:
    exchange.stream()
    await exchange.event({"choices": [], "prompt_filter_results": []})
    await exchange.event({"error": error})
    exchange.end()


async def in_json(exchange: Exchange, error: dict[str, Any]) -> None:
    exchange.answer({"error": error})


async def in_a_failed_response(exchange: Exchange, error: dict[str, Any]) -> None:
    exchange.answer({"id": "resp_1", "object": "response", "status": "failed", "error": error})


PLACES: dict[str, tuple[Tell, Call]] = {
    "response.failed": (in_response_failed, response(stream=True)),
    "error after response.failed": (in_an_error_event_that_follows, response(stream=True)),
    "chunk": (in_a_chunk, chat(stream=True)),
    "JSON": (in_json, chat()),
    "failed response": (in_a_failed_response, response()),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "code",
    ["context_length_exceeded", "content_filter", "content_policy_violation", "invalid_prompt", "image_too_large"],
)
async def test_the_callers_own_error_is_relayed_after_one_attempt_and_is_no_fault(place: str, code: str) -> None:
    tell, call = PLACES[place]
    error = {"code": code, "message": "The caller's own."}

    async def script(exchange: Exchange) -> None:
        await tell(exchange, error)

    async with forwarding(script, script) as (running, backends):
        calls = [running.sending(call) for _ in range(4)]
        for sending, answer in zip(calls, await asyncio.gather(*(one.run() for one in calls)), strict=True):
            assert isinstance(answer, WholeAnswer)
            assert code.encode() in answer.body
            assert answer.status == 200
            assert [attempt.problem for attempt in sending.attempts] == [""]
        assert sum(len(backend.received) for backend in backends) == 4
        assert {running.state(name).health.faults for name in "ab"} == {0}


@pytest.mark.parametrize("place", PLACES)
async def test_the_fallback_model_takes_a_call_that_a_model_refuses(place: str) -> None:
    tell, call = PLACES[place]

    async def script(exchange: Exchange) -> None:
        if b'"m"' in exchange.body:
            await tell(exchange, {"code": "context_length_exceeded", "message": "Too long."})
        elif call.stream:
            exchange.stream()
            await exchange.event({"choices": [{"index": 0, "delta": {"content": "hi"}}]})
        else:
            exchange.answer(completion())

    async with forwarding(script, models={"m": Model(fallbacks=["large"]), "large": Model()}) as (running, backends):
        answer = await running.sending(call).run()
        answer.close()
        assert answer.target.model == "large"
        assert len(backends[0].received) == 2


@pytest.mark.parametrize("place", PLACES)
async def test_a_throttle_cools_down_and_the_caller_gets_the_shortest_wait(place: str) -> None:
    tell, call = PLACES[place]

    def script(seconds: int) -> Callable[[Exchange], Awaitable[None]]:
        async def throttled(exchange: Exchange) -> None:
            message = f"Rate limit is exceeded. Try again in {seconds} seconds."
            await tell(exchange, {"code": "rate_limit_exceeded", "message": message})

        return throttled

    async with forwarding(script(9), script(7)) as (running, backends):
        sending = running.sending(call)
        with pytest.raises(ForwardingFailed) as failed:
            await sending.run()
        assert isinstance(failed.value.error, RateLimitExceeded)
        assert 6 < failed.value.error.retry_after <= 7
        assert [(attempt.status, attempt.usage) for attempt in sending.attempts] == [(429, None)] * 2
        assert [len(backend.received) for backend in backends] == [1, 1]
        assert {running.state(name).health.faults for name in "ab"} == {0}


@pytest.mark.parametrize("place", PLACES)
async def test_a_fault_goes_to_the_next_backend_and_in_the_end_the_caller_gets_the_backends_words(place: str) -> None:
    tell, call = PLACES[place]

    async def script(exchange: Exchange) -> None:
        await tell(exchange, {"code": "server_error", "message": "The model stumbled."})

    async with forwarding(script, script) as (running, backends):
        answer = await running.sending(call).run()
        assert isinstance(answer, WholeAnswer)
        assert b"The model stumbled." in answer.body
        assert [len(backend.received) for backend in backends] == [1, 1]
        assert [running.state(name).health.faults for name in "ab"] == [1, 1]


async def test_a_retry_after_in_the_headers_is_a_throttle_whatever_the_error() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.stream(retry_after="5", x_ratelimit_remaining_tokens="900", x_ratelimit_remaining_requests="9")
        await exchange.event({"error": {"code": "busy", "message": "Later."}})
        exchange.end()

    async with forwarding(script) as (running, _):
        with pytest.raises(ForwardingFailed) as failed:
            await running.sending(chat(stream=True)).run()
        assert isinstance(failed.value.error, RateLimitExceeded)
        assert 4 < failed.value.error.retry_after <= 5


async def test_the_usage_that_a_failed_attempt_reports_is_charged_as_reported() -> None:
    usage = {"input_tokens": 41, "output_tokens": 17, "total_tokens": 58}

    async def failing(exchange: Exchange) -> None:
        exchange.stream()
        error = {"code": "server_error", "message": "The model stumbled."}
        failed = {"type": "response.failed", "response": {"status": "failed", "error": error, "usage": usage}}
        await exchange.event(failed, "response.failed")
        exchange.end()

    async def serving(exchange: Exchange) -> None:
        exchange.stream()
        await exchange.event({"type": "response.output_text.delta", "delta": "hi"}, "response.output_text.delta")

    scripts = {"a": failing, "b": serving}
    async with forwarding(*scripts.values()) as (running, _):
        for _ in range(2):  # each backend is the first once
            sending = running.sending(response(stream=True))
            answer = await sending.run()
            assert isinstance(answer, OpenAnswer)
            answer.close()
            charges = [attempt.usage for attempt in sending.attempts if attempt.problem]
            assert charges == [Usage(input_tokens=41, output_tokens=17)] * len(charges)
        assert running.state("a").health.faults == 1


async def test_an_object_with_an_error_of_the_past_is_no_error_of_its_retrieval() -> None:
    stored = {"id": "resp_1", "object": "response", "status": "failed", "error": {"code": "server_error"}}

    async def script(exchange: Exchange) -> None:
        exchange.answer(stored)

    call = parse_call(match("GET", "/v1/responses/resp_1"), "", {}, b"")
    async with forwarding(script) as (running, _):
        answer = await running.sending(call).run()
        assert isinstance(answer, WholeAnswer)
        assert json.loads(answer.body) == stored
        assert running.breakers.health(answer.target).faults == 0


@pytest.mark.parametrize(
    ("error", "headers", "status"),
    [
        ({"code": "429"}, {}, 429),
        ({"code": 503}, {}, 503),
        ({"code": "5" * 5000}, {}, 500),
        ({"type": "too_many_requests", "code": None}, {}, 429),
        ({"code": "TooManyRequests"}, {}, 429),
        ({"type": "invalid_request_error", "code": None}, {}, 400),
        ({"code": "invalid_api_key", "type": "invalid_request_error"}, {}, 400),
        ({"code": "DeploymentNotFound"}, {}, 400),
        ({"code": "server_error"}, {}, 500),
        ({"code": "server_error"}, {"retry-after-ms": "100"}, 429),
        ({}, {}, 500),
    ],
)
def test_an_error_has_the_status_that_a_status_line_would_give_it(
    error: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    reported = reported_error(json.dumps({"error": error}).encode())
    assert reported is not None
    assert equivalent_status(reported, headers) == status


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 1.898s.", 1.898),
        ("Try again in 17 seconds.", 17.0),
        ("Please retry after 300 ms", 0.3),
        ("Too many.", None),
    ],
)
def test_the_wait_is_read_from_the_message_if_no_header_has_it(message: str, seconds: float | None) -> None:
    report = json.dumps({"error": {"message": message}}).encode()
    assert wait({}, report) == seconds
    assert wait({"retry-after": "3"}, report) == 3.0
