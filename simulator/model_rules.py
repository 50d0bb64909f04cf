"""Parameters and roles that models refuse, by family.

Sources: Microsoft's page on reasoning models (2025-01-16 and 2026), for what is not supported; error bodies that
callers have reported, for the words. Of o1 that page first said that it takes no system message, and later that it
takes one as a developer message: here it is refused, so that a program that passes runs on every version.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from . import errors
from .models import Model

_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias")
_DEFAULTS: Mapping[str, float] = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
_EFFORTS = ("low", "medium", "high")


class Family(msgspec.Struct, frozen=True):
    """`unsupported`: parameters that are refused with any value; `fixed`: those that take their default alone. Both
    hold only while the model reasons, if `samples` is true: with the effort `none` it takes them all."""

    names: str
    unsupported: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    streams: bool = True
    efforts: tuple[str, ...] = _EFFORTS
    samples: bool = False


_VALUES = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_OTHERS = ("logprobs", "top_logprobs", "logit_bias", "stop")
_FAMILIES = (
    Family(r"o1", (*_SAMPLING, "parallel_tool_calls"), roles=("system",), streams=False),
    Family(r"o3-mini", (*_SAMPLING, "parallel_tool_calls")),
    Family(r"o\d", (*_OTHERS, "parallel_tool_calls"), _VALUES),
    Family(r"gpt-5(-\w+)?", _OTHERS, _VALUES, efforts=("minimal", *_EFFORTS)),
    Family(r"gpt-5\.1", _OTHERS, _VALUES, efforts=("none", *_EFFORTS), samples=True),
    Family(r"gpt-5\.[2-5]", _OTHERS, _VALUES, efforts=("none", *_EFFORTS, "xhigh"), samples=True),
    Family(r"gpt-5\.\d+|gpt-[6-9]", _OTHERS, _VALUES, efforts=("none", *_EFFORTS, "xhigh")),
)
_PATTERNS = tuple((re.compile(rf"({family.names})(-.*)?"), family) for family in _FAMILIES)
_UNKNOWN = Family("", fixed=_VALUES, efforts=("none", "minimal", *_EFFORTS, "xhigh"))


def check_chat(model: Model, parameters: Mapping[str, Any], roles: list[str]) -> None:
    """Check the parameters of a chat completion; None is one that is not given. Raises AzureError 400."""
    if model.kind != "reasoning":
        if parameters["reasoning_effort"] is not None:
            raise errors.unrecognized_argument("reasoning_effort")
        return
    family = _family(model)
    if parameters["max_tokens"] is not None:
        raise errors.unsupported_parameter("max_tokens", "max_completion_tokens")
    _check_effort(model, family, parameters["reasoning_effort"], "reasoning_effort")
    for place, role in enumerate(roles):
        if role in family.roles:
            raise errors.unsupported_value(f"messages[{place}].role", role)
    if parameters["stream"] and not family.streams:
        raise errors.unsupported_value("stream", "true", only="false")
    if family.samples and parameters["reasoning_effort"] == "none":
        return
    for name in family.unsupported:
        if parameters[name] is not None:
            raise errors.unsupported_parameter(name)
    for name in family.fixed:
        if parameters[name] is not None and parameters[name] != _DEFAULTS[name]:
            raise errors.unsupported_value(name, f"{parameters[name]:g}", only=f"{_DEFAULTS[name]:g}")


def check_response(model: Model, parameters: Mapping[str, Any], effort: object) -> None:
    """The same of a response, whose parameters have other names and which refuses those of sampling whole."""
    if model.kind != "reasoning":
        return
    family = _family(model)
    _check_effort(model, family, effort, "reasoning.effort")
    if family.samples and effort == "none":
        return
    for name in ("temperature", "top_p"):
        if parameters[name] is not None and parameters[name] != _DEFAULTS[name]:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise errors.invalid_request(message, name)


def _family(model: Model) -> Family:
    return next((family for pattern, family in _PATTERNS if pattern.fullmatch(model.name)), _UNKNOWN)


def _check_effort(model: Model, family: Family, effort: object, param: str) -> None:
    if effort is not None and effort not in family.efforts:
        *some, last = (f"'{one}'" for one in family.efforts)
        values = f"{', '.join(some)}, and {last}"
        message = f"Unsupported value: '{effort}' is not supported with the '{model.name}' model."
        raise errors.invalid_request(f"{message} Supported values are: {values}.", param, "unsupported_value")
