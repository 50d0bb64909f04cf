"""Content that only the backend that sealed it can open: others refuse it, and the next one is tried."""

import asyncio
from typing import Any

import pytest

from shared.config.document import Model, Timeouts
from shared.errors import RateLimitExceeded, UpstreamTimeout
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.forwarding.response import WholeAnswer
from tests.forwarding.test_errors_below_200 import PLACES
from tests.harness.scripted_backends import Exchange, Script, forwarding, response

ERROR = {"code": "invalid_encrypted_content", "message": "The encrypted content could not be verified."}
DONE: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed", "output": []}


async def cannot_open(exchange: Exchange) -> None:
    exchange.answer({"error": {**ERROR, "type": "invalid_request_error"}}, 400)


async def opens(exchange: Exchange) -> None:
    exchange.answer(DONE)


async def throttled(exchange: Exchange) -> None:
    exchange.answer({"error": {"code": "429", "message": "Later."}}, 429, retry_after="5")


async def silent(_: Exchange) -> None:
    await asyncio.sleep(5)


async def stumbles(exchange: Exchange) -> None:
    exchange.answer({"error": {"code": "server_error", "message": "It stumbled."}}, 500)


async def test_every_backend_is_tried_until_one_can_open_the_content() -> None:
    async with forwarding(cannot_open, cannot_open, cannot_open, cannot_open, opens) as (running, backends):
        for _ in range(100):  # far more than a retry budget would allow
            answer = await running.sending(response()).run()
            assert isinstance(answer, WholeAnswer)
            assert (answer.status, answer.target.backend.name) == (200, "e")
        assert len(backends[4].received) == 100
        assert {running.state(name).health.faults for name in "abcde"} == {0}
        assert {running.state(name).in_flight for name in "abcde"} == {0}


@pytest.mark.parametrize("place", ["response.failed", "error after response.failed"])
async def test_the_same_error_below_status_200_goes_to_the_next_backend(place: str) -> None:
    tell, call = PLACES[place]

    async def refuses(exchange: Exchange) -> None:
        await tell(exchange, ERROR)

    async def serves(exchange: Exchange) -> None:
        exchange.stream()
        await exchange.event({"type": "response.output_text.delta", "delta": "hi"}, "response.output_text.delta")

    async with forwarding(refuses, serves) as (running, _):
        for _ in range(2):  # each backend is the first once
            answer = await running.sending(call).run()
            answer.close()
            assert answer.target.backend.name == "b"


async def test_content_that_nobody_can_open_is_refused_in_the_backends_words_and_is_no_fault() -> None:
    async with forwarding(cannot_open, cannot_open, cannot_open) as (running, backends):
        for tries in range(1, 5):
            sending = running.sending(response())
            answer = await sending.run()
            assert isinstance(answer, WholeAnswer)
            assert answer.status == 400
            assert b"could not be verified" in answer.body
            assert [len(backend.received) for backend in backends] == [tries] * 3
            assert {attempt.usage for attempt in sending.attempts} == {None}
        assert {running.state(name).health.faults for name in "abc"} == {0}


@pytest.mark.parametrize(
    ("other", "error"), [(throttled, RateLimitExceeded), (silent, UpstreamTimeout), (stumbles, None)]
)
async def test_a_backend_that_fails_otherwise_may_be_the_one_that_can_open_it(
    other: Script, error: type[Exception] | None
) -> None:
    for scripts in ((cannot_open, other), (other, cannot_open)):
        async with forwarding(*scripts, timeouts=Timeouts(first_byte=0.3, total=2.0)) as (running, _):
            if error is None:
                answer = await running.sending(response()).run()
                assert isinstance(answer, WholeAnswer)
                assert answer.status == 500
            else:
                with pytest.raises(ForwardingFailed) as failed:
                    await running.sending(response()).run()
                assert isinstance(failed.value.error, error)


async def test_a_resource_is_asked_once_however_many_of_its_deployments_may_serve() -> None:
    models = {"m": Model(fallbacks=["n"], fallback_on=("unavailable",)), "n": Model()}
    async with forwarding(cannot_open, models=models) as (running, backends):
        answer = await running.sending(response()).run()
        assert answer.status == 400
        assert len(backends[0].received) == 1
