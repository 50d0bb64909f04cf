"""The parameters and roles that models refuse, in Azure's words."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from simulator.process import SimulatorProcess
from tests.harness.simulated import REGION, region_client

UNSUPPORTED, VALUE = "unsupported_parameter", "unsupported_value"


@pytest.fixture
def caller(regions: SimulatorProcess) -> Any:
    with region_client(regions, "v1", REGION) as opened:
        yield opened


def chat(caller: OpenAI, model: str, role: str = "user", **fields: Any) -> Any:
    messages: Any = [{"role": role, "content": "a"}]
    return caller.chat.completions.create(model=model, messages=messages, **fields)


@pytest.mark.parametrize(
    ("model", "fields", "param", "code"),
    [
        ("o1", {"temperature": 1}, "temperature", UNSUPPORTED),
        ("o1", {"role": "system"}, "messages[0].role", VALUE),
        ("o1", {"stream": True}, "stream", VALUE),
        ("o1", {"max_tokens": 9}, "max_tokens", UNSUPPORTED),
        ("o3-mini", {"top_p": 0.9}, "top_p", UNSUPPORTED),
        ("o3-mini", {"parallel_tool_calls": False}, "parallel_tool_calls", UNSUPPORTED),
        ("o4-mini", {"temperature": 0.2}, "temperature", VALUE),
        ("gpt-5-mini", {"temperature": 0.2}, "temperature", VALUE),
        ("gpt-5-mini", {"max_tokens": 9}, "max_tokens", UNSUPPORTED),
        ("gpt-5-mini", {"stop": "a"}, "stop", UNSUPPORTED),
        ("gpt-5-mini", {"reasoning_effort": "none"}, "reasoning_effort", VALUE),
        ("gpt-5.4", {"temperature": 0}, "temperature", VALUE),
        ("gpt-5.4", {"reasoning_effort": "minimal"}, "reasoning_effort", VALUE),
        ("gpt-5.6-luna", {"temperature": 0, "reasoning_effort": "none"}, "temperature", VALUE),
        ("gpt-4o", {"reasoning_effort": "low"}, None, None),
    ],
)
def test_a_model_refuses_what_azures_refuses(
    caller: OpenAI, model: str, fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(caller, model, **fields)
    assert (refused.value.param, refused.value.code) == (param, code)


def test_a_refusal_says_which_value_is_taken(caller: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"does not support 0.2 with this model. Only the default \(1\)"):
        chat(caller, "gpt-5-mini", temperature=0.2)
    with pytest.raises(openai.BadRequestError, match="'none', 'low', 'medium', 'high', and 'xhigh'"):
        chat(caller, "gpt-5.4", reasoning_effort="minimal")


def test_a_model_takes_the_defaults_and_what_is_its_own(caller: OpenAI) -> None:
    chat(caller, "gpt-5-mini", role="system", temperature=1, top_p=1, presence_penalty=0, reasoning_effort="minimal")
    chat(caller, "o1", role="developer", reasoning_effort="low")
    chat(caller, "o3-mini", role="system", stream=True).close()
    chat(caller, "gpt-4o", role="system", temperature=0, top_p=0.5, stop=["a"], logit_bias={"1": 2}, logprobs=True)
    quick = chat(caller, "gpt-5.4", temperature=0.2, reasoning_effort="none")
    assert quick.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_response_refuses_sampling_by_a_reasoning_model(caller: OpenAI) -> None:
    for fields in ({"temperature": 0.2}, {"top_p": 0.5}):
        given: dict[str, Any] = {"model": "gpt-5-mini", "input": "a", **fields}
        with pytest.raises(openai.BadRequestError) as refused:
            caller.responses.create(**given)
        assert (refused.value.param, refused.value.code) == (next(iter(fields)), None)
    with pytest.raises(openai.BadRequestError, match=r"'minimal' is not supported with the 'gpt-5.4' model"):
        caller.responses.create(model="gpt-5.4", input="a", reasoning={"effort": "minimal"})
    assert caller.responses.create(model="gpt-4o", input="a", temperature=0.2).output_text
    assert caller.responses.create(model="gpt-5.4", input="a", temperature=0, reasoning={"effort": "none"}).output_text
