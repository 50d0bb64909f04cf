"""The time for the first content is long, unless the call is known to be quick."""

import asyncio
import json

import pytest

from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.document import Backend, Model, Timeouts
from shared.errors import UpstreamTimeout
from shared.forwarding._timeouts import first_byte_timeout, hedge_delay
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.forwarding.response import OpenAnswer
from shared.types import Target
from tests.harness.scripted_backends import ANYONE, Exchange, chat, forwarding

LEFT = 220.0


def seconds(
    model: str,
    path: str = "/v1/chat/completions",
    deployment: str = "prod",
    settings: Model = Model(),  # noqa: B008 - frozen
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    **fields: object,
) -> float:
    body = {"model": model, "messages": [], "input": "a", "prompt": "a", **fields}
    call = parse_call(match("POST", path), "", {}, json.dumps(body).encode())
    target = Target(Backend(name="a", endpoint="https://a", region="a", models={}), model, deployment)
    return first_byte_timeout(call, target, timeouts, settings, LEFT)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["gpt-4o", "o3", "gpt-5", "gpt-6-luna", "model-router", "DeepSeek-R1", "mine"])
def test_a_model_may_think_for_as_long_as_the_call_lasts_streamed_or_not(model: str, stream: bool) -> None:
    assert seconds(model, stream=stream) == LEFT
    assert seconds(model, "/v1/responses", stream=stream) == LEFT


@pytest.mark.parametrize("stream", [True, False])
def test_a_bounded_answer_of_a_quick_model_gets_the_time_that_its_tokens_need(stream: bool) -> None:
    assert seconds("gpt-4o", max_tokens=1000, stream=stream) == 70.0
    assert seconds("gpt-4.1-mini", max_tokens=100_000, stream=stream) == LEFT
    assert seconds("gpt-5-mini", max_completion_tokens=1000, stream=stream) == LEFT


@pytest.mark.parametrize(
    ("deployment", "settings"), [("o3-prod", Model()), ("prod", Model(aliases=["gpt-5"])), ("model-router", Model())]
)
def test_any_name_of_a_model_can_say_that_it_thinks(deployment: str, settings: Model) -> None:
    assert seconds("gpt-4o", deployment=deployment, settings=settings, max_tokens=10) == LEFT


def test_embeddings_are_quick_and_images_are_not() -> None:
    assert seconds("embed", "/v1/embeddings") == 20.0
    assert seconds("gpt-image-1", "/v1/images/generations") == LEFT


def test_the_configured_time_counts_that_of_the_model_first() -> None:
    assert seconds("o3", timeouts=Timeouts(first_byte=30)) == 30.0
    assert seconds("o3", timeouts=Timeouts(first_byte=30), settings=Model(first_byte=90)) == 90.0
    assert seconds("o3", settings=Model(first_byte=900)) == LEFT


@pytest.mark.parametrize(
    ("usual", "limit", "delay"), [(None, 8, 2), (None, 220, 10), (500.0, 220, 0.5), (9000.0, 4, 4)]
)
def test_a_hedge_waits_for_the_usual_time_and_never_long(usual: float | None, limit: float, delay: float) -> None:
    assert hedge_delay(usual, limit) == delay


async def late(exchange: Exchange) -> None:
    await asyncio.sleep(1.0)
    exchange.stream()
    await exchange.event({"choices": [{"index": 0, "delta": {"content": "hi"}}]})


async def test_a_stream_with_heartbeats_may_wait_for_its_content_beyond_the_total_time() -> None:
    call = chat(stream=True)
    async with forwarding(late, timeouts=Timeouts(total=0.5)) as (running, _):
        with pytest.raises(ForwardingFailed) as failed:
            await running.sending(call).run()
        assert isinstance(failed.value.error, UpstreamTimeout)
        plan = running.router.plan(ANYONE, call)
        answer = await running.forwarder.sending(call, plan, "r", kept_alive=True).run()
        assert isinstance(answer, OpenAnswer)
        answer.close()
